"""Crops of boxes, as a detector gives them: partly outside, empty, not finite, widened."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resnetkit.images.boxes import crop_box

#: Every pixel tells where it is: (row, column, 0).
IMAGE = np.stack([*np.meshgrid(np.arange(40), np.arange(60), indexing="ij"), np.zeros((40, 60))], axis=2).astype(
    np.uint8
)


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((10, 5, 20, 15), 0.0, (10, 5, 30, 20)),
        ((10.4, 5.6, 20.0, 15.0), 0.0, (10, 5, 31, 21)),
        ((-10, -5, 20, 15), 0.0, (0, 0, 10, 10)),
        ((50, 30, 20, 20), 0.0, (50, 30, 60, 40)),
        ((-100, -100, 500, 500), 0.0, (0, 0, 60, 40)),
        ((10.2, 5.2, 0.1, 0.1), 0.0, (10, 5, 11, 6)),
        ((0, 0, 60, 40), 0.0, (0, 0, 60, 40)),
        ((59, 39, 1, 1), 0.0, (59, 39, 60, 40)),
        ((20, 10, 20, 10), 0.5, (10, 5, 50, 25)),
        ((20, 10, 20, 10), 2.0, (0, 0, 60, 40)),
        ((10, 10, 1e308, 1e308), 2.0, (0, 0, 60, 40)),
    ],
    ids=[
        *("inside", "fractions", "outside top left", "outside bottom right", "all around", "within a pixel", "whole"),
        *("last pixel", "margin", "margin beyond the image", "huge"),
    ],
)
def test_every_touched_pixel_is_in_the_crop(box, margin, expected):
    crop = crop_box(IMAGE, box, margin)
    left, top, right, bottom = expected
    np.testing.assert_array_equal(crop, IMAGE[top:bottom, left:right])
    assert crop.base is not None  # a view


@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 0, 5),
        (10, 10, 5, 0),
        (10, 10, -5, 5),
        (60, 0, 5, 5),
        (-10, 5, 10, 5),
        (0, 40, 5, 5),
        (math.nan, 0, 5, 5),
        (0, 0, math.inf, 5),
        (0, 0, 5, math.nan),
    ],
    ids=["no width", "no height", "negative", "right", "left", "below", "NaN", "infinite", "NaN height"],
)
def test_an_empty_box_has_no_crop(box):
    assert crop_box(IMAGE, box) is None
