"""Pictures: drawn from numbers, with those numbers in them, in grey too, and never off the page."""

import builtins
import io
from pathlib import Path

import numpy as np
import pytest
from reattend import plot
from reattend.evaluation.calibration import HeadSearch, Trial, Tuning
from reattend.evaluation.metrics.counts import Estimate
from reattend.recording import Recording

pytest.importorskip("matplotlib")
PICTURES = Path(__file__).parent / "pictures"


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


def copied(path, folder):
    """Give a copy to compare with: the comparison writes beside it."""
    copy = folder / f"expected-{path.name}"
    copy.write_bytes(path.read_bytes())
    return copy


def pixels(ax):
    """Render a figure as a person would see it, float [height, width, 3]."""
    file = io.BytesIO()
    ax.figure.savefig(file, format="raw", dpi=80)
    width, height = (int(80 * side) for side in ax.figure.get_size_inches())
    return np.frombuffer(file.getvalue(), np.uint8).reshape(height, width, 4)[..., :3] / 255


def searched(rng):
    gains = rng.normal(size=12)
    candidates = [(layer, head) for layer in range(2, 5) for head in range(4)]
    heads = {}
    for (layer, head), gain in zip(candidates, gains, strict=True):
        if gain > 0:
            heads.setdefault(layer, []).append(head)
    return HeadSearch(
        {layer: tuple(some) for layer, some in heads.items()}, tuple(candidates), gains,
        np.ones(12), -1.0, Estimate(0.2, 0.1, 0.3), Estimate(-0.2, -0.3, -0.1),
    )  # fmt: skip


def tuned(rng):
    def trial(strength):
        middles = rng.random(2)
        some, many = (Estimate(x, x - 0.1, x + 0.1) for x in middles)
        return Trial({"alpha": strength, "k": 4}, 40, some, many, Estimate(0, 0, 0), True)

    trials = tuple(map(trial, (2.0, 1.1, 1.5)))
    return Tuning({"alpha": 1.5, "k": 4}, trials, trial(1.0), "better")


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
        "differences": plot.differences(
            {"dim": [[1, -1, 3], [-2, -3, -1]], "hard": [[0, -1, 2], [np.nan] * 3]}, ["VAR", "ACT"]
        ),
        "changed_words": plot.changed_words(
            ["A", "cat", "and", "a", "dog."], ["A", "cat", "on", "a", "sofa"], hallucinated={"dog"}
        ),
        "answers": plot.answers_by_setting(
            {"plain": ["A", "cat", "and", "a", "dog."], "VAR": ["A", "cat", "on", "a", "sofa"]},
            notes={"VAR": "(1 sink)"}, hallucinated={"dog"},
        ),
        "objects": plot.objects_on_picture(
            made.picture // 8 + 200, ["cat", "dog"], [[4, 2, 20, 20], [30, 12, 50, 44]],
            named=[True, False],
        ),
        "head_search": plot.head_search(searched(rng)),
        "strengths": plot.strengths(tuned(rng)),
        "scaling": plot.scaling(
            {name: [(x, x * rng.random()) for x in (64, 256, 1024)] for name in ("ours", "theirs")}
        ),
        "roofline": plot.roofline(
            [(1, 20 * rng.random(), "decode", "float32"), (200, 150, "prefill", "float32")],
            bandwidth=40, peaks={"float32": 220},
        ),
        "views": plot.attention_on_picture(
            rng.dirichlet(np.ones(4 + 6 * 4)), made.picture,
            views=[plot.View((2, 2)), *plot.tiles(2, 3, (2, 2))], title="overview and tiles",
        ),
        "on_keys": plot.attention_on_keys(
            rng.dirichlet(np.ones(40) / 9, 6), spans={"image": (5, 35), "question": (35, 40)},
            percent=True,
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
        "changed_words",
        "answers",
        "objects",
        "differences",
    }:  # not of rng
        assert (pixels(first[name]) != pixels(other[name])).any(), name


