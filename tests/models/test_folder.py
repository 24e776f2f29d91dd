"""Hugging Face folders: the same logits as transformers', and what is refused."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from reattend.models import FolderTokenizer, ModelFileError, generate, read  # noqa: E402
from reattend.session import Session  # noqa: E402

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
