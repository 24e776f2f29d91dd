"""Two-branch decoding equals its formula, with generate and with loops, greedy and with beams."""

import numpy as np
import pytest
from reattend.decoding.contrastive import TwoBranch, contrast
from reattend.decoding.mixing import log_softmax

LOGITS = np.array([[2.0, 1.0, -9.0, 0.5], [0.0, 0.1, 0.2, -1.0]])
OTHER = np.array([[2.0, 0.0, -9.0, 3.0], [0.0, -0.1, 0.3, -2.0]])


def test_contrast_equals_its_formula():
    found = contrast(LOGITS, OTHER, alpha=0.5, beta=0.2)
    expected = 1.5 * LOGITS - 0.5 * OTHER
    share = np.exp(LOGITS) / np.exp(LOGITS).max(-1, keepdims=True)
    expected[share < 0.2] = -np.inf
    assert np.array_equal(found, expected)
    assert np.isneginf(found[0, 2])


def test_at_alpha_0_without_a_cut_off_nothing_changes():
    assert np.array_equal(contrast(LOGITS, OTHER, alpha=0, beta=0), LOGITS)
    assert contrast(LOGITS.astype(np.float32), OTHER, alpha=0).dtype == np.float32


def test_tokens_that_both_branches_rule_out():
    found = contrast(np.array([1.0, -np.inf]), np.array([0.0, -np.inf]), beta=0)
    assert found.tolist() == [2.0, -np.inf]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": -1}, "alpha must be a number from 0"), ({"beta": 2}, "beta must be from 0 to 1")],
)
def test_errors_name_the_parameter(options, message):
    with pytest.raises(ValueError, match=message):
        contrast(LOGITS, OTHER, **options)
    with pytest.raises(ValueError, match=message):
        TwoBranch(None, **options)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shape of logits, \(2, 4\), got \(1, 4\)"):
        contrast(LOGITS, OTHER[:1])


class Counting:
    """A branch in NumPy: what follows depends on all tokens so far."""

    def __init__(self, items, vocabulary=7):
        self.items, self.vocabulary = items, vocabulary

    def begin(self):
        self.sums = np.arange(1.0, self.items + 1)
        return self.logits()

    def step(self, tokens):
        self.sums = self.sums * 3 + tokens
        return self.logits()

    def reorder(self, indices):
        self.sums = self.sums[indices]

    def logits(self):
        return np.sin(self.sums[:, None] * np.arange(1, self.vocabulary + 1))


def test_a_numpy_loop():
    processor, first, second = TwoBranch(Counting(2), beta=0.3), Counting(2), Counting(2)
    for start in (4, 5):  # a second prompt begins anew
        ids = np.full((2, start), 1)
        logits, other = first.begin() + 1, second.begin()
        for _ in range(5):
            found = processor(ids, logits)
            assert np.array_equal(found, contrast(logits, other, beta=0.3))
            token = found.argmax(-1)
            ids = np.concatenate([ids, token[:, None]], axis=1)
            logits, other = first.step(token) + 1, second.step(token)


def test_rows_are_found_again_after_a_reorder():
    processor, branch = TwoBranch(Counting(1), beta=0), Counting(1)
    ids = np.ones((3, 2), int)
    branch.begin()
    assert processor(ids, np.zeros((3, 7))).shape == (3, 7)  # beams repeat the prompt
    branch.reorder([0, 0, 0])
    ids = np.concatenate([ids, [[4], [5], [6]]], axis=1)
    processor(ids, np.zeros((3, 7)))
    branch.step(np.array([4, 5, 6]))
    ids = np.concatenate([ids[[2, 0, 2]], [[1], [2], [3]]], axis=1)
    found = processor(ids, np.zeros((3, 7)))
    branch.reorder([2, 0, 2])
    assert np.allclose(found, -branch.step(np.array([1, 2, 3])))


class OfItems(Counting):
    """Two prompts that differ by what is not in their tokens, as pictures do."""

    def begin(self):
        super().begin()
        self.sums = self.sums + np.array([1.0, 50.0])
        return self.logits()


