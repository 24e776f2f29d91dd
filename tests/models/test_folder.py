"""Hugging Face folders: the same logits as transformers', and what is refused."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from reattend.models import FolderTokenizer, ModelFileError, generate, read  # noqa: E402
from reattend.session import Session  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.25,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
KINDS = {
    "Llama": ("Llama", {}),
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Llama 3": ("Llama", {"rope_parameters": LLAMA3, "head_dim": 16}),
    "Qwen 2": ("Qwen2", {}),
    "Qwen 3": ("Qwen3", {"head_dim": 16}),
}


def written(path, kind, changes, dtype=torch.float32):
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")(**{**SIZES, **changes})
    model = getattr(hf, f"{kind}ForCausalLM")(config).eval()
    for name, each in model.named_parameters():  # norms and biases begin as ones and zeros
        if each.ndim == 1:
            torch.nn.init.normal_(each, mean=float("norm" in name), std=0.3)
    model.to(dtype).save_pretrained(path)
    return hf.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind, dtype, tmp_path):
    theirs = written(tmp_path, *KINDS[kind], dtype)
    ours, prompt = read(tmp_path), np.arange(40)[None] % 90 + 3
    found = []
    steps = generate(
        ours, Session([], num_layers=3), prompt, max_new_tokens=5, observe=found.append
    )
    tokens = [int(step[0]) for step in steps]
    whole = torch.tensor([[*prompt[0].tolist(), *tokens]])
    with torch.no_grad():
        expected = theirs(whole).logits[0, prompt.shape[1] - 1 : -1].numpy()
    assert np.abs(np.concatenate(found) - expected).max() < 2e-5 * np.abs(expected).max()
    assert tokens == expected.argmax(-1).tolist()


def test_weights_in_several_files(tmp_path):
    theirs = written(tmp_path, "Llama", {})
    whole = read(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    for ours, before in zip(read(tmp_path).layers, whole.layers, strict=True):
        np.testing.assert_array_equal(ours.query_key_value, before.query_key_value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "of type 'mamba'; these are supported: llama, qwen2, qwen3"),
        (
            {"model_type": "llava"},
            "must have the shape",
        ),
        ({"hidden_size": 64}, "must have the shape"),
        ({"num_hidden_layers": 2}, "tensors that a plain llama has not, such as 'model.layers.2"),
        ({"use_sliding_window": True}, "sliding window"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "scales rotary positions"),
        ({"rope_parameters": {"full_attention": {}}}, "one kind for all layers"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "turns a part of each head only"),
        (
            {"rope_parameters": {"rope_type": "llama3"}},
            "factor must be a positive number, got None",
        ),
        ({"rope_parameters": {"rope_theta": "wide"}}, "rope_theta must be a positive number"),
        ({"num_attention_heads": "4"}, "num_attention_heads must be a positive whole number"),
    ],
)
def test_what_the_loop_does_not_know_is_refused(change, message, tmp_path):
    written(tmp_path, "Llama", {})
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**said, **change}))
    with pytest.raises(ModelFileError, match=message):
        read(tmp_path)


def test_broken_files(tmp_path):
    written(tmp_path, "Llama", {})
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    for broken in (b"", whole[:6], whole[:200], whole[:-8], b"\xff" * 40):
        file.write_bytes(broken)
        with pytest.raises(ModelFileError):
            read(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="no weights in safetensors"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder with config\.json"):
        read(tmp_path / "absent")


def parts(path):
    """Put the tensors of a folder's one file into two; gives the files."""
    (file,) = path.glob("*.safetensors")
    whole = load_file(file)
    names = sorted(whole)
    first, second = path / "model-1.safetensors", path / "model-2.safetensors"
    save_file({name: whole[name] for name in names[::2]}, first)
    save_file({name: whole[name] for name in names[1::2]}, second)
    file.unlink()
    return first, second


def index(path, **files):
    where = {"metadata": {}, "weight_map": files}
    (path / "model.safetensors.index.json").write_text(json.dumps(where))


def test_a_tensor_of_two_files_is_refused_where_no_index_says_which(tmp_path):
    theirs = written(tmp_path, "Llama", {})
    first, second = parts(tmp_path)
    name = "model.norm.weight"
    held, other = (
        f.name for f in ((first, second) if name in load_file(first) else (second, first))
    )
    more = load_file(tmp_path / other)
    save_file({**more, name: np.full(32, 7, np.float32)}, tmp_path / other)
    with pytest.raises(ModelFileError, match=rf"{name}' twice, as .* of model-1.* of model-2"):
        read(tmp_path)
    where = dict.fromkeys(load_file(tmp_path / held), held) | dict.fromkeys(more, other)
    index(tmp_path, **where)
    np.testing.assert_array_equal(read(tmp_path).final_norm, theirs.model.norm.weight.detach())
    index(tmp_path, **where, **{"model.absent.weight": other})
    with pytest.raises(ModelFileError, match=r"index\.json says that model-.* has 'model\.absent"):
        read(tmp_path)
    for broken in ("[]", "{}", '{"weight_map": {"model.norm.weight": 3}}', "{"):
        (tmp_path / "model.safetensors.index.json").write_text(broken)
        with pytest.raises(ModelFileError, match=r"index\.json"):
            read(tmp_path)


