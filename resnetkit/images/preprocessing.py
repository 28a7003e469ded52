"""From an image to what the network sees: the one implementation, for inference and validation.

The result is that of torchvision's `weights.transforms()` on the image as a uint8 tensor; see `resampling` for how far.
torch is not needed for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from resnetkit.images.resampling import resample

if TYPE_CHECKING:
    import torch

RESIZE_MODES = ("crop", "squash", "letterbox")

#: Images longer than this many times their short side are first cut around their centre, see `_trim_long_side`.
_MAX_ASPECT = 8


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input.

    Attributes:
        input_size: Side in pixels of the square that the network sees.
        resize_size: Length in pixels of the short side before the centre crop; used by resize_mode crop.
        resize_mode: crop (resize the short side, cut the centre), squash (ignore the proportions) or
            letterbox (resize the long side, pad with the mean colour).
        mean: Mean of each channel, of values scaled to 0..1.
        std: Standard deviation of each channel, of values scaled to 0..1.
        value_range: What is black and what is white in images of more than 8 bits, before `prepare`; see `to_rgb`.
    """

    input_size: int
    resize_size: int
    resize_mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    value_range: tuple[float, float] | None = None

    def at_size(self, input_size: int) -> Preprocessing:
        """Return the same preprocessing for another input size, with the same share cut away."""
        resize_size = round(input_size * self.resize_size / self.input_size)
        return replace(self, input_size=input_size, resize_size=resize_size)

    def prepare(self, image: np.ndarray, max_threads: int = 1) -> np.ndarray:
        """Resize and crop or pad one image.

        Args:
            image: RGB, (height, width, 3) uint8; any strides, never written to.
            max_threads: Threads that may share the work.

        Returns:
            (3, input_size, input_size) uint8, C-contiguous; the network normalizes it itself.

        Raises:
            ValueError: The image has another shape or dtype, or no pixels.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"expected an RGB image (height, width, 3) uint8, got {image.shape} {image.dtype}")
        size = self.input_size
        if self.resize_mode == "squash":
            return _resample(image, (size, size), (size, size), max_threads)
        height, width = image.shape[:2]
        if self.resize_mode == "letterbox":
            fitted = _scale_long_side(height, width, size)
            red, green, blue = (round(255 * value) for value in self.mean)
            return _pad_centre(_resample(image, fitted, fitted, max_threads), size, (red, green, blue))
        image = _trim_long_side(image)
        height, width = image.shape[:2]
        resized = _scale_short_side(height, width, self.resize_size)
        # A crop larger than the resized image is padded with black, as torchvision's center_crop does.
        resized_crop = (min(size, resized[0]), min(size, resized[1]))
        return _pad_centre(_resample(image, resized, resized_crop, max_threads), size, (0, 0, 0))

    def get_visible_region(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return what part of an image the network sees: left, top, width, height, in pixels of the image.

        With letterbox, and with crop where the crop is larger than the resized image, the part reaches beyond the
        image.
        """
        if self.resize_mode == "squash":
            return 0.0, 0.0, float(width), float(height)
        if self.resize_mode == "letterbox":
            side = float(max(height, width))
        else:
            side = min(height, width) * self.input_size / self.resize_size
        return (width - side) / 2, (height - side) / 2, side, side


def normalize(images: torch.Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> torch.Tensor:
    """Scale (N, 3, height, width) uint8 images to 0..1, subtract the mean and divide by the deviation; float32."""
    import torch

    scaled = images.to(torch.float32).div_(255)
    return scaled.sub_(torch.tensor(mean).view(1, 3, 1, 1)).div_(torch.tensor(std).view(1, 3, 1, 1))


def _scale_short_side(height: int, width: int, length: int) -> tuple[int, int]:
    """Return (height, width) with the short side at `length`; the long side is cut off to an integer."""
    if height <= width:
        return length, int(length * width / height)
    return int(length * height / width), length


def _scale_long_side(height: int, width: int, length: int) -> tuple[int, int]:
    """Return (height, width) with the long side at `length`; no side below 1."""
    if height >= width:
        return length, max(1, round(length * width / height))
    return max(1, round(length * height / width)), length


def _trim_long_side(image: np.ndarray) -> np.ndarray:
    """Cut a very long image around its centre; all that the centre crop sees stays, to half a source pixel.

    Only here does the result differ from torchvision's, which would first make such an image up to
    thousands of times as long as the crop.
    """
    height, width = image.shape[:2]
    kept = _MAX_ASPECT * min(height, width)
    top, left = max(0, (height - kept) // 2), max(0, (width - kept) // 2)
    return image[top : height - top, left : width - left]


def _resample(image: np.ndarray, resized: tuple[int, int], crop: tuple[int, int], max_threads: int) -> np.ndarray:
    """Resize an image (H, W, 3) and cut the centre; of a gray one only one channel: (3, *crop) uint8."""
    if image.strides[2] == 0:
        return np.repeat(resample(image[..., :1], resized, crop, max_threads), 3, axis=0)
    return resample(image, resized, crop, max_threads)


def _pad_centre(image: np.ndarray, size: int, color: tuple[int, int, int]) -> np.ndarray:
    """Put a (3, h, w) image, h and w at most `size`, into the middle of a square of one colour."""
    height, width = image.shape[1:]
    if (height, width) == (size, size):
        return image
    canvas = np.empty((3, size, size), np.uint8)
    canvas[:] = np.array(color, np.uint8)[:, None, None]
    top, left = (size - height) // 2, (size - width) // 2
    canvas[:, top : top + height, left : left + width] = image
    return canvas
