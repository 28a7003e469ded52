"""Batches of images from files, in the order asked for: plain views, or the augmented views of an epoch.

Which image is in which batch, and every pixel of it, follows from the arguments alone: threads, processes, memory
and what was read before have no influence.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from resnetkit.data.dataset import DatasetError, Samples
from resnetkit.data.scanning import MAX_WARNINGS
from resnetkit.data.views import ImageMemory, LoaderSettings
from resnetkit.data.workers import ProcessTeam, ThreadTeam, open_team
from resnetkit.decoding.storage import find_archive
from resnetkit.images.pixels import ImageError
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.machine.speaking import get_logger

__all__ = ["Batch", "ImageLoader", "LoaderSettings"]

logger = get_logger()


@dataclass(frozen=True)
class Batch:
    """Views of images, with the images' positions in the list of samples.

    Attributes:
        indices: (N,) int64.
        images: (N, 3, S, S) uint8 RGB, before normalization.
        labels: (N,) int64.
    """

    indices: np.ndarray
    images: torch.Tensor
    labels: torch.Tensor


class ImageLoader:
    """Reads the images of one split; nothing is started before the first batch is asked for.

    Args:
        samples: The files and their labels.
        preprocessing: What plain views go through.
        settings: How files are read, augmented and kept.
        memory: What is kept of the files, shared with others; None for a memory of its own, as processes have anyway.

    Attributes:
        skipped: Path of and reason for each image that could not be read; it is left out of all batches.

    Where `settings` say that the files were checked, a `DatasetError` ends the reading once the data set is no longer
    what it was: the folder of an image is gone, or half of the images, or more than one of them and more than a tenth.
    """

    def __init__(
        self,
        samples: Samples,
        preprocessing: Preprocessing,
        settings: LoaderSettings,
        memory: ImageMemory | None = None,
    ) -> None:
        self.skipped: list[tuple[Path, str]] = []
        self._samples = samples
        self._preprocessing = preprocessing
        self._settings = settings
        self._memory = memory
        self._skipped_indices: set[int] = set()
        self._team: ThreadTeam | ProcessTeam | None = None

    def plain(self, batch_size: int, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[Batch]:
        """Yield images as at validation and inference.

        Args:
            batch_size: Images a batch; fewer where some cannot be read, and in the last.
            indices: Which samples, in which order; None for all.
        """
        return self._read(batch_size, np.arange(len(self._samples)) if indices is None else indices, (None,))

    def augmented(self, batch_size: int, epoch: int, indices: Sequence[int] | np.ndarray) -> Iterator[Batch]:
        """Yield images as augmented for an epoch; with the augmentation none they are plain.

        Args:
            batch_size: Images a batch; fewer where some cannot be read, and in the last.
            epoch: Number of the epoch, from 0.
            indices: Which samples, in which order.
        """
        return self._read(batch_size, indices, (epoch,))

    def views(
        self, batch_size: int, epochs: Sequence[int | None], indices: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Yield several views of every image, each file read once; a batch has all views of its images.

        Args:
            batch_size: Images a batch; it has `len(epochs)` times as many views, one image's after the other's.
            epochs: Whose augmentation, for each view; None for the plain one.
            indices: Which samples, in which order; None for all.
        """
        return self._read(batch_size, np.arange(len(self._samples)) if indices is None else indices, epochs)

    def close(self) -> None:
        """End threads and processes; a later batch starts them anew."""
        if self._team is not None:
            self._team.close()
            self._team = None

    def _read(
        self, batch_size: int, indices: Sequence[int] | np.ndarray, epochs: Sequence[int | None]
    ) -> Iterator[Batch]:
        team = self._team = self._team or self._open_team()
        order = np.asarray(indices, np.int64)
        ahead = batch_size + max(batch_size, 4 * team.size)
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            for start in range(0, len(order), batch_size):
                submitted = start + len(waiting)
                for index in order[submitted : start + ahead].tolist():
                    waiting.append(team.submit(index, epochs))
                received = [
                    (index, views)
                    for index in order[start : start + batch_size].tolist()
                    if (views := self._receive(index, waiting.popleft())) is not None
                ]
                if received:
                    yield self._collate(received)
        finally:
            for future in waiting:
                future.cancel()

    def _receive(self, index: int, future: Future[np.ndarray]) -> np.ndarray | None:
        """Wait for the views of an image; None, and a note in `skipped`, where the file cannot be read.

        Raises:
            DatasetError: It is one too many.
        """
        try:
            return future.result()
        except ImageError as error:
            if index not in self._skipped_indices:
                self._skipped_indices.add(index)
                self.skipped.append((self._samples.paths[index], str(error)))
                if len(self.skipped) <= MAX_WARNINGS:
                    logger.warning("left out %s", error)
            if self._settings.is_checked:
                self._check_is_there(self._samples.paths[index], error)
            return None

    def _check_is_there(self, path: Path, error: ImageError) -> None:
        count, total = len(self.skipped), len(self._samples)
        place = find_archive(path) or path.parent
        if not os.path.exists(place):  # noqa: PTH110 - False where the drive gives an error, too
            raise DatasetError(f"the folder '{place}' is no longer there: is its drive connected?") from error
        if 2 * count >= total or (count > 1 and 10 * count > total):
            raise DatasetError(
                f"{count} of {total} images can no longer be read, the last one in '{path.parent}' ({error}); "
                "is its drive connected?"
            ) from error

    def _collate(self, received: Sequence[tuple[int, np.ndarray]]) -> Batch:
        indices = np.repeat([index for index, _ in received], len(received[0][1]))
        images = torch.from_numpy(np.concatenate([views for _, views in received]))
        return Batch(indices, images, torch.from_numpy(self._samples.labels[indices].astype(np.int64)))

    def _open_team(self) -> ThreadTeam | ProcessTeam:
        """Start threads or processes; each process gets its share of the memory."""
        share = self._settings.memory_bound_mb // max(1, self._settings.num_workers)
        settings = replace(self._settings, memory_bound_mb=share)
        paths = self._samples.paths.absolute()
        return open_team(settings.num_workers, (paths, self._preprocessing, settings), self._memory)
