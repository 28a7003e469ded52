"""What a decoder gives: the values of an image, and what its file says about them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: The values that are black and white.
ValueRange = tuple[float, float]
#: Stands for no range: each image's own maximum decides, as it did in trainings from before there were ranges.
EACH_IMAGE: ValueRange = (0.0, 0.0)


class ImageError(ValueError):
    """Something that was given as an image is none that can be read."""


class Decoded(NamedTuple):
    """An image as its file holds it, upright.

    Attributes:
        values: (height, width) or (height, width, channels), of the type that is nearest to the file's.
        header_range: What is black and white by what the file's header says; None where it does not.
        is_inverted: Whether small values are white and large ones black.
    """

    values: np.ndarray
    header_range: ValueRange | None = None
    is_inverted: bool = False


class Depth(NamedTuple):
    """What a file's header says about its values.

    Attributes:
        is_deep: Whether they have more than 8 bits.
        used_bits: How many bits are used, where the header tells; None where not.
    """

    is_deep: bool
    used_bits: int | None


def get_bits_range(used_bits: int | None) -> ValueRange | None:
    """Return black and white of values that use so many bits."""
    return None if used_bits is None else (0.0, 2.0**used_bits - 1)
