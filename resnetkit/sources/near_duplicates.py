"""Images of validation and test that are nearly the same as one of training: saved again, scaled, lighter or darker."""

from __future__ import annotations

import numpy as np

from resnetkit.machine.progress import Progress

#: Side of a thumbnail, in pixels.
_SIDE = 16
THUMBNAIL_BYTES = _SIDE * _SIDE
#: Correlation of two thumbnails from which on they count as nearly the same. On 1,650 and 412 photographs of hands
#: before gray walls the highest of different pictures was 0.92, on 1,437 and 360 digits 0.98, on 2,000 and 800 small
#: photographs of objects 0.94, beside one pair that is nearly the same (0.978). Saved as JPEG of quality 40 or at half
#: the size, 98 % and more of them stay above 0.985.
_NEARLY_SAME = 0.975
#: Thumbnails that deviate less from the common picture have nothing to be compared: root of the mean square, in levels.
_LEAST_DEVIATION = 2.0
#: Above this many pairs nothing is compared, which would take more than half a minute.
_MAX_PAIRS = 4e9
_BLOCK_VALUES = 1 << 24


def is_comparable(num_first: int, num_second: int) -> bool:
    """Tell whether all pairs of two sets of images are few enough to be compared."""
    return 0 < num_first * num_second <= _MAX_PAIRS


def make_thumbnail(image: np.ndarray) -> bytes:
    """Return an image, (H, W, 3) uint8, as `THUMBNAIL_BYTES` gray levels."""
    import cv2

    small = cv2.resize(np.ascontiguousarray(image), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return bytes(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).data)


def find_near_duplicates(first: np.ndarray, second: np.ndarray, progress: Progress) -> list[tuple[int, int, float]]:
    """Find for each image of the second set the one of the first that is nearly the same, where there is one.

    Two images must agree as they are, and also in what sets them apart from the mean of all: before the same wall, on
    the same sheet, all are alike.

    Args:
        first: (N, THUMBNAIL_BYTES) uint8.
        second: (M, THUMBNAIL_BYTES) uint8.
        progress: May stop between two blocks.

    Returns:
        Index in the first set, index in the second, correlation; in the order of the second set.
    """
    mean = first.mean(axis=0, dtype=np.float64).astype(np.float32)
    wanted = _normalize(second, mean)
    best, nearest = np.full(len(second), -1, np.float32), np.zeros(len(second), np.int64)
    step = max(1, _BLOCK_VALUES // max(THUMBNAIL_BYTES, len(second)))
    for start in range(0, len(first), step):
        if start:
            progress.check()
        similarities = _normalize(first[start : start + step], mean) @ wanted.T
        places = similarities.argmax(axis=0)
        values = similarities[places, np.arange(len(second))]
        is_better = values > best
        best[is_better], nearest[is_better] = values[is_better], start + places[is_better]
    found = np.flatnonzero(best >= _NEARLY_SAME)
    nothing = np.zeros(THUMBNAIL_BYTES, np.float32)
    plain = (_normalize(first[nearest[found]], nothing) * _normalize(second[found], nothing)).sum(axis=1)
    return [(int(nearest[index]), int(index), float(best[index])) for index in found[plain >= _NEARLY_SAME]]


def _normalize(thumbnails: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return deviations from the mean picture, (N, THUMBNAIL_BYTES) float32, of length 1; too small ones are zero."""
    deviations = thumbnails.astype(np.float32) - mean
    deviations -= deviations.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(deviations, axis=1, keepdims=True)
    is_large = lengths >= _LEAST_DEVIATION * _SIDE
    return np.where(is_large, deviations / np.maximum(lengths, 1e-6), 0).astype(np.float32)
