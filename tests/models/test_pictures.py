"""Picture files: every way in which Pillow stores pixels is read as what one sees."""

import numpy as np
import pytest
from reattend.models.pictures import PictureError, read_picture

Image = pytest.importorskip("PIL.Image")

RED = (204, 51, 0)  # in the palette of mode P
GREY = 77


def stored(mode):
    """Give a picture of one colour in a mode, and that colour."""
    if mode.startswith("I;16"):
        order = ">u2" if mode.endswith("B") else "<u2"
        pixels = np.full((4, 6), GREY * 257, order)
        return Image.frombytes(mode, (6, 4), pixels.tobytes()), (GREY,) * 3
    if mode == "F":
        return Image.fromarray(np.full((4, 6), GREY / 255, np.float32)), (GREY,) * 3
    if mode == "1":
        return Image.new("1", (6, 4), 1), (255,) * 3
    if mode in ("L", "LA"):
        return Image.new("L", (6, 4), GREY).convert(mode), (GREY,) * 3
    picture = Image.new("RGB", (6, 4), RED)
    if mode == "LAB":
        cms = pytest.importorskip("PIL.ImageCms")
        pair = cms.createProfile("sRGB"), cms.createProfile("LAB")
        return cms.profileToProfile(picture, *pair, outputMode="LAB"), RED
    return picture.convert(mode), RED


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, ".png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *((mode, ".tif") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB")),
        *((mode, ".tif") for mode in ("I;16", "I;16B", "F")),
        *((mode, ".jpg") for mode in ("L", "RGB", "CMYK")),
    ],
)
def test_every_mode_is_read_as_what_one_sees(tmp_path, mode, suffix):
    picture, colour = stored(mode)
    path = tmp_path / f"picture{suffix}"
    picture.save(path)
    found = read_picture(path)
    assert (found.mode, found.size) == ("RGB", (6, 4))
    # Compressed and converted colours are off by a little.
    assert np.abs(np.asarray(found, int) - colour).max() <= 6


def test_16_bits_keep_their_steps(tmp_path):
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    path = tmp_path / "ramp.png"
    Image.fromarray(ramp).save(path)
    np.testing.assert_array_equal(
        np.asarray(read_picture(path))[..., 0].ravel(), np.arange(256, dtype=np.uint8)
    )


def test_transparent_is_white_and_pictures_stand_upright(tmp_path):
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (3, 3), (0, 0, 0, 0)).save(clear)
    assert np.asarray(read_picture(clear)).min() == 255
    lying, exif = tmp_path / "lying.jpg", Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.new("RGB", (8, 4)).save(lying, exif=exif)
    assert read_picture(lying).size == (4, 8)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.full((4, 4), 7.5, np.float32), r"floating point pixels from 7.5 to 7.5"),
        (np.full((4, 4), np.nan, np.float32), "floating point pixels from nan"),
        (np.full((4, 4), 70000, np.int32), "does not say which number is white"),
    ],
)
def test_what_has_no_white_is_refused(tmp_path, pixels, says):
    path = tmp_path / "picture.tif"
    Image.fromarray(pixels).save(path)
    with pytest.raises(PictureError, match=says):
        read_picture(path)


def test_no_picture_is_refused(tmp_path):
    with pytest.raises(PictureError, match="is not a file"):
        read_picture(tmp_path / "absent.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    with pytest.raises(PictureError, match="cannot be read as a picture"):
        read_picture(broken)