def test_rows_go_on_from_their_own_item_where_others_say_the_same():
    """Two beams each of two items: the second item's first beam goes on from its second."""
    processor, branch = TwoBranch(OfItems(2), beta=0), OfItems(2)
    branch.begin()
    ids = np.ones((4, 2), int)
    processor(ids, np.zeros((4, 7)))
    branch.reorder([0, 0, 1, 1])
    ids = np.concatenate([ids, [[4], [5], [4], [5]]], axis=1)
    processor(ids, np.zeros((4, 7)))
    branch.step(np.array([4, 5, 4, 5]))
    ids = np.concatenate([ids[[0, 1, 3, 3]], [[1], [2], [1], [2]]], axis=1)
    found = processor(ids, np.zeros((4, 7)))
    branch.reorder([0, 1, 3, 3])
    assert np.allclose(found, -branch.step(np.array([1, 2, 1, 2])))


def test_rows_that_cannot_be_told_apart_are_refused():
    processor = TwoBranch(OfItems(2), beta=0)
    ids = np.ones((2, 2), int)
    processor(ids, np.zeros((2, 7)))
    with pytest.raises(ValueError, match="two items have the same tokens"):
        processor(np.ones((1, 3), int), np.zeros((1, 7)))  # which of them has ended?


def test_prompts_must_match_in_number():
    with pytest.raises(ValueError, match="as many prompts as the first, got 2 for 3"):
        TwoBranch(Counting(2))(np.ones((3, 2), int), np.zeros((3, 7)))


# With models.


