"""Resizing with an antialiased bilinear filter, as torchvision's on tensors, in numpy.

Along an axis each output value is a weighted sum of a few input values that lie side by side: a product with a banded
matrix. It is cut into blocks of neighbouring outputs, whose windows lie evenly spaced in the input, so that a strip of
the image is one call of `numpy.matmul`. The weights are those of torch's kernel, bit for bit, and the order is its:
horizontally, then vertically. BLAS may round the sums otherwise, so that at a tie of the last rounding the result is
one grey level off: with OpenBLAS 4 in 5.8 million values of photographs on a CPU with AVX-512, 44 on older ones.

Of the ways that were tried on a photograph of 640x480 pixels, on one core (benchmarks/resampling.py), this is the
quickest.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from resnetkit.machine.threads import share_work

#: Bytes of float32 that are worked on at a time: they stay in a core's cache.
_STRIP_BYTES = 1 << 20
#: Bytes of an array that a thread keeps for the next image.
_KEPT_BYTES = 1 << 22
#: Values of an image that are worth a thread: to wake it takes a tenth of the time that they need.
_VALUES_PER_THREAD = 200_000
#: Multiplications of one product. From about as many on OpenBLAS starts threads, which spin after their work on the
#: cores that the network needs, and wait for each other while the machine is busy.
_MAX_PRODUCT = 1 << 18
#: Outputs of a block: fewer make the products inefficient, more multiply more zeros.
_BLOCK_SIZES = range(4, 17)


@dataclass(frozen=True)
class _Axis:
    """How a range of output lines comes from the input lines of one axis.

    Attributes:
        matrices: (blocks, K, B) float32: block j gives outputs j*B to (j+1)*B from K inputs, which begin at
            `start + j * step`.
        start: First input line; negative where blocks reach beyond the input, whose weights there are zero.
        step: Input lines between the windows of two blocks.
    """

    matrices: np.ndarray
    start: int
    step: int

    @property
    def num_inputs(self) -> int:
        """Input lines of all windows."""
        return (len(self.matrices) - 1) * self.step + self.matrices.shape[1]

    @property
    def num_outputs(self) -> int:
        """Output lines of all blocks; those behind the wanted ones are zero."""
        return self.matrices.shape[0] * self.matrices.shape[2]

    def select(self, blocks: slice) -> _Axis:
        """Return some of the blocks."""
        return _Axis(self.matrices[blocks], self.start + blocks.start * self.step, self.step)

    def clip(self, length: int) -> tuple[int, int]:
        """Return the first and the end index of the inputs that exist."""
        return max(0, self.start), min(length, self.start + self.num_inputs)


class _Scratch(threading.local):
    """Memory of a thread that is used again: to fetch it from the system for each image takes longer than the work."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of any values, float32, until the next one of that name is taken."""
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or len(array) < size:
            array = np.empty(size, np.float32)
            if 4 * size <= _KEPT_BYTES:
                self._arrays[name] = array
        return array[:size].reshape(shape)


_scratch = _Scratch()


