"""Evaluation: a model and labelled images in, figures out, and a folder with all of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetkit.answers.model import AnswerOptions, Prediction
from resnetkit.evaluation.images import LabelledImages, describe_mismatch, find_labelled_images
from resnetkit.evaluation.judging import Judgement, judge
from resnetkit.evaluation.labels import doubt_labels
from resnetkit.evaluation.predictions import PREDICTIONS_FORMATS, name_predictions, write_predictions
from resnetkit.machine.files import atomic_folder, write_json
from resnetkit.machine.imports import finish_importing, require_installed, start_importing
from resnetkit.machine.progress import Progress
from resnetkit.machine.speaking import get_logger
from resnetkit.results.pictures import collect_samples
from resnetkit.results.report import MISTAKES_NAME, REPORT_NAME, ReportData, write_report
from resnetkit.sources.mirror import make_local
from resnetkit.sources.names import DatasetError

if TYPE_CHECKING:
    from resnetkit.answers.model import Model

logger = get_logger()

METRICS_NAME = "metrics.json"

#: Imported in another thread while images are classified.
_NEEDED_LATER = ("sklearn.metrics", "matplotlib.figure", "matplotlib.backends.backend_agg", "jinja2")

_LISTS = ("mean", "std")


@dataclass(frozen=True)
class Evaluation:
    """How a model does on labelled images.

    Attributes:
        images: The data set's side of it: what was evaluated, and which classes only one side knows.
        judgement: The images that could be read, of classes that the model knows: answers and figures.
        others: Images of classes that the model does not know, each with the name of its class.
        other_probabilities: (len(others), num_classes): what the model says about them all the same.
        unreadable: Path and reason of each image that was left out.
        seconds: How long it took.
    """

    images: LabelledImages
    judgement: Judgement
    others: Sequence[tuple[Path, str]]
    other_probabilities: np.ndarray
    unreadable: Sequence[tuple[Path, str]]
    seconds: float

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Result of `compute_metrics`."""
        return self.judgement.metrics

    @property
    def notes(self) -> list[str]:
        """What a reader must know, in sentences."""
        notes = describe_mismatch(self.images)
        if self.unreadable:
            count = len(self.unreadable)
            notes.append(f"{count:,} {'image' if count == 1 else 'images'} could not be read; metrics.json lists them.")
        return notes

    def summarize(self) -> str:
        """Return the headline in one line."""
        metrics = self.metrics
        low, high = metrics["accuracy_interval"]
        return (
            f"accuracy {metrics['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}) on {metrics['num_images']:,} "
            f"images of '{self.images.source}' ({self.images.split})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        return {
            "dataset": str(self.images.source),
            "split": self.images.split,
            "classes": list(self.judgement.classes),
            "unknown_classes": {name: len(paths) for name, paths in self.images.unknown.items()},
            "classes_without_images": list(self.images.missing),
            "unreadable": [[str(path), reason] for path, reason in self.unreadable],
            "evaluation": self.judgement.to_dict(),
        }


def evaluate(
    model: Model, source: Path, split: str = "auto", max_megapixels: float = 500, progress: Progress | None = None
) -> Evaluation:
    """Classify the images of a data set and compare the answers with its labels.

    Args:
        model: Anything that infer_resnet runs, see `resnetkit.answers.loader`.
        source: What training takes, see `find_labelled_images`.
        split: Which part of a data set that has parts: auto (test, else val, else everything), train, val, test, all.
        max_megapixels: Larger images count as unreadable.
        progress: Shows a bar, and may stop between two images.

    Raises:
        DatasetError: Nothing to evaluate, no class in common, or no image that can be read.
        NotInstalledError: What figures and report are made with is missing.
        TrainingStopped: The caller asked for it.
    """
    require_installed([name.partition(".")[0] for name in _NEEDED_LATER], "evaluate")
    began = time.monotonic()
    progress = progress or Progress()
    images = find_labelled_images(make_local(source, progress), model.classes, split)
    for sentence in describe_mismatch(images):
        logger.warning("%s", sentence)
    others = [(path, name) for name, paths in images.unknown.items() for path in paths]
    paths = [*images.samples.paths, *(path for path, _ in others)]
    unreadable: list[tuple[Path, str]] = []
    probabilities: dict[int, np.ndarray] = {}
    start_importing(_NEEDED_LATER)
    answers = model.predict_files(paths, AnswerOptions(top_k=1), max_megapixels)
    with progress.show("evaluating", len(paths), "image", share=0.9) as bar:
        for index, (path, answer) in enumerate(progress.watch(answers, bar)):
            if isinstance(answer, Prediction):
                probabilities[index] = answer.probabilities
            else:
                logger.warning("left out %s", answer)
                unreadable.append((path, str(answer)))
    finish_importing()
    num_known = len(images.samples)
    known = [index for index in probabilities if index < num_known]
    if not known:
        raise DatasetError(f"no image of '{source}' can be read, of those whose class the model knows")
    read_others = [index for index in probabilities if index >= num_known]
    return Evaluation(
        images,
        judge(
            "evaluation",
            model.classes,
            images.samples.select(known),
            np.stack([probabilities[index] for index in known]),
        ),
        [others[index - num_known] for index in read_others],
        _stack((probabilities[index] for index in read_others), len(model.classes)),
        unreadable,
        time.monotonic() - began,
    )


