"""`resnetkit evaluate`: from a model and labelled images to figures, predictions and a report."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path

from resnetkit.commands.options import CommandParser, read_parameters
from resnetkit.commands.program import Answer
from resnetkit.machine.files import check_place, resolve_path
from resnetkit.machine.imports import pause_garbage_collection
from resnetkit.machine.progress import Progress
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.inference import InferParameters

logger = get_logger()

SUMMARY = "Evaluate a model on labelled images; prints where the report, the figures and the predictions are."
USAGE = "MODEL DATASET"

#: The word for ImageNet's weights in the place of a file.
IMAGENET = "imagenet"
#: What says nothing about the figures: they are of the most probable class, whole images and all probabilities.
_WITHOUT_EFFECT = (
    *("top_k", "confidence_threshold", "wanted_accuracy"),
    *("heatmap", "embedding", "smoothing", "box_margin"),
)


def add_arguments(parser: CommandParser) -> None:
    """Add model, data set and an option per parameter that has an influence."""
    parser.add_argument(
        "model_weight_file",
        metavar="MODEL",
        help=f"Run folder or weights file (.safetensors, .pth, .onnx, .xml), or {IMAGENET}.",
    )
    text = "Folder of class folders, a CSV/TSV file (path,label[,split]), or shards (.tar, .parquet)."
    parser.add_argument("dataset", metavar="DATASET", help=text)
    group = parser.add_argument_group("Evaluation")
    group.add_argument(
        "--split",
        default="auto",
        metavar="NAME",
        help="Which part of the data set: train, val, test, all, or auto: test where there is one, else val, else all.",
    )
    group.add_argument(
        "--output",
        default="",
        metavar="PATH",
        help="Folder for report, figures and predictions; by default evaluations/<date>-<time>_<model>.",
    )
    group.add_argument(
        "--predictions",
        default="csv",
        metavar="NAME",
        help="Format of the table of predictions: csv, or parquet, which needs pyarrow.",
    )
    elsewhere = {"model_weight_file": "MODEL", **dict.fromkeys(_WITHOUT_EFFECT, "")}
    parser.add_parameters(InferParameters, elsewhere)


def run(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Evaluate.

    Raises:
        ValueError: Parameters, model or data set are not usable, or have no class in common; nothing was written.
        TrainingStopped: The user asked for it; nothing was written.
        OSError: The output folder cannot be written to.
    """
    if arguments.model_weight_file == IMAGENET:
        arguments.model_weight_file = ""
    elif not arguments.model_weight_file:
        raise ParameterError(f"no model; expected a path of a weights file or run folder, or {IMAGENET}, got ''")
    parameters = read_parameters(arguments, InferParameters)
    folder = _choose_folder(arguments.output, parameters)
    check_place(folder)
    with pause_garbage_collection():
        from resnetkit.answers.loader import Loader, describe
        from resnetkit.evaluation.evaluation import evaluate, write_evaluation
        from resnetkit.evaluation.predictions import name_predictions
    predictions = name_predictions(folder, arguments.predictions)
    loader = Loader()
    model = loader.load(parameters, is_for_batches=True)
    evaluation = evaluate(model, resolve_path(arguments.dataset), arguments.split, progress=progress)
    about = describe(loader.weights, model)
    report = write_evaluation(evaluation, model, about, folder, arguments.predictions)
    logger.info("%s", evaluation.summarize())
    paths = {"evaluation_folder": folder, "report": report, "predictions": predictions}
    figures = {
        name: evaluation.metrics[name]
        for name in ("num_images", "accuracy", "accuracy_interval", "balanced_accuracy", "macro_auc", "log_loss")
    }
    return Answer(
        [f"{name}: {path}" for name, path in paths.items()],
        {**{name: str(path) for name, path in paths.items()}, "split": evaluation.images.split, **figures},
    )


def _choose_folder(output: str, parameters: InferParameters) -> Path:
    """Return the folder to write into: a new one, or an empty one, or one that holds an evaluation to replace.

    Raises:
        ParameterError: It holds something else, perhaps of value to its owner.
    """
    if not output:
        path = resolve_path(parameters.model_weight_file)
        name = (path.name if path.is_dir() else path.stem) if parameters.model_weight_file else parameters.model_name
        return resolve_path("evaluations") / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}_{name}"
    folder = resolve_path(output)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())) or _holds_evaluation(folder):
        return folder
    raise ParameterError(f"'--output' must be a new or empty folder, or one of an earlier evaluation, got '{folder}'")


def _holds_evaluation(folder: Path) -> bool:
    try:
        return "evaluation" in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
