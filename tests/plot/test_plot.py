"""Pictures: drawn from numbers, with those numbers in them, in grey too, and never off the page."""

import builtins
import io

import numpy as np
import pytest
from reattend import plot
from reattend.recording import Recording

pytest.importorskip("matplotlib")


@pytest.fixture
def made(rng):
    image = np.arange(40) >= 5
    image[35:] = False
    sinks = np.zeros((6, 40), bool)
    sinks[2:, [0, 12]] = True
    words = ("A", " cat", " and", " a", " dog")
    return Recording(
        rng.dirichlet(np.ones(30), (5, 6, 4)), rng.random((5, 6, 4)), sinks, image, words,
        rng.integers(0, 255, (50, 60, 3), np.uint8), (5, 6),
    )  # fmt: skip


def pixels(ax):
    """Render a figure as a person would see it, float [height, width, 3]."""
    file = io.BytesIO()
    ax.figure.savefig(file, format="raw", dpi=80)
    width, height = (int(80 * side) for side in ax.figure.get_size_inches())
    return np.frombuffer(file.getvalue(), np.uint8).reshape(height, width, 4)[..., :3] / 255


def draw_all(rng, made):
    values = rng.random((6, 4))
    return {
        "head_map": plot.head_map(values, chosen=values > 0.5, title="VHD"),
        "change": plot.change(values, rng.random((6, 4)), title="what VAR changes"),
        "on_picture": plot.attention_on_picture(made, title="where it looks"),
        "by_word": plot.attention_by_word(made)[0],
        "layers": plot.masses_by_layer(
            rng.dirichlet(np.ones(4), (8, 3)), ["rest", "text sinks", "visual sinks", "image"]
        ),
        "profile": plot.column_profile(
            rng.dirichlet(np.ones(40), 5), spans={"image": (5, 35), "question": (35, 40)}
        ),
        "along": plot.divergence_along(
            rng.random(5), made.words, made_up=[False, True, False, False, True]
        ),
        "frontier": plot.frontier(
            [[0.8, 0.75, 0.85], [0.7, 0.6, 0.8]], [[0.3, 0.2, 0.4], [0.2, 0.1, 0.3]],
            ["plain", "VAR"],
        ),
    }  # fmt: skip


def test_all_are_drawn_on_the_page_and_the_same_again(rng, made):
    first = draw_all(np.random.default_rng(1), made)
    again = draw_all(np.random.default_rng(1), made)
    for name, ax in first.items():
        shown = pixels(ax)
        assert (shown.mean(-1) < 0.97).mean() > 0.02, f"{name} is empty"
        np.testing.assert_array_equal(shown, pixels(again[name]), err_msg=name)
        edge = ax.figure.bbox
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            box = text.get_window_extent()
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= edge.x1 + 1
            assert inside or not text.get_text() or not ax.axison, f"{name}: {text.get_text()}"


def test_other_numbers_are_another_picture(rng, made):
    first = draw_all(np.random.default_rng(1), made)
    other = draw_all(np.random.default_rng(2), made)
    for name in first.keys() - {
        "on_picture",
        "by_word",
        "frontier",
    }:  # not of rng
        assert (pixels(first[name]) != pixels(other[name])).any(), name


def test_maps_rise_in_grey():
    """A larger number is lighter, for who prints without colours or sees some of them alike."""
    colours = pytest.importorskip("matplotlib").colormaps
    for name in (plot.style.AMOUNT, plot.style.CHANGE):
        red, green, blue, _ = colours[name](np.linspace(0, 1, 64)).T
        grey = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert (np.diff(grey) > 0).all(), name


def test_the_map_holds_the_numbers(made):
    weights = np.arange(6) / 15
    ax = plot.attention_on_picture(weights, grid=(2, 3), sinks=[4])
    np.testing.assert_allclose(ax.images[-1].get_array(), weights.reshape(2, 3))
    assert {patch.get_xy() for patch in ax.patches} == {(0.5, 0.5)}
    from_recording = plot.attention_on_picture(made)
    mean = made.attention.astype(float).mean((0, 1, 2)).reshape(5, 6)
    np.testing.assert_allclose(from_recording.images[-1].get_array(), mean)
    assert {patch.get_xy() for patch in from_recording.patches} == {(0.5, 0.5)}  # token 12 - 5
    before, after = np.zeros((2, 3)), np.arange(6.0).reshape(2, 3) - 3
    np.testing.assert_allclose(plot.change(before, after).images[0].get_array(), after)
    assert plot.change(before, before).get_title() == "nothing changed"


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plot.head_map(np.zeros(3)), r"values must be real numbers \[L, H\]"),
        (lambda: plot.head_map(np.zeros((2, 3)), chosen=np.zeros((3, 2))), "chosen must have"),
        (lambda: plot.change(np.zeros((2, 3)), np.zeros((3, 2))), "after must have the shape"),
        (lambda: plot.attention_on_picture(np.zeros(5)), "grid must hold 5 image tokens"),
        (lambda: plot.attention_on_picture(np.zeros(4), sinks=[4]), "sinks must be image tokens"),
        (lambda: plot.attention_on_picture(np.zeros(4), np.zeros((3, 3))), "picture must be uint8"),
        (lambda: plot.masses_by_layer(np.zeros((2, 3)), ["a"]), "segments must name 3"),
        (lambda: plot.divergence_along([1, 2], ["a"]), "words and made_up must have the length"),
        (lambda: plot.frontier(np.zeros((2, 3)), np.zeros((2, 3)), ["a"]), "with S = 1 labels"),
    ],
)
def test_what_does_not_fit_is_refused(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()


def test_a_notebook_shows_what_is_drawn_and_nothing_else_is_left_open(monkeypatch):
    from matplotlib import pyplot

    values = np.ones((2, 3))
    plot.head_map(values)
    assert pyplot.get_fignums() == []
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    ax = plot.head_map(values)
    assert pyplot.gcf() is ax.figure
    pyplot.close(ax.figure)
