"""TIFF as other programs write it: every type and layout gives its values, or a sentence."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from resnetkit.images.pixels import ImageError, to_rgb
from resnetkit.images.reading import read_depth, read_image, read_values

#: Photometric interpretation, channels and their layout.
LAYOUTS = (
    ("minisblack", 1, None),
    ("minisblack", 2, "contig"),
    ("rgb", 3, "contig"),
    ("rgb", 3, "separate"),
    ("rgb", 4, "separate"),
)
TYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")


def make_values(dtype: str, channels: int) -> np.ndarray:
    values = np.random.default_rng(0).random((20, 30, channels))
    if np.dtype(dtype).kind in "iu":
        values = values * min(np.iinfo(dtype).max, 60000) - (1000 if np.dtype(dtype).kind == "i" else 0)
    return np.squeeze(values.astype(dtype))


def write(path: Path, values: np.ndarray, layout: tuple[str, int, str | None], **options: Any) -> None:
    photometric, channels, planar = layout
    data = np.moveaxis(values, 2, 0) if planar == "separate" else values
    extra = {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
    tifffile.imwrite(path, data, photometric=photometric, planarconfig=planar, **extra, **options)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_layout_of_a_type_gives_its_values(tmp_path: Path, dtype: str) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"compression": "zlib"},
        {"byteorder": ">"},
        {"tile": (16, 16)},
        {"bigtiff": True},
    ]
    for layout, options in itertools.product(LAYOUTS, ways):
        values = make_values(dtype, layout[1])
        write(tmp_path / "image.tif", values, layout, **options)
        found = read_values(tmp_path / "image.tif")
        np.testing.assert_array_equal(found, values, err_msg=f"{layout} {options}")
        assert found.dtype.newbyteorder("=") == values.dtype


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_white_may_be_zero(tmp_path: Path, dtype: str) -> None:
    values = make_values(dtype, 1)
    write(tmp_path / "image.tif", values, ("miniswhite", 1, None))
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif"), 255 - to_rgb(values))


def test_white_may_be_zero_in_a_declared_range(tmp_path: Path) -> None:
    values = make_values("uint16", 1) // 16
    write(tmp_path / "image.tif", values, ("miniswhite", 1, None))
    found = read_image(tmp_path / "image.tif", value_range=(0, 4095))
    np.testing.assert_array_equal(found, 255 - to_rgb(values, (0, 4095)))


def test_the_header_says_what_is_white(tmp_path: Path) -> None:
    values = make_values("uint16", 1) // 16
    write(tmp_path / "image.tif", values, ("minisblack", 1, None), extratags=[(281, 3, 1, 4095, True)])
    assert read_depth(tmp_path / "image.tif") == (True, 12)
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif"), to_rgb(values, (0, 4095)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[3]], ids=["gray", "planar"])
def test_deep_images_are_turned_upright(tmp_path: Path, layout: tuple[str, int, str | None], orientation: int) -> None:
    values = make_values("uint16", layout[1])
    write(tmp_path / "image.tif", values, layout, extratags=[(274, 3, 1, orientation, True)])
    shallow = Image.fromarray((values >> 8).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    shallow.save(tmp_path / "shallow.png", exif=exif)
    np.testing.assert_array_equal(
        read_values(tmp_path / "image.tif") >> 8, read_image(tmp_path / "shallow.png")[..., : layout[1]].squeeze()
    )


@pytest.mark.parametrize("make", ["pages", "of 16 bits", "of ImageJ"])
def test_that_a_stack_is_read_as_its_first_page_is_said_once(
    tmp_path: Path, make: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnetkit.decoding.tiff._is_stack_said", False)
    pages = np.stack([make_values("uint8" if make == "pages" else "uint16", 1) for _ in range(3)])
    pages[1:] //= 2
    write(tmp_path / "single.tif", pages[0], ("minisblack", 1, None))
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack", imagej=make == "of ImageJ")
    read_image(tmp_path / "single.tif")
    assert caplog.messages == []
    for _ in range(2):
        np.testing.assert_array_equal(read_values(tmp_path / "stack.tif"), pages[0])
    assert len(caplog.messages) == 1
    assert "stack.tif' has several pages" in caplog.messages[0]


def test_reduced_copies_are_no_stack(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnetkit.decoding.tiff._is_stack_said", False)
    values = make_values("uint16", 3)
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(values, photometric="rgb")
        writer.write(values[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_values(tmp_path / "pyramid.tif"), values)
    assert caplog.messages == []


def test_what_needs_a_further_package_names_it(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    write(path, make_values("uint16", 3), LAYOUTS[3])
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[259].overwrite(5)  # LZW
    with pytest.raises(ImageError, match=r"image\.tif': .*pip install imagecodecs"):
        read_image(path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_deep_file_is_an_error(tmp_path: Path, share: float, compression: str | None) -> None:
    path = tmp_path / "cut.tif"
    values = np.random.default_rng(0).integers(0, 60000, (64, 64, 3)).astype(np.uint16)
    write(path, values, LAYOUTS[3], compression=compression)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match=r"cut\.tif"):
        read_image(path)


def test_a_deep_image_over_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    write(path, make_values("uint16", 3), LAYOUTS[3])
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[256].overwrite(60_000)
        tiff.pages.first.tags[257].overwrite(60_000)
    with pytest.raises(ImageError, match="60000x60000 pixels are more than the limit"):
        read_image(path)