def write_evaluation(
    evaluation: Evaluation, model: Model, about: Mapping[str, Any], folder: Path, table_format: str = "csv"
) -> Path:
    """Write report.html, metrics.json, predictions.csv, doubtful_labels.csv and all charts as PNG and PDF.

    Args:
        evaluation: What to write.
        model: The one that was evaluated; it draws the heat maps.
        about: What is loaded, from `resnetkit.answers.loader.describe`.
        folder: Where to; it is made. Files of an earlier evaluation are replaced, once all are written.
        table_format: Of the predictions, see `PREDICTIONS_FORMATS`.

    Returns:
        Path of the report.

    Raises:
        TableError: There is no such format, or it needs what is not installed; nothing was written.
        OSError: The folder cannot be written to, and is as it was.
    """
    name_predictions(folder, table_format)  # before work begins
    judgement = evaluation.judgement
    finished_at = datetime.now().astimezone().isoformat(timespec="seconds")
    known = {name: value for name, value in about.items() if name != "classes"}
    doubts = doubt_labels(judgement.classes, judgement.samples, judgement.probabilities)
    counts = np.bincount(judgement.labels, minlength=len(judgement.classes)).tolist()
    data = ReportData(
        model_name=about["model_name"],
        classes=judgement.classes,
        dataset_path=str(evaluation.images.source),
        weights_path=Path(about["weights"]),
        counts={"evaluation": counts},
        splits=[judgement.show(model)],
        doubts=doubts.show(model.preprocessing.value_range),
        num_doubts=len(doubts.doubtful),
        samples=collect_samples(judgement.samples, judgement.classes, model.preprocessing.value_range),
        parameters=_select_parameters(known),
        versions=about.get("versions", {}),
        timings={"evaluation": evaluation.seconds},
        notes=evaluation.notes,
        finished_at=finished_at,
    )
    content = {**evaluation.to_dict(), "model": known, "seconds": round(evaluation.seconds, 3)}
    files = [(sample.path.absolute(), judgement.classes[sample.label]) for sample in judgement.samples]
    others = [(path.absolute(), name) for path, name in evaluation.others]
    probabilities = np.concatenate([judgement.probabilities, evaluation.other_probabilities])
    with atomic_folder(folder) as hidden:
        write_json(hidden / METRICS_NAME, {**content, "finished_at": finished_at})
        predictions = name_predictions(hidden, table_format)
        write_predictions(predictions, judgement.classes, [*files, *others], probabilities)
        doubts.write(hidden)
        write_report(hidden, data)
        written = {path.name for path in hidden.iterdir()}
    for name in {MISTAKES_NAME, *(f"predictions.{other}" for other in PREDICTIONS_FORMATS)} - written:
        (folder / name).unlink(missing_ok=True)
    return folder / REPORT_NAME


def _select_parameters(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of a model: what is no table of its own."""
    return {name: value for name, value in about.items() if not isinstance(value, (Mapping, list)) or name in _LISTS}


def _stack(rows: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    stacked = list(rows)
    return np.stack(stacked) if stacked else np.zeros((0, num_classes), np.float32)
