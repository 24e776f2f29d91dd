"""The picture of sinks: its figures against the full matrix, and how its file is written."""

import os
from pathlib import Path

import numpy as np
import pytest
import reattend
from reattend.plot import sink_rates as picture


def test_shares_are_those_of_the_full_matrix(rng):
    query, key = rng.standard_normal((2, 2, 4, 19, 8), dtype=np.float32)
    query *= 2
    key[:, :, [5, 9]] *= 3
    key_mask = np.ones((2, 19), dtype=bool)
    key_mask[1, :4] = False
    method = reattend.ACT(theta=0.12)
    session = picture.WatchedSession(method, num_layers=4, num_heads=4, theta=0.12)
    with session.generation():
        session.attend(2, query, key, key, key_mask=key_mask)
    before, after = np.zeros((2, 4, 2))
    rows = 0
    for item, first in ((0, 0), (1, 4)):
        scores = np.einsum("hnd,hmd->hnm", query[item], key[item])[:, first:, first:] / 8**0.5
        scores[:, ~np.tri(19 - first, dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        means = weights.sum(1) / np.arange(19 - first, 0, -1)
        later = means > 0.12
        later[:, 0] = False
        mass = (weights * later[:, None]).sum(-1)  # [H, N]
        rows += 18 - first
        for sums, kept in ((before, np.ones_like(mass)), (after, np.full_like(mass, 0.4))):
            others = np.where(mass > 0, (1 - kept * mass) / np.maximum(1 - mass, 1e-9), 1)
            sums[:, 0] += (others * weights[..., 0])[:, 1:].sum(-1)
            sums[:, 1] += (kept * mass)[:, 1:].sum(-1)
    shares = session.shares()
    np.testing.assert_allclose(shares.before[2], before / rows, atol=1e-6)
    np.testing.assert_allclose(shares.after[2], after / rows, atol=1e-5)
    assert (shares.after[2, :, 1] < shares.before[2, :, 1]).any()
    assert not shares.before[3].any()


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    shares = picture.SinkShares(*np.zeros((2, 3, 2, 2)))
    path = tmp_path / "sinks.png"

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        picture.draw_sinks(path, shares, title="", caption="")
    assert not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"must end in \.png"):
        picture.draw_sinks(Path("sinks.txt"), shares, title="", caption="")


def outside(figure):
    """Give the texts of a figure that reach beyond its edges."""
    figure.canvas.draw()
    edge, found = figure.bbox, []
    for text in (*figure.texts, *(at.title for at in figure.axes)):
        box = text.get_window_extent()
        if box.x0 < -1 or box.y0 < -1 or box.x1 > edge.x1 + 1 or box.y1 > edge.y1 + 1:
            found.append(text.get_text())
    return found


@pytest.mark.parametrize("changed", [True, False])
def test_long_settings_stay_on_the_picture(rng, changed):
    agg = pytest.importorskip("matplotlib.backends.backend_agg")
    before = rng.random((30, 9, 2))
    shares = picture.SinkShares(before, before * (0.5 if changed else 1))
    heads = reattend.ACT(heads={layer: range(9) for layer in range(3, 10)})
    for title, caption in (
        ("Attention that goes to sinks", f"SmolLM2, prompt of 45 tokens, {heads!r}.\nMean."),
        ("A long title " * 12, "word" * 100),
        ("short", "layers and heads " * 400),
    ):
        figure = picture._figure(shares, title, caption)
        agg.FigureCanvasAgg(figure)
        assert outside(figure) == []
        panel = min(at.get_position().height * figure.get_figheight() for at in figure.axes[:2])
        assert panel > 1.2  # inches: lettering must not push the maps away
