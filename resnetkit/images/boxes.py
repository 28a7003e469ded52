"""From a detector's boxes to crops of the image."""

from __future__ import annotations

import math

import numpy as np

#: (left, top, width, height) in pixels.
Box = tuple[float, float, float, float]


def crop_box(image: np.ndarray, box: Box, margin: float = 0.0) -> np.ndarray | None:
    """Cut a box out of an image: every pixel that it touches, as far as the image reaches.

    Args:
        image: (height, width, 3).
        box: In pixels; may reach outside the image.
        margin: Widens the box on each side by this share of its size.

    Returns:
        A view, (h, w, 3); None where the box is empty, not finite or wholly outside.
    """
    left, top, width, height = box
    if not all(math.isfinite(value) for value in box) or width <= 0 or height <= 0:
        return None
    image_height, image_width = image.shape[:2]
    first_column = math.floor(max(0.0, left - margin * width))
    first_row = math.floor(max(0.0, top - margin * height))
    last_column = math.ceil(min(image_width, left + width + margin * width))
    last_row = math.ceil(min(image_height, top + height + margin * height))
    if first_column >= last_column or first_row >= last_row:
        return None
    return image[first_row:last_row, first_column:last_column]
