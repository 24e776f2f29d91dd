"""The two words by which a method says which rows it is for."""

import dataclasses
import re

import numpy as np
import pytest
from cases import ACTING
from reattend import KVCache, Plan, Reweight, Session, Transform
from reattend.border.request import MaskSpec
from reattend.call import Call, Prompt
from reattend.method import Method
from reattend.methods import (
    ADHH,
    CAAC,
    ILVAD,
    OWL,
    PAI,
    SPIN,
    FarSight,
    HeadSteering,
    MiddleLayers,
    RowEdit,
)  # fmt: skip
from reattend.plan import compose
from reattend.row_scope import PHASES, ROWS
from reattend.testing import run
from reattend.testing.laws import PARTS
from reattend.testing.sample import sample

INPUTS = sample(0)
P = INPUTS.prompt_len
SCOPED = {
    name: method
    for name, method in ACTING.items()
    if "phase" in {each.name for each in dataclasses.fields(method)}
}


def words_of(method):
    fields = {each.name for each in dataclasses.fields(method)}
    return [
        (rows, phase)
        for rows in (ROWS if "rows" in fields else ("last",))
        for phase in PHASES
        if rows == "last" or "rows" in fields
    ]


def with_words(method, rows, phase):
    fields = {each.name for each in dataclasses.fields(method)}
    return dataclasses.replace(method, phase=phase, **({"rows": rows} if "rows" in fields else {}))


@pytest.mark.parametrize("name", [*SCOPED])
def test_any_words_are_the_rows_of_the_wider_ones(name):
    """What a row gets depends on whether it is named, not on which others are."""
    method = SCOPED[name]
    inputs = INPUTS.take(np.array([0, 2])) if name == "ILVAD" else INPUTS  # images of one size
    whole = run(with_words(method, "all", "both"), inputs)
    plain = run((), inputs)
    for rows, phase in words_of(method):
        out = run(with_words(method, rows, phase), inputs)
        named = inputs.in_scope(rows, phase)[:, None, :, None]
        assert np.abs(out - np.where(named, whole, plain)).max() <= PARTS, (rows, phase)


@dataclasses.dataclass(frozen=True)
class Two(Method):
    """A policy and a shift at once, for rows of their own.

    Paper: none.
    """

    steady = True

    rows: str = "all"
    phase: str = "both"

    def plan(self, call, state):
        labels = np.zeros((call.batch, 1, min(call.key_len, P)), np.uint8)
        labels[..., 2:9] = 1
        shift = np.linspace(0, 1, labels.shape[-1])[None, None]
        policy = Reweight((0.5, 1), to=(1,))
        edit = Transform(shift=shift)
        return Plan(labels, policy, transform=edit, rows=self.rows, phase=self.phase), state


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("rows", ROWS)
def test_two_methods_have_rows_of_their_own(rows, phase):
    """Beside one that is for the last rows, each row gets what its own methods say."""
    other = SCOPED["HeadMask"]
    plain = run((), INPUTS)
    one, two = Two(rows, phase), dataclasses.replace(other, rows="last")
    everywhere = {
        (True, True): run((Two(), other), INPUTS), (True, False): run(Two(), INPUTS),
        (False, True): run(other, INPUTS), (False, False): plain,
    }  # fmt: skip
    out = run((one, two), INPUTS)
    first = INPUTS.in_scope(rows, phase)[:, None, :, None]
    second = INPUTS.in_scope("last")[:, None, :, None]
    for (a, b), expected in everywhere.items():
        here = (first == a) & (second == b)
        assert np.abs(np.where(here, out - expected, 0)).max() <= PARTS


