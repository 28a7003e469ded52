"""Arrays in: whatever holds an image becomes (height, width, 3) uint8 RGB, or an error that says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

#: Rows are converted in strips of about this many values, which bounds the memory of intermediate results.
_STRIP_VALUES = 1 << 22
#: How far floats of 0..1 may reach beyond: cubic resampling overshoots by less. They are clipped.
_MAX_OVERSHOOT = 0.25
_REMEDY = "set 'value_range' to the values that are black and white, such as -1024..3071"

#: The values that are black and white.
ValueRange = tuple[float, float]


class ImageError(ValueError):
    """Something that was given as an image is none that can be read."""


def to_rgb(image: np.ndarray, value_range: ValueRange | None = None) -> np.ndarray:
    """Convert any supported image to RGB.

    Gray becomes three equal channels; transparent pixels are laid over white. Without a range, integers wider than
    8 bits are divided by 2^b - 1 with b the smallest of 8, 10, 12, 14 and 16 that holds the image's maximum; floats
    with a maximum of at most 1 (or little more) are 0..1, of at most 255 are 0..255; bools are black and white.

    Args:
        image: (height, width) or (height, width, 1 to 4), as gray, gray + alpha, RGB or RGBA; never written to.
        value_range: The values that are black and white, in integers wider than 8 bits and floats; beyond, values
            are clipped. None guesses from the image's own values.

    Returns:
        (height, width, 3) uint8. It may share the argument's memory and be read-only, and is the argument itself
        where nothing is to be done; strides are never negative.

    Raises:
        ImageError: Another shape or dtype, no pixel, or a value that is negative, too large or not finite.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(f"expected an image as a numpy array, got {type(image).__name__}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and not 1 <= image.shape[2] <= 4):
        raise ImageError(
            "expected an image of shape (height, width) or (height, width, 1 to 4): gray, gray + alpha, RGB or RGBA; "
            f"got shape {image.shape}"
        )
    if image.size == 0:
        raise ImageError(f"expected an image with at least one pixel, got shape {image.shape}")
    to_uint8 = _choose_scaling(image, value_range)
    pixels = image[..., None] if image.ndim == 2 else image
    has_alpha = pixels.shape[2] in (2, 4)
    if to_uint8 is None and has_alpha and pixels[..., -1].min() == 255:
        pixels, has_alpha = pixels[..., :-1], False
    if to_uint8 is not None or has_alpha:
        pixels = _convert(pixels, to_uint8, has_alpha)
    if min(pixels.strides) < 0:
        pixels = np.ascontiguousarray(pixels)
    if pixels.shape[2] == 1:
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return image if pixels is image else pixels


def _choose_scaling(image: np.ndarray, value_range: ValueRange | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the function that brings the image's values to uint8; None where they already are."""
    if image.dtype == np.uint8:
        return None
    if image.dtype.kind == "b":
        return lambda values: values.astype(np.uint8) * np.uint8(255)
    if image.dtype.kind not in "uif":
        raise ImageError(f"expected an image of integers, floats or bools, got dtype {image.dtype}")
    with np.errstate(invalid="ignore"):
        low, high = image.min(), image.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("expected finite values, got NaN or infinity in the image")
    if value_range is None and image.dtype.kind == "f":
        value_range = _guess_float_range(float(low), float(high))
    if value_range is not None:
        black, white = value_range
        return lambda values: _scale(values, black, white)
    if low < 0 or high > 65535:
        raise ImageError(f"expected integer values of 0..255 or 0..65535, got {low} to {high}; {_REMEDY}")
    top = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    table = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)
    return lambda values: table[values]


def _guess_float_range(low: float, high: float) -> ValueRange:
    if low >= -_MAX_OVERSHOOT and high <= 1 + _MAX_OVERSHOOT:
        return 0, 1
    if low < 0 or high > 255:
        raise ImageError(f"expected float values of 0..1 or 0..255, got {low:.4g} to {high:.4g}; {_REMEDY}")
    return 0, 255


def _scale(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Bring values to 0..255, rounded half up for integers, as the table for guessed depths does."""
    shares = (values.astype(np.float64) - black) * (255 / (white - black))
    levels = np.rint(shares) if values.dtype.kind == "f" else np.floor(shares + 0.5)
    return np.clip(levels, 0, 255).astype(np.uint8)


def _convert(pixels: np.ndarray, to_uint8: Callable[[np.ndarray], np.ndarray] | None, has_alpha: bool) -> np.ndarray:
    """Scale (H, W, C) to uint8 and lay it over white where the last channel is alpha."""
    height, width, channels = pixels.shape
    result = np.empty((height, width, channels - has_alpha), np.uint8)
    for rows in _iterate_strips(height, width * channels):
        strip = pixels[rows] if to_uint8 is None else to_uint8(pixels[rows])
        result[rows] = _lay_over_white(strip) if has_alpha else strip
    return result


def _lay_over_white(pixels: np.ndarray) -> np.ndarray:
    """Composite (H, W, colors + alpha) uint8 on white: 255 - alpha x (255 - color) / 255, rounded."""
    shade = (255 - pixels[..., :-1]).astype(np.uint16) * pixels[..., -1:]
    return (255 - (shade + 127) // 255).astype(np.uint8)


def _iterate_strips(height: int, values_per_row: int) -> Iterator[slice]:
    step = max(1, _STRIP_VALUES // values_per_row)
    for start in range(0, height, step):
        yield slice(start, start + step)
