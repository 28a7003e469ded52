"""DICOM files: window, slope and inversion, as pydicom applies them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_voi_lut
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from resnetkit.images.pixels import ImageError, to_rgb
from resnetkit.images.ranges import find_common_range, measure_values
from resnetkit.images.reading import read_depth, read_image, read_values

#: Stored values of 12 bits; in Hounsfield units -1024..3071.
STORED = np.linspace(0, 4095, 30 * 40).reshape(30, 40).astype(np.uint16)
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024}
WINDOW = {"WindowCenter": 40, "WindowWidth": 400}


def write(path: Path, values: np.ndarray = STORED, **elements: Any) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.Rows, header.Columns = values.shape[:2]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in elements.items():
        setattr(header, name, value)
    header.PixelData = values.tobytes()
    header.save_as(path, enforce_file_format=True)
    return path


def test_slope_gives_hounsfield_units_and_a_declared_range_shows_them(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.dcm", **CT)
    units = STORED.astype(int) - 1024
    np.testing.assert_array_equal(read_values(path), units)
    np.testing.assert_array_equal(read_image(path, value_range=(-160, 240)), to_rgb(units, (-160, 240)))
    np.testing.assert_array_equal(read_image(path), to_rgb(units, (-1024, 3071)), "all that 12 bits can hold")


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_window_shows_what_it_shows_elsewhere(tmp_path: Path, function: str) -> None:
    path = write(tmp_path / "ct.dcm", **CT, **WINDOW, VOILUTFunction=function)
    units = STORED.astype(int) - 1024
    expected = apply_voi_lut(units, pydicom.dcmread(path))
    share = (expected - expected.min()) / (expected.max() - expected.min())
    found = read_image(path)
    assert np.abs(found[..., 0] - 255 * share).max() <= 1
    assert found.min() == 0
    assert found.max() == 255
    # Who declares a range means it.
    np.testing.assert_array_equal(read_image(path, value_range=(-1024, 3071)), to_rgb(units, (-1024, 3071)))
    assert read_depth(path) == (False, None)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    for number, elements in enumerate(({}, {**CT, **WINDOW})):
        plain = read_image(write(tmp_path / f"{number}.dcm", **elements))
        inverted = read_image(
            write(tmp_path / f"inverted{number}.dcm", **elements, PhotometricInterpretation="MONOCHROME1")
        )
        np.testing.assert_array_equal(inverted, 255 - plain)
        assert len(np.unique(plain)) > 10


def test_signed_values_and_bits_stored(tmp_path: Path) -> None:
    signed = (STORED.astype(np.int16) - 2048).astype(np.int16)
    path = write(tmp_path / "signed.dcm", signed)
    np.testing.assert_array_equal(read_image(path), to_rgb(signed, (-2048, 2047)))
    dark = write(tmp_path / "dark.dcm", STORED // 16)
    assert read_depth(dark) == (True, 12)
    measured = measure_values(read_values(dark), read_depth(dark).used_bits)
    assert measured is not None
    assert find_common_range([measured]) == (0, 4095)


def test_colors_and_the_first_frame(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    path = write(
        tmp_path / "color", colors, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, **eight
    )
    np.testing.assert_array_equal(read_image(path), colors)
    frames = np.stack([STORED, STORED // 2])
    path = write(tmp_path / "frames.dcm", frames, Rows=30, Columns=40, NumberOfFrames=2)
    np.testing.assert_array_equal(read_values(path), STORED)


def test_no_image_too_large_damaged_and_without_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "image.dcm")
    with pytest.raises(ImageError, match="40x30 pixels are more than the limit"):
        read_image(path, max_megapixels=0.001)
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ImageError, match=r"cut\.dcm"):
        read_image(tmp_path / "cut.dcm")
    header = pydicom.dcmread(path)
    del header.Rows
    header.save_as(tmp_path / "report.dcm")
    with pytest.raises(ImageError, match="holds no image"):
        read_image(tmp_path / "report.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError, match=r"image\.dcm': DICOM images need the package pydicom: pip install pydicom"):
        read_image(path)


def test_heic_and_avif_name_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pillow_heif
    from PIL import Image

    picture = Image.new("RGB", (64, 64), "red")
    pillow_heif.from_pillow(picture).save(tmp_path / "image.heic")
    assert np.abs(read_image(tmp_path / "image.heic").astype(int) - [255, 0, 0]).max() < 8
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match="HEIC images need the package pillow-heif: pip install pillow-heif"):
        read_image(tmp_path / "image.heic")
    picture.save(tmp_path / "image.avif")
    assert read_image(tmp_path / "image.avif").shape == (64, 64, 3)
    for module in ("PIL._avif", "pillow_avif"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageError, match="AVIF images need the package pillow-avif-plugin"):
        read_image(tmp_path / "image.avif")
