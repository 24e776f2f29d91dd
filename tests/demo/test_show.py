"""What a terminal shows: colours where it has them, marks in words where not."""

import io
import sys

import numpy as np
import pytest
import reattend as ra
from reattend.demo.show import (
    Marker,
    half_blocks,
    has_colours,
    has_pictures,
    make_console,
    smaller,
    table,
)
from reattend.evaluation.datasets.emoji_world import NOUNS
from reattend.reading import ranges
from reattend.session import Session

pytest.importorskip("rich")


class Stream(io.StringIO):
    def __init__(self, terminal, encoding):
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    encoding = property(lambda self: self._encoding)

    def isatty(self):
        return self._terminal


@pytest.fixture
def printed(monkeypatch):
    """Give a function that prints on a stream as in an environment, and gives what came out."""

    def print_(what, *, terminal=True, encoding="utf-8", **environment):
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdout", Stream(terminal, encoding))
        console = make_console()
        console.print(what(console))
        return sys.stdout.getvalue()

    return print_


@pytest.mark.parametrize(
    ("how", "colours"),
    [
        ({"COLORTERM": "truecolor"}, True),
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, False),
        ({"terminal": False, "COLORTERM": "truecolor"}, False),
    ],
)
def test_colours_are_those_of_the_terminal(printed, how, colours):
    def shown(console):
        assert has_colours(console) == has_pictures(console) == colours
        return Marker([], colours=has_colours(console)).push("a cow,")

    cow = "\033[1;9;31mcow\033[0m" if colours else "cow [hallucinated]"
    assert printed(shown, **how) == f"a {cow},\n"
    assert printed(lambda console: str(has_pictures(console)), encoding="ascii") == "False\n"


def test_marks_come_with_the_word_however_the_text_is_cut(rng):
    text = "The picture shows some scissors, two cows and a snowman; no sun."
    there = [NOUNS.index("cow"), NOUNS.index("sun")]
    expected = text.replace("scissors", "scissors [hallucinated]")
    expected = expected.replace("man;", "man [hallucinated];")
    for _ in range(20):
        cuts = np.sort(rng.integers(0, len(text), 12)).tolist()
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        marker = Marker(there, colours=False)
        assert (
            "".join(str(marker.push(piece)) for piece in pieces) + str(marker.flush()) == expected
        )
    unmarked = Marker(None, colours=True)
    found = unmarked.push(text) + unmarked.flush()
    assert (found.plain, found.spans) == (text, [])


def test_a_picture_is_half_blocks_with_both_colours(printed):
    pixels = np.zeros((5, 3, 3), np.uint8)
    pixels[1] = 255, 0, 0
    lines = printed(lambda _: half_blocks(pixels), COLORTERM="truecolor").splitlines()
    assert lines[0] == "\033[38;2;0;0;0;48;2;255;0;0m▀\033[0m" * 3
    assert [line.count("▀") for line in lines] == [3, 3]
    assert "\033[38;5;16;48;5;196m▀" in printed(lambda _: half_blocks(pixels))


def test_text_and_tables_stay_whole_in_pipes(printed):
    rows = [("", *["a setting"] * 4), ("a measure of many scenes", *["100 [100, 100]"] * 4)]
    lines = printed(lambda _: table(rows), terminal=False).splitlines()
    assert len(lines) == 2
    assert lines[1] == "  ".join(rows[1])
    assert all(line == line.rstrip() for line in lines)
    assert "…" not in printed(lambda _: table(rows), COLUMNS="24")  # folded, nothing cut
    long = "[b]word[/b] :smile: " * 20
    assert printed(lambda _: long, terminal=False) == f"{long}\n"


def test_smaller_pictures_are_means():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2, 2:] = [[[10], [20]], [[30], [40]]]
    assert smaller(pixels, 3)[..., 0].tolist() == [[0, 25], [0, 0]]
    assert smaller(pixels, 4).tolist() == pixels.tolist()


def test_methods_that_do_nothing_say_so():
    idle = Session([ra.VAR(sink_dims=(0,)), ra.ACT(), ra.FarSight()], num_layers=4).describe()
    assert idle == [
        "no image token is a sink, so VAR changes nothing",
        "no sink found behind the first key, so ACT changes nothing",
        "FarSight changed no row of the answer",
    ]
    assert Session([], num_layers=4).describe() == []
    assert ranges([]) == "none"
