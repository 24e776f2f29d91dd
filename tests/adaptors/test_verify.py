"""A wrong attention is caught at the first forward in which it occurs, and named."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import reattend.adaptors.transformers.attending as attending  # noqa: E402
import reattend.adaptors.transformers.crossing as crossing  # noqa: E402
from given import given  # noqa: E402
from models import MODELS, UNUSUAL, Model  # noqa: E402
from reattend.adaptors.transformers import attached  # noqa: E402
from reattend.methods import ACT  # noqa: E402
from runs import METHODS, tokens  # noqa: E402
from tiny import model_of  # noqa: E402

CASES = {case.name: case for case in (*MODELS, *UNUSUAL)}


def shifted(bias, by):
    """Let each row of a mask begin one key earlier or later."""
    if bias is None:
        return None
    bias = bias.copy()
    first = (bias == 0).argmax(-1, keepdims=True) + by
    value = np.where(first >= 0, 0 if by else -np.inf, 0).astype(bias.dtype)
    np.put_along_axis(bias, np.maximum(first, 0), value, -1)
    return bias


def reaching(how, rows, keys, by):
    """Let each row of a causal call see one key more than its own, or one less."""
    last = np.maximum(np.arange(keys - rows, keys) + by, 0)[:, None]
    hidden = np.where(np.arange(keys) <= last, np.float32(0), np.float32(-np.inf))  # [N, M]
    return {**how, "causal": False, "bias": hidden[None, None]}


FAULTS = {
    "scale": lambda how, *shape: {**how, "scale": how["scale"] * 1.01},
    "window": lambda how, *shape: {**how, "window": how["window"] and how["window"] + 1},
    "narrow window": lambda how, *shape: {**how, "window": how["window"] and how["window"] - 1},
    "softcap": lambda how, *shape: {**how, "softcap": how["softcap"] and how["softcap"] * 1.01},
    "bias": lambda how, *shape: {**how, "bias": None, "causal": True},
    "padding": lambda how, *shape: {**how, "key_mask": None},
    "wide mask": lambda how, *shape: {**how, "bias": shifted(how["bias"], -1)},
    "a key more": lambda how, *shape: reaching(how, *shape, 1),
    "a key less": lambda how, *shape: reaching(how, *shape, -1),
    "narrow mask": lambda how, *shape: {**how, "bias": shifted(how["bias"], 0)},
}
WRONG = [
    ("Llama", "scale"), ("Llama", "padding"), ("Qwen2-VL", "scale"), ("gpt-oss", "scale"),
    ("Gemma 2", "scale"), ("Gemma 2", "softcap"), ("Gemma 3", "scale"), ("Mistral", "scale"),
    *((name, fault) for name in ("Mistral", "Gemma 2", "gpt-oss")
      for fault in ("window", "narrow window")),
    ("Gemma 3", "narrow window"),  # a prompt with an image is said by a bias, and no window is wide
    ("Gemma 4, shared keys and values", "window"), ("Gemma 4, shared keys and values", "scale"),
    ("DeepSeek V3.2", "scale"), ("DeepSeek V3.2", "bias"), ("DeepSeek V3.2", "narrow mask"),
    ("DeepSeek V3, latent", "scale"), ("DeepSeek V3, latent", "padding"),
    *((name, f"a key {what}") for name in ("Llama", "DeepSeek V3, latent")
      for what in ("more", "less")),  # which have no window: their last key is that of the row
    ("Llama 4, chunked", "scale"), ("Llama 4, chunked", "wide mask"),
    ("Llama 4, chunked", "narrow mask"), ("GLM-MoE-DSA", "scale"), ("GLM-MoE-DSA", "bias"),
    ("GLM-MoE-DSA", "narrow mask"),
]  # fmt: skip


def wrong(monkeypatch, change, when=lambda how, query: True):
    """Let the adaptor's attention be wrong."""
    right = attending.attention

    def attention(query, key, value, **how):
        shape = query.shape[2], key.shape[2]
        return right(query, key, value, **(change(how, *shape) if when(how, query) else how))

    monkeypatch.setattr(attending, "attention", attention)


@pytest.mark.parametrize(("name", "fault"), WRONG)
@pytest.mark.parametrize("methods", [(), (ACT(**METHODS["ACT"]),)], ids=["plain", "ACT"])
def test_a_wrong_attention_is_caught(name: str, fault: str, methods, monkeypatch):
    case: Model = CASES[name]
    model, inputs = case.load(), case.inputs()
    wrong(monkeypatch, FAULTS[fault])
    with attached(model, *methods), pytest.raises(RuntimeError, match=r"layer \d of .*differs"):
        tokens(model, inputs, 2)
    with attached(model, *methods, verify=False):
        tokens(model, inputs, 2)


