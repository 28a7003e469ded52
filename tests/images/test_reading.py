"""Arrays and files become 8-bit RGB, or an error that says why not."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from resnetkit.images.pixels import EACH_IMAGE, ImageError, to_rgb
from resnetkit.images.reading import IMAGE_SUFFIXES, read_image

PATTERN = np.array(
    [[[0, 10, 255], [200, 100, 50]], [[1, 2, 3], [254, 253, 252]], [[9, 99, 199], [7, 77, 177]]], np.uint8
)

# --- Arrays ---


def test_rgb_array_is_returned_without_a_copy(photographs: Mapping[str, np.ndarray]) -> None:
    image = photographs["china"]
    assert to_rgb(image) is image


def test_opaque_rgba_is_a_view_of_its_colors(photographs: Mapping[str, np.ndarray]) -> None:
    image = np.dstack([photographs["china"], np.full(photographs["china"].shape[:2], 255, np.uint8)])
    rgb = to_rgb(image)
    assert np.shares_memory(rgb, image)
    np.testing.assert_array_equal(rgb, photographs["china"])


@pytest.mark.parametrize("has_channel_axis", [False, True], ids=["2-D", "one channel"])
def test_gray_takes_no_memory(has_channel_axis: bool) -> None:
    gray = PATTERN[..., :1] if has_channel_axis else PATTERN[..., 0]
    rgb = to_rgb(gray)
    assert np.shares_memory(rgb, gray)
    np.testing.assert_array_equal(rgb, np.repeat(PATTERN[..., :1], 3, axis=2))


def test_rgba_is_laid_over_white_as_pillow_does(photographs: Mapping[str, np.ndarray]) -> None:
    colors = photographs["astronaut"]
    alpha = np.linspace(0, 255, colors.shape[1]).astype(np.uint8) * np.ones((colors.shape[0], 1), np.uint8)
    rgba = np.dstack([colors, alpha])
    white = Image.new("RGBA", (colors.shape[1], colors.shape[0]), "white")
    expected = np.asarray(Image.alpha_composite(white, Image.fromarray(rgba)).convert("RGB"))
    assert np.abs(to_rgb(rgba).astype(int) - expected).max() <= 1
    assert (to_rgb(rgba)[:, 0] == 255).all(), "transparent pixels are white"


def test_gray_with_alpha_is_laid_over_white() -> None:
    image = np.array([[[100, 255], [100, 0], [100, 51], [0, 128]]], np.uint8)
    assert to_rgb(image)[0, :, 0].tolist() == [100, 255, 224, 127]


@pytest.mark.parametrize(
    ("maximum", "top"),
    [(0, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535), (65535, 65535)],
)
@pytest.mark.parametrize("dtype", ["uint16", ">u2", "int32", "int64", "uint64"])
def test_each_images_maximum_decides_where_a_training_did_so(dtype: str, maximum: int, top: int) -> None:
    image = np.array([[0, maximum // 3, maximum // 2, maximum]], dtype)
    expected = np.floor(image.astype(np.float64) * 255 / top + 0.5)
    np.testing.assert_array_equal(to_rgb(image, EACH_IMAGE)[..., 0], expected)


@pytest.mark.parametrize("maximum", [0, 255, 256, 4095, 4096, 65535])
@pytest.mark.parametrize("dtype", ["uint16", ">u2"])
def test_without_a_range_65535_is_white_in_16_bits_whatever_the_maximum(dtype: str, maximum: int) -> None:
    image = np.array([[0, 1000, 30000, maximum]], dtype)
    assert to_rgb(image)[0, :3, 0].tolist() == [0, 4, 117]
    assert to_rgb(image[:, 3:])[0, 0, 0] == np.floor(maximum * 255 / 65535 + 0.5)


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint32"])
def test_other_integers_are_of_8_bits_or_need_a_range(dtype: str) -> None:
    assert to_rgb(np.array([[0, 100, 255]], dtype))[0, :, 0].tolist() == [0, 100, 255]
    with pytest.raises(ImageError, match=r"values of 0\.\.255, got 0 to 256; set 'value_range'"):
        to_rgb(np.array([[0, 256]], dtype))


def test_a_dark_image_of_16_bits_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnetkit.images.pixels._is_depth_said", False)
    image = np.full((40, 40), 4095, np.uint16)
    image[0, 0] = 65535
    to_rgb(np.full((4, 4), 65535, np.uint16))
    to_rgb(image, (0, 4095))
    assert caplog.messages == []
    to_rgb(image)
    to_rgb(image)
    assert len(caplog.messages) == 1
    assert "set 'value_range', such as 12" in caplog.messages[0]


def test_a_few_stray_floats_change_no_other_value() -> None:
    image = np.full((40, 40), 0.5, np.float32)
    image[0, :3] = -3, 2, 1e6
    assert to_rgb(image)[0, :4, 0].tolist() == [0, 255, 255, 128]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_up_to_one_are_shares_of_white(dtype: str) -> None:
    assert to_rgb(np.array([[0, 0.5, 1]], dtype))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_above_one_are_gray_levels(dtype: str) -> None:
    assert to_rgb(np.array([[0, 1.25, 254.6]], dtype))[0, :, 0].tolist() == [0, 1, 255]


def test_bools_are_black_and_white() -> None:
    assert to_rgb(np.array([[True, False]]))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "numpy array, got NoneType"),
        ([[1, 2], [3, 4]], "numpy array, got list"),
        (np.zeros(5, np.uint8), r"got shape \(5,\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"got shape \(1, 4, 4, 3\)"),
        (np.zeros((4, 4, 5), np.uint8), r"gray, gray \+ alpha, RGB or RGBA; got shape \(4, 4, 5\)"),
        (np.zeros((3, 8, 8), np.uint8), r"got shape \(3, 8, 8\)"),
        (np.zeros((4, 4, 0), np.uint8), r"got shape \(4, 4, 0\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        (np.zeros((4, 0), np.float32), "at least one pixel"),
        (np.array([[np.nan, 1]]), "finite"),
        (np.array([[np.inf, 1]]), "finite"),
        (np.array([[-np.inf, 1]], np.float32), "finite"),
        (np.array([[-0.5, 1]]), r"0\.\.1 or 0\.\.255, got -0\.5 to 1"),
        (np.array([[0, 400.0]]), r"0\.\.1 or 0\.\.255, got 0 to 400"),
        (np.array([[-1, 1]]), r"values of 0\.\.255, got -1 to 1"),
        (np.array([[0, 65536]]), r"values of 0\.\.255, got 0 to 65536"),
        (np.zeros((2, 2), complex), "dtype complex128"),
        (np.zeros((2, 2), object), "dtype object"),
        (np.zeros((2, 2), "datetime64[s]"), "dtype datetime64"),
    ],
)
def test_wrong_array_is_refused_with_what_was_expected(image: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        to_rgb(image)


@given(
    image=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int64, np.float32, np.float64, np.bool_]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6),
        # OpenVINO makes the thread that runs it take subnormal numbers as zero.
        elements={"allow_subnormal": False},
    ),
    is_reversed=st.tuples(st.booleans(), st.booleans()),
    step=st.integers(1, 2),
    is_read_only=st.booleans(),
)
def test_any_array_is_converted_or_refused_and_never_changed(
    image: np.ndarray, is_reversed: tuple[bool, bool], step: int, is_read_only: bool
) -> None:
    steps = [step * (-1 if flip else 1) for flip in is_reversed][: image.ndim]
    image = image[tuple(slice(None, None, step) for step in steps)]
    image.flags.writeable = not is_read_only
    before = image.copy()
    try:
        rgb = to_rgb(image)
    except ImageError:
        rgb = None
    np.testing.assert_array_equal(image, before)
    if rgb is not None:
        assert rgb.shape == (*image.shape[:2], 3)
        assert rgb.dtype == np.uint8
        assert min(rgb.strides) >= 0
        np.testing.assert_array_equal(rgb, to_rgb(np.ascontiguousarray(image)), "memory layout has no influence")


@given(
    image=hnp.arrays(np.uint16, (4, 5, 3), elements=st.integers(0, 4095)).filter(lambda image: image.max() >= 1024),
    rows=st.integers(1, 3),
)
def test_long_images_are_scaled_in_strips_as_in_one(image: np.ndarray, rows: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnetkit.images.pixels._STRIP_VALUES", rows * 15)
        in_strips = to_rgb(image)
    np.testing.assert_array_equal(in_strips, to_rgb(image))


# --- Files ---


@pytest.fixture(scope="module")
def picture(photographs: Mapping[str, np.ndarray]) -> Image.Image:
    return Image.fromarray(photographs["small"])


def open_with_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp"])
def test_lossless_formats_give_the_pixels(picture: Image.Image, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    picture.save(path, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_image(path), np.asarray(picture))


@pytest.mark.parametrize("subsampling", [0, 1, 2], ids=["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("is_progressive", [False, True], ids=["baseline", "progressive"])
def test_jpeg_gives_pillows_pixels(
    photographs: Mapping[str, np.ndarray], tmp_path: Path, subsampling: int, is_progressive: bool
) -> None:
    path = tmp_path / "image.jpg"
    photograph = Image.fromarray(photographs["china"])
    photograph.save(path, quality=90, subsampling=subsampling, progressive=is_progressive)
    np.testing.assert_array_equal(read_image(path), open_with_pillow(path))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("1", ".png"),
        ("1", ".tif"),
        ("L", ".png"),
        ("L", ".jpg"),
        ("LA", ".png"),
        ("P", ".png"),
        ("P", ".gif"),
        ("RGBA", ".png"),
        ("RGBA", ".webp"),
        ("CMYK", ".jpg"),
        ("CMYK", ".tif"),
        ("YCbCr", ".tif"),
    ],
)
def test_every_color_mode_is_what_pillow_makes_of_it(
    picture: Image.Image, tmp_path: Path, mode: str, suffix: str
) -> None:
    path = tmp_path / f"image{suffix}"
    picture.convert(mode).save(path)
    np.testing.assert_array_equal(read_image(path), open_with_pillow(path))


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_transparent_palette_color_is_white(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.save(path, transparency=0)
    assert read_image(path).tolist() == [[[255, 255, 255], [0, 0, 255]]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_transparent_color_is_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.png"
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), 80 if mode == "L" else (80, 80, 80))
    image.save(path, transparency=0 if mode == "L" else (0, 0, 0))
    assert read_image(path)[0, :, 0].tolist() == [255, 80]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_gray_keeps_its_scale(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    values = np.array([[0, 1000, 4095]], np.uint16)
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(read_image(path), to_rgb(values))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_color_keeps_its_scale(
    photographs: Mapping[str, np.ndarray], tmp_path: Path, suffix: str, channels: int
) -> None:
    path = tmp_path / f"image{suffix}"
    values = photographs["small"].astype(np.uint16) * 16
    values = np.dstack([values, np.full(values.shape[:2], 4095, np.uint16)])[..., :channels]
    assert cv2.imwrite(str(path), values[..., [2, 1, 0, 3][:channels]])
    np.testing.assert_array_equal(read_image(path), to_rgb(values))


def test_float_tiff_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "image.tif")
    assert read_image(tmp_path / "image.tif")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture: Image.Image, tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"image{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), open_with_pillow(path))


def test_exif_orientation_of_16_bit_color_is_applied(tmp_path: Path) -> None:
    from PIL import PngImagePlugin

    values = PATTERN.astype(np.uint16) * 256
    data = cv2.imencode(".png", values[..., ::-1])[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    end = data.index(b"IEND") - 4
    with (tmp_path / "image.png").open("wb") as file:
        file.write(data[:end])
        PngImagePlugin.putchunk(file, b"eXIf", body)
        file.write(data[end:])
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), np.rot90(to_rgb(values), -1))


def test_nonsense_in_exif_orientation_is_no_error(picture: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    picture.save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), np.asarray(picture))


def test_first_picture_of_mpo_and_of_animations_is_read(picture: Image.Image, tmp_path: Path) -> None:
    other = picture.transpose(Image.Transpose.ROTATE_180)
    picture.save(tmp_path / "image.mpo", save_all=True, append_images=[other], quality=95)
    picture.save(tmp_path / "image.webp", save_all=True, append_images=[other], lossless=True)
    assert cv2.imwritemulti(str(tmp_path / "image.tif"), [np.asarray(page)[..., ::-1] for page in (picture, other)])
    np.testing.assert_array_equal(read_image(tmp_path / "image.webp"), np.asarray(picture))
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif"), np.asarray(picture))
    np.testing.assert_array_equal(read_image(tmp_path / "image.mpo"), open_with_pillow(tmp_path / "image.mpo"))


def test_content_decides_not_the_name(picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "image", format="png")
    (tmp_path / "image").rename(tmp_path / "image.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "image.jpg"), np.asarray(picture))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_name_that_is_no_ascii_is_read(picture: Image.Image, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"Größe 図 😀{suffix}"
    picture.save(path)
    assert read_image(path).shape == (100, 150, 3)


def test_bytes_behind_the_end_of_a_jpeg_are_no_error(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    picture.save(path, quality=90)
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"added by a camera")
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize(
    "suffix",
    [
        suffix
        for suffix in IMAGE_SUFFIXES
        if suffix not in {".jpeg", ".jpe", ".jfif", ".tiff", ".pnm", ".heif", ".dcm", ".dicom"}
    ],
)
@pytest.mark.parametrize("share", [0, 0.02, 0.5])
def test_truncated_file_is_an_error_that_names_it(
    picture: Image.Image, tmp_path: Path, suffix: str, share: float
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".heic":
        import pillow_heif

        pillow_heif.from_pillow(picture).save(path)
    else:
        picture.save(path, **({"compression": "tiff_lzw"} if suffix == ".tif" else {}))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match=f"cut{suffix}"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"just a text", "no image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no image of a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of a known format"),
        (b"\xff\xd8\xff\xd9", "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\nrubbish", "cannot be decoded"),
        (b"RIFF\0\0\0\0WAVEfmt ", "cannot be decoded"),
    ],
)
def test_file_that_is_no_image_is_an_error_that_names_it(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "odd.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=rf"odd\.jpg': {words}"):
        read_image(tmp_path / "odd.jpg")


def test_missing_file_folder_and_pipe_are_errors(tmp_path: Path) -> None:
    paths = [tmp_path, tmp_path / "missing.jpg"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        paths.append(tmp_path / "pipe.jpg")
    for path in paths:
        with pytest.raises(ImageError, match="no such file"):
            read_image(path)


# --- Limits ---


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".gif", ".webp"])
def test_image_over_the_limit_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"image{suffix}"
    Image.new("RGB", (1000, 1001)).save(path)
    assert read_image(path, max_megapixels=1.001).shape == (1001, 1000, 3)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(ImageError, match=r"1000x1001 pixels are more than the limit of 1 megapixels"):
        read_image(path, max_megapixels=1)


def test_bomb_is_refused_at_once(tmp_path: Path) -> None:
    bomb = Image.new("1", (30_000, 30_000))
    bomb.save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 200_000
    with pytest.raises(ImageError, match="30000x30000"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_pillows_own_limit_is_not_in_the_way(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """It warns above MAX_IMAGE_PIXELS and refuses above twice that; here both are below the image's 15,000."""
    path = tmp_path / f"image{suffix}"
    picture.save(path)
    expected = open_with_pillow(path)
    for limit in (10_000, 5_000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".gif", ".bmp"])
def test_damaged_files_give_an_image_or_an_error(
    photographs: Mapping[str, np.ndarray], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"damaged{suffix}"
    Image.fromarray(photographs["tiny"]).save(path)
    data = path.read_bytes()
    chance = random.Random(0)
    for damage in [_flip, _cut_out, _repeat] * 20:
        path.write_bytes(damage(data, chance))
        image, message = _try_to_read(path)
        assert message == "" or f"damaged{suffix}" in message
        assert image.dtype == np.uint8
        assert image.shape[2] == 3


def _try_to_read(path: Path) -> tuple[np.ndarray, str]:
    try:
        return read_image(path, max_megapixels=10), ""
    except ImageError as error:
        return PATTERN, str(error)


def _flip(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _cut_out(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.randint(1, 64) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[max(0, start - 64) :]
