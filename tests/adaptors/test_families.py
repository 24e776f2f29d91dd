"""Families whose attention is asked in a way of its own: as before, or refused by name."""

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from given import prompts  # noqa: E402
from models import MODELS, UNUSUAL, Model  # noqa: E402
from reattend.adaptors.transformers import attached  # noqa: E402
from reattend.adaptors.transformers.interface import NAME  # noqa: E402
from reattend.methods import ACT, VHR  # noqa: E402
from runs import KINDS, METHODS, generate, tokens  # noqa: E402
from tiny import model_of  # noqa: E402

STEPS = 8
LLAMA = MODELS[0]


def assert_same(before, now, tolerance=5e-5):
    assert torch.equal(before.sequences, now.sequences)
    for a, b in zip(before.logits, now.logits, strict=True):
        assert (a - b).abs().max() <= tolerance * a.abs().max()


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"num_beams": 2}])
@pytest.mark.parametrize("case", UNUSUAL, ids=str)
def test_without_a_method_it_is_as_before(case: Model, options):
    model, inputs = case.load(), case.inputs()
    plain = generate(model, inputs, STEPS, **options)
    with attached(model):
        ours = generate(model, inputs, STEPS, **options)
    assert_same(plain, ours)


@pytest.mark.parametrize("keep", [1, 3])
def test_layers_that_read_the_last_rows_only(keep):
    """Gemma 4 with shared keys and values, without padding: its masks are None."""
    model, inputs = UNUSUAL[0].load(), UNUSUAL[0].inputs((0,))
    with torch.no_grad():
        expected = model(**inputs).logits[:, -keep:]
        with attached(model):
            found = model(**inputs, logits_to_keep=keep).logits
    assert (found - expected).abs().max() < 5e-5 * expected.abs().max()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("case", [UNUSUAL[0], UNUSUAL[3]], ids=str)
def test_methods_see_the_whole_prompt_in_each_layer(case, name):
    model, inputs = case.load(), case.inputs()
    image = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    image[:, -9:-2] = True
    with attached(model, KINDS[name](**METHODS[name]), image=image), torch.no_grad():
        expected = model(**inputs).logits[:, -1:]
        found = model(**inputs, logits_to_keep=1).logits
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 5e-5 * expected.abs().max()
    with torch.no_grad():
        assert (model(**inputs).logits[:, -1:] - expected).abs().max() > 1e-3


@pytest.mark.parametrize("word", ["block_indices", "sinks", "made_up"])
def test_what_a_model_passes_to_attention_is_honoured_or_refused(word):
    model, inputs = LLAMA.load(), LLAMA.inputs()
    module = model.model.layers[2].self_attn
    extra = torch.ones(1)  # no sinks of rows either
    said = r"a sink \(1,\)" if word == "sinks" else word

    def passing(module, args, kwargs):
        return args, {**kwargs, word: extra}

    hook = module.register_forward_pre_hook(passing, with_kwargs=True)
    try:
        with (
            attached(model),
            pytest.raises(NotImplementedError, match=f"LlamaAttention passes {said} to"),
            torch.no_grad(),
        ):
            model(**inputs)
    finally:
        hook.remove()


def test_a_position_bias_is_added_to_the_scores():
    model, inputs = LLAMA.load(), LLAMA.inputs()
    length = inputs["input_ids"].shape[1]
    bias = torch.randn(1, 4, length, length, generator=torch.Generator().manual_seed(0))

    def passing(module, args, kwargs):
        return args, {**kwargs, "position_bias": bias}

    hook = model.model.layers[2].self_attn.register_forward_pre_hook(passing, with_kwargs=True)
    try:
        with torch.no_grad():
            expected = model(**inputs).logits
            with attached(model):
                assert model.config._attn_implementation == NAME
                found = model(**inputs).logits
    finally:
        hook.remove()
    valid = inputs["attention_mask"].bool()
    assert (found - expected)[valid].abs().max() < 5e-5 * expected[valid].abs().max()


HYBRIDS = ("qwen3_next", "qwen3_5_text", "lfm2", "jamba", "bamba", "nemotron_h", "recurrent_gemma")


@pytest.mark.parametrize("family", HYBRIDS)
def test_hybrids_attach_where_there_is_attention(family):
    model, inputs = model_of(family), prompts()
    plain = generate(model, inputs, STEPS)
    with attached(model) as session:
        assert_same(plain, generate(model, inputs, STEPS))
        assert 0 < len(session.structure.attention) < session.structure.num_layers == 5
    image = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    image[:, -9:-2] = True
    layers = tuple(session.structure.attention)
    for method in (ACT(theta=0.01, beta=0.4), VHR(layers=layers)):
        with attached(model, method, image=image) as session:
            changed = generate(model, inputs, STEPS)
        assert (plain.logits[0] - changed.logits[0]).abs().max() > 1e-4
        assert {r.layer for r in session.report().methods.readings} <= set(layers)


@pytest.mark.parametrize("family", ["gpt2", "gpt_bigcode", "opt", "gemma3n_text", "jamba", "llama"])
def test_a_text_only_run_of_a_padded_batch_is_each_prompt_alone(family):
    """Learned positions count from the first token, and padding enters no recurrent state."""
    model, inputs = model_of(family), prompts()
    image = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    image[:, -9:-2] = True
    keep = inputs["attention_mask"][1].bool()
    ids = inputs["input_ids"][1:, keep]
    alone = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = []
    for how, where in ((inputs, image), (alone, image[1:, keep])):
        with attached(model, VHR(), image=where) as session:
            tokens(model, how, 1)
        readings = session.report().methods.readings
        found.append([r.found["divergence"][-1] for r in readings])
    assert len(found[0]) >= 2
    for together, single in zip(*found, strict=True):
        assert together == pytest.approx(single, rel=1e-3, abs=1e-4)


def test_a_model_that_takes_the_difference_of_two_attentions():
    model = model_of("diffllama")
    with pytest.raises(NotImplementedError, match="DiffLlamaForCausalLM takes the difference"):
        attached(model, ACT())


def test_states_that_come_in_several_streams():
    model, inputs = model_of("gemma3n_text"), prompts()
    image = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    image[:, -9:-2] = True
    with attached(model, KINDS["VAR"](**METHODS["VAR"]), image=image):
        assert len(tokens(model, inputs, 2)) == 2


@pytest.mark.parametrize("family", ["deepseek_v4", "hy_v4", "inkling_text"])
def test_keys_that_are_no_tokens_and_layers_that_differ(family):
    """DeepSeek V4 appends compressed keys and works on its masks as numbers."""
    model, inputs = model_of(family), prompts()
    plain = generate(model, inputs, STEPS)
    with attached(model):
        assert_same(plain, generate(model, inputs, STEPS))
    if family == "deepseek_v4":
        with (
            attached(model, ACT()),
            pytest.raises(NotImplementedError, match="keys that are no tokens"),
        ):
            tokens(model, inputs, 2)
    else:
        with attached(model, ACT(theta=0.01, beta=0.4)):
            assert not torch.equal(plain.logits[0], generate(model, inputs, 1).logits[0])
