"""Whatever Python programs hold images in: paths, arrays, Pillow's images, torch's tensors; all become RGB arrays."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from resnetkit.images.pixels import ImageError, ValueRange, to_rgb
from resnetkit.machine.files import to_path


def read_any(image: Any, value_range: ValueRange | None = None) -> np.ndarray:
    """Return any kind of image as RGB.

    Args:
        image: A path; a numpy array as `to_rgb` takes it, channels last and RGB; Pillow's image, which is turned
            upright as its EXIF data say; or torch's tensor, (3, height, width) or (height, width, 3), uint8 or float
            of 0..1, on any device.
        value_range: What is black and white in images of more than 8 bits, see `to_rgb`.

    Returns:
        (height, width, 3) uint8; it may be the argument itself.

    Raises:
        ImageError: It is none of these, or cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        from resnetkit.images.reading import read_image

        return read_image(image if isinstance(image, Path) else to_path(os.fspath(image)), value_range=value_range)
    if _is_instance(image, "PIL.Image", "Image"):
        from resnetkit.images.reading import read_pillow

        return read_pillow(image, value_range)
    if _is_instance(image, "torch", "Tensor"):
        return to_rgb(_to_channels_last(image), value_range)
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"expected an image as a path, a numpy array, a Pillow image or a torch tensor, got {type(image).__name__}"
        )
    return to_rgb(image, value_range)


def is_one_image(images: Any) -> bool:
    """Tell a single image from several: a list, an iterator, or an array or tensor of four dimensions."""
    if isinstance(images, (str, os.PathLike)) or _is_instance(images, "PIL.Image", "Image"):
        return True
    return hasattr(images, "ndim") and images.ndim != 4


def _is_instance(image: Any, module: str, name: str) -> bool:
    """Tell whether something is of a library's class, without importing the library: who has one has imported it."""
    return module in sys.modules and isinstance(image, getattr(sys.modules[module], name))


def _to_channels_last(tensor: Any) -> np.ndarray:
    """Return a tensor as an array, channels last; torch's own order is channels first, and wins where both fit."""
    pixels = tensor.detach().cpu()
    if pixels.is_floating_point():
        pixels = pixels.float()  # numpy knows no bfloat16
        if pixels.numel() and float(pixels.min()) < 0:
            raise ImageError("expected a tensor of 0..1 or 0..255, got negative values; give it before normalization")
    if pixels.ndim == 3 and 1 <= pixels.shape[0] <= 4:
        pixels = pixels.permute(1, 2, 0)
    return pixels.numpy()
