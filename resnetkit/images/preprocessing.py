"""From an image to what the network sees: the one implementation, for inference and validation.

The result equals torchvision's `weights.transforms()` on the image as a uint8 tensor, bit for bit, as long
as torch's own resampling kernel is used with the full image's sizes. So the two directions are resampled
one after the other, each over only the lines that the centre crop sees: the phase of the kernel stays that of
the full image while the work and the memory are those of the crop.

Where the network computes in less than float32, torch's kernel for uint8 is used: it takes a fifth of the time and
is at most one grey level off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

RESIZE_MODES = ("crop", "squash", "letterbox")

#: Bytes that are resampled at a time: this much stays in a core's cache.
_MAX_STRIP_BYTES = 1 << 20
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
        value_range: What is black and what is white in images of more than 8 bits, before `prepare`; None guesses from
            each image.
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

    def prepare(self, image: np.ndarray, is_exact: bool = True) -> torch.Tensor:
        """Resize and crop or pad one image.

        Args:
            image: RGB, (height, width, 3) uint8; any strides, never written to.
            is_exact: Resample in float32; otherwise in uint8, which is quicker and at most one grey level off.

        Returns:
            The network's input before normalization, (3, input_size, input_size) uint8; it may share the image's
            memory.

        Raises:
            ValueError: The image has another shape or dtype.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"expected an RGB image (height, width, 3) uint8, got {image.shape} {image.dtype}")
        size = self.input_size
        dtype = np.float32 if is_exact else np.uint8
        if self.resize_mode == "squash":
            return _resample(image, (size, size), (size, size), dtype)
        height, width = image.shape[:2]
        if self.resize_mode == "letterbox":
            fitted = _scale_long_side(height, width, size)
            return self._pad(_resample(image, fitted, fitted, dtype))
        image = _trim_long_side(image)
        height, width = image.shape[:2]
        resized = _scale_short_side(height, width, self.resize_size)
        # A crop larger than the resized image is padded with black, as torchvision's center_crop does.
        resized_crop = (min(size, resized[0]), min(size, resized[1]))
        return _pad_centre(_resample(image, resized, resized_crop, dtype), size, (0, 0, 0))

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

    def _pad(self, image: torch.Tensor) -> torch.Tensor:
        red, green, blue = (round(255 * value) for value in self.mean)
        return _pad_centre(image, self.input_size, (red, green, blue))


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


def _resample(
    image: np.ndarray, resized: tuple[int, int], crop: tuple[int, int], dtype: type[np.generic]
) -> torch.Tensor:
    """Resize with an antialiased bilinear filter and cut the centre.

    Args:
        image: (H, W, 3) uint8, or (H, W, 1).
        resized: Height and width of the whole image after resizing.
        crop: Height and width of the centre that is returned, at most `resized`.
        dtype: What the filter computes in: float32, or uint8.

    Returns:
        (3, *crop) uint8, or (1, *crop).
    """
    import torch

    if image.shape[2] == 3 and image.strides[2] == 0:  # gray: three times the same channel
        return _resample(image[..., :1], resized, crop, dtype).repeat(3, 1, 1)
    height, width, channels = image.shape
    # As torchvision's center_crop places it.
    top, left = (round((whole - part) / 2.0) for whole, part in zip(resized, crop, strict=True))
    row_bytes = channels * max(width, resized[1]) * np.dtype(dtype).itemsize
    if max(height, resized[0]) * row_bytes <= _MAX_STRIP_BYTES:
        lines = _interpolate(_to_planes(image, dtype), resized)
        return _to_uint8(lines[0, :, top : top + crop[0], left : left + crop[1]])

    # Horizontally: rows that the vertical filter will read, in strips. Other rows have no influence on the crop.
    first, last = _get_source_range(height, resized[0], top, crop[0])
    strip = max(1, _MAX_STRIP_BYTES // row_bytes)
    columns = torch.from_numpy(np.zeros((1, channels, height, crop[1]), dtype))
    for start in range(first, last, strip):
        stop = min(start + strip, last)
        rows = _interpolate(_to_planes(image[start:stop], dtype), (stop - start, resized[1]))  # (1, C, strip, W')
        columns[:, :, start:stop] = rows[..., left : left + crop[1]]
    # Vertically.
    lines = _interpolate(columns, (resized[0], crop[1]))
    return _to_uint8(lines[0, :, top : top + crop[0]])


def _to_planes(pixels: np.ndarray, dtype: type[np.generic]) -> torch.Tensor:
    """Return (h, W, C) uint8 as (1, C, h, W) of another type."""
    import torch

    # numpy copies arrays that torch cannot view: read-only, or with negative or zero strides.
    return torch.from_numpy(np.require(pixels, dtype, ["C", "W"])).permute(2, 0, 1)[None]


def _to_uint8(image: torch.Tensor) -> torch.Tensor:
    import torch

    return image if image.dtype == torch.uint8 else image.round_().to(torch.uint8)


def _interpolate(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    import torch.nn.functional as F  # noqa: N812 - the field's name for it

    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def _get_source_range(length: int, resized: int, start: int, count: int) -> tuple[int, int]:
    """Return the first and the end index of the source lines that the filter reads for some output lines."""
    scale = length / resized
    support = max(scale, 1.0)
    first = math.floor((start + 0.5) * scale - support) - 1
    last = math.ceil((start + count - 0.5) * scale + support) + 1
    return max(0, first), min(length, last)


def _pad_centre(image: torch.Tensor, size: int, color: tuple[int, int, int]) -> torch.Tensor:
    """Put a (3, h, w) image, h and w at most `size`, into the middle of a square of one colour."""
    import torch

    height, width = image.shape[1:]
    if (height, width) == (size, size):
        return image
    canvas = torch.tensor(color, dtype=torch.uint8).view(3, 1, 1).repeat(1, size, size)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[:, top : top + height, left : left + width] = image
    return canvas
