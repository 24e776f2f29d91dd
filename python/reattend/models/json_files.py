"""JSON files of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reattend.json_text import from_json
from reattend.models.weights import ModelFileError


def read_json(path: Path, name: str, absent: str) -> dict[str, Any]:
    """Read one of a folder's files that hold an object.

    Parameters
    ----------
    path : path
        Of the folder.
    name, absent : str
        The file's name, and what to say if it is not there.

    Raises
    ------
    FileNotFoundError, ModelFileError
    """
    try:
        found = from_json((path / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(absent) from None
    except ValueError as error:
        raise ModelFileError(f"{path / name} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{path / name} must hold an object")
    return found
