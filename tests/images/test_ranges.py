"""One brightness range serves all images of more than 8 bits: declared, or found in their values."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from resnetkit.images.pixels import EACH_IMAGE, ImageError, ValueRange, to_rgb
from resnetkit.images.ranges import find_common_range, measure_values, parse_value_range
from resnetkit.images.reading import read_depth, read_image
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.inference import InferParameters


@pytest.mark.parametrize(
    ("text", "expected"),
    [("auto", None), ("12", (0, 4095)), ("16", (0, 65535)), ("0..1", (0, 1)), ("-1024..3071", (-1024, 3071))],
)
def test_declared_range_is_understood(text: str, expected: ValueRange | None) -> None:
    assert parse_value_range(InferParameters().updated({"value_range": text}).value_range) == expected


@pytest.mark.parametrize("text", ["5", "1..0", "3..3", "a..b", "0..inf", "-12", ""])
def test_what_is_no_range_is_refused_by_name(text: str) -> None:
    with pytest.raises(ParameterError, match="'value_range' must be"):
        parse_value_range(InferParameters().updated({"value_range": text}).value_range)


@pytest.mark.parametrize("dtype", ["uint16", ">u2", "int16", "int32", "int64", "float32", "float64"])
def test_one_pixel_has_no_influence_on_the_others(dtype: str) -> None:
    image = np.array([[0, 1000, 2000, 4095]], dtype)
    odd = image.copy()
    odd[0, 3] = 32000
    levels, others = to_rgb(image, (0, 4095))[0, :, 0].tolist(), to_rgb(odd, (0, 4095))[0, :, 0].tolist()
    assert levels == [0, 62, 125, 255]
    assert others == levels


@pytest.mark.parametrize("maximum", [4095, 1023, 65535, 16383])
def test_declared_bits_give_what_a_right_guess_gives(maximum: int) -> None:
    image = np.linspace(0, maximum, 1000).astype(np.uint16)[None]
    np.testing.assert_array_equal(to_rgb(image, (0, maximum)), to_rgb(image, EACH_IMAGE))


def test_negative_values_need_a_range_and_the_error_says_so() -> None:
    image = np.array([[-1024, 1023, 3071]], np.int16)
    assert to_rgb(image, (-1024, 3071))[0, :, 0].tolist() == [0, 127, 255]
    with pytest.raises(ImageError, match="'value_range'"):
        to_rgb(image)


def test_floats_of_cubic_resampling_are_clipped() -> None:
    assert to_rgb(np.array([[-0.05, 0.5, 1.001]], np.float32))[0, :, 0].tolist() == [0, 128, 255]
    assert to_rgb(np.array([[-0.2, 0.5, 1.2]]))[0, :, 0].tolist() == [0, 128, 255]
    edge = np.repeat(np.float32([0, 0, 255, 255]), 8)[None].repeat(8, axis=0)
    resampled = cv2.resize(edge, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    assert resampled.min() < -10
    assert resampled.max() > 265
    np.testing.assert_array_equal(to_rgb(resampled)[..., 0], np.clip(np.rint(resampled), 0, 255))
    with pytest.raises(ImageError, match="expected float values"):
        to_rgb(np.linspace(-1000, 3000, 99, dtype=np.float32)[None])


def test_images_of_8_bits_have_no_range() -> None:
    image = np.array([[0, 128, 255]], np.uint8)
    np.testing.assert_array_equal(to_rgb(image, (0, 4095))[0, :, 0], [0, 128, 255])
    assert measure_values(image) is None
    assert measure_values(image > 3) is None


def find(*images: np.ndarray, used_bits: int | None = None) -> ValueRange | None:
    measured = [measure_values(image, used_bits) for image in images]
    return find_common_range([values for values in measured if values is not None])


@pytest.mark.parametrize(
    ("low", "high", "dtype", "expected"),
    [
        (0, 900, "uint16", (0, 1023)),
        (0, 4000, "uint16", (0, 4095)),
        (0, 4000, "int32", (0, 4095)),
        (0, 60000, "uint16", (0, 65535)),
        (0, 0.9, "float32", (0, 1)),
        (-0.1, 1.1, "float32", (0, 1)),
        (0, 240, "float64", (0, 255)),
        (-1000, 3000, "int16", (-1000, 3000)),
    ],
)
def test_range_is_found_in_values(low: float, high: float, dtype: str, expected: ValueRange) -> None:
    image = np.linspace(low, high, 4096).reshape(64, 64).astype(dtype)
    image[:8], image[-8:] = image.min(), image.max()
    assert find(image) == expected


def test_broken_pixels_and_a_broken_image_do_not_widen_the_range() -> None:
    images = [np.full((64, 64), 3000, np.uint16) for _ in range(200)]
    for image in images:
        image[0, :5] = 65535
    images[7][:] = 65535
    assert find(*images) == (0, 4095)


def test_header_tells_unless_values_contradict() -> None:
    dark = np.full((8, 8), 300, np.uint16)
    assert find(dark) == (0, 1023)
    assert find(dark, used_bits=12) == (0, 4095)
    assert find(np.full((8, 8), 60000, np.uint16), used_bits=12) == (0, 65535)


def test_nothing_is_found_where_nothing_has_more_than_8_bits_or_kinds_are_mixed() -> None:
    assert find() is None
    assert find(np.zeros((4, 4), np.uint8)) is None
    assert find(np.full((4, 4), np.nan)) is None
    assert find(np.zeros((4, 4), np.uint16), np.zeros((4, 4), np.float32)) is None


def test_alpha_is_no_brightness() -> None:
    image = np.dstack([np.full((8, 8), 3000, np.uint16), np.full((8, 8), 65535, np.uint16)])
    assert find(image) == (0, 4095)


def test_used_bits_are_read_from_headers(tmp_path: Path) -> None:
    picture = Image.fromarray(np.full((4, 4), 300, np.uint16))
    picture.save(tmp_path / "plain.png")
    data = (tmp_path / "plain.png").read_bytes()
    with (tmp_path / "sbit.png").open("wb") as file:
        file.write(data[:33])  # signature and IHDR
        PngImagePlugin.putchunk(file, b"sBIT", b"\x0c")
        file.write(data[33:])
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[281] = 4095
    picture.save(tmp_path / "max.tif", tiffinfo=info)
    Image.new("RGB", (4, 4)).save(tmp_path / "shallow.png")
    assert read_depth(tmp_path / "plain.png") == (True, None)
    assert read_depth(tmp_path / "sbit.png") == (True, 12)
    assert read_depth(tmp_path / "max.tif") == (True, 12)
    assert read_depth(tmp_path / "shallow.png") == (False, None)
    assert read_image(tmp_path / "sbit.png", value_range=(0, 4095))[0, 0, 0] == round(300 * 255 / 4095)
