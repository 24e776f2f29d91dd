"""Records of JSON files with where each stands, and pictures of a folder by any of their names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reattend.evaluation.datasets.dataset import DataError, Problem
from reattend.json_text import from_json

SUFFIXES = (".jpg", ".jpeg", ".png")
_COCO = re.compile(r"(?:COCO_\w+_)?(\d{12})(?:\.\w+)?")  # others that end alike are other pictures
_SHORT = re.compile(r"(\d+)(?:\.\w+)?")  # by which one may ask for a picture of COCO


class Record(NamedTuple):
    """An entry of a file."""

    line: int  # from 1; in an array its place
    values: dict[str, Any]


def unreadable(path: Path, error: OSError | UnicodeDecodeError) -> DataError:
    """Say why a file is no text, in words; the system's own begin with a number.

    Parameters
    ----------
    path : path
        The file.
    error : OSError or UnicodeDecodeError
        What went wrong.

    Examples
    --------
    >>> print(unreadable(Path("pope.json"), FileNotFoundError(2, "No such file or directory")))
    pope.json: cannot be read: No such file or directory
    """
    why = getattr(error, "strerror", None) or error
    return DataError([Problem(str(path), None, f"cannot be read: {why}")])


def read_records(path: Path, problems: list[Problem]) -> list[Record]:
    """Read a file of JSON objects: one a line, or an array of them.

    Parameters
    ----------
    path : path
        The file.
    problems : list of Problem
        Lines that are no objects are added here.

    Raises
    ------
    DataError
        If the file cannot be read as text or as an array.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    found: list[Record] = []
    entries: Iterator[tuple[int, Any]]
    if text.lstrip().startswith("["):
        entries = enumerate(_array(path, text), 1)
    else:
        entries = _lines(path, text, problems)
    for line, entry in entries:
        if isinstance(entry, dict):
            found.append(Record(line, entry))
        else:
            shown = json.dumps(entry)[:40]
            problems.append(Problem(str(path), line, f"must be a JSON object, got {shown}"))
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that is one JSON object.

    Raises
    ------
    DataError
        If it is none.
    """
    try:
        found = from_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError([Problem(str(path), _line_of(error), f"cannot be read: {error}")]) from None
    if not isinstance(found, dict):
        raise DataError([Problem(str(path), None, "must be a JSON object")])
    return found


def field_of(record: Record, names: Sequence[str], path: Path, problems: list[Problem]) -> Any:
    """Give the first of some fields that a record has; None, and a problem, if it has none."""
    for name in names:
        if record.values.get(name) is not None:
            return record.values[name]
    problems.append(Problem(str(path), record.line, f"has none of {', '.join(names)}"))
    return None


class Pictures:
    """The pictures of a folder, found by file name, by stem, or by COCO's number.

    Parameters
    ----------
    folder : path
        Where they are.

    Raises
    ------
    DataError
        If it is no folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError([Problem(str(folder), None, "is not a folder")])
        self.folder = folder
        self._by_name: dict[str, Path] = {}
        self._by_stem: dict[str, list[Path]] = {}
        self._of_coco: dict[int, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                self._by_name[path.name] = path
                self._by_stem.setdefault(path.stem, []).append(path)
                number = coco_number(path.name)
                if number is not None:
                    self._of_coco.setdefault(number, path)

    def find(self, image: str | int) -> Path | None:
        """Give a picture's file, or None.

        Parameters
        ----------
        image : str or int
            Its name with or without a folder or ending. Where files have COCO's names, also the
            number alone, or with another prefix (``COCO_val2014_``); of other names, such as
            ``cat_1.jpg``, the whole counts.

        Raises
        ------
        DataError
            If it has no ending, and several files have that name.
        """
        name = Path(str(image)).name
        exact = self._by_name.get(name)
        found = self._by_stem.get(name, []) if exact is None else [exact]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError([Problem(str(self.folder), None, f"{name} may be any of {names}")])
        if found:
            return found[0]
        short = _SHORT.fullmatch(name)
        number = coco_number(name) if short is None else int(short[1])
        return None if number is None else self._of_coco.get(number)


def coco_number(name: str) -> int | None:
    """Give COCO's number of a picture; None if its name is not COCO's, of twelve digits.

    Parameters
    ----------
    name : str
        Of the file, with or without its ending.

    Examples
    --------
    >>> coco_number("COCO_val2014_000000310196.jpg"), coco_number("000000310196")
    (310196, 310196)
    >>> coco_number("cat_000000310196.jpg") is coco_number("310196.jpg") is None
    True
    """
    found = _COCO.fullmatch(name)
    return None if found is None else int(found[1])


def settle(problems: Sequence[Problem], skip_problems: bool) -> tuple[Problem, ...]:
    """Raise what was found, unless it is to be skipped and reported.

    Raises
    ------
    DataError
        If there are problems that are not to be skipped.
    """
    if problems and not skip_problems:
        raise DataError(problems)
    return tuple(problems)


def _array(path: Path, text: str) -> list[Any]:
    try:
        found = from_json(text)
    except ValueError as error:
        raise DataError([Problem(str(path), _line_of(error), f"is no JSON: {error}")]) from None
    while len(found) == 1 and isinstance(found[0], list):  # some files hold an array in an array
        found = found[0]
    return list(found)


def _lines(path: Path, text: str, problems: list[Problem]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, from_json(line)
            except ValueError as error:
                problems.append(Problem(str(path), number, f"is no JSON: {error}"))


def _line_of(error: Exception) -> int | None:
    return error.lineno if isinstance(error, json.JSONDecodeError) else None


def by_id(entries: Sequence[Mapping[str, Any]], field: str) -> dict[int, str]:
    """Give a field of a COCO file's entries by their ids.

    Raises
    ------
    ValueError
        If two entries have the same id, or the same field.
    """
    found = {int(each["id"]): str(each[field]) for each in entries}
    if not len(set(found.values())) == len(found) == len(entries):
        raise ValueError(f"each id and each {field} must be there once")
    return found
