"""Images for runs that are to be resumed: the same bytes wherever and with whatever library they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def read_digits(digit: int, count: int) -> np.ndarray:
    """Return the first of scikit-learn's images of a digit, each pixel four times as large, (count, 32, 32) uint8."""
    digits = load_digits()
    images = digits.images[digits.target == digit][:count].astype(int)  # (count, 8, 8), 0..16
    return np.kron(np.minimum(16 * images, 255), np.ones((4, 4), int)).astype(np.uint8)


def read_images(digits: Sequence[int]) -> list[np.ndarray]:
    """Return the first image of each digit, (32, 32, 3) uint8."""
    return [np.repeat(read_digits(digit, 1)[0][..., None], 3, axis=2) for digit in digits]


def write_digits(folder: Path, digits: str, count: int = 16) -> Path:
    """Write `<digit>/<number>.pgm`, uncompressed: a run's state knows its images by their names and sizes."""
    for digit in digits:
        (folder / digit).mkdir(parents=True)
        for number, image in enumerate(read_digits(int(digit), count)):
            (folder / digit / f"{number:02}.pgm").write_bytes(b"P5\n32 32\n255\n" + image.tobytes())
    return folder