@pytest.mark.parametrize("name", ["LLaVA-1.5", "Qwen2-VL", "Llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generate(name, beams):
    """A branch without the image: the score of what comes out, computed without any cache."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from models import MODELS
    from reattend.decoding.contrastive import ModelBranch

    case = next(case for case in MODELS if case.name == name)
    model, inputs = case.load(), case.inputs((0,))
    text = {"input_ids": inputs["input_ids"][:, -9:]}
    out = model.generate(
        **inputs, max_new_tokens=5, do_sample=False, num_beams=beams, output_scores=True,
        return_dict_in_generate=True,
        logits_processor=[TwoBranch(ModelBranch(model, **text), alpha=0.7, beta=0.05)],
    )  # fmt: skip
    prompt = inputs["input_ids"].shape[1]
    new, total = out.sequences[:, prompt:], 0.0
    with torch.no_grad():
        for step in range(5):
            grown = {**inputs, "input_ids": torch.cat([inputs["input_ids"], new[:, :step]], 1)}
            grown["attention_mask"] = torch.ones_like(grown["input_ids"])
            if "mm_token_type_ids" in inputs:
                grown["mm_token_type_ids"] = (grown["input_ids"] == 90).int()
            own = model(**grown).logits[:, -1]
            both = torch.cat([text["input_ids"], new[:, :step]], 1)
            other = model(input_ids=both).logits[:, -1]
            own = own.log_softmax(-1).numpy() if beams > 1 else own.numpy()
            mixed = contrast(own, other.numpy(), alpha=0.7, beta=0.05)
            if beams > 1:  # which compare rows by probabilities
                mixed = log_softmax(mixed)
            total += mixed[0, int(new[0, step])]
            if beams == 1:
                assert mixed[0].argmax() == new[0, step]
    if beams > 1:
        assert total / 5 == pytest.approx(float(out.sequences_scores[0]), abs=1e-3)


def test_branches_of_an_attached_model_do_not_mix():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from models import MODELS
    from reattend.adaptors.transformers import attached
    from reattend.decoding.contrastive import ModelBranch
    from runs import KINDS, METHODS, tokens

    case = next(case for case in MODELS if case.name == "LLaVA-1.5")
    model, inputs = case.load(), case.inputs()
    text = {"input_ids": inputs["input_ids"][:, -8:]}
    for name in METHODS:
        with attached(model, KINDS[name](**METHODS[name])):
            expected = tokens(model, inputs, 6)
            neutral = TwoBranch(ModelBranch(model, **text), alpha=0, beta=0)
            assert tokens(model, inputs, 6, logits_processor=[neutral]) == expected


def test_a_report_is_of_the_branch_that_speaks():
    """Not of a second branch's prompt, nor of a generation inside this one."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from models import MODELS
    from reattend.adaptors.transformers import attached
    from reattend.decoding.contrastive import ModelBranch
    from runs import KINDS, METHODS, held, tokens

    case = next(case for case in MODELS if case.name == "LLaVA-1.5")
    model, inputs = case.load(), case.inputs()
    text = {"input_ids": inputs["input_ids"][:, -8:]}

    def inside(ids, scores):
        tokens(model, {**text, "attention_mask": torch.ones_like(text["input_ids"])}, 2)
        return scores

    with attached(model, KINDS["VAR"](**METHODS["VAR"])) as session:
        expected = tokens(model, inputs, 4)
        spans, report = session.image_spans, str(session.report())
        for processor in (TwoBranch(ModelBranch(model, **text), alpha=0, beta=0), inside):
            assert tokens(model, inputs, 4, logits_processor=[processor]) == expected
            assert session.image_spans == spans
            assert str(session.report()) == report
            assert session.report().idle == ()
        # On a kept cache, the branch's prompt is the first that begins.
        one = case.inputs((0,))
        with torch.no_grad():
            cache = held(model, model(**one))
            longer = torch.cat([one["input_ids"], torch.tensor([[4, 9, 2]])], 1)
        branch = ModelBranch(model, input_ids=text["input_ids"][:1])
        lengths = []
        read = branch.begin
        branch.begin = lambda: (read(), lengths.append(session._now.read.length))[0]
        model.generate(
            input_ids=longer, **cache, max_new_tokens=2, do_sample=False,
            logits_processor=[TwoBranch(branch)],
        )  # fmt: skip
        assert lengths == [8]


@pytest.mark.parametrize(
    "family", ["gemma3", "mllama", "qwen3_5", "kosmos-2.5", "gpt2", "mamba", "bamba", "gpt_oss"]
)
def test_a_branch_says_what_generate_says(family):
    """Of a padded batch, with pictures where it sees them; the first branch is not disturbed."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from given import given, prompts
    from reattend.decoding.contrastive import ModelBranch
    from runs import generate
    from tiny import MEDIA, model_of

    model = model_of(family)
    inputs = given(model).inputs if family in MEDIA else prompts()
    plain = generate(model, inputs, 4)
    branch, said = ModelBranch(model, **inputs), []

    def setting(logits, other, step):
        said.append(other)
        return logits

    found = generate(model, inputs, 4, logits_processor=[TwoBranch(branch, setting=setting)])
    for own, again, other in zip(plain.logits, found.logits, said, strict=True):
        assert (own - again).abs().max() < 1e-4
        assert np.abs(own.numpy() - other).max() < 1e-4


@pytest.mark.parametrize(
    ("family", "says"),
    [("recurrent_gemma", "gives no cache"), ("kosmos-2", r"has a generate\(\) of its own")],
)
def test_a_branch_that_cannot_be_kept_apart_is_refused(family, says):
    """Its states were those of the first branch, or its steps those of another model."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from given import given, prompts
    from reattend.decoding.contrastive import ModelBranch
    from tiny import MEDIA, model_of

    model = model_of(family)
    with pytest.raises(NotImplementedError, match=says):
        ModelBranch(model, **(given(model).inputs if family in MEDIA else prompts())).begin()


@pytest.mark.parametrize("family", ["gpt2", "gpt_bigcode", "llama", "opt"])
def test_a_padded_branch_is_each_of_its_prompts_alone(family):
    """Positions that are learned count from the first token, as in generate()."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from given import prompts
    from reattend.decoding.contrastive import ModelBranch
    from tiny import model_of

    model, inputs = model_of(family), prompts()
    branch = ModelBranch(model, **inputs)
    found = [branch.begin(), branch.step(np.array([5, 6]))]
    branch.reorder(np.array([1, 0]))
    found.append(branch.step(np.array([7, 8]))[::-1])
    for item, steps in enumerate(([5, 8], [6, 7])):
        keep = inputs["attention_mask"][item].bool()
        alone = ModelBranch(model, input_ids=inputs["input_ids"][item : item + 1, keep])
        expected = [alone.begin(), *(alone.step(np.array([token])) for token in steps)]
        for ours, theirs in zip(found, expected, strict=True):
            assert np.abs(ours[item] - theirs[0]).max() < 1e-4
    right = {name: each.flip(1) for name, each in inputs.items()}
    with pytest.raises(ValueError, match="pad prompts on the left"):
        ModelBranch(model, **right)


@pytest.mark.parametrize("name", ["Llama", "LLaVA-1.5"])
@pytest.mark.parametrize("setting", ["DoLa", "DeCo"])
def test_early_layers(name, setting):
    """Each token is the setting's, from hidden states that the model itself gives."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from models import MODELS
    from reattend import decoding

    case = next(case for case in MODELS if case.name == name)
    model, inputs, layers = case.load(), case.inputs((0,)), (0, 2, 3)
    rule = getattr(decoding, setting)()
    with decoding.EarlyLayers(model, rule, layers) as early:
        out = model.generate(
            **inputs, max_new_tokens=5, do_sample=False, logits_processor=[early],
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    prompt = inputs["input_ids"].shape[1]
    with torch.no_grad():
        for step in range(5):
            grown = {**inputs, "input_ids": out.sequences[:, : prompt + step]}
            grown["attention_mask"] = torch.ones_like(grown["input_ids"])
            full = model(**grown, output_hidden_states=True)
            norm, head = model.get_decoder().norm, model.get_output_embeddings()
            others = [head(norm(full.hidden_states[layer + 1][:, -1])).numpy() for layer in layers]
            expected = rule(full.logits[:, -1].numpy(), *others)
            finite = np.isfinite(expected)
            assert np.array_equal(np.isfinite(out.scores[step].numpy()), finite)
            assert np.allclose(out.scores[step].numpy()[finite], expected[finite], atol=1e-4)
    with pytest.raises(RuntimeError, match="must be entered"):
        early(out.sequences, full.logits[:, -1])
    left = [hook for layer in model.get_decoder().layers for hook in layer._forward_hooks.values()]
    assert not any("EarlyLayers" in getattr(hook, "__qualname__", "") for hook in left)


def test_early_layers_are_those_of_the_branch_that_speaks():
    """A second branch runs the same model, between a forward and the processors behind it."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from models import MODELS
    from reattend.decoding import DoLa, EarlyLayers, ModelBranch
    from runs import tokens

    case = next(case for case in MODELS if case.name == "Llama")
    model, inputs = case.load(), case.inputs((0,))
    branch = ModelBranch(model, input_ids=inputs["input_ids"][:, -8:])
    with EarlyLayers(model, DoLa(), (0, 2)) as early:
        expected = tokens(model, inputs, 6, logits_processor=[early])
        both = [TwoBranch(branch, alpha=0, beta=0), early]
        assert tokens(model, inputs, 6, logits_processor=both) == expected
        chunks = {"logits_processor": [early], "prefill_chunk_size": 5}
        assert [tokens(model, inputs, 6, **chunks) for _ in range(2)] == [expected] * 2
        with pytest.raises(RuntimeError, match="the model ran 2 times for one token"):
            tokens(model, inputs, 6, logits_processor=[early], guidance_scale=1.5)


@pytest.mark.parametrize(
    ("family", "error", "says"),
    [("cohere", NotImplementedError, "by more than its norm and its head"),
     ("minicpm3", NotImplementedError, "by more than its norm and its head"),
     ("gpt2", TypeError, "a decoder with layers and norm, got GPT2LMHeadModel")],
)  # fmt: skip
def test_logits_that_are_more_than_the_norm_and_the_head(family, error, says):
    """A softcap or a scale: what earlier layers say would have none."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from given import prompts
    from reattend.decoding import DoLa, EarlyLayers
    from runs import tokens
    from tiny import model_of

    model = model_of(family)
    with pytest.raises(error, match=says), EarlyLayers(model, DoLa(), (0, 2)) as early:
        tokens(model, prompts(), 2, logits_processor=[early])


def test_early_layers_come_before_the_last():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from models import MODELS
    from reattend.decoding import DoLa, EarlyLayers

    model = next(case for case in MODELS if case.name == "Llama").load()
    for layers in ((), (4,), (-1,)):
        with pytest.raises(ValueError, match="layers must be some of 0 to 3"):
            EarlyLayers(model, DoLa(), layers)
