"""`resnetkit classify`: from images to a table of answers."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from resnetkit.commands.options import CommandParser, read_parameters
from resnetkit.commands.program import FAILURE, SUCCESS, Answer
from resnetkit.machine.files import resolve_path
from resnetkit.machine.imports import pause_garbage_collection
from resnetkit.machine.progress import Progress
from resnetkit.parameters.declaration import ParameterError, suggest
from resnetkit.parameters.inference import InferParameters

if TYPE_CHECKING:
    from resnetkit.folders.classification import Summary
    from resnetkit.jobs.job import JobSummary

SUMMARY = "Classify images into a table, a row a file; a table that is there already is gone on with."
USAGE = "MODEL PATH..."

#: Parameters that are no options of commands which classify files.
ELSEWHERE = {"model_weight_file": "MODEL", "box_margin": "", "smoothing": ""}
MODEL_HELP = "Run folder of train_resnet or weights file; 'imagenet' for torchvision's weights, see --model-name."
IMAGENET = "imagenet"


def add_arguments(parser: CommandParser) -> None:
    """Add model, paths, what is written, and an option per parameter."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="Images, folders, patterns, .txt or .csv lists of paths, .tar or .parquet shards, addresses such as "
        "s3://bucket/photos; - reads a list from standard input.",
    )
    group = parser.add_argument_group("Output")
    group.add_argument(
        "--output",
        metavar="PATH",
        default="answers.csv",
        help="Table: .csv, .jsonl or .parquet; default answers.csv. With a / at the end, a folder of Parquet parts.",
    )
    group.add_argument("--part-size", metavar="N", help="Images of a part, where a folder is written; default 1000.")
    group.add_argument(
        "--engine",
        metavar="NAME",
        default="local",
        help="What classifies into a folder: local is this process, ray the workers of Ray Data; default local.",
    )
    group.add_argument(
        "--workers", metavar="N", help="Workers of Ray; 0, the default, is one a GPU, or else one a core."
    )
    group.add_argument("--probabilities", action="store_true", help="A column per class.")
    group.add_argument("--annotate", metavar="FOLDER", help="Draw each image with its answer into this folder.")
    parser.add_parameters(InferParameters, ELSEWHERE)


def run(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Classify.

    Raises:
        ValueError: Parameters, weights, paths or the table are not usable.
        Stopped: The user asked for it; the rows so far are written, and the same command goes on.
    """
    values = read_model(arguments)
    if arguments.output.endswith(("/", os.sep)):
        return _classify_into_parts(values, arguments, progress)
    for option, given in {
        f"--engine {arguments.engine}": arguments.engine != "local",
        "--part-size": arguments.part_size is not None,
        "--workers": arguments.workers is not None,
    }.items():
        if given:
            raise ParameterError(
                f"'{option}' is for a folder of parts; expected --output FOLDER/, got '{arguments.output}'"
            )
    with pause_garbage_collection():
        from resnetkit.folders.classification import TableOptions, classify_into_table
        from resnetkit.folders.classifier import Classifier
    pictures = resolve_path(arguments.annotate) if arguments.annotate else None
    options = TableOptions(arguments.probabilities, pictures)
    output = Path(arguments.output).expanduser()
    summary = classify_into_table(Classifier(values), arguments.paths, output, options, progress)
    return _answer(summary, summary.num_rows + summary.num_there)


def _classify_into_parts(values: InferParameters, arguments: argparse.Namespace, progress: Progress) -> Answer:
    with pause_garbage_collection():
        from resnetkit.folders.classifier import Classifier
        from resnetkit.jobs.job import ENGINES, JobOptions, classify_into_parts
    if arguments.annotate:
        raise ParameterError("'--annotate' draws while a table is written; expected no folder as --output")
    if arguments.engine not in ENGINES:
        raise ParameterError(
            f"'--engine' must be one of {', '.join(ENGINES)}, got '{arguments.engine}'"
            + suggest(arguments.engine, ENGINES)
        )
    if arguments.workers is not None and arguments.engine != "ray":
        raise ParameterError(f"'--workers' are those of Ray; expected --engine ray, got '{arguments.engine}'")
    options = JobOptions(
        engine=arguments.engine,
        workers=_read_count("--workers", arguments.workers or "0", 0),
        part_size=_read_count("--part-size", arguments.part_size or "1000", 1),
        has_probabilities=arguments.probabilities,
    )
    output = Path(arguments.output).expanduser()
    summary = classify_into_parts(Classifier(values), arguments.paths, output, options, progress)
    return _answer(summary, summary.num_files)


def _answer(summary: Summary | JobSummary, num_files: int) -> Answer:
    """Say what came of it; where no file at all could be read, that is a failure."""
    status = FAILURE if 0 < num_files == summary.num_errors else SUCCESS
    return Answer([str(summary)], {**vars(summary), "output": str(summary.output)}, status)


def _read_count(option: str, text: str, lowest: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < lowest:
        raise ParameterError(f"'{option}' must be an integer of at least {lowest}, got '{text}'")
    return int(text)


def read_model(arguments: argparse.Namespace) -> InferParameters:
    """Return the parameters of a command whose first argument is a model.

    Raises:
        ParameterError: A value is wrong.
    """
    values = read_parameters(arguments, InferParameters)
    is_file = arguments.model != IMAGENET or Path(IMAGENET).exists()
    return values.updated({"model_weight_file": arguments.model}) if is_file else values
