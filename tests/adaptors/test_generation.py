"""Ways to generate: beams, samples, static caches, chunks, loops of one's own; and ways back."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from models import IMAGE, MODELS, TEXT, Model  # noqa: E402
from reattend.adaptors.transformers import attached  # noqa: E402
from reattend.adaptors.transformers.caches import cache_argument  # noqa: E402
from reattend.methods import VAR  # noqa: E402
from runs import KINDS, METHODS, generate, held, tokens  # noqa: E402
from transformers.cache_utils import QuantizedLayer  # noqa: E402

CASES = {case.name: case for case in MODELS}
LLAMA, LLAVA, QWEN = CASES["Llama"], CASES["LLaVA-1.5"], CASES["Qwen2-VL"]
STEPS = 6

SLIDING = [CASES[name] for name in ("Mistral", "gpt-oss", "Gemma 2", "Gemma 3")]

each_method = pytest.mark.parametrize("name", METHODS)


def method(name):
    return KINDS[name](**METHODS[name])


def loop(model, inputs, steps, follow=None):
    """Generate in a loop of one's own; with `follow` [B, steps], score those tokens instead."""
    mask = inputs["attention_mask"]
    found, total = [], 0
    with torch.no_grad():
        out = model(**inputs, use_cache=True)
        for step in range(steps):
            scores = out.logits[:, -1].log_softmax(-1)
            chosen = scores.argmax(-1) if follow is None else follow[:, step]
            total = total + scores.gather(1, chosen[:, None])[:, 0]
            found.append(chosen)
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], 1)
            # Qwen-VL's forward takes a mask for the new rows' positions: leave it out.
            padded = {} if mask.all() else {"attention_mask": mask}
            out = model(input_ids=chosen[:, None], **held(model, out), **padded)
    return torch.stack(found, 1).tolist(), total


@each_method
@pytest.mark.parametrize("case", [LLAVA, QWEN, CASES["Mistral"]], ids=str)
def test_beams_take_their_state_along(case: Model, name):
    """The score of a beam is what its tokens get when they are fed one after the other."""
    model, inputs = case.load(), case.inputs((0,))
    image = np.zeros(inputs["input_ids"].shape, bool)
    image[:, 3:9] = True
    image = None if case.image else image
    with attached(model, method(name), image=image):
        out = generate(
            model, inputs, STEPS, num_beams=3, num_return_sequences=3, output_scores=True
        )
        for sequence, score in zip(out.sequences, out.sequences_scores, strict=True):
            _, total = loop(model, inputs, STEPS, follow=sequence[None, -STEPS:])
            assert float(total) / STEPS == pytest.approx(float(score), abs=1e-4)


class Packed(QuantizedLayer):
    """Keeps few keys where other caches keep all; its numbers are not rounded."""

    def __init__(self):
        super().__init__(nbits=4, axis_key=0, axis_value=0, q_group_size=4, residual_length=4)

    def _quantize(self, tensor, axis):
        return tensor.clone()

    def _dequantize(self, tensor):
        return tensor


def test_beams_take_their_state_along_in_a_quantised_cache():
    model, inputs = LLAMA.load(), LLAMA.inputs((0,))
    with torch.no_grad(), attached(model, method("ACT")):
        out = generate(
            model, inputs, 8, num_beams=3, num_return_sequences=3, output_scores=True,
            **{cache_argument(model): hf.Cache(layer_class_to_replicate=Packed)},
        )  # fmt: skip
        for sequence, score in zip(out.sequences, out.sequences_scores, strict=True):
            _, total = loop(model, inputs, 8, follow=sequence[None, -8:])
            assert float(total) / 8 == pytest.approx(float(score), abs=1e-4)


@each_method
def test_several_sequences_of_a_prompt(name):
    model, inputs = LLAVA.load(), LLAVA.inputs()
    with attached(model, method(name)) as session:
        torch.manual_seed(0)
        out = model.generate(**inputs, max_new_tokens=4, do_sample=True, num_return_sequences=2)
        assert len(out) == len(session.image_spans) == 4
        first = model.generate(**inputs, max_new_tokens=4, do_sample=True, top_k=1)
    with attached(model, method(name)):
        assert first[:, -4:].tolist() == tokens(model, inputs, 4)


def test_sampling_without_a_method_draws_the_same():
    model, inputs = LLAMA.load(), LLAMA.inputs()
    drawn = []
    for context in (attached(model), torch.no_grad()):
        torch.manual_seed(5)
        with context:
            drawn.append(model.generate(**inputs, max_new_tokens=8, do_sample=True).tolist())
    assert drawn[0] == drawn[1]


@each_method
@pytest.mark.parametrize("case", [LLAVA, QWEN, *SLIDING], ids=str)
def test_a_static_cache_changes_nothing(case: Model, name):
    model, inputs = case.load(), case.inputs()
    image = np.zeros(inputs["input_ids"].shape, bool)
    image[:, 5:12] = True
    with attached(model, method(name), image=None if case.image else image):
        dynamic = generate(model, inputs, STEPS)
        static = generate(model, inputs, STEPS, cache_implementation="static")
    assert dynamic.sequences.tolist() == static.sequences.tolist()
    for a, b in zip(dynamic.logits, static.logits, strict=True):
        assert (a - b).abs().max() < 1e-3