def right_padded(inputs, drop):
    """The same with padding of other content behind each item's prompt."""
    width, total = max(drop), inputs.length + max(drop)
    key_mask = np.ones((inputs.batch, total), bool)

    def pad(array, axis):
        array = np.moveaxis(array, axis, 2)  # [L, B, T, ...]
        wide = np.empty((*array.shape[:2], total, *array.shape[3:]), array.dtype)
        for item, less in enumerate(drop):
            end = P - less
            wide[:, item, :end] = array[:, item, :end]
            wide[:, item, end : P + width] = 3 * array[:, item, : P + width - end]
            wide[:, item, P + width :] = array[:, item, P:]
            key_mask[item, end : P + width] = False
        return np.moveaxis(wide, 2, axis)

    arrays = {name: pad(getattr(inputs, name), 3) for name in ("query", "key", "value")}
    states = pad(inputs.hidden_states, 2)
    image = np.pad(inputs.image, ((0, 0), (0, width)))
    for item, less in enumerate(drop):
        image[item, P - less :] = False
    return dataclasses.replace(
        inputs, **arrays, hidden_states=states, image=image, prompt_len=P + width,
        key_mask=key_mask, text=None,
    )  # fmt: skip


def cut_right(inputs, item, less):
    """One item whose prompt ends earlier."""
    keep = np.r_[: P - less, P : inputs.length]
    one = inputs.take(np.array([item]))
    return dataclasses.replace(
        one, query=one.query[:, :, :, keep], key=one.key[:, :, :, keep],
        value=one.value[:, :, :, keep], hidden_states=one.hidden_states[:, :, keep],
        image=one.image[:, : P - less], prompt_len=P - less, text=None,
    )  # fmt: skip


@pytest.mark.parametrize("name", [*SCOPED])
def test_the_last_row_is_each_items_own(name):
    """Padded at the right, an item's last row of the prompt is that of its own length."""
    inputs, drop = sample(0).take(np.array([0, 2, 0])), (0, 3, 1)
    method = SCOPED[name]
    if "rows" in {each.name for each in dataclasses.fields(method)}:
        method = dataclasses.replace(method, rows="last", phase="both")
    out = run(method, right_padded(inputs, drop))
    width, changed = max(drop), 0
    for item, less in enumerate(drop):
        one = cut_right(inputs, item, less)
        alone = run(method, one)
        changed += int((alone != run((), one))[:, 0, :, P - less - 1].any())
        got = np.concatenate(
            [out[:, item : item + 1, :, : P - less], out[:, item : item + 1, :, P + width :]], 3
        )
        assert np.abs(got - alone).max() <= PARTS, item
    assert changed >= 2, "the last rows of prompts must change, or nothing is tested"


@pytest.mark.parametrize("name", [*SCOPED])
def test_a_prompt_in_chunks_is_what_it_is_at_once(name):
    """A chunk has its rows edited, though the image or a span begins behind it."""
    method = SCOPED[name]
    inputs = INPUTS.take(np.array([0, 2])) if name == "ILVAD" else INPUTS  # images of one size
    cuts = int(inputs.image.argmax(-1).max()), int(inputs.image.argmax(-1).max()) + 1, P - 1
    for rows, phase in words_of(method):
        worded = with_words(method, rows, phase)
        whole = run(worded, inputs)
        for cut in cuts:
            assert np.abs(run(worded, inputs, chunks=(cut,)) - whole).max() <= PARTS, (rows, cut)


@pytest.mark.parametrize("name", [*SCOPED])
def test_items_that_change_places_behind_the_prompt_keep_what_is_theirs(name):
    inputs, order = INPUTS.take(np.array([0, 2])), np.array([1, 0])
    method = with_words(SCOPED[name], "last", "decode")
    if name == "ILVAD":
        evidence = np.random.default_rng(0).random((2, int(inputs.image[0].sum())))
        method = dataclasses.replace(method, saliency=evidence.tolist())
    found = run(method, inputs, reorder=order)[..., P:, :]
    assert np.abs(found - run(method, inputs)[:, order][..., P:, :]).max() <= PARTS


def test_padding_at_the_right_is_no_place_of_farsight():
    drop = (0, 3, 9)
    padded = right_padded(INPUTS, drop)
    out = run(FarSight(), padded)
    for item, less in enumerate(drop):
        alone = run(FarSight(), cut_right(INPUTS, item, less))[..., : P - less, :]
        assert np.abs(out[:, item : item + 1, :, : P - less] - alone).max() <= PARTS, item
    with pytest.raises(ValueError, match="must be read in one call"):
        run(FarSight(), right_padded(INPUTS, (0, 3, 3)), chunks=(P - 4,))


