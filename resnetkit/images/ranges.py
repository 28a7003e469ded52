"""Which values are black and white in images of more than 8 bits: as somebody says it, and as values show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resnetkit.images.pixels import ValueRange
from resnetkit.parameters.declaration import ParameterError

#: Bits that sensors have; a range of integers is that of one of them.
_DEPTHS = (8, 10, 12, 14, 16)
#: What of an image's values is looked at: a burned-in text or a few broken pixels are outside.
_LOW_SHARE, _HIGH_SHARE = 0.005, 0.995
#: A few images may reach beyond the others.
_IMAGES_SHARE = 0.99


class Values(NamedTuple):
    """What the values of one image are like.

    Attributes:
        is_float: Whether they are floats.
        low: Hardly any value is lower.
        high: Hardly any value is higher.
        used_bits: How many bits are used by what the file's header says; None where it does not.
    """

    is_float: bool
    low: float
    high: float
    used_bits: int | None = None


def parse_value_range(text: str) -> ValueRange | None:
    """Parse the parameter `value_range`: auto is None.

    Raises:
        ParameterError: Black and white are the same, or the wrong way round.
    """
    if text == "auto":
        return None
    if ".." not in text:
        return 0.0, 2.0 ** int(text) - 1
    black, white = (float(part) for part in text.split(".."))
    if black >= white:
        raise ParameterError(f"'value_range' must be two numbers, the lower first, such as -1024..3071, got '{text}'")
    return black, white


def measure_values(image: np.ndarray, used_bits: int | None = None) -> Values | None:
    """Measure an image; None where it has 8 bits or no finite value, and so says nothing."""
    if image.dtype == np.uint8 or image.dtype.kind not in "uif":
        return None
    values = image[..., : image.shape[2] - 1] if image.ndim == 3 and image.shape[2] in (2, 4) else image
    if image.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    # Of two neighbours the one that is there, so that integers stay integers.
    low = float(np.quantile(values, _LOW_SHARE, method="lower"))
    high = float(np.quantile(values, _HIGH_SHARE, method="higher"))
    return Values(image.dtype.kind == "f", low, high, used_bits)


def find_common_range(images: Sequence[Values]) -> ValueRange | None:
    """Return the one range for images of a data set; None where there are none, or integers as well as floats."""
    if len({image.is_float for image in images}) != 1:
        return None
    low = float(np.quantile([image.low for image in images], 1 - _IMAGES_SHARE, method="lower"))
    high = float(np.quantile([image.high for image in images], _IMAGES_SHARE, method="lower"))
    if images[0].is_float:
        for white in (1.0, 255.0):
            if low >= -white / 4 and high <= white * 1.25:
                return 0.0, white
        return low, max(high, np.nextafter(low, np.inf))
    if low < 0:
        return low, max(high, low + 1)
    used = max((image.used_bits or 0 for image in images), default=0)
    depths = [used, *_DEPTHS] if all(image.used_bits for image in images) else _DEPTHS
    return next(((0.0, 2.0**bits - 1) for bits in depths if high < 2**bits), (0.0, high))