def resample(image: np.ndarray, resized: tuple[int, int], crop: tuple[int, int], max_threads: int = 1) -> np.ndarray:
    """Resize an image and cut the centre; the work and the memory are those of what the centre sees.

    Args:
        image: (H, W, C) uint8; any strides, never written to.
        resized: Height and width of the whole image after resizing.
        crop: Height and width of the centre that is returned, at most `resized`.
        max_threads: Threads that may share the work; the values are the same for any number.

    Returns:
        (C, *crop) uint8.
    """
    height, width, channels = image.shape
    # As torchvision's center_crop places it.
    top, left = (round((whole - part) / 2.0) for whole, part in zip(resized, crop, strict=True))
    columns = _plan_axis(width, resized[1], left, crop[1])
    rows = _plan_axis(height, resized[0], top, crop[0])
    num_blocks, _, block = rows.matrices.shape
    result = np.empty((channels, *crop), np.uint8)

    def fill(blocks: slice) -> None:
        part = rows.select(blocks)
        resized_rows = _resample_rows(image, columns, part)  # (h, C, w)
        target = result[:, blocks.start * block : blocks.stop * block]
        lines = _resample_columns(resized_rows.reshape(len(resized_rows), -1), part)[: target.shape[1]]
        pixels = np.rint(lines, out=lines).reshape(len(lines), channels, -1)[..., : crop[1]]
        np.copyto(target, pixels.transpose(1, 0, 2), casting="unsafe")

    seen = height * width * channels * crop[0] * crop[1] / (resized[0] * resized[1])
    num_threads = max(1, min(max_threads, int(seen) // _VALUES_PER_THREAD))
    size = -(-num_blocks // num_threads)
    parts = [slice(first, min(first + size, num_blocks)) for first in range(0, num_blocks, size)]
    share_work(fill, parts, num_threads)
    return result


def _resample_rows(image: np.ndarray, columns: _Axis, rows: _Axis) -> np.ndarray:
    """Resample horizontally, in strips, the rows that the vertical filter will read.

    Returns:
        (rows.num_inputs, C, columns.num_outputs) float32, scratch; rows beyond the image are zero.
    """
    height, width, channels = image.shape
    first_row, last_row = rows.clip(height)
    left, right = columns.clip(width)
    num_blocks, window, block = columns.matrices.shape
    result = _scratch.take("rows", (rows.num_inputs, channels, columns.num_outputs))
    result[: first_row - rows.start] = result[last_row - rows.start :] = 0
    strip_rows = min(_STRIP_BYTES // (4 * columns.num_inputs), _MAX_PRODUCT // (window * block)) // channels
    strip_rows = min(max(1, strip_rows), last_row - first_row)
    planes = _scratch.take("planes", (strip_rows, channels, columns.num_inputs))
    planes[..., : left - columns.start] = planes[..., right - columns.start :] = 0
    for start in range(first_row, last_row, strip_rows):
        stop = min(start + strip_rows, last_row)
        strip, target = planes[: stop - start], result[start - rows.start : stop - rows.start]
        for channel in range(channels):
            strip[:, channel, left - columns.start : right - columns.start] = image[start:stop, left:right, channel]
        lines = len(strip) * channels
        windows = _view(strip, (num_blocks, lines, window), (columns.step, columns.num_inputs, 1))
        np.matmul(
            windows, columns.matrices, out=_view(target, (num_blocks, lines, block), (block, columns.num_outputs, 1))
        )
    return result


def _resample_columns(lines: np.ndarray, rows: _Axis) -> np.ndarray:
    """Resample (rows.num_inputs, n) float32 vertically, to (rows.num_outputs, n), scratch."""
    num_blocks, window, block = rows.matrices.shape
    size = lines.shape[1]
    matrices = rows.matrices.transpose(0, 2, 1)
    result = _scratch.take("columns", (num_blocks, block, size))
    windows = _view(lines, (num_blocks, window, size), (rows.step * size, size, 1))
    part = max(1, _MAX_PRODUCT // (window * block))
    for start in range(0, size, part):
        np.matmul(matrices, windows[..., start : start + part], out=result[..., start : start + part])
    return result.reshape(-1, size)


def _view(array: np.ndarray, shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """View a C-contiguous float32 array as overlapping windows; steps are in values."""
    return np.ndarray(shape, np.float32, array, strides=[4 * step for step in steps])  # `as_strided` takes longer


@lru_cache(maxsize=64)  # the images of a video or a camera are of one size
def _plan_axis(length: int, resized: int, start: int, count: int) -> _Axis:
    """Plan outputs `start` to `start + count` of an axis of `length` lines that becomes `resized` lines."""
    first, weights = _compute_weights(length, resized, start, count)
    block, step, offset, window = _choose_block(first, weights.shape[1], length / resized)
    matrices = np.zeros((-(-count // block), window, block), np.float32)
    blocks, places = np.divmod(np.arange(count), block)
    inputs = (first - offset - step * blocks)[:, None] + np.arange(weights.shape[1])
    matrices[blocks[:, None], inputs, places[:, None]] = weights
    matrices.setflags(write=False)
    return _Axis(matrices, offset, step)


def _choose_block(first: np.ndarray, num_weights: int, scale: float) -> tuple[int, int, int, int]:
    """Return size and step of the blocks with the least work, where the windows begin, and how long they are."""
    choices = []
    for size in _BLOCK_SIZES:
        size = min(size, len(first))  # noqa: PLW2901
        blocks = np.arange(len(first)) // size
        step = max(1, round(size * scale))
        starts = first - step * blocks
        offset, window = int(starts.min()), int(starts.max() - starts.min()) + num_weights
        choices.append(((int(blocks[-1]) + 1) * size * window, size, step, offset, window))
    return min(choices)[1:]


def _compute_weights(length: int, resized: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the filter's weights with the float32 arithmetic of torch's `upsample_bilinear2d_aa` on CPUs.

    Returns:
        The first input of each output, (count,), and the weights from there on, (count, n) float32.
    """
    one, half = np.float32(1), np.float32(0.5)
    scale = np.float32(length) / np.float32(resized)
    support, inverse = (scale, one / scale) if scale >= 1 else (one, one)
    centres = scale * (np.arange(start, start + count, dtype=np.float32) + half)
    first = np.maximum((centres - support + half).astype(np.int64), 0)
    end = np.minimum((centres + support + half).astype(np.int64), length)
    inputs = first[:, None] + np.arange((end - first).max())
    distances = (inputs.astype(np.float32) - centres[:, None] + half) * inverse
    weights = np.maximum(0, one - np.abs(distances), dtype=np.float32)
    weights[inputs >= end[:, None]] = 0
    sums = np.zeros(count, np.float32)
    for column in weights.T:  # one after the other: another order rounds otherwise
        sums += column
    return first, weights / sums[:, None]