def test_a_last_row_in_an_earlier_chunk_is_refused():
    padded = right_padded(INPUTS, (0, 3, 9))
    message = (
        "the last prompt row of every item must be in the call that ends the prompt, got items"
    )
    with pytest.raises(ValueError, match=re.escape(message + " [2]")):
        run(PAI(), padded, chunks=(P - 4,))
    run(CAAC(strength=1.4), padded, chunks=(P - 4,))  # is for all rows


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Plan(None, Reweight((1,)), rows="first"), ValueError, "rows must be one of last"),
        (lambda: Plan(None, Reweight((1,)), phase=1), TypeError, "phase must be one of prefill"),
        (lambda: PAI(rows=None), TypeError, "rows must be one of last, after_image, all, got None"),
        (lambda: SPIN(phase="decoding"), ValueError, "phase must be one of prefill, decode, both"),
        (lambda: HeadSteering(rows="prompt"), ValueError, "rows must be one of"),
        (lambda: RowEdit(phase=True), TypeError, "phase must be one of"),
        (
            lambda: OWL(baseline=(1.0,), rows="all"),
            ValueError,
            "rows must be 'last' with a baseline, which is read off one row, got 'all'",
        ),
        (
            lambda: compose([Plan(None, Reweight((1,)), rows="last")]),
            ValueError,
            "plans must be for the rows of one call",
        ),
        (
            lambda: Plan(None, Reweight((1,)), heads_from=np.array([[1, 0]])).only(
                np.array([False, True])
            ),
            ValueError,
            "rows of heads that attend as others do must be all of an item's",
        ),
    ],
)
def test_wrong_words_are_named(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_all_and_both_is_not_to_give_them():
    plan = Plan(None, Reweight((2,)))
    assert plan.everywhere
    assert plan.unscoped is plan
    assert plan.only(np.ones((1, 3), bool)) is plan
    scoped = Plan(None, Reweight((2,)), rows="last")
    assert scoped.unscoped is scoped.unscoped
    assert scoped.take(np.array([0])).rows == "last"


def test_heads_that_attend_as_others_do_so_in_some_items():
    heads = np.array([[1, 0], [1, 0]])
    plan = Plan(None, Reweight((1,)), heads_from=heads)
    some = plan.only(np.array([[True, True], [False, False]]))
    assert some.heads_from.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("method", [PAI(), ADHH(None, 0.0), SPIN(), MiddleLayers(), ILVAD((1.0,))])
def test_words_hold_in_a_loop_with_a_cache(method):
    """As a step's rows have no padding, a prompt's words say nothing about them."""
    rng = np.random.default_rng(0)
    image = np.zeros((2, 6), bool)
    image[:, 1] = True
    outs = {}
    for phase in PHASES:
        rng = np.random.default_rng(0)
        session, cache = (
            Session(dataclasses.replace(method, phase=phase), num_layers=12),
            KVCache(1),
        )
        with session.generation(image=image):
            outs[phase] = []
            for length in (6, 1, 1):
                query, key, value = rng.standard_normal((3, 2, 2, length, 4), np.float32)
                keys, values = cache.append(0, key, value)
                outs[phase].append(session.attend(4, query, keys, values))
    for step, part in ((0, "prefill"), (1, "decode"), (2, "decode")):
        assert np.array_equal(outs[part][step], outs["both"][step])
        other = outs["decode" if part == "prefill" else "prefill"][step]
        assert (outs["both"][step] != other).any()


def test_a_call_marks_the_rows():
    query = key = np.zeros((2, 1, 4, 4), np.float32)
    mask = MaskSpec(key_mask=np.array([[True] * 4, [True, True, False, True]]))
    image = np.array([[False, True, False], [False] * 3])
    call = Call(0, 1, query, key, key, Prompt(image=image), mask)
    assert call.in_scope("last").tolist() == [[False, False, True, True], [False, True, True, True]]
    assert call.in_scope("last", "decode").tolist() == [[False] * 3 + [True]] * 2
    assert call.in_scope("after_image").tolist() == [[False, False, True, True], [False] * 4]
    assert call.in_scope("all", "prefill").tolist() == [[True, True, True, False]]
