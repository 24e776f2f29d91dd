"""What a terminal shows: colours where it has them, marks in words where not."""

import io

import numpy as np
import pytest
import reattend as ra
from reattend.demo.show import (
    COLOURS_24_BIT,
    COLOURS_256,
    PLAIN_TEXT,
    Ink,
    Marker,
    smaller,
)
from reattend.evaluation.datasets.emoji_world import NOUNS
from reattend.reading import ranges
from reattend.session import Session


class Stream(io.StringIO):
    def __init__(self, terminal, encoding):
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    encoding = property(lambda self: self._encoding)

    def isatty(self):
        return self._terminal


@pytest.mark.parametrize(
    ("terminal", "environment", "colours"),
    [
        (True, {"TERM": "xterm-256color", "COLORTERM": "truecolor"}, COLOURS_24_BIT),
        (True, {"TERM": "xterm-256color"}, COLOURS_256),
        (True, {"TERM": "xterm-256color", "NO_COLOR": "1"}, PLAIN_TEXT),
        (True, {"TERM": "dumb", "COLORTERM": "truecolor"}, PLAIN_TEXT),
        (False, {"TERM": "xterm", "COLORTERM": "truecolor"}, PLAIN_TEXT),
    ],
)
def test_colours_are_those_of_the_terminal(terminal, environment, colours):
    ink = Ink.of(Stream(terminal, "utf-8"), environment)
    assert ink.colours == colours
    assert ink.blocks == (colours != PLAIN_TEXT)
    assert not Ink.of(Stream(terminal, "ascii"), environment).blocks


def test_marks_come_with_the_word_however_the_text_is_cut(rng):
    text = "The picture shows some scissors, two cows and a snowman; no sun."
    there = [NOUNS.index("cow"), NOUNS.index("sun")]
    expected = text.replace("scissors", "scissors [made up]").replace("man;", "man [made up];")
    for _ in range(20):
        cuts = np.sort(rng.integers(0, len(text), 12)).tolist()
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        marker = Marker(Ink(PLAIN_TEXT, blocks=False), there)
        assert "".join(map(marker.push, pieces)) + marker.flush() == expected
    unmarked = Marker(Ink(COLOURS_256, blocks=True), None)
    assert unmarked.push(text) + unmarked.flush() == text


def test_a_picture_is_half_blocks_with_both_colours():
    pixels = np.zeros((4, 3, 3), np.uint8)
    pixels[1] = 255, 0, 0
    lines = Ink(COLOURS_24_BIT, blocks=True).picture(pixels).splitlines()
    assert lines[0] == "\033[38;2;0;0;0;48;2;255;0;0m▀" * 3 + "\033[0m"
    assert len(lines) == 2
    assert "\033[38;5;16;48;5;196m▀" in Ink(COLOURS_256, blocks=True).picture(pixels)
    assert Ink(PLAIN_TEXT, blocks=False).picture(pixels) == ""


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
