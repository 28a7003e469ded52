"""DICOM, by pydicom: the first frame, in the file's own units or through the window that it brings along."""

from __future__ import annotations

import math
from typing import IO, Any

import numpy as np

from resnetkit.decoding.formats import DICOM
from resnetkit.decoding.memory import Allowance
from resnetkit.decoding.values import Decoded, Depth, ImageError, ValueRange

#: What values, window and RGB take at the same time, a channel.
_BYTES_PER_SAMPLE = 24
#: Elements that are longer are not read.
_MAX_ELEMENT_BYTES = 1 << 20
#: Widths of a window from its centre at which all is black, or white.
_FAR_WIDTHS = 50


def decode_dicom(file: IO[bytes], allowance: Allowance, use_window: bool) -> Decoded:
    """Decode the first frame.

    Args:
        file: The file.
        allowance: What it may take.
        use_window: Whether the file's window (or its table of values) says what is black and what is white, where it
            has one. Else values are those after slope and intercept, such as Hounsfield units.

    Returns:
        uint8 through a window, the file's units without; colours as RGB.

    Raises:
        ImageError: It has no image, is too large, or needs another package.
        Exception: Anything, where it is damaged.
    """
    header = _read_header(file)
    channels = int(header.get("SamplesPerPixel", 1))
    allowance.admit(int(header.Columns), int(header.Rows), _BYTES_PER_SAMPLE * channels)
    stored = _decode_frame(file)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        colors = apply_color_lut(stored, header)
        return Decoded(colors, (0.0, float(np.iinfo(colors.dtype).max)))
    if channels > 1:
        return Decoded(stored, _find_stored_range(header))
    is_inverted = header.PhotometricInterpretation == "MONOCHROME1"
    values = _apply_rescale(stored, header)
    if use_window and _has_window(header):
        return Decoded(_apply_window(values, header), None, is_inverted)
    ends = _apply_rescale(np.array(_find_stored_range(header), np.float64), header)
    return Decoded(values, (float(ends.min()), float(ends.max())), is_inverted)


def inspect_dicom(file: IO[bytes]) -> Depth:
    """Read from a file's header whether its values need a brightness range, and how many bits they use."""
    header = _read_header(file)
    is_deep = int(header.get("BitsAllocated", 8)) > 8 and not _has_window(header)
    is_plain = header.get("PixelRepresentation", 0) == 0 and not _has_rescale(header)
    return Depth(is_deep, int(header.BitsStored) if is_plain and is_deep else None)


def _read_header(file: IO[bytes]) -> Any:
    try:
        import pydicom
    except ModuleNotFoundError as error:
        raise DICOM.make_missing_error() from error
    file.seek(0)
    header = pydicom.dcmread(file, defer_size=_MAX_ELEMENT_BYTES, stop_before_pixels=True)
    if "Rows" not in header or "Columns" not in header:
        raise ImageError("this DICOM file holds no image")
    return header


def _decode_frame(file: Any) -> np.ndarray:
    """Return the first frame as it is stored; colours as RGB.

    Raises:
        ImageError: Its compression needs another package, or is not known.
    """
    from pydicom.pixels import pixel_array

    file.seek(0)
    try:
        return np.asarray(pixel_array(file, index=0))
    except (RuntimeError, NotImplementedError) as error:
        raise ImageError(f"pixels of this DICOM file cannot be decoded ({error})") from error


def _find_stored_range(header: Any) -> ValueRange:
    """Return the lowest and highest value that the stored bits can hold."""
    bits = int(header.BitsStored)
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if header.get("PixelRepresentation", 0) else (0, 2.0**bits - 1)


def _has_rescale(header: Any) -> bool:
    return "ModalityLUTSequence" in header or ("RescaleSlope" in header and "RescaleIntercept" in header)


def _has_window(header: Any) -> bool:
    return bool(header.get("VOILUTSequence")) or (
        header.get("WindowCenter") not in (None, "") and header.get("WindowWidth") not in (None, "")
    )


def _apply_rescale(values: np.ndarray, header: Any) -> np.ndarray:
    """Apply slope and intercept, or the table that stands for them; whole numbers stay integers."""
    if not _has_rescale(header):
        return values
    from pydicom.pixels import apply_modality_lut

    rescaled = np.asarray(apply_modality_lut(values, header))
    factors = (float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0)))
    if values.dtype.kind in "iu" and rescaled.dtype.kind == "f" and all(map(float.is_integer, factors)):
        return rescaled.astype(np.int32)
    return rescaled


def _apply_window(values: np.ndarray, header: Any) -> np.ndarray:
    """Return what the first window, or table, shows, as uint8."""
    from pydicom.pixels import apply_voi_lut

    # Its result reaches over what the stored bits can hold, in the file's units; what is far outside shows from
    # where to where.
    if header.get("VOILUTSequence"):
        shown = np.asarray(apply_voi_lut(values, header, prefer_lut=True), np.float64)
        low, high = 0.0, 2.0 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1
    else:
        centre, width = (float(np.atleast_1d(part)[0]) for part in (header.WindowCenter, header.WindowWidth))
        far = centre + np.array([-_FAR_WIDTHS, _FAR_WIDTHS]) * width
        with np.errstate(over="ignore"):  # of the function SIGMOID
            shown = np.asarray(apply_voi_lut(values, header, prefer_lut=False), np.float64)
            low, high = np.asarray(apply_voi_lut(far, header, prefer_lut=False), np.float64)
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high:
        raise ImageError(f"the window of this DICOM file makes no sense (from {low} to {high})")
    return np.clip(np.rint((shown - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
