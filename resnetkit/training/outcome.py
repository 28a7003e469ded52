"""The end of a training: the best weights looked at once more, exported, and reported."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resnetkit.answers.model import Model
from resnetkit.answers.probabilities import softmax
from resnetkit.data.dataset import DatasetError, Samples
from resnetkit.evaluation.judging import Judgement, judge
from resnetkit.exports.export import (
    CHECKED_IF_SAME,
    ExportedFile,
    ExportError,
    export_int8,
    export_onnx,
    export_openvino,
    export_pth,
)
from resnetkit.learners.head import HeadLearner
from resnetkit.learners.label_check import LabelCheck, check_labels
from resnetkit.learners.learner import Predictions
from resnetkit.learners.optimization import choose_criterion
from resnetkit.machine.files import atomic_path, write_json
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.unused import find_unused
from resnetkit.results.calibration import fit_temperature
from resnetkit.results.metrics import compute_calibration, sum_calibration_gaps
from resnetkit.results.page_text import estimate_duration
from resnetkit.results.pictures import collect_samples
from resnetkit.results.report import CONFUSION_NAME, CURVES_NAME, REPORT_NAME, ReportData, SplitFigures, write_report
from resnetkit.runtimes.choice import open_runtime
from resnetkit.runtimes.network import NetworkSource, RuntimeOptions
from resnetkit.training.run import Run, get_versions
from resnetkit.training.run_folder import refresh_latest
from resnetkit.training.state import Row
from resnetkit.weights.checkpoint import BEST_CHECKPOINT, open_weights, write_checkpoint
from resnetkit.weights.metadata import ModelMetadata
from resnetkit.weights.models import load_model

logger = get_logger()

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.npz"
_BATCH_SIZE = 64


@dataclass(frozen=True)
class TrainingResult:
    """Where everything is, and the figures of the best weights.

    Attributes:
        folder: The run folder.
        checkpoint: The best weights, self-describing.
        classes: Class names in the order of the outputs.
        history: Figures of every epoch.
        best: Epoch, val_accuracy and val_loss of the best weights, as their file says it.
        metrics: Result of `compute_metrics` on the validation images.
        test_metrics: The same on the test images, where there are any.
        reason: In words, why training ended.
    """

    folder: Path
    checkpoint: Path
    classes: tuple[str, ...]
    history: Sequence[Row]
    best: Mapping[str, Any]
    metrics: Mapping[str, Any]
    test_metrics: Mapping[str, Any] | None
    reason: str

    def describe(self) -> dict[str, Any]:
        """Return where everything is and the main figures, JSON-able."""
        return {
            "run_folder": str(self.folder),
            "checkpoint": str(self.checkpoint),
            "report": str(self.report),
            "ended": self.reason,
            "epochs": sum(row.get("epoch", 0) != 0 for row in self.history),
            "best": dict(self.best),
            "test_accuracy": self.test_metrics["accuracy"] if self.test_metrics else None,
            "classes": list(self.classes),
        }

    @property
    def curves(self) -> Path:
        """Picture of the training curves."""
        return self.folder / CURVES_NAME

    @property
    def confusion(self) -> Path:
        """Picture of the confusion matrix on the validation images."""
        return self.folder / CONFUSION_NAME

    @property
    def report(self) -> Path:
        """The page with everything on it."""
        return self.folder / REPORT_NAME


def conclude(run: Run, reason: str, began: float) -> TrainingResult:
    """Evaluate the best weights on validation and test images, then write metrics, exports and report.

    Args:
        run: A training whose loop has ended.
        reason: In words, why.
        began: Reading of the monotonic clock when training began.
    """
    weights = open_weights(run.folder / BEST_CHECKPOINT)
    assert weights.metadata is not None
    state_dict = weights.read_state_dict()
    model = load_model(weights.metadata.model_name, state_dict, weights.metadata.small_input_stem)
    run.learner.load(model)
    started = time.monotonic()
    predictions = {split: run.learner.predict(split, run.progress) for split in _get_splits(run) if split != "train"}
    temperature = weights.metadata.temperature
    if temperature != 1:  # the run has ended before: its logits are divided already
        predictions = {split: replace(found, logits=found.logits * temperature) for split, found in predictions.items()}
    elif run.parameters.optimizer == "auto":
        temperature = _calibrate(model, predictions["val"])
    judgements = {split: _judge(run, split, found, temperature) for split, found in predictions.items()}
    val, test = judgements["val"], judgements.get("test")
    metadata = weights.metadata
    if not metadata.thresholds:
        thresholds = tuple(tuple(row) for row in val.curves["thresholds"])
        metadata = replace(metadata, temperature=temperature, thresholds=thresholds)
        write_checkpoint(run.folder / BEST_CHECKPOINT, model.state_dict(), metadata)
    run.timings["evaluation"] = time.monotonic() - started
    labels = _keep_answers(run, list(judgements.values()))
    result = TrainingResult(
        folder=run.folder,
        checkpoint=run.folder / BEST_CHECKPOINT,
        classes=run.dataset.classes,
        history=run.state.history,
        best=metadata.metrics,
        metrics=val.to_dict(),
        test_metrics=test.to_dict() if test else None,
        reason=reason,
    )
    started = time.monotonic()
    failure: ExportError | DatasetError | None = None
    exports: list[ExportedFile] = []
    try:
        exports = _export(run, model, metadata)
    except (ExportError, DatasetError) as error:  # figures and report of a finished training are not lost with it
        failure = error
    run.timings["exports"] = time.monotonic() - started
    run.timings["total"] = time.monotonic() - began
    _write_metrics(run, result, exports, labels)
    source = NetworkSource.from_metadata(metadata, model.state_dict)
    runtime = open_runtime(source, RuntimeOptions("torch", run.parameters.device), None)
    answering = Model(runtime, metadata.preprocessing, metadata.classes)
    _write_report(run, result, exports, [judgement.show(answering) for judgement in judgements.values()], labels)
    refresh_latest(run.folder)
    if failure is not None:
        raise failure
    return result


def summarize(run: Run) -> TrainingResult:
    """Return what a process knows at the end that is not the first one: the best epoch, and no figures of its own."""
    best = run.state.best or {}
    return TrainingResult(
        folder=run.folder,
        checkpoint=run.folder / BEST_CHECKPOINT,
        classes=run.dataset.classes,
        history=run.state.history,
        best=best,
        metrics={},
        test_metrics=None,
        reason="the first process concludes the training",
    )


def _calibrate(model: nn.Module, predictions: Predictions) -> float:
    """Fold the fitted temperature into the last layer, so that the file and every export carry it, and return it."""
    temperature = fit_temperature(predictions.logits, predictions.labels)
    with torch.no_grad():
        for value in model.get_submodule("fc").parameters():
            value.div_(temperature)
    return temperature


def _judge(run: Run, split: str, predictions: Predictions, temperature: float) -> Judgement:
    samples = getattr(run.dataset, split).select(predictions.indices)
    judgement = judge(split, run.dataset.classes, samples, softmax(predictions.logits / temperature))
    if run.parameters.optimizer != "auto":
        return judgement
    confidences = softmax(predictions.logits)
    is_right = confidences.argmax(axis=1) == predictions.labels
    before = sum_calibration_gaps(compute_calibration(confidences.max(axis=1), is_right))
    further = {"temperature": temperature, "expected_calibration_error_before": before}
    return replace(judgement, metrics={**judgement.metrics, **further})


def _keep_answers(run: Run, judgements: Sequence[Judgement]) -> LabelCheck:
    """Write what the model says about its images, and which labels that calls into question."""
    _write_predictions(run.folder, judgements)
    began, best = time.monotonic(), run.state.best
    choice = (best["scaling"], best["strength"]) if best is not None and run.recipe.is_solved else None
    labels = check_labels(run.learner, choice, judgements, run.progress)
    labels.write(run.folder)
    run.timings["cross-validation" if choice else "label check"] = time.monotonic() - began
    return labels


def _write_predictions(folder: Path, judgements: Iterable[Judgement]) -> None:
    """Write labels and probabilities of both splits, so that every figure can be computed again."""
    arrays: dict[str, Any] = {}
    for judgement in judgements:
        split = judgement.name
        arrays[f"{split}_paths"] = np.array(list(judgement.samples.paths.write()))
        arrays[f"{split}_labels"] = judgement.labels
        arrays[f"{split}_probabilities"] = judgement.probabilities.astype(np.float32)
    with atomic_path(folder / PREDICTIONS_FILE) as temporary:
        np.savez(temporary, **arrays)


def _write_report(
    run: Run,
    result: TrainingResult,
    exports: Sequence[ExportedFile],
    splits: Sequence[SplitFigures],
    labels: LabelCheck,
) -> None:
    skipped = run.splits.get_skipped()
    notes = [result.reason[0].upper() + result.reason[1:] + ".", *_suggest_whole_network(run)]
    if skipped:
        notes.append(f"{len(skipped)} images became unreadable while training ran and were left out.")
    data = ReportData(
        model_name=run.parameters.model_name,
        classes=result.classes,
        dataset_path=str(run.dataset.source),
        weights_path=result.checkpoint,
        counts={
            split: np.bincount(samples.labels, minlength=len(result.classes)).tolist()
            for split, samples in _get_splits(run).items()
        },
        history=result.history,
        best=result.best,
        splits=splits,
        doubts=labels.doubts.show(run.preprocessing.value_range),
        num_doubts=len(labels.doubts.doubtful),
        cross_validation=labels.figures,
        findings=run.data_report.to_dict(),
        samples=collect_samples(run.dataset.train, result.classes, run.preprocessing.value_range),
        reasons={**run.recipe.reasons, "best": _explain_choice(run)},
        parameters=run.parameters.model_dump(),
        unused=find_unused(run.parameters),
        versions=get_versions(),
        timings=run.timings,
        exports=exports,
        notes=notes,
        finished_at=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    write_report(run.folder, data)


def _suggest_whole_network(run: Run) -> list[str]:
    """Say, where the head alone was trained, what more there is and what it would take here."""
    seconds = run.learner.estimate_network_seconds() if isinstance(run.learner, HeadLearner) else None
    if seconds is None:
        return []
    text = (
        "Only the last layer was trained. Training the whole network (feature_extract=False) often learns more; "
        f"on this machine it would take about {estimate_duration(seconds)}."
    )
    logger.info("%s", text)
    return [text]


def _explain_choice(run: Run) -> str:
    """Say which figure chose the weights, and why that one."""
    criterion = choose_criterion(run.parameters.class_weights, run.dataset)
    reason = criterion.reason if criterion.figure == run.state.figure else "as when the run began"
    if run.state.figure == "val_balanced_accuracy":
        return f"the highest mean recall of the classes (balanced accuracy), then the lowest loss: {reason}"
    figure = "the lowest held-out log loss" if run.recipe.is_solved else "the highest accuracy, then the lowest loss"
    if run.state.num_choosing:
        figure = "the last epoch within a standard error of the highest accuracy"
    return f"{figure}: {reason}"


def _get_splits(run: Run) -> dict[str, Samples]:
    splits = {split: getattr(run.dataset, split) for split in ("train", "val", "test")}
    return {split: samples for split, samples in splits.items() if len(samples)}


def _export(run: Run, model: nn.Module, metadata: ModelMetadata) -> list[ExportedFile]:
    """Write the formats that the parameters ask for; a stop on request leaves those that are complete.

    Raises:
        ExportError: A file could not be written, or answers differently from PyTorch.
    """
    parameters, val = run.parameters, run.splits.open("val")
    exports = {
        "export_pth": export_pth,
        "export_onnx": export_onnx,
        "export_openvino": export_openvino,
    }
    wanted = [export for name, export in exports.items() if getattr(parameters, name)]
    written = []
    if wanted:
        # The images stand class after class: take some of every class.
        count = CHECKED_IF_SAME if wanted == [export_pth] else _BATCH_SIZE
        indices = np.unique(np.linspace(0, len(run.dataset.val) - 1, count).astype(int))
        try:
            batch = next(val.plain(_BATCH_SIZE, indices.tolist()))
        except (DatasetError, StopIteration) as error:
            raise ExportError("no export was written: the validation images can no longer be read") from error
        for export in wanted:
            run.progress.check()
            written.append(export(run.folder, model, metadata, batch.images))
    if parameters.export_pth and parameters.small_input_stem:
        logger.warning(
            "%s.pth has the small-image stem; plain torchvision cannot load it, infer_resnet can",
            parameters.model_name,
        )
    if parameters.export_int8:
        run.progress.check()
        written.append(export_int8(run.folder, model, metadata, _read_images(run), val.plain(_BATCH_SIZE)))
    return written


def _read_images(run: Run) -> Iterator[torch.Tensor]:
    """Yield training images, (3, S, S) uint8, in an order that mixes the classes."""
    order = torch.randperm(len(run.dataset.train), generator=torch.Generator().manual_seed(run.parameters.seed))
    for batch in run.splits.open("train").plain(_BATCH_SIZE, order.tolist()):
        yield from batch.images


def _write_metrics(run: Run, result: TrainingResult, exports: Sequence[ExportedFile], labels: LabelCheck) -> None:
    content = {
        "model_name": run.parameters.model_name,
        "classes": list(result.classes),
        "ended": result.reason,
        "best": dict(result.best),
        "validation": result.metrics,
        "test": result.test_metrics,
        "cross_validation": labels.figures,
        "doubtful_labels": len(labels.doubts.doubtful),
        "history": list(result.history),
        "exports": [export.to_dict() for export in exports],
        "images": {split: len(samples) for split, samples in _get_splits(run).items()},
        "unreadable_while_training": [[str(path), text] for path, text in run.splits.get_skipped()],
        "parameters": run.parameters.model_dump(),
        "numerics": run.learner.numerics,
        "versions": get_versions(),
        "timings": {name: round(seconds, 3) for name, seconds in run.timings.items()},
        "finished_at": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    write_json(run.folder / METRICS_FILE, content)
