"""Training: data set in, run folder out. `train` is the whole of it, read from top to bottom."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

from resnetkit.data.dataset import DatasetError
from resnetkit.learners.head import HeadLearner
from resnetkit.learners.optimization import compute_cycled_rate
from resnetkit.machine import ranks
from resnetkit.machine.files import OUT_OF_SPACE
from resnetkit.machine.forks import run_apart
from resnetkit.machine.imports import finish_importing
from resnetkit.machine.progress import Progress, TrainingStopped
from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import hide_password
from resnetkit.machine.threads import choose_thread_count, fix_thread_count, use_threads
from resnetkit.parameters.training import TrainParameters
from resnetkit.parameters.unused import describe_unused
from resnetkit.probing.feature_parts import remove_parts
from resnetkit.results.metrics import compute_mean_recall
from resnetkit.runtimes.devices import use_default_settings
from resnetkit.training.opening import complete, open_run
from resnetkit.training.outcome import TrainingResult, conclude, summarize
from resnetkit.training.run import Run
from resnetkit.training.state import Row
from resnetkit.training.tracking import Tracker, start_tracking
from resnetkit.weights.checkpoint import BEST_CHECKPOINT

logger = get_logger()

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number."""


def train(parameters: TrainParameters, source: Path | None, progress: Progress | None = None) -> TrainingResult:
    """Train a classifier on a folder or table of images.

    Args:
        parameters: All settings; of a run that is gone on with, those that were never given are its own.
        source: The data set, see `read_dataset`; None for that of the run which `resume_from` names.
        progress: How the caller stops training and hears about epochs.

    Returns:
        Where everything is, and the figures of the best weights.

    Raises:
        ValueError: Parameters, data set or weights file are not usable; nothing was written.
        TrainingStopped: The caller asked for it; the message says how to go on.
        TrainingDivergedError: The loss became NaN or infinite.
        DatasetError: The data set went away meanwhile; the message says how to go on.
        MemoryError: A batch does not fit; the message names the size to try.
        OSError: The run folder cannot be written to; what was saved stays valid.
        JointError: Several processes train together, and are not asked to do the same.
        LostProcessError: Another of them has ended; the message says how to go on.
    """
    with ranks.join():
        return run_apart(_train, parameters, source, progress or Progress())


def _train(parameters: TrainParameters, source: Path | None, progress: Progress) -> TrainingResult:
    parameters, source = complete(parameters, source)
    with use_default_settings(), use_threads(choose_thread_count()):
        return _train_and_conclude(parameters, source, progress)


def _train_and_conclude(parameters: TrainParameters, source: Path, progress: Progress) -> TrainingResult:
    began = time.monotonic()
    progress = _watch_others(progress)
    address = parameters.tracking
    if not ranks.is_first():  # the first process shows bars and keeps records
        progress, address = replace(progress, is_quiet=True), "off"
    parameters = parameters.updated({"tracking": hide_password(parameters.tracking)})
    fix_thread_count()
    run = open_run(parameters, source, progress)
    logger.info("run folder %s", run.folder)
    if ranks.is_first():
        for sentence in describe_unused(run.parameters):
            logger.warning("%s", sentence)
    with closing(run), _explain_failures(run), start_tracking(parameters, address, run.folder) as tracker:
        run.adopt(
            run.learner.prepare(run.folder, progress, is_resumed=bool(run.state.history)), time.monotonic() - began
        )
        run.timings["preparation"] = time.monotonic() - began
        if parameters.feature_extract:
            ranks.leave()  # a head is trained in less time than it would take to share it out
            if not ranks.is_first():
                return summarize(run)
        for row in run.state.history:
            tracker.log_epoch(row)
        if run.recipe.is_solved:
            reason = _solve(run, tracker)
        else:
            reason = _fit(run, tracker, deadline=began + 60 * parameters.time_limit_minutes)
        ranks.leave()
        if not ranks.is_first():
            return summarize(run)
        run.timings["training"] = sum(row["seconds"] for row in run.state.history)
        if run.is_head_kept:
            reason += "; the solved head before them was better on the validation images and is kept"
        finish_importing()
        run.has_ended = True
        with progress.is_current():
            result = conclude(run, reason, began)
        remove_parts(run.folder)
        tracker.log_result(result)
    logger.info("%s; %s", reason, result.checkpoint)
    return result


def _watch_others(progress: Progress) -> Progress:
    """Let every piece of work begin with a look at the other processes, as with one for a stop."""
    if ranks.get_size() == 1:
        return progress
    is_stop_requested = progress.is_stop_requested

    def look() -> bool:
        ranks.check_others()
        return is_stop_requested()

    return replace(progress, is_stop_requested=look)