@pytest.mark.parametrize("name", ["gpt-oss", "inkling2_text"])  # of each head, of each row
def test_a_wrong_learned_sink_is_caught(name: str, monkeypatch):
    model = CASES[name].load() if name in CASES else model_of(name)
    inputs, right = given(model).inputs, attending._sink
    monkeypatch.setattr(attending, "_sink", lambda *asked: right(*asked) + 0.01)
    with attached(model), pytest.raises(RuntimeError, match=r"layer \d of .*differs"):
        tokens(model, inputs, 2)


@pytest.mark.parametrize("methods", [(), (ACT(**METHODS["ACT"]),)], ids=["plain", "ACT"])
def test_a_wrong_cross_attention_is_caught(methods, monkeypatch):
    model = model_of("mllama")
    inputs, right = given(model).inputs, crossing.attention

    def attention(*arrays, **how):
        return right(*arrays, **{**how, "scale": how["scale"] * 1.01})

    with attached(model, *methods):
        expected = tokens(model, inputs, 2)
    with attached(model, ACT(theta=0.01)), attached(model, *methods):  # the inner one attends
        assert tokens(model, inputs, 2) == expected
    monkeypatch.setattr(crossing, "attention", attention)
    with attached(model, *methods), pytest.raises(RuntimeError, match="CrossAttention"):
        tokens(model, inputs, 2)


WRONG_STEPS = [
    ("Llama", "scale"), ("Llama", "padding"), ("Mistral", "scale"), ("Mistral", "narrow window"),
    ("gpt-oss", "scale"), ("gpt-oss", "narrow window"), ("Gemma 2", "softcap"),
    ("Gemma 2", "narrow window"), ("Llama 4, chunked", "scale"), ("DeepSeek V3.2", "scale"),
    ("DeepSeek V3.2", "narrow mask"), ("DeepSeek V3, latent", "scale"),
    ("DeepSeek V3, latent", "padding"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fault"), WRONG_STEPS)
def test_a_wrong_step_is_caught(name, fault, monkeypatch):
    """The prompt was right."""
    case = CASES[name]
    model, inputs = case.load(), case.inputs()
    wrong(monkeypatch, FAULTS[fault], when=lambda how, query: query.shape[2] == 1)
    with attached(model), torch.no_grad():
        model(**inputs)
        with pytest.raises(RuntimeError, match=rf"layer \d of {type(model).__name__} .*differs"):
            tokens(model, inputs, 8)


def test_what_occurs_later_is_compared_when_it_does(monkeypatch):
    """The first prompt is shorter than the window."""
    case = CASES["Mistral"]
    model = case.load()
    short = {"input_ids": torch.tensor([[1, 5, 9]]), "attention_mask": torch.ones(1, 3).long()}
    wrong(monkeypatch, FAULTS["window"])
    with attached(model):
        tokens(model, short, 2)
        with pytest.raises(RuntimeError, match="layer 0 of MistralForCausalLM"):
            tokens(model, case.inputs(), 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_wrong_attention_in_narrow_floats(dtype, monkeypatch):
    import copy

    model, inputs = copy.deepcopy(CASES["Llama"].load()).to(dtype), CASES["Llama"].inputs()
    with attached(model):
        tokens(model, inputs, 2)
    wrong(monkeypatch, lambda how, *shape: {**how, "scale": how["scale"] * 1.5})
    with attached(model), pytest.raises(RuntimeError, match="differs from the model's own"):
        tokens(model, inputs, 2)


def test_each_kind_is_compared_once(monkeypatch):
    case, compared = CASES["Gemma 3"], []
    model, inputs = case.load(), case.inputs()
    compare = attending.Check.compare

    def counted(self, asked, *rest):
        compared.append((asked.module.layer_idx, asked.query.shape[2] > 1))
        compare(self, asked, *rest)

    monkeypatch.setattr(attending.Check, "compare", counted)
    with attached(model):
        tokens(model, inputs, 8)
        assert {(0, True), (1, True), (0, False), (1, False)} <= set(compared)
        count = len(compared)
        tokens(model, inputs, 8)
        assert len(compared) == count <= 6
