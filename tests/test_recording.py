"""Recordings: rows against the full matrix, no change to answers, and files that come back."""

import os
import re
from dataclasses import replace

import numpy as np
import pytest
from cases import METHODS
from reattend import ACT, VAR, VHR, Session, reference
from reattend.observer import Observer
from reattend.recording import Recording
from reattend.testing import Case, run
from reattend.testing.laws import TOLERANCE
from reattend.testing.sample import sample


@pytest.fixture
def inputs():
    return sample(0)


def recorded(inputs, *methods, item=0):
    session = Session(methods, num_layers=5)
    session.record(item)
    out = run((), inputs, session=session)
    return session.recording(), out


@pytest.mark.parametrize("item", [0, 2])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_rows_are_those_of_the_full_matrix(inputs, item, padding):
    steps = inputs.length - inputs.prompt_len
    mask = np.ones((3, inputs.length), bool)
    if padding == "left":
        mask[:, :4] = False
    if padding == "right":
        mask[:, inputs.prompt_len - 3 : inputs.prompt_len] = False
    image = inputs.image & mask[:, : inputs.prompt_len]
    found, _ = recorded(replace(inputs, key_mask=mask, image=image), item=item)
    ends = [inputs.prompt_len - (3 if padding == "right" else 0)]
    ends += [inputs.prompt_len + n + 1 for n in range(steps)]
    assert len(found.attention) == 1 + steps
    for layer, (query, key, _, _) in enumerate(inputs.layers()):
        for row, end in enumerate(ends):
            weights = reference.weights(
                query[:, :, end - 1 : end], key[:, :, :end], causal=True, key_mask=mask[:, :end]
            )[0][item, :, 0]
            wanted = weights[:, : inputs.prompt_len]
            marked = image[item][: wanted.shape[1]]
            np.testing.assert_allclose(
                found.attention[row, layer], wanted[:, marked], atol=1e-3, rtol=1e-3
            )
            entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)
            np.testing.assert_allclose(found.entropy[row, layer], entropy, atol=1e-4)


def test_recording_changes_no_answer(inputs):
    methods = (VAR(tau=0.3), ACT(theta=0.1))
    found, out = recorded(inputs, *methods)
    np.testing.assert_array_equal(out, run(methods, inputs))
    assert found.settings["methods"] == [repr(method) for method in methods]
    assert found.methods["readings"]


def plain_outputs(weights, call):
    """What the heads give without a method, of the row that chooses a word."""
    return call.plain.out[np.arange(call.batch), :, call.last_rows]


def plain_head_outputs(weights, call):
    return call.head_outputs if call.last_chunk else plain_outputs(weights, call)


CASES = {each.name: each for each in METHODS} | {"three": Case((VAR(), VHR(), ACT()))}


class InRoom(Session):
    """A loop that says where outputs go, as the adaptor of transformers does."""

    def attend(self, layer, query, key, value, **how):
        out = np.empty((*query.shape[:3], value.shape[3]), query.dtype)
        assert super().attend(layer, query, key, value, out=out, **how) is out
        return out


class Looking(InRoom, Observer):
    """Who looks on, too."""

    def observe(self, call, states):
        self.look(call, np.zeros((call.batch, 1, call.key_len), np.uint8), 1, states)
        assert np.isfinite(call.column_sums()).all()


@pytest.mark.parametrize("session", [Session, InRoom, Looking])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_who_looks_on_writes_nothing_into_an_output(case, session):
    """Measured and recorded, answers are what they are; what was measured is of plain attention."""
    methods, inputs = case.method, case.inputs(0)
    expected = run(methods, inputs)
    watched = session(methods, num_layers=len(inputs.query))
    watched.measure(["entropy", "head_outputs", plain_outputs, plain_head_outputs])
    watched.record()
    np.testing.assert_allclose(run((), inputs, session=watched), expected, atol=TOLERANCE)
    plain = np.moveaxis(run((), inputs)[..., inputs.prompt_len - 1 :, :], 3, 0)  # [T, L, B, H, Dv]
    found = {name: each.values for name, each in watched.measured().items()}
    np.testing.assert_allclose(found["plain_outputs"], plain, atol=TOLERANCE)
    np.testing.assert_allclose(found["plain_head_outputs"], plain, atol=TOLERANCE)
    edited = np.moveaxis(expected[..., inputs.prompt_len - 1 :, :], 3, 0)
    np.testing.assert_allclose(found["head_outputs"], edited, atol=TOLERANCE)