def _solve(run: Run, tracker: Tracker) -> str:
    """Solve the head for every strength, keep the best; return in words which one that is."""
    if not run.state.history:
        assert isinstance(run.learner, HeadLearner)
        began = time.monotonic()
        path = run.learner.solve(run.progress)
        run.finish_path(path, time.monotonic() - began)
        for row in run.state.history:
            tracker.log_epoch(row)
        run.progress.on_epoch()
        logger.info("%s", path.reason)
    best = run.state.best
    assert best is not None
    fits = run.state.history
    strengths = {row["strength"] for row in fits}  # some of them twice: features are scaled in two ways
    return f"solved the head {len(fits)} times, for {len(strengths)} strengths, and kept {best['strength']:g}"


def _fit(run: Run, tracker: Tracker, deadline: float) -> str:
    """Train epoch after epoch, keep the best and the last state; return in words why training ended."""
    optimizer = run.open_optimizer()
    while (reason := ranks.share(_find_reason_to_end(run, deadline))) is None:
        try:
            row = _train_epoch(run, optimizer, run.state.epoch)
            recipe = run.learner.review(row["epoch"], row["val_accuracy"], run.progress)
        except BaseException:
            run.save()
            raise
        run.recipe, run.state.recipe = recipe, recipe.to_dict()
        run.finish_epoch(row, optimizer)
        tracker.log_epoch(row)
        run.progress.on_epoch()
    run.save()
    return reason


def _find_reason_to_end(run: Run, deadline: float) -> str | None:
    parameters, recipe, state = run.parameters, run.recipe, run.state
    patience = parameters.early_stopping_patience
    epochs = f"{state.epoch} epoch" if state.epoch == 1 else f"{state.epoch} epochs"
    if state.epoch >= recipe.epochs:
        return f"trained {epochs}"
    if patience and state.epochs_without_progress >= patience:
        figure = "balanced accuracy" if state.figure == "val_balanced_accuracy" else "validation accuracy"
        return f"stopped early after {epochs}, {patience} without a better {figure}"
    if state.epoch and parameters.time_limit_minutes and time.monotonic() >= deadline:
        return f"stopped after {epochs} by the limit of {parameters.time_limit_minutes:g} minutes"
    return None


def _train_epoch(run: Run, optimizer: torch.optim.Optimizer, epoch: int) -> Row:
    """Take every training image once, then look at the validation split; return the figures of the epoch."""
    began = time.monotonic()
    learner, recipe = run.learner, run.recipe
    num_batches = learner.count_batches()
    figures = _Figures()
    title, part = f"epoch {epoch + 1}/{recipe.epochs}", 1 / (recipe.epochs - epoch)
    with run.progress.show(title, num_batches, "batch", part) as bar:
        learner.module.train()
        for batch, (inputs, targets, share) in enumerate(take_batches(run, epoch)):
            step = epoch * num_batches + batch
            learning_rate = compute_cycled_rate(recipe, run.state.cycle_ends, step, num_batches)
            if step == 0:
                run.show_batch(inputs)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

            logits = learner.forward(inputs)  # (N, classes)
            loss = run.loss(logits, targets) * share.factor
            _check_finite(loss.item(), step, learning_rate, run)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            learner.finish_step(step, recipe.epochs * num_batches)

            figures.add(loss, logits, targets, share.images)
            bar.advance(loss=figures.loss, lr=learning_rate, val=run.last_accuracy)
        figures.sum_up()
        validation = _validate(run)
        _check_finite(validation["val_loss"], (epoch + 1) * num_batches - 1, learning_rate, run)
        bar.advance(0, loss=figures.loss, lr=learning_rate, val=validation["val_accuracy"])
    row = {
        "epoch": epoch + 1,
        "train_loss": figures.loss,
        "train_accuracy": figures.accuracy,
        **validation,
        "learning_rate": learning_rate,
        "seconds": time.monotonic() - began,
    }
    figures_text = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if value is not None)
    logger.info("%s", figures_text)
    return row


class Share(NamedTuple):
    """A process' part of a step.

    Attributes:
        factor: Of its mean loss, so that the mean over the processes is the mean over the images (or their weights).
        images: Images of the step, divided by the processes.
    """

    factor: float
    images: float


