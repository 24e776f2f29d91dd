"""Does a model still attend where it did? Masses, entropy and sinks, held against a file."""

from __future__ import annotations

from typing import Any

import numpy as np

from reattend.damaged_arrays import DAMAGED_ARRAYS
from reattend.evaluation.regression.baseline import Regression
from reattend.policy import Array
from reattend.recording import Recording

VERSION = 1
_DRIFTING = {"masses": "image mass", "entropy": "entropy"}


class AttentionRegression(Regression):
    """Holds a recording against a stored one: what the image receives, entropy, sinks.

    Parameters
    ----------
    path, update, how_to_update
        As for `Regression`; the file is an npz.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> def recorded(mass):
    ...     attention = np.full((2, 1, 4, 5), mass / 5)
    ...     return Recording(attention, np.ones((2, 1, 4)), np.zeros((1, 9)), np.arange(9) < 5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     AttentionRegression(Path(folder, "run.npz"), update=True)(recorded(0.5))
    ...     hold = AttentionRegression(Path(folder, "run.npz"))
    ...     hold(recorded(0.5001))
    ...     hold(recorded(0.6))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    AssertionError: ...image mass drifted by 0.1... in layer 0, head 0, row 0: 0.4... to 0.6...
    """

    def __call__(
        self, recording: Recording, *, masses: float = 0.01, entropy: float = 0.05
    ) -> None:
        """Fail where attention has drifted; or write the baseline.

        Parameters
        ----------
        recording : Recording
            Of `Session.recording`, of the same prompt and answer as the baseline.
        masses : float, optional
            By how much a head's attention on the image may differ, in any row.
        entropy : float, optional
            By how much its entropy may, in nats.

        Raises
        ------
        AssertionError
            Naming what drifted most, and where; or if there is no baseline, or its prompt or
            answer has another length.
        ValueError
            If the baseline cannot be read.
        """
        found: dict[str, Any] = {"version": np.array(VERSION), **_reduced(recording)}
        if self.update:
            self._write(lambda path: np.savez_compressed(path, **found))
            return
        self._demand()
        stored = self._read()
        for name in ("entropy", "sinks", "image"):
            if found[name].shape != stored[name].shape:
                self._fail([f"{name} has shape {found[name].shape}, was {stored[name].shape}: "
                            "the prompt, the answer or the model has another length"])  # fmt: skip
        failures = [
            _drift(what, stored[name], found[name], tolerance)
            for (name, what), tolerance in zip(_DRIFTING.items(), (masses, entropy), strict=True)
        ]
        if not np.array_equal(stored["image"], found["image"]):
            failures.append("other tokens of the prompt are the image's")
        for layer in np.flatnonzero((stored["sinks"] != found["sinks"]).any(-1)):
            before, now = (
                np.flatnonzero(each["sinks"][layer]).tolist() for each in (stored, found)
            )
            failures.append(f"sinks of layer {layer} moved from {before} to {now}")
        if said := [each for each in failures if each]:
            self._fail(said)

    def _fail(self, failures: list[str]) -> None:
        raise AssertionError(
            "\n".join([f"against {self.path}:", *failures,
                       f"if that is meant, {self.how_to_update} to write the baseline anew"])
        )  # fmt: skip

    def _read(self) -> dict[str, Array]:
        try:
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                if int(file["version"]) != VERSION:
                    raise ValueError(f"it has version {int(file['version'])}, not {VERSION}")
                return {name: file[name] for name in ("masses", "entropy", "sinks", "image")}
        except DAMAGED_ARRAYS as error:
            raise ValueError(f"{self.path} cannot be read as a baseline: {error}") from error


def _reduced(recording: Recording) -> dict[str, Array]:
    masses = recording.attention.astype(np.float32).sum(-1)  # [T, L, H]
    return {"masses": masses, "entropy": recording.entropy, "sinks": recording.sinks,
            "image": recording.image}  # fmt: skip


def _drift(what: str, before: Array, now: Array, tolerance: float) -> str:
    """Say where two readings [T, L, H] differ most, if by more than the tolerance or by NaN."""
    apart = np.abs(now - before)
    if not (beyond := ~(apart <= tolerance)).any():
        return ""
    row, layer, head = np.unravel_index(
        np.where(np.isnan(apart), np.inf, apart).argmax(), now.shape
    )
    return (
        f"{what} drifted by {apart[row, layer, head]:.4f}, more than {tolerance:g}, in layer "
        f"{layer}, head {head}, row {row}: {before[row, layer, head]:.4f} to "
        f"{now[row, layer, head]:.4f}; {int(beyond.sum())} of {now.size} readings did"
    )
