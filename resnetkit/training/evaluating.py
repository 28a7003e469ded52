"""With `evaluate_only`: the weights file is evaluated on the data set, and nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetkit.answers.loader import Loader, describe
from resnetkit.evaluation.evaluation import Evaluation, evaluate, write_evaluation
from resnetkit.machine.progress import Progress
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.inference import InferParameters
from resnetkit.parameters.training import TrainParameters
from resnetkit.results.report import CONFUSION_NAME, CURVES_NAME, REPORT_NAME
from resnetkit.training.run_folder import create_run_folder, prepare_output_folder

logger = get_logger()


@dataclass(frozen=True)
class EvaluationResult:
    """Where everything is, and the figures.

    Attributes:
        folder: Holds report.html, metrics.json, predictions.csv and the charts.
        checkpoint: The weights file that was evaluated.
        evaluation: The figures.
    """

    folder: Path
    checkpoint: Path
    evaluation: Evaluation

    @property
    def metrics(self) -> Mapping[str, Any]:
        """All figures."""
        return self.evaluation.metrics

    def describe(self) -> dict[str, Any]:
        """Return where everything is, JSON-able."""
        return {
            "run_folder": str(self.folder),
            "checkpoint": str(self.checkpoint),
            "report": str(self.folder / REPORT_NAME),
        }

    @property
    def curves(self) -> Path:
        """Where training curves would be; there are none."""
        return self.folder / CURVES_NAME

    @property
    def confusion(self) -> Path:
        """Picture of the confusion matrix."""
        return self.folder / CONFUSION_NAME


def evaluate_weights(parameters: TrainParameters, source: Path, progress: Progress | None = None) -> EvaluationResult:
    """Evaluate `model_weight_file` on a folder or table of images: test where there is one, else val, else everything.

    Architecture, classes and preprocessing are the file's own; of the other parameters, `device`,
    `max_image_megapixels` and `output_folder` count. Without a file, ImageNet's weights of `model_name` are evaluated.
    The result stands beside run folders, and `latest` stays.

    Raises:
        ValueError: Parameters, data set or weights file are not usable; nothing was written.
        TrainingStopped: The caller asked for it.
        OSError: The output folder cannot be written to.
    """
    parameters.check_consistency()
    output_folder = prepare_output_folder(parameters.output_folder)
    loader = Loader()
    named = {name: getattr(parameters, name) for name in ("model_weight_file", "model_name", "device")}
    values = InferParameters().updated({**named, "settings_from": "weights_file"})
    model = loader.load(values, is_for_batches=True)
    about = describe(loader.weights, model)
    evaluation = evaluate(model, source, max_megapixels=parameters.max_image_megapixels, progress=progress)

    def write(folder: Path) -> None:
        write_evaluation(evaluation, model, about, folder)

    folder = create_run_folder(output_folder, f"evaluation_{about['model_name']}", write)
    logger.info("%s; %s", evaluation.summarize(), folder)
    return EvaluationResult(folder, loader.weights.file.path, evaluation)
