"""The labels of a training's own images, looked at by models that did not see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnetkit.answers.probabilities import softmax
from resnetkit.data.dataset import Samples, join_samples
from resnetkit.evaluation.judging import Judgement
from resnetkit.evaluation.labels import LabelDoubts, doubt_labels
from resnetkit.evaluation.predictions import write_predictions
from resnetkit.learners.head import HeadLearner
from resnetkit.learners.learner import Learner
from resnetkit.machine.progress import Progress
from resnetkit.machine.speaking import get_logger
from resnetkit.probing.cross_validation import CrossValidation
from resnetkit.probing.logistic_regression import Scaling
from resnetkit.results.calibration import find_temperature

logger = get_logger()

CROSS_VALIDATION_NAME = "cross_validation.csv"


@dataclass(frozen=True)
class LabelCheck:
    """Labels that may be wrong, and figures of the cross-validation, where there was one."""

    doubts: LabelDoubts
    figures: Mapping[str, Any] | None = None

    def write(self, folder: Path) -> None:
        """Write the doubtful labels and, where there was a cross-validation, its answers for all images."""
        self.doubts.write(folder)
        if self.figures is not None:
            classes, samples = self.doubts.classes, self.doubts.samples
            files = [(sample.path.absolute(), classes[sample.label]) for sample in samples]
            write_predictions(folder / CROSS_VALIDATION_NAME, classes, files, self.doubts.probabilities)


def check_labels(
    learner: Learner, choice: tuple[Scaling, float] | None, judgements: Sequence[Judgement], progress: Progress
) -> LabelCheck:
    """Find labels that may be wrong.

    A solved head is cross-validated over all images of all splits, which costs no pass of the backbone. Otherwise only
    validation and test images are looked at: the model saw the training images.

    Args:
        learner: What was trained.
        choice: Scaling and strength of a solved head; None where epochs were trained.
        judgements: Of validation and test images.
        progress: Shows a bar, and stops within a second.
    """
    classes = judgements[0].classes
    if choice is not None and isinstance(learner, HeadLearner):
        answers = learner.cross_validate(choice, progress)
        if answers is not None and (answers[1].folds >= 0).any():
            return _describe(classes, *answers)
    samples = join_samples([judgement.samples for judgement in judgements])
    probabilities = np.concatenate([judgement.probabilities for judgement in judgements])
    return LabelCheck(doubt_labels(classes, samples, probabilities))


def _describe(classes: Sequence[str], samples: Samples, found: CrossValidation) -> LabelCheck:
    rows = np.flatnonzero(found.folds >= 0)
    logits, labels = found.logits[rows], found.labels[rows]
    probabilities = softmax(logits / find_temperature(logits, labels))
    doubts = doubt_labels(classes, samples.select(rows), probabilities)
    figures = found.summarize()
    logger.info(
        "cross-validation in %d folds over all %d images: accuracy %.4f, deviation %.4f",
        len(found.accuracies),
        len(rows),
        figures["accuracy"],
        figures["spread"],
    )
    return LabelCheck(doubts, figures)