def test_pictures_are_those_of_before(made, request, tmp_path):
    """Without letters, whose shapes change with versions; `--reattend-update` writes them anew."""
    comparison = pytest.importorskip("matplotlib.testing.compare")
    for name, ax in draw_all(np.random.default_rng(1), made).items():
        figure = ax.figure
        figure.set_layout_engine("none")
        for text in figure.findobj(pytest.importorskip("matplotlib.text").Text):
            text.set_visible(False)
        for each in figure.axes:
            each.set(title="", xlabel="", ylabel="")
            each.tick_params(which="both", length=0)
        expected, got = PICTURES / f"{name}.png", tmp_path / f"{name}.png"
        if request.config.getoption("--reattend-update"):
            figure.savefig(expected, dpi=40, metadata={"Software": None})
        figure.savefig(got, dpi=40)
        said = comparison.compare_images(str(copied(expected, tmp_path)), str(got), tol=3)
        assert said is None, said


def test_views_of_a_picture_share_a_grid_and_keep_their_sums(rng):
    views = [plot.View((3, 5)), *plot.tiles(2, 3, (2, 2))]
    weights = rng.random(15 + 24)
    laid = plot.join_views(weights, views)
    assert laid.shape == (4, 6)
    assert laid.sum() == pytest.approx(weights.sum())
    tile = plot.join_views(np.r_[np.zeros(15), np.arange(24)], views)
    assert tile[:2, 2:4].tolist() == [[4, 5], [6, 7]]  # the second tile, above in the middle
    assert tile[2:, 4:].tolist() == [[20, 21], [22, 23]]
    fine = plot.join_views(weights[:15], views[:1], grid=(300, 500))
    np.testing.assert_allclose(fine[50::100, 50::100] * 1e4, weights[:15].reshape(3, 5))


def test_a_search_and_a_tuning_are_what_is_drawn(rng):
    found, strengths = searched(rng), tuned(rng)
    ax = plot.head_search(found, title="ACT")
    shown = ax.images[0].get_array()
    assert np.isnan(np.asarray(shown[:2])).all(), "layers that were not searched are empty"
    np.testing.assert_array_equal(np.asarray(shown[2:]).ravel(), found.gains)
    marked = {(int(y), int(x)) for x, y in ax.collections[-1].get_offsets()}
    assert marked == {(layer, head) for layer, some in found.heads.items() for head in some}
    assert ax.get_title().splitlines()[0] == "ACT"
    assert "refuted" in ax.get_title()
    ax = plot.strengths(strengths)
    assert (ax.get_xlabel(), ax.get_title()) == ("alpha", "better")
    line = next(line for line in ax.lines if len(line.get_xdata()) == 3)
    np.testing.assert_array_equal(line.get_xdata(), [1.1, 1.5, 2.0])
    by_strength = sorted(strengths.trials, key=lambda trial: trial.parameters["alpha"])
    np.testing.assert_array_equal(line.get_ydata(), [trial.recall.value for trial in by_strength])


def test_changed_words_are_marked():
    """Punctuation and capitals are no change; a word that moved is."""
    ax = plot.changed_words(["The", "cat,", "a", "dog."], ["the", "cat."], hallucinated={"dog"})
    texts = [text for text in ax.texts if text.get_text() not in ("plain", "with the method")]
    assert [text.get_text() for text in texts] == ["The", "cat,", "a", "dog.", "the", "cat."]
    assert len(ax.lines) == 2, "two words are struck through"
    assert len(ax.patches) == 1, "one is framed"


def test_answers_are_compared_with_the_first():
    ax = plot.answers_by_setting(
        {"plain": ["a", "cat"], "VAR": ["a", "cat."], "ACT": ["a", "dog"]},
        notes={"ACT": "(2 sinks)"}, hallucinated={"dog"},
    )  # fmt: skip
    assert len(ax.lines) == 1, "one word is not in the first"
    assert len(ax.patches) == 1, "the same is hallucinated"
    assert ax.get_ylim() == (3, 0), "a line for each"
    assert [text.get_text() for text in ax.texts][-2:] == ["(2", "sinks)"]
    long = plot.answers_by_setting({"plain": ["word"] * 60})
    assert long.get_ylim()[0] > 3
    width = long.figure.bbox.x1
    assert all(text.get_window_extent().x1 <= width for text in long.texts)


def test_letters_that_the_font_lacks_and_signs_of_formulas_are_shown_as_letters(recwarn):
    """A small model's answer may hold anything: no warning, and no mathematics between dollars."""
    ax = plot.answers_by_setting({"plain": ["na\u00efve", "\u07d5\u4e2d", "$5$", "\x07"]})
    pixels(ax)
    assert [text.get_text() for text in ax.texts] == ["plain", "na\u00efve", "??", "$5$", "?"]
    assert not recwarn.list


