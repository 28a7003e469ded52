"""One training: its data, network and state, and what it saves."""

from __future__ import annotations

import csv
import io
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from resnetkit.data.dataset import Dataset
from resnetkit.data.scanning import DataReport
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.learners.learner import ImageSplits, Learner, Preparation
from resnetkit.learners.optimization import (
    Loss,
    build_optimizer,
    find_best,
    load_optimizer,
)
from resnetkit.learners.recipe import Recipe
from resnetkit.machine import ranks
from resnetkit.machine.files import atomic_path, write_text
from resnetkit.machine.progress import Progress
from resnetkit.parameters.training import TrainParameters
from resnetkit.probing.linear_probe import ProbePath
from resnetkit.results.pictures import tile_batch
from resnetkit.results.plots import encode_png
from resnetkit.training.run_folder import (
    RunFolderLock,
    publish_latest,
)
from resnetkit.training.state import (
    FREE_PARAMETERS,
    Row,
    TrainingState,
    check_averages,
    copy_to_cpu,
    write_state,
)
from resnetkit.weights.checkpoint import BEST_CHECKPOINT, write_checkpoint
from resnetkit.weights.metadata import ModelMetadata, write_preprocessing

CLASSES_FILE = "classes.txt"
HISTORY_FILE = "metrics.csv"
SAMPLES_NAME = "training_samples.png"
#: Seconds from writing what was trained to writing it again: a ResNet-18 and its averages are 180 MB.
SAVE_INTERVAL_S = 5.0

_PACKAGES = ("torch", "torchvision", "openvino", "numpy", "scikit-learn", "ikomia")


