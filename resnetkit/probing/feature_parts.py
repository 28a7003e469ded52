"""Features that must not be lost with a process: parts in the run folder, shared out among the processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from resnetkit.data.loading import Batch
from resnetkit.machine import ranks
from resnetkit.machine.files import atomic_path
from resnetkit.probing.features import FeatureStore
from resnetkit.runtimes.network import Runtime

#: Batches of a part: with 32 views a batch, 2,048 views, which a core computes in a minute or two.
_BATCHES = 64
_FOLDER = "features"


class FeatureParts:
    """The features of a split in files, one for some thousand images; those that are there are not computed again.

    They belong to the run folder, whose data set, weights and settings are the same when it is gone on with. Another
    number of cores or processes may divide the images in another way: a part is called by the images it is for.

    Args:
        folder: The run folder.
        split: train, val or test.
        num_images: Images of the split.
        batch_size: Images that the backbone sees at a time: batches are those of a process alone.
        num_views: Views of each image.

    Attributes:
        are_kept: Whether there are parts: what a process alone computes in a minute or two is not worth a file.
    """

    def __init__(self, folder: Path, split: str, num_images: int, batch_size: int, num_views: int) -> None:
        self._folder = folder / _FOLDER
        size = _BATCHES * batch_size
        self._parts = [np.arange(start, min(num_images, start + size)) for start in range(0, num_images, size)]
        self._split = split
        self._batch_size, self._num_views = batch_size, num_views
        self.are_kept = len(self._parts) > 1 or ranks.get_size() > 1

    def list_missing(self) -> list[np.ndarray]:
        """Return the images, (N,) int64, of each part that is this process' share and not there yet."""
        if not self.are_kept:
            return self._parts
        self._folder.mkdir(exist_ok=True)
        own = range(ranks.get_rank(), len(self._parts), ranks.get_size())
        return [self._parts[number] for number in own if not self._name(number).exists()]

    def count_batches(self, parts: Iterable[np.ndarray]) -> int:
        """Return in how many batches the backbone sees the images of some parts."""
        return sum(-(-len(part) // self._batch_size) for part in parts)

    def compute(self, runtime: Runtime, images: np.ndarray, batches: Iterable[Batch]) -> None:
        """Compute a part.

        Args:
            runtime: The network.
            images: The part, one of `list_missing`.
            batches: All views of these images.

        Raises:
            OSError: The disk is full.
        """
        indices, pooled = [np.empty(0, np.int64)], []
        for batch in batches:
            found = runtime.run(batch.images.numpy(), with_features=True).pooled
            assert found is not None
            indices.append(batch.indices[:: self._num_views])
            pooled.append(found)
        number = next(number for number, part in enumerate(self._parts) if part[0] == images[0])
        with atomic_path(self._name(number)) as temporary:
            rows = np.concatenate(pooled) if pooled else np.empty((0, 0), np.float32)
            np.savez(temporary, indices=np.concatenate(indices), pooled=rows)

    def load(self, store: FeatureStore) -> np.ndarray:
        """Put all parts into a store, view v of image i into row i x views + v.

        Returns:
            (N,) int64, indices of the images that could be read.
        """
        readable = [np.empty(0, np.int64)]
        for number in range(len(self._parts)):
            with np.load(self._name(number), allow_pickle=False) as part:
                indices, pooled = part["indices"], part["pooled"]
            rows = (indices[:, None] * self._num_views + np.arange(self._num_views)).ravel()
            store.write(rows, pooled)
            readable.append(indices)
        return np.concatenate(readable)

    def _name(self, number: int) -> Path:
        images = self._parts[number]
        return self._folder / f"{self._split}-{images[0]:08}-{images[-1]:08}.npz"


def remove_parts(folder: Path) -> None:
    """Remove the features of a run that has ended."""
    shutil.rmtree(folder / _FOLDER, ignore_errors=True)
