"""A LLaVA's folder, and SmolLM2's weights as one: what transformers and the GGUF file give."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

from reattend.cli import main  # noqa: E402
from reattend.methods import VAR, VHR  # noqa: E402
from reattend.models import (  # noqa: E402
    IMAGE,
    ModelFile,
    ModelFileError,
    find_smollm2,
    read,
    read_llama,
)
from reattend.session import Session  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

TEXT = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.25,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 7, "initializer_factor": 10.0,
}  # fmt: skip
TOKEN = 90
TEMPLATE = (
    "{% for m in messages %}w5 {% for c in m.content %}{% if c.type == 'image' %}<image> "
    "{% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}w6"
)
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 61, 3), dtype=np.uint8))
QUESTION = "w8 w3 w14 w31"


def folder(path, kind="Llama", dtype=torch.float32, **changes):
    """Write a tiny LLaVA with random weights; gives it as transformers reads it, and its tools."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    config = hf.LlavaConfig(
        text_config=getattr(hf, f"{kind}Config")(**TEXT),
        vision_config=hf.CLIPVisionConfig(**VISION), image_token_index=TOKEN, **changes,
    )  # fmt: skip
    model = hf.LlavaForConditionalGeneration(config).eval()
    for name, each in model.named_parameters():
        if each.ndim == 1:  # norms and biases begin as ones and zeros
            torch.nn.init.normal_(each, mean=float("norm" in name and "weight" in name), std=0.3)
    model.to(dtype).save_pretrained(path)
    words = {"<image>" if i == TOKEN else f"w{i}": i for i in range(96)}
    made = Tokenizer(models.WordLevel(words, unk_token="w2"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w2", pad_token="w0")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    pictures = hf.CLIPImageProcessor(
        size={"shortest_edge": 30}, crop_size={"height": 28, "width": 28}
    )
    pictures.save_pretrained(path)
    theirs = hf.LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    return theirs, tokenizer, pictures


KINDS = {
    "LLaVA": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "Qwen 2, its last layer whole": {
        "kind": "Qwen2", "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
    },
    "no biases": {"multimodal_projector_bias": False, "vision_feature_layer": 2},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of transformers' own
@pytest.mark.parametrize("how", KINDS.values(), ids=KINDS)
def test_logits_of_a_picture_are_those_of_transformers(how, tmp_path):
    theirs, tokenizer, pictures = folder(tmp_path, **how)
    ours = read(tmp_path)
    prompt, pixels = ours.prompt(QUESTION), ours.prepare(PICTURE)[None]
    expected = pictures(images=PICTURE, return_tensors="pt")["pixel_values"]
    assert np.abs(pixels - expected.numpy()).max() < 1e-5
    ids = torch.tensor([[TOKEN if token == IMAGE else token for token in prompt]])
    assert ids[0, 0] == tokenizer.convert_tokens_to_ids("w5")
    found = []
    steps = ours.generate(
        Session([], num_layers=4), [prompt], pixels, max_new_tokens=4, stop=(), observe=found.append
    )
    tokens = [int(step[0]) for step in steps]
    whole = torch.cat([ids, torch.tensor([tokens])], dim=1)
    with torch.no_grad():
        logits = theirs(input_ids=whole, pixel_values=expected).logits
    logits = logits[0, len(prompt) - 1 : -1].numpy()
    assert np.abs(np.concatenate(found) - logits).max() < 5e-5 * np.abs(logits).max()
    assert tokens == logits.argmax(-1).tolist()


@pytest.mark.filterwarnings("ignore")
def test_methods_in_both_loops(tmp_path):
    """What attached() makes of a model is what the loop makes of its folder."""
    from reattend.adaptors.transformers import attached

    theirs, _, _ = folder(tmp_path)
    ours = read(tmp_path)
    prompt, pixels = ours.prompt(QUESTION), ours.prepare(PICTURE)[None]
    ids = torch.tensor([[TOKEN if token == IMAGE else token for token in prompt]])
    sinks = {"sink_dims": (3, 7), "tau": 0.15, "p": 0.3, "rho": 0.1, "image_mass": 0.02}
    for method in (VAR(**sinks), VHR(layers=(1, 3))):
        found = ours.next_logits(Session(method, num_layers=4), [prompt], pixels)
        with torch.no_grad(), attached(theirs, method):
            out = theirs(input_ids=ids, pixel_values=torch.from_numpy(pixels))
        expected = out.logits[:, -1].numpy()
        assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()
        plain = ours.next_logits(Session([], num_layers=4), [prompt], pixels)
        assert np.abs(plain - expected).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore")
def test_the_command_answers_from_a_folder(tmp_path, capsys):
    """Of text, of a picture, and with a method."""
    folder(tmp_path)
    PICTURE.save(tmp_path / "photo.png")
    model, picture = ["--model", str(tmp_path)], ["--picture", str(tmp_path / "photo.png")]
    few = ["--max-new-tokens", "4"]
    answers = []
    for more in (["--plain"], picture, [*picture, "--method", "vhr"]):
        assert main(["generate", QUESTION, *model, *few, *more, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    ours = read(tmp_path)
    steps = ours.generate(
        Session([], num_layers=4), [ours.prompt(QUESTION)], ours.prepare(PICTURE)[None],
        max_new_tokens=4,
    )  # fmt: skip
    said = ours.tokenizer.decode([int(step[0]) for step in steps])
    assert answers[1]["answer"].strip() == said.strip()
    assert [each["prompt_tokens"] for each in answers] == [4, 22, 22]
    assert answers[2]["report"]["readings"]
    assert main(["generate", "hello", *picture]) == 1
    assert "--picture needs the folder of a LLaVA" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_feature_layer": [-1, -2]}, "only one layer of a clip_vision_model"),
        ({"vision_feature_layer": 7}, "uses vision layer 7 of 3"),
        ({"projector_hidden_act": "relu6"}, "has the activation 'relu6'"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "siglip_vision_model"),
    ],
)
def test_what_is_refused(change, message, tmp_path):
    folder(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**said, **change}))
    with pytest.raises(ModelFileError, match=message):
        read(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", [None, True, False])
@pytest.mark.parametrize("whole", [None, True, False])
def test_matrices_are_tied_where_either_config_says_so(whole, text, tmp_path):
    folder(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = {name: each for name, each in load_file(file).items() if "lm_head" not in name}
    save_file(tensors, file, metadata={"format": "pt"})
    said = json.loads((tmp_path / "config.json").read_text())
    for config, tied in ((said, whole), (said["text_config"], text)):
        config.pop("tie_word_embeddings", None)
        config |= {} if tied is None else {"tie_word_embeddings": tied}
    (tmp_path / "config.json").write_text(json.dumps(said))
    _, loaded = hf.LlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert bool(loaded["missing_keys"]) == (not whole and not text)
    if whole or text:
        ours = read(tmp_path).llama
        assert ours.head is ours.embedding
    else:
        with pytest.raises(ModelFileError, match=r"has no tensor 'lm_head\.weight', and does not"):
            read(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_one_tensor_under_two_names_is_refused(tmp_path):
    """Newer and older versions name the parts otherwise."""
    folder(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    old = "language_model.model.norm.weight"
    new = "model.language_model.norm.weight"
    tensors |= {name: np.ones(32, np.float32) for name in (old, new)}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=r"'model\.norm\.weight' twice, as .* and as "):
        read(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_prompts_that_hold_no_tokens_of_the_model_are_refused(tmp_path):
    folder(tmp_path)
    ours, session = read(tmp_path), Session([], num_layers=4)
    picture, pixels = [IMAGE] * ours.image_tokens, ours.prepare(PICTURE)[None]
    for prompt, kind, says in (
        ([*picture, 5.5], TypeError, r"prompts must be integers \[P\], got float64"),
        ([*picture, 96], ValueError, "tokens must be from 0 to 95, got 0 to 96"),
        ([*picture, -2], ValueError, "tokens must be from 0 to 95, got -2 to 0"),
    ):
        with pytest.raises(kind, match=says):
            ours.next_logits(session, [prompt], pixels)
    with pytest.raises(ValueError, match="prompts must have at least one token each, beside"):
        ours.next_logits(Session(VHR(), num_layers=4), [picture], pixels)
    states = np.ones((1, 2 * ours.image_tokens, 16), np.float32)  # as many numbers, in other rows
    with pytest.raises(
        ValueError, match=r"encoded pixels must be \[B, tokens, C\] = \(1, 16, 32\)"
    ):
        ours.next_logits(session, [[*picture, 5]], states)


@pytest.mark.filterwarnings("ignore")
def test_prompts_that_hold_no_picture(tmp_path):
    folder(tmp_path)
    ours = read(tmp_path)
    with pytest.raises(ModelFileError, match="must hold the image token, 90, once, got 0"):
        ours.with_picture([1, 2])
    with pytest.raises(ValueError, match=r"pixels must be \[B, 3, 28, 28\]"):
        ours.encode(np.zeros((1, 3, 14, 28), np.float32))


def test_smollm2_as_a_folder(tmp_path):
    """Its first layers, written from the GGUF file and read back: the same numbers."""
    import ml_dtypes

    whole = read_llama(ModelFile(find_smollm2()))
    c, count = whole.config, 3
    halves = np.argsort(np.arange(c.head_dim).reshape(2, -1).T.ravel())  # pairs half a head apart
    tensors = {
        "model.embed_tokens.weight": whole.embedding.T, "model.norm.weight": whole.final_norm
    }  # fmt: skip
    for index, layer in enumerate(whole.layers[:count]):
        at = f"model.layers.{index}."
        heads, sizes = layer.query_key_value.T, [c.num_heads, c.num_kv_heads, c.num_kv_heads]
        parts = np.split(heads, np.cumsum(sizes)[:-1] * c.head_dim)
        for name, part, num in zip("qkv", parts, sizes, strict=True):
            split = part.reshape(num, c.head_dim, -1)
            split = split if name == "v" else split[:, halves]
            tensors[f"{at}self_attn.{name}_proj.weight"] = split.reshape(part.shape)
        tensors[f"{at}self_attn.o_proj.weight"] = layer.attention_output.T
        gate, up = np.split(layer.gate_up.T, 2)
        tensors |= {f"{at}mlp.gate_proj.weight": gate, f"{at}mlp.up_proj.weight": up}
        tensors[f"{at}mlp.down_proj.weight"] = layer.down.T
        tensors[f"{at}input_layernorm.weight"] = layer.attention_norm
        tensors[f"{at}post_attention_layernorm.weight"] = layer.mlp_norm
    said = {
        "model_type": "llama", "vocab_size": whole.embedding.shape[1], "num_hidden_layers": count,
        "hidden_size": c.hidden_size, "intermediate_size": layer.down.shape[0],
        "num_attention_heads": c.num_heads, "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim, "rms_norm_eps": c.norm_eps, "rope_theta": c.rope_base,
        "max_position_embeddings": c.context_length, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(said))
    for kind in (np.float32, ml_dtypes.bfloat16):
        written = {name: np.ascontiguousarray(each, kind) for name, each in tensors.items()}
        save_file(written, tmp_path / "model.safetensors")
        found = read(tmp_path)
        assert found.config == type(c)(**{**vars(c), "num_layers": count})
        np.testing.assert_array_equal(found.frequencies, whole.frequencies)
        expected = whole.embedding.astype(kind).astype(np.float32)
        np.testing.assert_array_equal(found.embedding, expected)
        for ours, theirs in zip(found.layers, whole.layers, strict=False):
            for name, array in vars(theirs).items():
                if array is not None:
                    expected = array.astype(kind).astype(np.float32)
                    np.testing.assert_array_equal(getattr(ours, name), expected)
