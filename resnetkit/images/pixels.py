"""Arrays in: whatever holds an image becomes (height, width, 3) uint8 RGB, or an error that says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from resnetkit.decoding.values import EACH_IMAGE, ImageError, ValueRange
from resnetkit.machine.speaking import get_logger

__all__ = ["EACH_IMAGE", "ImageError", "ValueRange", "to_rgb"]

logger = get_logger()

#: Rows are converted in strips of about this many values, which bounds the memory of intermediate results.
_STRIP_VALUES = 1 << 22
#: How far floats may reach beyond, as a share of white: cubic resampling overshoots by less. They are clipped.
_MAX_OVERSHOOT = 0.25
#: Share of an image's values that may be anything: broken pixels, burned-in text.
_STRAY_SHARE = 0.005
#: An image of 16 bits that stays below this uses 14 of them at most.
_TOP_OF_14_BITS = 1 << 14

_is_depth_said = False
_REMEDY = "set 'value_range' to the values that are black and white, such as -1024..3071"


def to_rgb(image: np.ndarray, value_range: ValueRange | None = None) -> np.ndarray:
    """Convert any supported image to RGB.

    Gray becomes three equal channels; transparent pixels are laid over white. Without a range the type decides, so that
    no frame of a video is brighter than the next for a single pixel: uint16 is 0..65535; other integers are 0..255;
    floats are 0..1, or 0..255 where more than a two-hundredth of the values are above 1.25; bools are black and white.

    Args:
        image: (height, width) or (height, width, 1 to 4), as gray, gray + alpha, RGB or RGBA; never written to.
        value_range: The values that are black and white, in integers wider than 8 bits and floats; beyond, values
            are clipped. None goes by the type, `EACH_IMAGE` by the smallest of 8, 10, 12, 14 and 16 bits that hold
            the image's maximum.

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
    if (value_range is None or value_range == EACH_IMAGE) and image.dtype.kind == "f":
        value_range = _choose_float_range(image, float(low), float(high))
    if value_range is not None and value_range != EACH_IMAGE:
        black, white = value_range
        return lambda values: _scale(values, black, white)
    top = _choose_integer_top(image, low, high, value_range)
    table = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)
    return lambda values: table[values]


def _choose_integer_top(image: np.ndarray, low: int, high: int, value_range: ValueRange | None) -> int:
    """Return the value that is white in an image of integers, black being 0."""
    if value_range is None and image.dtype.newbyteorder("=") != np.uint16:
        if low < 0 or high > 255:
            raise ImageError(f"expected {image.dtype} values of 0..255, got {low} to {high}; {_REMEDY}")
        return 255
    if low < 0 or high > 65535:
        raise ImageError(f"expected integer values of 0..255 or 0..65535, got {low} to {high}; {_REMEDY}")
    if value_range is None:
        _say_if_dark(image)
        return 65535
    return int(next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits))


def _say_if_dark(image: np.ndarray) -> None:
    """Log once that 65535 is white, where an image hardly has a value in the upper three quarters."""
    global _is_depth_said  # noqa: PLW0603 - once a process
    if not _is_depth_said and np.count_nonzero(image >= _TOP_OF_14_BITS) <= _STRAY_SHARE * image.size:
        _is_depth_said = True
        logger.warning(
            "65535 is white in images of 16 bits, and one came whose values stay far below; if its camera gives fewer "
            "bits, set 'value_range', such as 12"
        )


def _choose_float_range(image: np.ndarray, low: float, high: float) -> ValueRange:
    for white in (1.0, 255.0):
        margin = _MAX_OVERSHOOT * white
        if low >= -margin and high <= white + margin:
            return 0, white
        allowed = _STRAY_SHARE * image.size
        too_high = np.count_nonzero(image > white + margin)
        if np.count_nonzero(image < -margin) + too_high <= allowed:
            return 0, white
        if too_high <= allowed:
            break  # a wider range would not be meant by values that are too low
    raise ImageError(f"expected float values of 0..1 or 0..255, got {low:.4g} to {high:.4g}; {_REMEDY}")


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
