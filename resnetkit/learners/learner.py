"""What is trained: the whole network on images, or its head on cached features. The loop sees no difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from resnetkit.data.augmentation import Changes
from resnetkit.data.dataset import Dataset
from resnetkit.data.loading import ImageLoader, LoaderSettings
from resnetkit.data.views import IMAGE_BOUND_MB, ImageMemory, ViewMaker
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.learners.recipe import Recipe
from resnetkit.machine.progress import Progress
from resnetkit.machine.ranks import count_neighbours
from resnetkit.parameters.training import TrainParameters


@dataclass(frozen=True)
class Predictions:
    """What the network says about the readable images of a split.

    Attributes:
        indices: (N,) int64 positions in the split.
        labels: (N,) int64.
        logits: (N, classes) float32.
    """

    indices: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Preparation:
    """What was found out before the first epoch.

    Attributes:
        recipe: With what only the images could tell.
        head: A solved head as a candidate beside all epochs: its figures on the validation images, its training loss,
            and the weights of the whole network; None where none was solved.
        shown: (N, 3, S, S), what was read of some training images, as the network sees them; None where they are read
            anew in every epoch, and the first batch is shown.
    """

    recipe: Recipe
    head: tuple[Mapping[str, float], Mapping[str, torch.Tensor]] | None = None
    shown: torch.Tensor | None = None


class Learner(Protocol):
    """Inputs and network of one kind of training.

    Attributes:
        numerics: In words, where and how exactly it is computed.
    """

    numerics: str

    @property
    def module(self) -> nn.Module:
        """What the optimizer changes."""

    def prepare(self, folder: Path, progress: Progress, is_resumed: bool) -> Preparation:
        """Do what is done once before the first epoch.

        Args:
            folder: Takes temporary files.
            progress: Shows bars, and may stop.
            is_resumed: Whether weights and recipe come from an earlier run and are to stay.
        """

    def review(self, epoch: int, accuracy: float, progress: Progress) -> Recipe:
        """Return the recipe to go on with after so many epochs, and this accuracy on the validation images."""

    def count_batches(self) -> int:
        """Return the number of steps of an epoch."""

    def read_batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield inputs and targets of an epoch; targets are (N,) labels or (N, classes) shares."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (N, classes) logits, with gradients."""

    def finish_step(self, step: int, total_steps: int) -> None:
        """Look at the weights that the optimizer has changed in a step, counted from 0."""

    def get_average(self) -> Mapping[str, torch.Tensor]:
        """Return the moving average of the weights, as `module.state_dict()`; empty where there is none."""

    def restore(self, weights: Mapping[str, torch.Tensor], average: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `module.state_dict()` and `get_average()` were."""

    def predict(self, split: str, progress: Progress) -> Predictions:
        """Evaluate the network as it is now, where there is an average that, on `val` or `test`."""

    def load(self, model: nn.Module) -> None:
        """Take the weights of a whole network."""

    def get_state_dict(self) -> dict[str, torch.Tensor]:
        """Return a copy of the weights of the whole network."""

    def close(self) -> None:
        """Give files, threads and processes back."""


class ImageSplits:
    """The readers of the splits, opened when they are first needed.

    Attributes:
        dataset: The images; set anew once those that cannot be read are known.
        views: Whose augmentation the views of a training image have that are made first; None for the plain view.
    """

    def __init__(
        self, dataset: Dataset, preprocessing: Preprocessing, parameters: TrainParameters, recipe: Recipe
    ) -> None:
        self.dataset = dataset
        self.views: tuple[int | None, ...] = (0,)
        if parameters.feature_extract:
            self.views = (None, *range(recipe.num_views))
        elif recipe.starts_from_solved_head:
            self.views = (None, 0)
        self._preprocessing = preprocessing
        # Reading processes keep images of their own; for a head, each reads an image once and needs to keep none.
        has_processes = parameters.num_workers > 0
        bound_mb = IMAGE_BOUND_MB // count_neighbours()  # the memory is the machine's
        self._settings = LoaderSettings(
            changes=recipe.changes,
            seed=parameters.seed,
            num_workers=parameters.num_workers,
            memory_bound_mb=0 if has_processes and parameters.feature_extract else bound_mb,
            max_megapixels=parameters.max_image_megapixels,
            is_checked=True,
        )
        self._memory = None if has_processes else ImageMemory(bound_mb)
        self._loaders: dict[str, ImageLoader] = {}
        self._skipped: list[tuple[Path, str]] = []

    def change(self, changes: Changes) -> None:
        """Augment training images in another way from now on."""
        self._settings = replace(self._settings, changes=changes)
        self._close_loaders()

    def open(self, split: str) -> ImageLoader:
        """Return the reader of `train`, `val` or `test`."""
        if split not in self._loaders:
            self._loaders[split] = ImageLoader(
                getattr(self.dataset, split), self._preprocessing, self._settings, self._memory
            )
        return self._loaders[split]

    def keep(self, split: str, path: Path, image: np.ndarray) -> None:
        """Keep what training needs of an image, (H, W, 3) uint8, that was read to be checked; from any thread."""
        if self._memory is None or self._memory.is_full:
            return
        maker = ViewMaker((), self._preprocessing, self._settings, self._memory)
        # What does not fit into memory now is read again when it is needed, and then it is an error that says so.
        with suppress(MemoryError, RuntimeError):
            maker.keep(path.absolute(), image, self.views if split == "train" else (None,))

    def forget(self) -> None:
        """Forget the images kept, and keep none any more: what was made of them is kept instead."""
        if self._memory is not None:
            self._memory.close()

    def get_skipped(self) -> list[tuple[Path, str]]:
        """Return the images that became unreadable since they were checked, with the reason."""
        return [*self._skipped, *(skipped for loader in self._loaders.values() for skipped in loader.skipped)]

    def close(self) -> None:
        """Close all readers."""
        self._close_loaders()
        self.forget()

    def _close_loaders(self) -> None:
        while self._loaders:
            self._skipped += (loader := self._loaders.popitem()[1]).skipped
            loader.close()


def shuffle(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return the images of an epoch in an order that depends on nothing but seed and epoch."""
    return np.random.default_rng((seed, epoch)).permutation(indices)
