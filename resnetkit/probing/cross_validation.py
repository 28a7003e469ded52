"""Answers for every image by heads that did not see it: cross-validation at the strength that was chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from resnetkit.machine.progress import Progress
from resnetkit.probing.folds import deal_into_folds
from resnetkit.probing.linear_probe import Labelled, ProbeOptions, predict_logits
from resnetkit.probing.logistic_regression import Coordinates, LogisticRegression, Targets


@dataclass(frozen=True)
class CrossValidation:
    """What heads say about images that they were not fitted to.

    Attributes:
        labels: (N,) int64.
        logits: (N, K) float32; zero where no head was without the image.
        folds: (N,) int64, from 0: which fold held the image out; -1 for none, since its class is nowhere else.
    """

    labels: np.ndarray = field(repr=False)
    logits: np.ndarray = field(repr=False)
    folds: np.ndarray = field(repr=False)

    @property
    def accuracies(self) -> list[float]:
        """The share of right answers in each fold that has images."""
        is_right = self.logits.argmax(axis=1) == self.labels
        return [float(is_right[self.folds == fold].mean()) for fold in np.unique(self.folds) if fold >= 0]

    def summarize(self) -> dict[str, float | list[float]]:
        """Return accuracy, its standard deviation over the folds, and the accuracy of each, as JSON values."""
        accuracies = self.accuracies
        spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
        return {"accuracy": float(np.mean(accuracies)), "spread": spread, "fold_accuracies": accuracies}


def cross_validate(
    images: Labelled,
    groups: np.ndarray,
    num_classes: int,
    options: ProbeOptions,
    progress: Progress,
) -> CrossValidation:
    """Solve the head once without each fold, and let it answer for that fold.

    Args:
        images: One row for each image; every class has one at least.
        groups: (N,) integers: images of a group are held out together.
        num_classes: K.
        options: The first scaling and strength, class weights, smoothing, limits and the number of folds are used.
        progress: Shows a bar, and stops within a second.
    """
    options = options.fit_size(len(images.features), images.features.shape[1], num_classes)
    folds = deal_into_folds(images.labels, groups, options.num_folds)
    targets = Targets(images.labels, options.weigh(images.labels), num_classes, options.label_smoothing)
    logits = np.zeros((len(folds), num_classes), np.float32)
    held_out = [fold for fold in np.unique(folds) if fold >= 0]
    with progress.show("cross-validation", len(held_out), unit="fold") as bar:
        coordinates = Coordinates(images.features, options.scalings[0], progress.check)
        for fold in held_out:
            head = LogisticRegression(coordinates, np.flatnonzero(folds != fold), targets, progress.check)
            head.solve(options.strengths[0], options.tolerance, options.max_iterations)
            rows = np.flatnonzero(folds == fold)
            logits[rows] = predict_logits(images.features[rows], *head.unfold(), progress.check)
            bar.advance()
    return CrossValidation(images.labels, logits, folds)
