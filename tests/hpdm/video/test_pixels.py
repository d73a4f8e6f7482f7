"""Pictures and display matrices against independent references: Pillow's own transpositions, coordinates one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hpdm.video import pixels
from hpdm.video.formats import IMAGE_SUFFIXES
from hpdm.video.pixels import UnreadablePicture, read_picture, upright

ONE = 1 << 16
PICTURE = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)
# What each EXIF orientation asks of a viewer (EXIF 2.3, tag 274), by rows and columns.
EXIF = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: p[::-1, ::-1],
    4: np.flipud,
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p.swapaxes(0, 1), 2),
    8: lambda p: np.rot90(p, 1),
}


@given(transposed=st.booleans(), down=st.sampled_from([-1, 1]), right=st.sampled_from([-1, 1]))
def test_display_matrices_move_every_pixel_where_they_say(transposed, down, right):
    a, b, c, d = (0, down, right, 0) if transposed else (right, 0, 0, down)
    matrix = [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]
    shown = upright(PICTURE, matrix)
    places = {(a * x + c * y, b * x + d * y): PICTURE[y, x] for y in range(5) for x in range(7)}
    left, top = min(x for x, _ in places), min(y for _, y in places)
    assert shown.shape == ((7, 5, 3) if transposed else (5, 7, 3))
    for (x, y), colour in places.items():
        assert np.array_equal(shown[y - top, x - left], colour)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", EXIF)
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    block = np.kron(PICTURE, np.ones((16, 16, 1), np.uint8))  # whole blocks: JPEG leaves them nearly as they are
    image = Image.fromarray(block)
    exif = Image.Exif()
    exif[274] = orientation
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    image.save(tmp_path / f"a{suffix}", exif=exif, **options)
    got = read_picture(tmp_path / f"a{suffix}").astype(int)
    assert got.shape == EXIF[orientation](block).shape
    assert np.abs(got - EXIF[orientation](block)).max() <= (4 if suffix == ".jpg" else 0)


def test_samples_of_any_kind_come_out_as_rgb(tmp_path):
    grey, deep = PICTURE[..., 0], np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800
    alpha = np.dstack([PICTURE, np.full((5, 7), 9, np.uint8)])
    images = {
        "grey.png": Image.fromarray(grey),
        "deep.png": Image.fromarray(deep),
        "alpha.png": Image.fromarray(alpha),
        "greyalpha.png": Image.merge("LA", (Image.fromarray(grey), Image.fromarray(grey))),
        "one.bmp": Image.fromarray(grey > 99),
        "palette.png": Image.fromarray(PICTURE).quantize(256),
        "deep.tiff": Image.fromarray(deep),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    got = {name: read_picture(tmp_path / name) for name in images}
    assert all(picture.dtype == np.uint8 and picture.shape == (5, 7, 3) for picture in got.values())
    for name, wanted in (
        ("grey.png", grey),
        ("greyalpha.png", grey),
        ("deep.png", deep >> 8),
        ("deep.tiff", deep >> 8),
        ("one.bmp", (grey > 99) * 255),
    ):
        assert all(np.array_equal(got[name][..., channel], wanted) for channel in range(3)), name
    assert np.array_equal(got["alpha.png"], PICTURE)
    assert np.array_equal(got["palette.png"], np.asarray(images["palette.png"].convert("RGB")))


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_has_a_reader_and_damage_a_reason(tmp_path, suffix):
    good, bad = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    Image.fromarray(PICTURE).save(good)
    assert read_picture(good).shape == (5, 7, 3)
    bad.write_bytes(good.read_bytes()[:30])
    with pytest.raises(UnreadablePicture, match=f"b{suffix} is not a readable"):
        read_picture(bad)
    with pytest.raises(UnreadablePicture, match="cannot be read"):
        read_picture(tmp_path / f"none{suffix}")


def test_refusals_say_what_is_wrong(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UnreadablePicture, match="neither 8 nor 16 bits"):
        read_picture(tmp_path / "float.tif")
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadablePicture, match="2 pictures in one file"):
        read_picture(tmp_path / "moving.webp")
    Image.new("L", (9000, 8000)).save(tmp_path / "huge.png")
    with pytest.raises(UnreadablePicture, match="8000x9000 px are more than 64 megapixels"):
        read_picture(tmp_path / "huge.png")
    monkeypatch.setattr(pixels, "MOST_PIXELS", 10)
    with pytest.raises(UnreadablePicture, match="HPDM_MAX_PIXELS"):
        Image.fromarray(PICTURE).save(tmp_path / "a.png")
        read_picture(tmp_path / "a.png")