@each_method
@pytest.mark.parametrize("case", SLIDING, ids=str)
def test_a_cache_that_keeps_what_a_window_hides_changes_nothing(case: Model, name):
    """What a step's window hides is no padding."""
    model, inputs = case.load(), case.inputs((0,))
    image = np.zeros(inputs["input_ids"].shape, bool)
    image[:, 5:12] = True
    with attached(model, method(name), image=None if case.image else image):
        sliding = generate(model, inputs, STEPS)
        whole = generate(model, inputs, STEPS, **{cache_argument(model): hf.DynamicCache()})
    for a, b in zip(sliding.logits, whole.logits, strict=True):
        assert (a - b).abs().max() < 1e-3


@each_method
@pytest.mark.parametrize("case", [LLAVA, CASES["Gemma 3"]], ids=str)
def test_padding_on_the_right_changes_nothing(case: Model, name):
    """Padding sees the prompt before it, unlike padding on the left, and must not be a row."""
    model, inputs = case.load(), case.inputs()
    lengths = inputs["attention_mask"].sum(1).tolist()
    for key, value in inputs.items():
        if key != "pixel_values":
            inputs[key] = torch.stack([x.roll(n) for x, n in zip(value, lengths, strict=True)])
    with attached(model, method(name)), torch.no_grad():
        whole = model(**inputs).logits
        for item, length in enumerate(lengths):
            alone = model(**case.inputs((item,))).logits[0]
            assert (whole[item, :length] - alone).abs().max() < 1e-3


@pytest.mark.parametrize("case", [LLAVA, QWEN], ids=str)
@pytest.mark.parametrize("size", [5, 9])
def test_a_prompt_may_come_in_chunks(case: Model, size):
    model, inputs = case.load(), case.inputs()
    with attached(model, method("VAR")) as session:
        whole = generate(model, inputs, STEPS)
        spans = session.image_spans
        chunks = generate(model, inputs, STEPS, prefill_chunk_size=size)
        assert session.image_spans == spans
    assert whole.sequences.tolist() == chunks.sequences.tolist()
    for a, b in zip(whole.logits, chunks.logits, strict=True):
        assert (a - b).abs().max() < 1e-3
    with attached(model, method("ACT")):
        assert len(tokens(model, inputs, 2, prefill_chunk_size=size)) == 2
    with attached(model, method("VHR")), pytest.raises(ValueError, match="read in one call"):
        generate(model, inputs, 2, prefill_chunk_size=size)
    with attached(model, VAR(tau=0.3)), pytest.raises(ValueError, match="sink_dims must be"):
        generate(model, inputs, 2, prefill_chunk_size=size)


@each_method
def test_a_loop_of_ones_own(name):
    model, inputs = LLAVA.load(), LLAVA.inputs()
    with attached(model, method(name)):
        expected = tokens(model, inputs, STEPS)
        assert loop(model, inputs, STEPS)[0] == expected


@each_method
def test_two_generations_take_turns(name):
    model = LLAVA.load()
    each = [LLAVA.inputs((0,)), LLAVA.inputs((1,))]
    with attached(model, method(name)), torch.no_grad():
        expected = [tokens(model, inputs, STEPS)[0] for inputs in each]
        outs = [model(**inputs) for inputs in each]
        found = [[], []]
        for _ in range(STEPS):
            for turn in (0, 1):
                token = outs[turn].logits[:, -1].argmax(-1)
                found[turn].append(int(token))
                outs[turn] = model(input_ids=token[:, None], **held(model, outs[turn]))
    assert found == expected


@each_method
def test_embeddings_with_an_explicit_image(name):
    model, inputs = LLAVA.load(), LLAVA.inputs()
    with attached(model, method(name)):
        expected = tokens(model, inputs, STEPS)
    features = model.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
    image = inputs["input_ids"] == IMAGE
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    embeds[image] = torch.cat(list(features)).detach()
    how = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    with attached(model, method(name), image=image):
        assert tokens(model, how, STEPS) == expected
    with attached(model, method(name)), pytest.raises(ValueError, match="pass input_ids as well"):
        tokens(model, how, 1)
    with (
        attached(model, method(name), image=image[:, 1:]),
        pytest.raises(ValueError, match="image"),
    ):
        tokens(model, how, 1)


def test_methods_in_a_row():
    model, inputs = LLAVA.load(), LLAVA.inputs()
    with attached(model, [method("VAR"), method("ACT")], method("VHR")) as session:
        first = tokens(model, inputs, STEPS)
        assert first == tokens(model, inputs, STEPS)
    text = str(session.report())
    assert all(name in text for name in METHODS)
    assert "text-only branch:" in text
    assert session.report().text_tokens == 18 + 13


