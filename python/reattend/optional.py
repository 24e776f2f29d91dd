"""Packages that only some of reattend needs (its extras), imported when they are used."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

__all__ = ["MissingPackageError", "demand"]

_EXTRAS = {  # of others: demo
    "torch": "transformers",
    "transformers": "transformers",
    "ml_dtypes": "bfloat16",
    "easy_vqa": "evaluate",
    "scipy": "evaluate",
    "networkx": "measures",
    "matplotlib": "plot",
    "pandas": "pandas",
    "plotly": "report",
    "click": "cli",
    "rich": "cli",
    "spacy": "amber",
    "distributed": "dask",
}


_found: dict[str, ModuleType] = {}  # a layer's step asks four times; importlib takes 0.6 us


class MissingPackageError(ImportError):
    """A package of an extra is not installed."""


def demand(module: str) -> ModuleType:
    """Import a module of an extra, or say how to install it.

    Parameters
    ----------
    module : str
        Its name, such as ``"gguf"`` or ``"matplotlib.pyplot"``.

    Raises
    ------
    MissingPackageError
        If it is not installed.

    Examples
    --------
    >>> demand("json").dumps([1])
    '[1]'
    """
    found = _found.get(module)
    if found is not None and sys.modules.get(module) is found:
        return found
    try:
        found = _found[module] = import_module(module)
        return found
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:  # it is there, but something that it needs is not
            raise
        raise MissingPackageError(
            f"{package} is not installed; install what this needs by: "
            f'pip install "reattend[{_EXTRAS.get(package, "demo")}]"'
        ) from error
