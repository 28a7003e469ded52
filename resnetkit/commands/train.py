"""`resnetkit train`: from a data set to a run folder."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from resnetkit.commands.options import CommandParser, read_parameters
from resnetkit.commands.program import Answer, write_command
from resnetkit.machine import ranks
from resnetkit.machine.files import resolve_path
from resnetkit.machine.imports import pause_garbage_collection
from resnetkit.machine.progress import Progress, TrainingStopped
from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import hide_password
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters

if TYPE_CHECKING:
    from resnetkit.training.outcome import TrainingResult

logger = get_logger()

SUMMARY = "Train a classifier; prints where the run folder, the best weights and the report are."
USAGE = "[DATASET]"


def add_arguments(parser: CommandParser) -> None:
    """Add the data set and an option per parameter."""
    text = "Folder of class folders, a CSV/TSV file (path,label[,split]), or shards (.tar, .parquet)."
    text += " Not needed with --resume-from, where it is the run's own."
    parser.add_argument("dataset_folder", metavar="DATASET", nargs="?", default="", help=text)
    parser.add_parameters(TrainParameters, {"dataset_folder": "DATASET", "evaluate_only": ""})


def run(arguments: argparse.Namespace, progress: Progress) -> Answer | None:
    """Train; of several processes that torchrun started, the first one answers.

    Raises:
        ValueError: Parameters, data set or weights file are not usable; nothing was written.
        TrainingStopped: The user asked for it; the message ends with the command to go on.
        OSError: The run folder cannot be written to; and whatever else `train` may raise.
    """
    parameters = read_parameters(arguments, TrainParameters)
    if not parameters.dataset_folder and not parameters.resume_from:
        raise ParameterError("no data set; expected a path of a folder or of a CSV/TSV file as DATASET, got ''")
    with pause_garbage_collection():
        from resnetkit.training.loop import train
    with ranks.join():
        if not ranks.is_first():
            logger.setLevel(logging.ERROR)  # the first process speaks for all
        result = _train(train, parameters, arguments, progress)
        return _answer(result) if ranks.is_first() else None


def _train(
    train: Callable[..., TrainingResult], parameters: TrainParameters, arguments: argparse.Namespace, progress: Progress
) -> TrainingResult:
    try:
        source = resolve_path(parameters.dataset_folder) if parameters.dataset_folder else None
        return train(parameters, source, progress)
    except TrainingStopped as stopped:
        if stopped.run_folder is None:
            raise
        if parameters.run_folder:
            raise TrainingStopped(
                f"{stopped}; or start the same command again", stopped.checkpoint, stopped.run_folder
            ) from stopped
        words = [hide_password(word) for word in arguments.words if not word.startswith("--resume-from=")]
        command = write_command("train", [f"--resume-from={stopped.run_folder}", *words])
        raise TrainingStopped(f"{stopped}; to go on:\n{command}", stopped.checkpoint, stopped.run_folder) from stopped


def _answer(result: TrainingResult) -> Answer:
    described = result.describe()
    best, test_accuracy = described["best"], described["test_accuracy"]
    logger.info(
        "best %s: validation accuracy %.4f%s%s",
        f"epoch {best['epoch']}" if "epoch" in best else f"strength {best['strength']:g}",
        best["val_accuracy"],
        f", balanced {best['val_balanced_accuracy']:.4f}" if "val_balanced_accuracy" in best else "",
        "" if test_accuracy is None else f", test accuracy {test_accuracy:.4f}",
    )
    return Answer([f"{name}: {described[name]}" for name in ("run_folder", "checkpoint", "report")], described)
