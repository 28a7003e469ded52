"""Features of a frozen backbone: computed once for every view of an image, kept in memory or in a mapped file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from resnetkit.data.loading import Batch
from resnetkit.machine.threads import count_cores
from resnetkit.runtimes.network import Runtime

#: Features beyond this many bytes go into a file: 1 GiB holds 524,288 vectors of resnet18, 131,072 of resnet50.
MEMORY_BOUND = 1 << 30
#: Views that the backbone sees at a time, two for each core if it has many; it may change the last bits of features.
BATCH_SIZE = min(max(32, 2 * count_cores()), 128)


class FeatureStore:
    """Rows of float32 values: written in any order, then read as one array.

    The file beyond the memory bound has no name (or, on Windows, loses it when closed), so that nothing
    is left behind, whatever happens.

    Attributes:
        is_file: Whether they lie in a file.
    """

    def __init__(self, rows: int, width: int, folder: Path, memory_bound: int = MEMORY_BOUND) -> None:
        self._shape = (rows, width)
        self.is_file = rows * width * 4 > memory_bound
        self._values: np.ndarray | None = None
        self._file: IO[bytes] | None = None
        if not self.is_file:
            self._values = np.zeros(self._shape, np.float32)
        else:
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".features.")  # noqa: SIM115 - lives as long as self
            self._file.truncate(rows * width * 4)

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Set some rows.

        Args:
            rows: (N,) indices.
            values: (N, width) float32.

        Raises:
            OSError: The disk is full. (A write through the mapping would kill the process instead.)
        """
        if self._file is None:
            assert self._values is not None
            self._values[rows] = values
            return
        for row, value in zip(rows.tolist(), values, strict=True):
            self._file.seek(row * value.nbytes)
            self._file.write(np.ascontiguousarray(value, np.float32).tobytes())

    def read(self) -> np.ndarray:
        """Return all rows, (rows, width) float32; those never written are zero."""
        if self._file is not None and self._values is None:
            self._file.flush()
            self._values = np.memmap(self._file, np.float32, mode="r", shape=self._shape)
        assert self._values is not None
        return self._values

    def close(self) -> None:
        """Give memory or file back."""
        self._values = None
        if self._file is not None:
            self._file.close()


def compute_features(runtime: Runtime, batches: Iterable[Batch], store: FeatureStore, num_views: int) -> np.ndarray:
    """Run the backbone over views of images and keep the pooled vectors.

    Args:
        runtime: The network.
        batches: Views of images, all `num_views` of an image after each other, with the images' indices in the split.
        store: Where the vectors go: view v of image i into row i x `num_views` + v.
        num_views: Views of each image.

    Returns:
        (N,) int64, indices of the images that could be read, in the order of the batches.
    """
    readable = [np.empty(0, np.int64)]
    for batch in batches:
        pooled = runtime.run(batch.images.numpy(), with_features=True).pooled
        assert pooled is not None
        views = np.arange(len(batch.indices)) % num_views
        store.write(batch.indices * num_views + views, pooled)
        readable.append(batch.indices[::num_views])
    return np.concatenate(readable)
