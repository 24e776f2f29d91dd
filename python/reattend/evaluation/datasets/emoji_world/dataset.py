"""The emoji world as a data set: no file is needed, so that a whole evaluation runs offline."""

from __future__ import annotations

from collections.abc import Sequence

from reattend.evaluation.datasets.dataset import Answer, Case, Dataset, Naming, register
from reattend.evaluation.datasets.emoji_world.cases import CELLS, Cases, Cell
from reattend.evaluation.datasets.emoji_world.sentences import DESCRIBE, ask, mentions
from reattend.evaluation.datasets.emoji_world.world import NOUNS, VERSION, Scene
from reattend.evaluation.datasets.pope import SAMPLING
from reattend.evaluation.metrics.chair import finished_part
from reattend.evaluation.metrics.counts import DESCRIPTION_MEASURES, count_description
from reattend.evaluation.metrics.pope import POPE_MEASURES, check_rule, count_yes_no, read_yes_no

_MEASURES: dict[str, tuple[str, str]] = {
    **{name: pair for name, pair in DESCRIPTION_MEASURES.items() if name != "tokens"},
    "words": ("words", "one"),
    "unfinished": ("unfinished", "one"),
}
_LONGEST = {False: 48, True: 96}  # tokens of a description, by whether its scene holds many things


@register("emoji-world")
def load_emoji_world(
    *,
    scenes: int = 200,
    split: str = "test",
    seed: int = 0,
    cells: Sequence[Cell] = CELLS,
    drop_unfinished: bool = False,
) -> Dataset:
    """Draw scenes to describe, in which a third of the usual things made room for strangers.

    Parameters
    ----------
    scenes : int, optional
        How many.
    split : {"train", "tune", "test"}, optional
        Splits share no scene.
    seed : int, optional
        Of the world.
    cells : sequence of Cell, optional
        Kinds of scenes, in turn: how hard to see, of how many things, after how much other text.
    drop_unfinished : bool, optional
        Whether a last sentence without an end is left out.

    Returns
    -------
    Dataset
        Things count once in a description, as in `DESCRIPTION_MEASURES`.

    Raises
    ------
    ValueError
        If ``scenes`` is below 1, or the world knows no such split or seed.

    Examples
    --------
    >>> data = load_emoji_world(scenes=2, cells=[Cell("clear")])
    >>> case = data.cases[0]
    >>> case.prompt, [NOUNS[noun] for noun in case.truth.nouns]
    ('Describe the picture.', ['rooster', 'pig', 'star', 'apple', 'tractor', 'cow'])
    """
    drawn = Cases(split, seed, cells=cells)
    cases = []
    for number in _numbers(scenes):
        each = drawn.draw(number)
        prompt = _after(each.before, DESCRIBE)
        longest = _LONGEST[each.cell.long]
        key = str(number)
        cases.append(Case(key, prompt, each.scene.pixels, key, False, longest, each.scene))

    def count(case: Case, answer: Answer) -> dict[str, float]:
        finished = finished_part(answer.text)
        text = finished if drop_unfinished and finished else answer.text
        scene: Scene = case.truth
        said = [each.noun for each in mentions(text)]
        counts = count_description(said, scene.nouns, scene.removed, vocabulary_size=len(NOUNS))
        words = float(len(text.split()))
        return {**counts, "words": words, "unfinished": float(finished != answer.text.strip())}

    rules = {"world": VERSION, "unfinished last sentence": "dropped" if drop_unfinished else "kept"}
    return Dataset(
        "emoji-world", cases, count, _MEASURES, rules,
        numbers=("nouns", "words", "usual_over_chance"),
        naming=Naming(mentions, lambda case: case.truth.nouns),
    )  # fmt: skip


@register("emoji-world-questions")
def load_emoji_questions(
    *,
    scenes: int = 200,
    sampling: str = "adversarial",
    split: str = "test",
    seed: int = 0,
    cells: Sequence[Cell] = CELLS,
    rule: str = "official",
) -> Dataset:
    """Draw scenes and ask about each for a thing that is there and for one that is not.

    Parameters
    ----------
    scenes, split, seed, cells
        As for `load_emoji_world`.
    sampling : {"random", "popular", "adversarial"}, optional
        Which absent thing: any, one that many scenes show, or a usual one of the scene's context.
    rule : str, optional
        Of `read_yes_no`.

    Raises
    ------
    ValueError
        If there is no such sampling or rule, or as for `load_emoji_world`.

    Examples
    --------
    >>> data = load_emoji_questions(scenes=1, cells=[Cell("clear")])
    >>> [(case.prompt, case.truth) for case in data.cases]
    [('Is there a cow in the picture?', True), ('Is there a horse in the picture?', False)]
    """
    if sampling not in SAMPLING:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLING)}, got {sampling!r}")
    check_rule(rule)
    drawn = Cases(split, seed, cells=cells, asked=scenes)
    cases = []
    for number in _numbers(scenes):
        each = drawn.draw(number)
        for inquiry in each.inquiries:
            if inquiry.kind in ("there", sampling):
                key, prompt = f"{number}-{inquiry.kind}", _after(each.before, ask(inquiry.noun))
                there = inquiry.kind == "there"
                cases.append(Case(key, prompt, each.scene.pixels, str(number), True, 8, there))

    def count(case: Case, answer: Answer) -> dict[str, float]:
        return count_yes_no(case.truth, read_yes_no(answer.text, rule, answer.margin))

    rules = {"rule": rule, "sampling": sampling, "world": VERSION}
    return Dataset("emoji-world-questions", cases, count, POPE_MEASURES, rules)


def _numbers(scenes: int) -> range:
    if scenes < 1:
        raise ValueError(f"scenes must be at least 1, got {scenes}")
    return range(scenes)


def _after(before: str | None, question: str) -> str:
    return question if before is None else f"{before}\n{question}"