def take_batches(run: Run, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, Share]]:
    """Yield inputs and targets of an epoch's steps; several processes take each step together, or none of it.

    Raises:
        TrainingStopped: The user asked for it, in whichever process.
    """
    batches = run.learner.read_batches(epoch)
    size = ranks.get_size()
    if size == 1:
        for inputs, targets in run.progress.watch(batches):
            yield inputs, targets, Share(1.0, len(targets))
        return
    while True:
        batch = next(batches, None)
        facts = (0.0, 0.0, 0.0) if batch is None else (1.0, run.loss.count(batch[1]), float(len(batch[1])))
        present, total, count, stop = ranks.add(*facts, run.progress.is_stop_requested())
        if stop:
            raise TrainingStopped("stopped on request")
        if batch is None or present < size:  # the end; or images of one have become unreadable meanwhile
            return
        own = facts[1]
        yield *batch, Share(own * size / total, count / size)


class _Figures:
    """Running mean of loss and accuracy over the images of an epoch; mixed targets have no accuracy."""

    def __init__(self) -> None:
        self._loss = 0.0
        self._right: int | None = 0
        self._count: float = 0

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, count: float) -> None:
        self._loss += loss.item() * count
        if targets.ndim == 2:
            self._right = None
        if self._right is not None:
            self._right += int((logits.argmax(1) == targets).sum())
        self._count += count

    def sum_up(self) -> None:
        """Take in what the other processes have."""
        if ranks.get_size() > 1:
            self._loss, right, self._count = ranks.add(self._loss, self._right or 0, self._count)
            self._right = None if self._right is None else round(right)

    @property
    def loss(self) -> float:
        return self._loss / self._count

    @property
    def accuracy(self) -> float | None:
        return None if self._right is None else self._right / self._count


def _validate(run: Run) -> Row:
    """Return the mean cross-entropy and the accuracies on the validation split, as the network is now."""
    predictions = run.learner.predict("val", run.progress)
    logits = torch.from_numpy(predictions.logits)
    loss = F.cross_entropy(logits.double(), torch.from_numpy(predictions.labels)).item()
    answers = predictions.logits.argmax(1)
    return {
        "val_loss": loss,
        "val_accuracy": float(np.mean(answers == predictions.labels)),
        "val_balanced_accuracy": compute_mean_recall(predictions.labels, answers),
    }


def _check_finite(loss: float, step: int, learning_rate: float, run: Run) -> None:
    if math.isfinite(loss):
        return
    raise TrainingDivergedError(
        f"the loss became {loss} at step {step + 1} with a learning rate of {learning_rate:.3g}; "
        f"expected a finite number. Try learning_rate={run.recipe.learning_rate / 10:g}"
        f"{'' if run.parameters.precision == 'fp32' else ' or precision=fp32'}"
    )


@contextmanager
def _explain_failures(run: Run) -> Iterator[None]:
    """Say what was kept when training does not come to its end, and what to do when memory or disk are full."""
    try:
        with ranks.explain_losses():
            yield
    except TrainingStopped as error:
        where = f" in epoch {run.state.epoch + 1} of {run.recipe.epochs}"
        if run.has_ended or run.recipe.is_solved:
            where = " after training, before its report" if run.has_ended else ""
        raise TrainingStopped(
            f"stopped on request{where}; {run.describe_kept()}",
            run.folder / BEST_CHECKPOINT if run.state.history else None,
            run.folder,
        ) from error
    except (TrainingDivergedError, DatasetError, ranks.LostProcessError) as error:
        raise type(error)(f"{error}; {run.describe_kept()}") from error
    except Exception as error:
        explained = _explain_memory(error, run) or _explain_disk(error, run)
        if explained is None:
            raise
        raise explained from error


def _explain_memory(error: Exception, run: Run) -> MemoryError | None:
    text = str(error).lower()
    if not isinstance(error, MemoryError) and not any(sign in text for sign in _OUT_OF_MEMORY):
        return None
    size, batch_size = run.parameters.input_size, run.recipe.batch_size
    advice = f"batch_size={batch_size // 2}" if batch_size > 1 else "a smaller 'input_size' or 'model_name'"
    return MemoryError(
        f"not enough memory for batches of {batch_size} images of {size}x{size}; try {advice}; {run.describe_kept()}"
    )


def _explain_disk(error: Exception, run: Run) -> OSError | None:
    number = getattr(error, "errno", None)
    match = re.search(r"os error (\d+)", str(error))  # safetensors tells it in words only
    if match:
        number = int(match[1])
    if number not in OUT_OF_SPACE:
        return None
    return OSError(
        number,
        f"no space left to write into '{run.folder}' ({os.strerror(number)}); free some; {run.describe_kept()}",
    )
