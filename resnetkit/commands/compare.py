"""`resnetkit compare`: runs side by side, with a test of whether they differ."""

from __future__ import annotations

import argparse

from resnetkit.commands.options import CommandParser
from resnetkit.commands.program import Answer
from resnetkit.machine.files import resolve_path
from resnetkit.machine.progress import Progress

SUMMARY = (
    "Compare run folders of trainings and evaluations: accuracy with its interval, McNemar's test on the images they "
    "share, parameters that differ."
)
USAGE = "RUN RUN ..."


def add_arguments(parser: CommandParser) -> None:
    """Add the folders."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Run folder of a training, or folder of an evaluation.")


def run(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Compare.

    Raises:
        ComparisonError: Fewer than two folders, or one without metrics.json and predictions.
        TrainingStopped: The user asked for it.
    """
    from resnetkit.evaluation.comparison import compare

    progress.check()
    comparison = compare([resolve_path(folder) for folder in arguments.runs])
    return Answer(comparison.format().split("\n"), comparison.to_dict())