def test_sinks_are_those_of_the_states(inputs):
    found, _ = recorded(inputs, VAR())
    session = Session(VAR(), num_layers=5)
    run((), inputs, session=session)
    read = {each.layer: each.found for each in session.report().readings}
    some = False
    for layer, each in read.items():
        both = sorted([*each["visual sinks"][0], *each["text sinks"][0]])
        assert np.flatnonzero(found.sinks[layer]).tolist() == both
        some = some or bool(both)
    assert some


def test_files_come_back(inputs, tmp_path):
    found, _ = recorded(inputs, VAR())
    rows, tokens = len(found.attention), found.attention.shape[-1]
    words = [f"word{n}" for n in range(rows)]
    picture = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    found = found.with_words(words, picture=picture, grid=(1, tokens), model="tiny")
    path = tmp_path / "run.npz"
    found.save(path)
    again = Recording.load(path)
    for name in ("attention", "entropy", "sinks", "image", "picture"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert (again.words, again.grid) == (found.words, found.grid)
    assert again.settings["model"] == "tiny"
    assert [*tmp_path.iterdir()] == [path]


def test_files_that_are_none_are_refused(inputs, tmp_path, monkeypatch):
    found, _ = recorded(inputs)
    for name, write in (
        ("text", lambda path: path.write_text("nothing")),
        ("other", lambda path: np.savez(path, a=np.zeros(3))),
        ("array", lambda path: path.write_bytes(b"\x93NUMPY")),
    ):
        path = tmp_path / f"{name}.npz"
        write(path)
        with pytest.raises(ValueError, match="is not a recording") as refused:
            Recording.load(path)
        assert "pickle" not in str(refused.value)  # what NumPy says of any file
    with pytest.raises(FileNotFoundError):
        Recording.load(tmp_path / "absent.npz")
    monkeypatch.setattr("reattend.recording.VERSION", 2)
    found.save(tmp_path / "later.npz")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="of version 2, this reattend reads 1"):
        Recording.load(tmp_path / "later.npz")

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="no space"):
        found.save(tmp_path / "run.npz")
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        found.save(tmp_path / "run.txt")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"words": ("a",)}, "words must be one for each of"),
        ({"grid": (3, 3)}, "grid must hold"),
        ({"picture": np.zeros((3, 3))}, "picture must be uint8 [height, width, 3]"),
        ({"attention": np.zeros(3)}, "attention must be [T, L, H, K]"),
        ({"image": np.zeros(24, bool)}, "image must mark"),
    ],
)
def test_what_does_not_fit_is_refused(inputs, change, says):
    found, _ = recorded(inputs)
    with pytest.raises(ValueError, match=re.escape(says)):
        replace(found, **change)


def test_order_matters(inputs):
    session = Session((), num_layers=5)
    with pytest.raises(RuntimeError, match=r"needs session.record\(\)"):
        session.recording()
    session.record()
    with pytest.raises(ValueError, match="needs rows of all layers"):
        session.recording()
    with pytest.raises(ValueError, match="item must be from 0"):
        session.record(-1)
    session.record(7)
    with pytest.raises(ValueError, match="item must be below the batch size, 3, got 7"):
        run((), inputs, session=session)


def test_a_report_of_a_recorded_generation_is_a_page(inputs, tmp_path):
    pytest.importorskip("plotly")
    session = Session(VAR(tau=0.3), num_layers=5)
    with pytest.raises(RuntimeError, match=r"needs session\.record"):
        session.report().to_html(tmp_path / "run.html")
    session.record()
    run((), inputs, session=session)
    report = session.report()
    rows, tokens = len(session.recording().attention), int(session.recording().image.sum())
    grid = (1, tokens)
    report.to_html(tmp_path / "run.html", words=["<b>"] * rows, grid=grid)
    page = (tmp_path / "run.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert "\\u003cb>" in page  # words are no markup
    with pytest.raises(ValueError, match="words must be one for each"):
        report.to_html(tmp_path / "other.html", words=["one"], grid=grid)
    assert [path.name for path in tmp_path.iterdir()] == ["run.html"]
    shown = session._repr_html_()
    assert shown == report._repr_html_()
    assert shown.count("<tr>") == 1 + len(report.readings)
    assert "visual sinks" in shown