def test_a_file_beside_the_whole_model_is_not_read_in_its_place(tmp_path):
    """transformers reads model.safetensors and asks no index where it is there."""
    written(tmp_path, "Llama", {})
    name = "model.norm.weight"
    save_file({name: np.full(32, 7, np.float32)}, tmp_path / "other.safetensors")
    index(tmp_path, **{name: "other.safetensors"})
    with pytest.raises(ModelFileError, match=rf"{name}' twice"):
        read(tmp_path)


def logits(model, prompt):
    found = []
    list(generate(model, Session([], num_layers=3), prompt, max_new_tokens=1, observe=found.append))
    return found[0]


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize("held", ["both", "the same twice", "the first", "the last"])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3"])
def test_the_last_matrix_is_the_one_that_transformers_takes(kind, held, said, tmp_path):
    """What a config leaves out is tied in none of them; two that differ are never tied."""
    written(tmp_path, kind, {})
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    first, last = "model.embed_tokens.weight", "lm_head.weight"
    if held == "the same twice":
        tensors[last] = tensors[first].copy()
    elif held != "both":
        del tensors[last if held == "the first" else first]
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    config |= {} if said is None else {"tie_word_embeddings": said}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs, loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    if loaded["missing_keys"]:  # which transformers fills with random numbers
        with pytest.raises(ModelFileError, match=r"has no tensor .*, and does not tie it"):
            read(tmp_path)
        return
    prompt = np.arange(9)[None]
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(prompt)).logits[:, -1].numpy()
    assert np.abs(logits(read(tmp_path), prompt) - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3"])
def test_what_a_config_leaves_out_is_as_in_transformers(kind, tmp_path):
    sizes = {
        "Llama": {"vocab_size": 32000}, "Qwen2": {"num_attention_heads": 32, "hidden_size": 64},
        "Qwen3": {"num_attention_heads": 32, "hidden_size": 32, "head_dim": 128},
    }[kind]  # fmt: skip
    changes = {**sizes, **({} if kind == "Llama" else {"num_key_value_heads": 32})}
    theirs = written(tmp_path, kind, changes)
    config = json.loads((tmp_path / "config.json").read_text())
    left = ("vocab_size",) if kind == "Llama" else ("num_key_value_heads", "head_dim")
    for name in (*left, "max_position_embeddings", "rms_norm_eps", "rope_parameters"):
        config.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours, prompt = read(tmp_path), np.arange(9)[None]
    assert ours.config.context_length == theirs.config.max_position_embeddings
    with torch.no_grad():
        expected = theirs(torch.from_numpy(prompt)).logits[:, -1].numpy()
    assert np.abs(logits(ours, prompt) - expected).max() < 2e-5 * np.abs(expected).max()


def test_both_names_of_rotary_scaling_are_read_as_by_transformers(tmp_path):
    written(tmp_path, "Llama", {"rope_parameters": LLAMA3})
    config = json.loads((tmp_path / "config.json").read_text())
    old = {**LLAMA3, "factor": 8.0}
    del old["original_max_position_embeddings"]  # it is the context's length then
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_scaling": old}))
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = theirs.model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(read(tmp_path).frequencies, expected, rtol=1e-5)


def test_biases_and_norms_that_a_type_has_not_are_refused(tmp_path):
    """transformers leaves them out, and says so in its log alone."""
    written(tmp_path, "Llama", {})
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    for name, size in (("q_proj.bias", 32), ("q_norm.weight", 8)):
        more = {f"model.layers.0.self_attn.{name}": np.ones(size, np.float32)}
        if name == "q_proj.bias":
            more |= {f"model.layers.0.self_attn.{each}_proj.bias": np.ones(16, np.float32)
                     for each in "kv"}  # fmt: skip
        save_file({**tensors, **more}, file, metadata={"format": "pt"})
        with pytest.raises(ModelFileError, match="tensors that a plain llama has not"):
            read(tmp_path)


def test_a_tokenizer_and_its_chat_template(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(("<s>", "</s>", "<end>", "a", "b", "user:"))}
    made = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    theirs = hf.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    theirs.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}<end>"
    theirs.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    ours = FolderTokenizer(tmp_path)
    messages = [{"role": "user", "content": "a b"}]
    text = theirs.apply_chat_template(messages, tokenize=False)
    assert ours.chat(messages) == text
    assert ours.encode(text, prefix=False) == theirs.encode(text, add_special_tokens=False)
    assert ours.decode([3, 4, 1]) == theirs.decode([3, 4, 1], skip_special_tokens=True)
    assert ours.stop == {1, 2}
