"""What a data set is: cases to answer, and a score of each answer. One registry names them all."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from reattend.evaluation.metrics.measures import Combined
from reattend.evaluation.metrics.vocabulary import Mention
from reattend.policy import Array


class Problem(NamedTuple):
    """Something that is wrong with a file, and where."""

    file: str
    line: int | None  # from 1; in a JSON array the place of the entry
    what: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.what}"


class DataError(ValueError):
    """Files of a data set have problems.

    Parameters
    ----------
    problems : sequence of Problem
        All of them; the message names the first five.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(each) for each in self.problems[:5]]
        if len(self.problems) > 5:
            lines.append(f"and {len(self.problems) - 5} more")
        super().__init__("\n".join(lines))


@dataclass(frozen=True, eq=False)
class Case:
    """A picture and what is asked about it."""

    key: str  # no other case of the data set has it
    prompt: str
    image: Path | Array | None  # a file, or uint8 [height, width, 3]; None: no picture is needed
    group: str  # the picture: a bootstrap draws whole groups again
    yes_or_no: bool = False  # whether the answer is yes or no, so that its margin is wanted
    max_new_tokens: int = 64
    truth: Any = None  # of the data set, for its score


class Answer(NamedTuple):
    """What a model answered."""

    text: str
    margin: float | None = None  # by how much the logit of Yes is above that of No
    tokens: tuple[tuple[str, float], ...] = ()  # texts that join to the text, and probabilities

    def to_json(self) -> list[Any]:
        """Write it as JSON's lists.

        >>> Answer("A cow", tokens=(("A", 1.0), (" cow", 0.912349))).to_json()
        ['A cow', None, [['A', 1.0], [' cow', 0.91235]]]
        """
        return [self.text, self.margin, [[text, round(p, 5)] for text, p in self.tokens]]

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Answer:
        """Read what `to_json` wrote.

        >>> Answer.from_json(["No", -1.5, []])
        Answer(text='No', margin=-1.5, tokens=())
        """
        text, margin, *tokens = values
        return cls(text, margin, tuple((t, float(p)) for each in tokens for t, p in each))


class Naming(NamedTuple):
    """How descriptions name things: what saying less does to a measure can then be told apart."""

    mentions: Callable[[str], Sequence[Mention]]  # of a text
    there: Callable[[Case], Collection[int]]  # what is in a case's picture


@dataclass(frozen=True, eq=False)
class Dataset:
    """Cases, how an answer is counted, and the measures that come from the counts.

    Parameters
    ----------
    name : str
        Of the registry.
    cases : sequence of Case
        In the order in which they are answered.
    count : callable
        Of a case and an answer; gives numbers by name, the same names for all.
    measures : mapping of str to (str, str)
        Measure to the two counts whose sums are divided.
    rules : mapping, optional
        How answers are read, to be printed beside the measures.
    files : sequence of path, optional
        What it was read from; another content is another data set.
    problems : sequence of Problem, optional
        What was left out, and why.
    combined : mapping of str to Combined, optional
        Measures that add up those above.
    numbers : collection of str, optional
        Measures that are numbers; others are shares, shown as percentages.
    count_group : callable, optional
        As ``count``, of all cases of a group and their answers, for what only they together decide;
        its counts join those of ``count``.
    naming : Naming, optional
        If the cases ask for descriptions.
    made : mapping of str to Answer, optional
        Answers by key that the files bring along.

    Raises
    ------
    ValueError
        If there is no case, or two have the same key.
    """

    name: str
    cases: Sequence[Case]
    count: Callable[[Case, Answer], dict[str, float]]
    measures: Mapping[str, tuple[str, str]]
    rules: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[Path] = ()
    problems: Sequence[Problem] = ()
    combined: Mapping[str, Combined] = field(default_factory=dict)
    numbers: Collection[str] = ()
    count_group: Callable[[Sequence[Case], Sequence[Answer]], dict[str, float]] | None = None
    naming: Naming | None = None
    made: Mapping[str, Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cases:
            raise DataError(self.problems or [Problem(self.name, None, "holds no cases")])
        keys: set[str] = set()
        for case in self.cases:
            if case.key in keys:
                raise ValueError(f"cases must have keys of their own, got {case.key!r} twice")
            keys.add(case.key)

    def identity(self) -> dict[str, Any]:
        """Say what decides the answers, as JSON can hold it: a journal is of one data set only."""
        return {
            "name": self.name,
            "cases": len(self.cases),
            "files": [[path.name, sha256(path)] for path in self.files],
            "asked": _digest(self.cases),
        }

    def right(self) -> str:
        """Give a checksum of what is right: of it and of `rules` scores depend, answers do not."""
        truths = (each.truth if self.naming is None else self.naming.there(each)
                  for each in self.cases)  # fmt: skip
        known = [sorted(t, key=repr) if isinstance(t, (set, frozenset)) else t for t in truths]
        return hashlib.sha256(repr(known).encode()).hexdigest()


Loader = Callable[..., Dataset]
_loaders: dict[str, Loader] = {}


def register(name: str) -> Callable[[Loader], Loader]:
    """Give a data set's loader a name by which `load_dataset` and the command line find it.

    Parameters
    ----------
    name : str
        In small letters.

    Raises
    ------
    ValueError
        If another loader has it.
    """

    def keep(loader: Loader) -> Loader:
        if _loaders.setdefault(name, loader) is not loader:
            raise ValueError(f"name must be new, got {name!r}, which {_loaders[name]!r} has")
        return loader

    return keep


def registered_datasets() -> dict[str, Loader]:
    """Give the loaders by name, in alphabetical order."""
    return dict(sorted(_loaders.items()))


def load_dataset(name: str, **options: Any) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    name : str
        Of the registry, such as ``"pope"``.
    **options
        Of its loader.

    Raises
    ------
    ValueError
        If there is no such data set.
    DataError
        Naming files and lines, if its files have problems.
    """
    if name not in _loaders:
        raise ValueError(f"name must be one of {', '.join(sorted(_loaders))}, got {name!r}")
    return _loaders[name](**options)


def sha256(path: Path) -> str:
    """Give a file's checksum."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(cases: Sequence[Case]) -> str:
    found, seen = hashlib.sha256(), functools.cache(sha256)  # a picture may be in many cases
    for case in cases:
        image: Any = case.image
        if isinstance(image, Path):
            image = seen(image)
        elif image is not None:
            image = image.shape, str(image.dtype), hashlib.sha256(image.tobytes()).hexdigest()
        asked = case.key, case.prompt, case.group, case.yes_or_no, case.max_new_tokens, image
        found.update(repr(asked).encode())
    return found.hexdigest()
