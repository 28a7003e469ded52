"""One training: its data, network and state, opened from nothing or from an earlier run folder."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from resnetkit.data.dataset import Dataset, read_dataset
from resnetkit.data.identity import hash_dataset, measure_files
from resnetkit.data.scanning import DataReport, check_images
from resnetkit.data.splitting import SPLIT_RULE
from resnetkit.images.pixels import ValueRange
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.images.ranges import parse_value_range
from resnetkit.learners.brightness import find_value_range
from resnetkit.learners.finetuning import NetworkLearner
from resnetkit.learners.head import HeadLearner
from resnetkit.learners.initialization import Start, initialize
from resnetkit.learners.learner import ImageSplits, Learner, Preparation
from resnetkit.learners.optimization import (
    Loss,
    build_optimizer,
    choose_numerics,
    compute_class_weights,
    load_optimizer,
)
from resnetkit.learners.recipe import Recipe, choose_recipe
from resnetkit.learners.sharing import check_folder_is_seen, check_processes
from resnetkit.machine import ranks
from resnetkit.machine.files import atomic_path, resolve_path, write_text
from resnetkit.machine.progress import Progress
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters
from resnetkit.probing.linear_probe import ProbePath
from resnetkit.results.pictures import tile_batch
from resnetkit.results.plots import encode_png
from resnetkit.training.run_folder import (
    RunFolderLock,
    create_named_run_folder,
    create_run_folder,
    prepare_output_folder,
    publish_latest,
    remove_temporary_files,
)
from resnetkit.training.state import (
    FREE_PARAMETERS,
    STATE_FILE,
    Circumstances,
    Row,
    TrainingState,
    check_averages,
    check_circumstances,
    check_resumable,
    check_weights,
    copy_to_cpu,
    find_best,
    read_recipe,
    read_state,
    write_state,
)
from resnetkit.weights.checkpoint import BEST_CHECKPOINT, open_weights, write_checkpoint
from resnetkit.weights.metadata import ModelMetadata, find_preprocessing, write_preprocessing

CLASSES_FILE = "classes.txt"
HISTORY_FILE = "metrics.csv"
SAMPLES_NAME = "training_samples.png"
DATA_REPORT_FILE = "data_report.json"
#: Seconds from writing what was trained to writing it again; an epoch of a head may take a hundredth of one.
SAVE_INTERVAL_S = 1.0

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
        return ModelMetadata(
            model_name=self.parameters.model_name,
            classes=self.dataset.classes,
            preprocessing=self.preprocessing,
            small_input_stem=self.parameters.small_input_stem,
            metrics={name: row[name] for name in ("epoch", "strength", "val_accuracy", "val_loss") if name in row},
            versions=get_versions(),
            training={**settings, "numerics": self.learner.numerics, "recipe": self.recipe.to_dict()},
        )

    @property
    def is_head_kept(self) -> bool:
        """Whether no epoch was better than the solved head before them."""
        best = find_best(self.state.history)
        return best is not None and best.get("epoch") == 0

    def adopt(self, preparation: Preparation, seconds: float) -> None:
        """Go on with the recipe that the learner made of the first one; a solved head is taken up as epoch 0."""
        self.recipe, self.state.recipe = preparation.recipe, preparation.recipe.to_dict()
        if preparation.head is None:
            return
        figures, weights = preparation.head
        row = {
            "epoch": 0,
            "train_loss": figures["train_loss"],
            "train_accuracy": None,
            "val_loss": figures["val_loss"],
            "val_accuracy": figures["val_accuracy"],
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
        """Take up what an epoch came to, and save it unless something was saved within the last second."""
        state, is_due = self.state, time.monotonic() >= self._save_after
        weights, optimizer_state = self.learner.module.state_dict(), optimizer.state_dict()
        if not is_due:  # the next step changes them
            weights, optimizer_state = copy_to_cpu(weights), copy_to_cpu(optimizer_state)
        best = self._unsaved_best
        if find_best([*state.history, row]) is row:
            best = row, self.learner.get_state_dict()
        # All of it or, where memory was too small for a copy, nothing.
        self._unsaved_best, state.weights, state.optimizer = best, weights, optimizer_state
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
                "held_out_loss": solution.held_out_loss,
                "iterations": solution.num_iterations,
                "seconds": seconds / len(path.solutions),
                "is_chosen": solution is path.chosen,
            }
            for solution in path.solutions
        ]
        best = find_best(rows)
        assert best is not None
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
        """Write a picture of the first batch, (N, 3, S, S) as the network sees it; cached features have none."""
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
        best = find_best(self.state.history[: self._num_saved])
        kept = f"no epoch was saved; resume_from={self.folder} begins the first again"
        if best is not None and "strength" in best:
            kept = f"the solved head is kept; resume_from={self.folder} goes on to the report"
        elif best is not None:
            last = self.state.history[self._num_saved - 1]["epoch"]
            kept = (
                f"the best weights so far (epoch {best['epoch']}, validation accuracy {best['val_accuracy']:.4f}) are "
                f"kept; resume_from={self.folder} goes on after epoch {last}"
            )
        return kept


def open_run(parameters: TrainParameters, source: Path, progress: Progress) -> Run:
    """Check everything that can be wrong, then make the run folder, or take up the one to resume; it is locked.

    Raises:
        ValueError: Parameters, data set or weights file are not usable; nothing was written.
        OSError: The output folder cannot be written to.
    """
    parameters.check_consistency()
    if parameters.evaluate_only:
        raise ParameterError("'evaluate_only' trains nothing; expected False, got True; `resnetkit evaluate` evaluates")
    if parameters.run_folder and ranks.share((resolve_path(parameters.run_folder) / STATE_FILE).is_file()):
        parameters = parameters.updated({"resume_from": parameters.run_folder})
    lock = None
    if (
        ranks.is_first()
        and parameters.resume_from
        and (folder := resolve_path(parameters.resume_from).resolve()).is_dir()
    ):
        lock = RunFolderLock(folder)
    try:
        run = _open_run(parameters, source, progress)
        run.lock = lock or (RunFolderLock(run.folder) if ranks.is_first() else None)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    return run


def _open_run(parameters: TrainParameters, source: Path, progress: Progress) -> Run:
    earlier_folder = resolve_path(parameters.resume_from).resolve() if parameters.resume_from else None
    split_rule = SPLIT_RULE
    if earlier_folder is None:
        output_folder = _prepare_output(parameters)
    else:
        check_folder_is_seen(earlier_folder / STATE_FILE)
        earlier, output_folder = read_state(earlier_folder), earlier_folder.parent
        check_resumable(earlier, parameters)
        split_rule = earlier.split_rule
    dataset = read_dataset(source, parameters.val_split, parameters.seed, split_rule, output_folder)
    progress.check()  # before weights are downloaded
    start = initialize(parameters, dataset.classes)
    kept = _find_preprocessing(earlier_folder, earlier) if earlier_folder is not None else None
    value_range = kept.value_range if kept else _find_value_range(start, parameters, dataset, progress)
    start = replace(start, preprocessing=replace(start.preprocessing, value_range=value_range))
    recipe = choose_recipe(parameters, len(dataset.train))
    check_processes(parameters, dataset, start, recipe)
    if earlier_folder is not None:
        # More epochs are allowed where nothing else depends on their number, see `check_resumable`.
        recipe = replace(read_recipe(earlier, recipe), epochs=recipe.epochs)
    splits = ImageSplits(dataset, start.preprocessing, parameters, recipe)
    began = time.monotonic()
    dataset, report = check_images(
        dataset, parameters.max_image_megapixels, progress, splits.keep, start.preprocessing.value_range
    )
    timings = {"checking": time.monotonic() - began}
    dataset, sizes = measure_files(dataset)
    splits.dataset = dataset
    learner = _open_learner(parameters, recipe, start, splits)
    content = hash_dataset(dataset, sizes)
    ranks.check_agreement(**{"data set": content})
    numerics, threads = ranks.share((learner.numerics, torch.get_num_threads()))
    state = TrainingState(
        parameters.model_dump(),
        Circumstances(content, start.content_hash, numerics, threads, ranks.get_size()),
        dataset.classes,
        weights=learner.module.state_dict(),
        recipe=recipe.to_dict(),
        split_rule=split_rule,
    )
    if earlier_folder is None:
        folder = _create_folder(parameters, output_folder, state)
    else:
        folder = earlier_folder
        state = _take_up(earlier_folder, earlier, state, learner)
    if ranks.is_first():
        write_text(folder / DATA_REPORT_FILE, json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
    loss = Loss(recipe.label_smoothing, _weigh_classes(parameters, dataset))
    return Run(parameters, recipe, progress, folder, splits, report, start.preprocessing, learner, loss, state, timings)


def _take_up(folder: Path, earlier: TrainingState, now: TrainingState, learner: Learner) -> TrainingState:
    """Go on from an earlier state, under the parameters of now.

    Raises:
        ValueError: Something that the result depends on has changed.
    """
    check_circumstances(earlier, now.circumstances)
    if ranks.is_first():
        remove_temporary_files(folder)
    state = replace(earlier, parameters=now.parameters)
    check_weights(state, learner.module)
    learner.module.load_state_dict(dict(state.weights))
    return state


def _prepare_output(parameters: TrainParameters) -> Path:
    """Return what a new run's files lie in, and is no part of the data set; the first process proves that it can write.

    Raises:
        OutputError: It cannot.
    """
    if parameters.run_folder:
        return resolve_path(parameters.run_folder)
    return prepare_output_folder(parameters.output_folder)


def _create_folder(parameters: TrainParameters, output_folder: Path, state: TrainingState) -> Path:
    """Make the run folder: the first process does, and all have to see it.

    Raises:
        OutputError: It cannot be made.
        JointError: A process does not see it.
    """
    folder = None
    if ranks.is_first() and parameters.run_folder:
        folder = create_named_run_folder(output_folder, lambda folder: write_state(folder, state))
    elif ranks.is_first():
        folder = create_run_folder(output_folder, parameters.model_name, lambda folder: write_state(folder, state))
    folder = ranks.share(folder)
    assert folder is not None
    check_folder_is_seen(folder / STATE_FILE)
    return folder


def _find_preprocessing(folder: Path, state: TrainingState) -> Preprocessing | None:
    """Return the preprocessing of a run that goes on; None where it saved nothing yet, and is to find the same again.

    Runs from before there were brightness ranges have guessed it from each image, and go on to.
    """
    kept = find_preprocessing(folder / BEST_CHECKPOINT)
    if kept is None and "value_range" not in state.parameters:
        weights = open_weights(folder / BEST_CHECKPOINT) if (folder / BEST_CHECKPOINT).is_file() else None
        kept = weights.preprocessing if weights is not None else None
    return kept


def _find_value_range(
    start: Start, parameters: TrainParameters, dataset: Dataset, progress: Progress
) -> ValueRange | None:
    """Return the declared brightness range, or that of the data set; where it needs none, the weights' own."""
    found = parse_value_range(parameters.value_range)
    if found is None:
        found = find_value_range(dataset, parameters.max_image_megapixels, progress)
    return start.preprocessing.value_range if found is None else found


def get_versions() -> dict[str, str]:
    """Return the versions of the libraries that have an influence on the result."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _open_learner(parameters: TrainParameters, recipe: Recipe, start: Start, splits: ImageSplits) -> Learner:
    if parameters.feature_extract:
        return HeadLearner(start, splits, parameters, recipe)
    numerics = choose_numerics(parameters.device, parameters.precision)
    return NetworkLearner(start, splits, parameters, recipe, numerics)


def _weigh_classes(parameters: TrainParameters, dataset: Dataset) -> torch.Tensor | None:
    labels = np.array([sample.label for sample in dataset.train])
    return compute_class_weights(parameters.class_weights, labels, len(dataset.classes))
