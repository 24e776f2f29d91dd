"""The package's own vision-language model, with the methods as calibration found them for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from reattend.evaluation.baselines import Brighten, OnePassVHR
from reattend.evaluation.calibration.model_sinks import find_sink_dims
from reattend.evaluation.datasets.dataset import Case
from reattend.evaluation.datasets.emoji_world import DESCRIBE, World
from reattend.evaluation.runner.answerers import VisionLanguageAnswerer
from reattend.method import Method, registered
from reattend.methods import VAR
from reattend.models import SHIPPED_WEIGHTS, VisionLanguage, read_vision_language
from reattend.profile import Profile

__all__ = ["PLAIN", "TAU", "Loaded", "known_methods", "load", "profile_file"]

PLAIN = "plain"
# VAR's tau as a share of the most that phi can be. 20 at the 24 of SmolLM2, whose ordinary tokens
# are at about 15 and whose sinks are above 22: the paper's own share, 20/64, would take in all.
TAU = 5 / 6


class Loaded(NamedTuple):
    """A model, and what is known of it."""

    model: VisionLanguage
    profile: Profile | None  # None: nobody has calibrated methods for it
    sink_dims: tuple[int, ...]

    def methods(self, name: str) -> list[Method]:
        """Build what a setting puts to work: as the profile has it, else as its paper does.

        Parameters
        ----------
        name : str
            `PLAIN`, for none, or of `known_methods`.

        Raises
        ------
        ValueError
            If there is no such method.
        """
        if name == PLAIN:
            return []
        if name not in known_methods():
            names = ", ".join((PLAIN, *known_methods()))
            raise ValueError(f"setting must be one of {names}, got {name!r}")
        method = known_methods()[name]
        if self.profile is not None and method.__name__ in self.profile.methods:
            return [method.from_profile(self.profile)]
        own = {"sink_dims": self.sink_dims or None, "tau": TAU} if method is VAR else {}
        return [method(**own)]


def known_methods() -> dict[str, type[Method]]:
    """Give methods and baselines by the names that command lines have for them.

    Examples
    --------
    >>> [name for name in known_methods() if name.startswith("v")]
    ['vaf', 'var', 'vhr', 'vhr-one-pass']
    """
    methods = {name.lower(): method for name, method in registered().items()}
    return {**methods, "brighten": Brighten, "vhr-one-pass": OnePassVHR}


def profile_file(weights: Path | None, profile: Path | None = None) -> Path:
    """Say where the profile of weights is, or would be.

    Parameters
    ----------
    weights : Path, optional
        The weights; the package's own by default.
    profile : Path, optional
        Where it is if not beside the weights.

    Examples
    --------
    >>> profile_file(Path("seed1.npz")).name
    'seed1.json'
    """
    return profile or (weights or SHIPPED_WEIGHTS).with_suffix(".json")


def load(
    weights: Path | None = None,
    model: Path | None = None,
    profile: Path | None = None,
    *,
    read: Callable[..., VisionLanguage] = read_vision_language,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Loaded:
    """Load a model, and what calibration found for it.

    Parameters
    ----------
    weights : Path, optional
        What was learnt; the package's own by default.
    model : Path, optional
        The language model, as GGUF; SmolLM2 by default.
    profile : Path, optional
        What calibration found; beside the weights by default, if it is there.
    read : callable, optional
        Reads the model, called as `read_vision_language` is.
    progress : callable, optional
        Wraps the sequence of layers that are read.

    Raises
    ------
    FileNotFoundError, ModelFileError, MissingPackageError
        If the model cannot be read, or the profile that was asked for is not there.
    ProfileError
        If the profile is none, or that of another model.
    """
    path = profile_file(weights, profile)
    if profile is not None and not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; reattend calibrate makes one")
    pixels = World().scene(0).pixels  # before the model, which takes longer: its packages may lack
    found = Profile.load(path) if path.is_file() else None
    loaded = read(weights, model, progress)
    if found is not None:
        found.check(loaded)
    if found is not None and found.sink_dims is not None:
        return Loaded(loaded, found, found.sink_dims)
    states = VisionLanguageAnswerer(loaded).hidden_states(Case("0", DESCRIBE, pixels, "0"))
    return Loaded(loaded, found, find_sink_dims(states))