@dataclass
class Run:
    """What the loop works on.

    Attributes:
        folder: The run folder.
        splits: The images.
        learner: What is trained, and its inputs.
        state: What a resumed run goes on from.
        timings: Seconds by name, for the report.
        lock: Keeps other processes out of the run folder.
        has_ended: Whether there are no more epochs, but the conclusion.
    """

    parameters: TrainParameters
    recipe: Recipe
    progress: Progress
    folder: Path
    splits: ImageSplits
    data_report: DataReport
    preprocessing: Preprocessing
    learner: Learner
    loss: Loss
    state: TrainingState
    timings: dict[str, float] = field(default_factory=dict)
    lock: RunFolderLock | None = None
    has_ended: bool = False
    _unsaved_best: tuple[Row, Mapping[str, torch.Tensor]] | None = None
    _save_after: float = -math.inf
    _is_published: bool = False

    def __post_init__(self) -> None:
        self._num_saved = len(self.state.history)

    @property
    def dataset(self) -> Dataset:
        """The readable images."""
        return self.splits.dataset

    @property
    def last_accuracy(self) -> float | None:
        """Validation accuracy of the last finished epoch."""
        return self.state.history[-1]["val_accuracy"] if self.state.history else None

    def close(self) -> None:
        """Give readers, features and the run folder back."""
        self.learner.close()
        if self.lock is not None:
            self.lock.close()

    def describe(self, row: Row) -> ModelMetadata:
        """Return what the checkpoint of an epoch says about itself; nothing of it depends on time or place."""
        settings = {name: value for name, value in self.parameters.model_dump().items() if name not in FREE_PARAMETERS}
        names = ("epoch", "strength", "val_accuracy", "val_loss", self.state.figure)
        return ModelMetadata(
            model_name=self.parameters.model_name,
            classes=self.dataset.classes,
            preprocessing=self.preprocessing,
            small_input_stem=self.parameters.small_input_stem,
            metrics={name: row[name] for name in dict.fromkeys(names) if name in row},
            versions=get_versions(),
            training={**settings, "numerics": self.learner.numerics, "recipe": self.recipe.to_dict()},
        )

    @property
    def is_head_kept(self) -> bool:
        """Whether no epoch was better than the solved head before them."""
        best = self.state.best
        return best is not None and best.get("epoch") == 0

    def adopt(self, preparation: Preparation, seconds: float) -> None:
        """Go on with the recipe that the learner made of the first one; a solved head is taken up as epoch 0."""
        self.recipe, self.state.recipe = preparation.recipe, preparation.recipe.to_dict()
        if preparation.shown is not None:
            self.show_batch(preparation.shown)
        if preparation.head is None:
            return
        figures, weights = preparation.head
        row = {
            "epoch": 0,
            "train_loss": figures["train_loss"],
            "train_accuracy": None,
            "val_loss": figures["val_loss"],
            "val_accuracy": figures["val_accuracy"],
            "val_balanced_accuracy": figures["val_balanced_accuracy"],
            "learning_rate": 0.0,
            "seconds": seconds,
        }
        self._unsaved_best = row, weights
        self.state.weights = self.learner.module.state_dict()  # what the first epoch begins with
        self.state.history.append(row)
        self.save()

    def open_optimizer(self) -> torch.optim.Optimizer:
        """Build the optimizer, in the state of the last finished epoch.

        Not before the learner is prepared: the first optimizer of a process imports torch's compiler, for a second.
        """
        optimizer = build_optimizer(self.recipe, self.learner.module.parameters())
        if self.state.epoch:  # a solved head before the epochs leaves no averages
            check_averages(self.state, optimizer)
            load_optimizer(optimizer, self.state.optimizer)
        return optimizer

    def finish_epoch(self, row: Row, optimizer: torch.optim.Optimizer) -> None:
        """Take up what an epoch came to, and save it unless something was saved just before."""
        state, is_due = self.state, time.monotonic() >= self._save_after
        learner = self.learner
        content = learner.module.state_dict(), learner.get_average(), optimizer.state_dict()
        if not is_due:  # the next step changes them
            content = tuple(copy_to_cpu(part) for part in content)
        best = self._unsaved_best
        if find_best([*state.history, row], state.figure, state.num_choosing) is row:
            best = row, learner.get_state_dict()
        # All of it or, where memory was too small for a copy, nothing.
        self._unsaved_best, (state.weights, state.average, state.optimizer) = best, content
        state.history.append(row)
        if is_due:
            self.save()

    def finish_path(self, path: ProbePath, seconds: float) -> None:
        """Take up a solved head, and save it."""
        rows: list[Row] = [
            {
                "scaling": solution.scaling,
                "strength": solution.strength,
                "train_loss": solution.train_loss,
                "val_loss": solution.val_loss,
                "val_accuracy": solution.val_accuracy,
                "val_balanced_accuracy": solution.val_balanced_accuracy,
                "held_out_loss": solution.held_out_loss,
                "iterations": solution.num_iterations,
                "seconds": seconds / len(path.solutions),
                "is_chosen": solution is path.chosen,
            }
            for solution in path.solutions
        ]
        best = find_best(rows, self.state.figure)
        assert best is not None
        self.recipe = self.recipe.with_strength(path.reason)
        self.state.recipe = self.recipe.to_dict()
        self._unsaved_best = best, self.learner.get_state_dict()
        self.state.weights = self.learner.module.state_dict()
        self.state.history.extend(rows)
        self.save()

    def save(self) -> None:
        """Write what is not written yet of the finished epochs: best weights, history, and at last the state.

        A process that is killed in between trains the same epochs again. The first save makes `latest` point here.
        """
        if self._num_saved == len(self.state.history):
            return
        if not ranks.is_first():
            self._unsaved_best, self._num_saved = None, len(self.state.history)
            return
        if self._unsaved_best is not None:
            row, weights = self._unsaved_best
            write_checkpoint(self.folder / BEST_CHECKPOINT, weights, self.describe(row))
            self._unsaved_best = None
        if not self._is_published:
            write_text(self.folder / CLASSES_FILE, "".join(f"{name}\n" for name in self.dataset.classes))
            write_preprocessing(self.folder, self.preprocessing)
            publish_latest(self.folder)
            self._is_published = True
        self._write_history()
        write_state(self.folder, self.state)
        self._num_saved = len(self.state.history)
        self._save_after = time.monotonic() + SAVE_INTERVAL_S

    def show_batch(self, inputs: torch.Tensor) -> None:
        """Write a picture of images as the network sees them, (N, 3, S, S); a batch of cached features has none."""
        if inputs.ndim == 4 and ranks.is_first():
            with atomic_path(self.folder / SAMPLES_NAME) as temporary:
                temporary.write_bytes(encode_png(tile_batch(inputs, self.preprocessing), None))

    def _write_history(self) -> None:
        """Write the figures of all epochs as CSV."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(self.state.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.state.history)
        write_text(self.folder / HISTORY_FILE, buffer.getvalue())

    def describe_kept(self) -> str:
        """Say in words what a failed or stopped run leaves behind."""
        best = find_best(self.state.history[: self._num_saved], self.state.figure, self.state.num_choosing)
        kept = f"no epoch was saved; resume_from={self.folder} begins the first again"
        if best is not None and "strength" in best:
            kept = f"the solved head is kept; resume_from={self.folder} goes on to the report"
        elif best is not None and self.has_ended:
            kept = (
                f"the best weights (epoch {best['epoch']}, {describe_accuracy(best, self.state.figure)}) are kept; "
                f"resume_from={self.folder} goes on to the report"
            )
        elif best is not None:
            last = self.state.history[self._num_saved - 1]["epoch"]
            kept = (
                f"the best weights so far (epoch {best['epoch']}, {describe_accuracy(best, self.state.figure)}) are "
                f"kept; resume_from={self.folder} goes on after epoch {last}"
            )
        return kept


def describe_accuracy(figures: Mapping[str, Any], figure: str) -> str:
    """Say how accurate weights are on the validation images, by the figure that chose them as well."""
    balanced = f", balanced {figures[figure]:.4f}" if figure == "val_balanced_accuracy" else ""
    return f"validation accuracy {figures['val_accuracy']:.4f}{balanced}"


def get_versions() -> dict[str, str]:
    """Return the versions of the libraries that have an influence on the result."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