def test_answers_fit_the_axes_that_they_are_given():
    """Also those of a subfigure, and those that a layout will widen."""
    figure = pytest.importorskip("matplotlib.figure").Figure((8, 2), layout="constrained")
    part = figure.add_subfigure(figure.add_gridspec(1, 2)[0])
    ax = plot.answers_by_setting({"plain": ["word"] * 25}, ax=part.add_subplot())
    figure.draw_without_rendering()
    assert all(text.get_window_extent().x1 <= 4 * figure.dpi for text in ax.texts)
    assert ax.get_ylim()[0] > 2


def test_keys_and_objects_are_what_is_drawn(made):
    weights = np.arange(12.0).reshape(3, 4) / 20
    ax = plot.attention_on_keys(weights, spans={"image": (1, 3), "question": (3, 4)})
    np.testing.assert_array_equal(ax.images[0].get_array(), weights)
    assert sorted(line.get_xdata()[0] for line in ax.lines) == [0.5, 2.5, 2.5]
    boxes = [[4, 0, 20, 20], [30, 12, 50, 44]]
    ax = plot.objects_on_picture(made.picture, ["cat", "dog"], boxes, named=[False, True])
    assert [patch.get_bbox().extents.tolist() for patch in ax.patches] == [
        [x0 - 0.5, y0 - 0.5, x1 - 0.5, y1 - 0.5] for x0, y0, x1, y1 in boxes
    ]
    assert [patch.get_linestyle() for patch in ax.patches] == ["--", "-"]
    assert [text.get_verticalalignment() for text in ax.texts] == ["top", "bottom"]
    assert not list(plot.objects_on_picture(made.picture, [], []).patches)


def test_maps_can_be_compared_and_read_in_percent():
    ax = plot.head_map(np.eye(2) / 4, high=1.0, percent=True)
    assert ax.images[0].get_clim() == (0, 1)
    ax.figure.draw_without_rendering()
    labels = [text.get_text() for text in ax.figure.axes[1].get_yticklabels()]
    assert "100%" in labels


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
    assert plot.change(before, before, title="VAR").get_title() == "VAR\nnothing changed"


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plot.head_map(np.zeros(3)), r"values must be real numbers \[L, H\]"),
        (lambda: plot.head_map(np.zeros((2, 3)), chosen=np.zeros((3, 2))), "chosen must have"),
        (lambda: plot.change(np.zeros((2, 3)), np.zeros((3, 2))), "after must have the shape"),
        (lambda: plot.attention_on_picture(np.zeros(5)), "grid must hold 5 image tokens"),
        (lambda: plot.attention_on_picture(np.zeros(4), sinks=[4]), "sinks must be image tokens"),
        (lambda: plot.attention_on_picture(np.zeros(4), np.zeros((3, 3))), "picture must be uint8"),
        (
            lambda: plot.join_views(np.zeros(5), [plot.View((1, 2))]),
            "views must hold 5",
        ),
        (
            lambda: plot.join_views(np.zeros(1), [plot.View((1, 1), (0, 0, 2, 1))]),
            "lie in the pict",
        ),
        (
            lambda: plot.attention_on_picture(np.zeros(1), views=[plot.View((1, 1))], sinks=[0]),
            "pass sinks or views",
        ),
        (lambda: plot.answers_by_setting({}), "answers must have at least one setting"),
        (lambda: plot.answers_by_setting({"a": ["b"]}, notes={"c": ""}), "notes must be of"),
        (lambda: plot.attention_on_keys([[0.5, -1]]), "weights must be 0 or more, got -1"),
        (
            lambda: plot.objects_on_picture(np.zeros((3, 3, 3), np.uint8), ["a"], [[1, 2]]),
            "boxes must be",
        ),
        (lambda: plot.masses_by_layer(np.zeros((2, 3)), ["a"]), "segments must name 3"),
        (lambda: plot.divergence_along([1, 2], ["a"]), "words and made_up must have the length"),
        (lambda: plot.frontier(np.zeros((2, 3)), np.zeros((2, 3)), ["a"]), "with S = 1 labels"),
        (lambda: plot.differences({"dim": np.zeros((1, 3))}, ["a", "b"]), "with S = 2 labels"),
        (lambda: plot.scaling({"ours": [(1, 0)]}), "numbers above 0"),
        (lambda: plot.roofline([]), "points must be calls"),
        (lambda: plot.strengths(tuned(np.random.default_rng(0)), "beta"), "one of alpha, k"),
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