def test_a_changed_model_leaves_its_text_alone():
    """A prompt without an image in a batch with one: VAR and VHR leave it as it is."""
    case = CASES["LLaVA-1.5, two images and none"]
    model, inputs = case.load(), case.inputs()
    plain = tokens(model, inputs, STEPS)
    for name in ("VAR", "VHR"):
        with attached(model, method(name)):
            found = tokens(model, inputs, STEPS)
        assert found[0] != plain[0]
        assert found[1] == plain[1]


# Sink dimensions that nobody gave.


def test_sink_dimensions_are_found_and_kept():
    torch.manual_seed(1)
    config = hf.LlamaConfig(**{**TEXT, "initializer_range": 0.01, "num_hidden_layers": 6})
    model = hf.LlamaForCausalLM(config).eval()
    with torch.no_grad():  # the first layer's MLP puts 500 into dimension 11 of the first token
        model.model.embed_tokens.weight[1, 11] = 500.0
    ids = torch.tensor([[1, 5, 9, 7, 11, 3, 8, 20]])
    image = torch.tensor([[False, False, True, True, True, False, False, False]])
    with attached(model, VAR(tau=0.3), image=image) as session:
        tokens(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 3)
    assert session.report().sink_dims == (11,)
    assert "sink dimensions, found on the first prompt: 11" in str(session.report())
    with attached(model, VAR(tau=0.3), image=image) as session:  # known by now
        tokens(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 3)
    assert session.report().sink_dims == (11,)
    found = [r.found["text sinks"] for r in session.report().methods.readings if r.found]
    assert found
    assert all(sinks == [[0]] for sinks in found)
    other = {name: each.clone() for name, each in model.state_dict().items()}
    other["model.embed_tokens.weight"][1, 11], other["model.embed_tokens.weight"][1, 13] = 0, 500
    model.load_state_dict(other)  # another checkpoint in the same model
    with attached(model, VAR(tau=0.3), image=image) as session:
        tokens(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 3)
    assert session.report().sink_dims == (13,)


# Types.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_floats(dtype):
    exact, inputs = LLAMA.load(), LLAMA.inputs()
    model = copy.deepcopy(exact).to(dtype)
    with torch.no_grad():
        expected, theirs = exact(**inputs).logits, model(**inputs).logits
        with attached(model):
            ours = model(**inputs).logits
        with attached(model, method("ACT")):
            assert model(**inputs).logits.dtype == dtype
    valid = inputs["attention_mask"].bool()
    assert ours.dtype == dtype
    off = [(x.float() - expected)[valid].abs().max() for x in (ours, theirs)]
    assert off[0] <= 2 * off[1]


@each_method
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
def test_padding_is_seen_in_a_mask_of_rows_and_keys(name, dtype):
    """Such a mask comes without the one of the keys that it was made from."""
    model, inputs = LLAVA.load(), LLAVA.inputs()
    mask = inputs.pop("attention_mask").bool()
    pairs = mask[:, None, None] & torch.ones(mask.shape[1], mask.shape[1]).tril().bool()
    if dtype == torch.float32:
        pairs = torch.zeros(pairs.shape).masked_fill(~pairs, torch.finfo(dtype).min)
    inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), attached(model, method(name)):
        expected = model(**inputs, attention_mask=mask).logits
        found = model(**inputs, attention_mask=pairs).logits
    assert (found - expected)[mask].abs().max() < 1e-5


def test_measures_are_those_of_the_models_own_attention():
    """Gathered without a method, they are what eager attention gives in the same generation."""
    model, inputs = LLAVA.load(), LLAVA.inputs()
    model.set_attn_implementation("eager")
    try:
        plain = generate(model, inputs, STEPS, output_attentions=True)
    finally:
        model.set_attn_implementation("sdpa")
    with attached(model, measures=["largest", "image_mass", "head_outputs"]) as session:
        found = generate(model, inputs, STEPS)
        assert torch.equal(found.sequences, plain.sequences)
        measured = session.measured()
    image = (inputs["input_ids"] == IMAGE).numpy()
    for step, layers in enumerate(plain.attentions):
        for layer, weights in enumerate(layers):
            row = weights[:, :, -1].numpy()  # [B, H, M]
            seen = np.where(image[:, None], row[..., : image.shape[1]], 0).sum(-1)
            assert np.abs(measured["largest"].values[step, layer] - row.max(-1)).max() < 1e-5
            assert np.abs(measured["image_mass"].values[step, layer] - seen).max() < 1e-5
    assert measured["head_outputs"].values.shape == (STEPS, 5, 2, 4, 16)
    with attached(model, measures=["entropy"]) as session:
        generate(model, inputs, STEPS, num_beams=2)
        assert session.measured()["entropy"].values.shape == (STEPS, 5, 4, 4)
    with pytest.raises(ValueError, match="measures must be among"):
        attached(model, measures=["no such"])
