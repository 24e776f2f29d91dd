"""Reads a picture file as red, green and blue, whatever way its pixels are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reattend.optional import demand
from reattend.policy import Array

_LARGEST_16_BIT = 65535


class PictureError(Exception):
    """A file that cannot be read as a picture."""


def read_picture(path: str | Path) -> Any:
    """Read a picture upright, on white where it is transparent.

    Grey of 16 bits is scaled, and so are floating point pixels from 0 to 1. Where a file does not
    say which number is white (integers of 32 bits, other floating point numbers) it is refused.

    Parameters
    ----------
    path : path
        Of any format that Pillow opens.

    Returns
    -------
    PIL.Image.Image
        In mode RGB.

    Raises
    ------
    PictureError
        If it cannot be read.
    MissingPackageError
        If Pillow is not installed.
    """
    pillow, operations = demand("PIL.Image"), demand("PIL.ImageOps")
    try:
        with pillow.open(path) as file:
            picture = operations.exif_transpose(file)
            picture.load()
        picture = _in_colour(picture, path)
    except FileNotFoundError:
        raise PictureError(f"{path} is not a file") from None
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise PictureError(f"{path} cannot be read as a picture: {error}") from error
    white = pillow.new("RGBA", picture.size, "white")
    return pillow.alpha_composite(white, picture).convert("RGB")


def _in_colour(picture: Any, path: str | Path) -> Any:
    """Give a picture in mode RGBA."""
    mode = picture.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        picture = demand("PIL.Image").fromarray(_scaled(np.asarray(picture), mode, path))
    elif mode == "LAB":  # Pillow converts it with a colour profile only
        profiles = demand("PIL.ImageCms")
        pair = (profiles.createProfile("LAB"), profiles.createProfile("sRGB"))
        picture = profiles.profileToProfile(picture, *pair, outputMode="RGB")
    elif mode == "La":
        picture = picture.convert("LA")
    elif mode in ("CMYK", "YCbCr", "HSV"):
        picture = picture.convert("RGB")
    return picture.convert("RGBA")


def _scaled(pixels: Array, mode: str, path: str | Path) -> Array:
    """Give grey of more than 8 bits as 8 bits; Pillow itself cuts it off at 255."""
    least, most = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)
    if mode == "F":
        if not (least >= 0 and most <= 1):
            raise PictureError(
                f"{path} has floating point pixels from {least:g} to {most:g}; they must be from 0 "
                "(black) to 1 (white)"
            )
        return np.asarray(np.rint(pixels * 255), np.uint8)
    # Mode I: what older Pillows make of 16 bits.
    if mode == "I" and not (str(path).lower().endswith(".png") and least >= 0):
        raise PictureError(
            f"{path} has pixels of 32 bits, from {least:g} to {most:g}, and does not say which "
            "number is white; store it with 8 or 16 bits"
        )
    return np.asarray(np.rint(pixels.astype(np.float64) * (255 / _LARGEST_16_BIT)), np.uint8)
