"""The last layer solved to its optimum: a path of strengths, and the choice of one on images not fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from resnetkit.machine.progress import Progress
from resnetkit.probing.folds import deal_into_folds
from resnetkit.probing.logistic_regression import Coordinates, LogisticRegression, Scaling, Targets, slice_rows
from resnetkit.results.calibration import compute_log_loss, find_temperature
from resnetkit.results.metrics import compute_mean_recall

#: Half decades, from weak weights to strong ones.
STRENGTHS = tuple(float(f"{10**exponent:.3g}") for exponent in np.arange(-5, 2, 0.5))

#: With fewer validation images, cross-validation inside the training images has a say as well: of 10 to 50 images the
#: choice costs a point or two of accuracy, of 40 and more next to nothing (measured on twelve data sets).
MIN_VALIDATION_IMAGES = 64

#: Share of the held-out loss that a stronger fit, or the next scaling, has to gain to be worth it.
_MIN_GAIN = 1e-3
#: Validation logits that a choice looks at (64 MiB).
_MAX_VALIDATION_LOGITS = 1 << 24
#: With more multiplications in a pass over the rows (a tenth of a second or so), the path is taken in larger steps.
_MAX_PASS_PRODUCTS = 1 << 32


class Labelled(NamedTuple):
    """Features (N, D) float32, possibly a memmap, and labels (N,) integers."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class ProbeOptions:
    """What is solved, and how exactly.

    Attributes:
        strengths: Ascending, scikit-learn's C for scaled features, see `LogisticRegression`.
        scalings: Those that are tried.
        class_weights: (num_classes,) factors of the cross entropies, scikit-learn's `class_weight`; or None.
        label_smoothing: Share of the target that is spread evenly over all classes, from 0 to below 1.
        tolerance: Of the gradient, see `LogisticRegression.solve`.
        max_iterations: Bound for each strength.
        patience: A path ends after this many strengths that lower the held-out loss neither with nor without
            temperature.
        num_folds: Of the cross-validation.
        num_views: Rows of each training image, the plain one first, augmented ones next; together they count as one.
        is_balanced: Whether the mean recall of the classes chooses, before the held-out loss.
    """

    strengths: tuple[float, ...] = STRENGTHS
    scalings: tuple[Scaling, ...] = ("all", "each")
    class_weights: np.ndarray | None = None
    label_smoothing: float = 0.0
    tolerance: float = 3e-3
    max_iterations: int = 200
    patience: int = 3
    num_folds: int = 5
    num_views: int = 1
    is_balanced: bool = False

    def weigh(self, labels: np.ndarray) -> np.ndarray:
        """Return the factor of each image's cross entropy, (N,): the weight of its class, or 1."""
        return np.ones(len(labels)) if self.class_weights is None else np.asarray(self.class_weights)[labels]

    def fit_size(self, num_rows: int, feature_size: int, num_classes: int) -> ProbeOptions:
        """Return options that spend fewer passes where a pass over the rows takes long; otherwise themselves."""
        if num_rows * feature_size * num_classes <= _MAX_PASS_PRODUCTS:
            return self
        return replace(
            self,
            strengths=self.strengths[::2],
            scalings=self.scalings[:1],
            tolerance=max(self.tolerance, 1e-2),
            max_iterations=min(self.max_iterations, 30),
            patience=1,
        )


@dataclass(frozen=True)
class Solution:
    """The optimum for one strength.

    Attributes:
        weight: (K, D) float32 for the features as they came: the scaling is folded in.
        bias: (K,) float32, likewise.
        train_loss: Mean cross entropy of the training images, with class weights and label smoothing.
        val_loss: Mean log loss of the validation images; None without any, as are their accuracies.
        held_out_loss: What the choice is made by, see `solve_path`; NaN where no image could be held out.
        held_out_recall: Mean recall of the classes of the same images; likewise.
    """

    scaling: Scaling
    strength: float
    weight: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    val_balanced_accuracy: float | None
    held_out_loss: float
    held_out_recall: float
    num_iterations: int


@dataclass(frozen=True)
class ProbePath:
    """All solutions in the order of solving, the chosen one, and why in a sentence.

    `held_out_logits` (M, K) and `held_out_labels` (M,) are those that decided, for a temperature: of the validation
    images and, with cross-validation, of training images by heads that did not see them.
    """

    solutions: tuple[Solution, ...]
    chosen: Solution
    reason: str
    held_out_logits: np.ndarray = field(repr=False)
    held_out_labels: np.ndarray = field(repr=False)


def solve_path(
    train: Labelled,
    val: Labelled,
    num_classes: int,
    options: ProbeOptions | None = None,
    progress: Progress | None = None,
) -> ProbePath:
    """Solve the last layer for every strength and scaling, and choose one on images that it was not fitted to.

    The choice falls on the lowest held-out log loss *after* the best temperature. The plain log loss punishes
    confidence, which one number repairs later, and prefers heads that separate the classes less; the accuracy of few
    images has too many ties. Source: Berta et al., "Rethinking Early Stopping: Refine, Then Calibrate" (2025).
    With `is_balanced` the highest mean recall of the classes comes first: of rare classes the loss tells little.

    The validation images decide. Below `MIN_VALIDATION_IMAGES`, training images join them, each with the logits of a
    head that was solved without its fold. No head is ever fitted to a validation image.

    Args:
        train: At least one image of each class; `num_views` rows for each image.
        val: May lack classes, or be empty.
        num_classes: K; labels run from 0 to K - 1.
        options: None is the defaults; large data get fewer passes, see `ProbeOptions.fit_size`.
        progress: Shows a bar, and stops within a second.

    Returns:
        The path. It depends on nothing but the arguments.

    Raises:
        ValueError: Shapes that do not fit, a label out of range, a class without training image, NaN or infinity.
    """
    progress = progress or Progress()
    options = (options or ProbeOptions()).fit_size(len(train.features), train.features.shape[1], num_classes)
    _check(train, val, num_classes, progress.check)
    # Evenly spaced, since images come class by class.
    stride = math.ceil(max(1, len(val.labels)) * num_classes / _MAX_VALIDATION_LOGITS)
    val = Labelled(val.features[::stride], val.labels[::stride])
    is_too_small = len(val.labels) < MIN_VALIDATION_IMAGES
    folds = _list_folds(train.labels[:: options.num_views], options.num_folds) if is_too_small else []
    solutions: list[Solution] = []
    chosen, held_out = None, Labelled(np.empty((0, num_classes), np.float32), np.empty(0, np.int64))
    problem = _Problem(train, val, num_classes, folds)
    with progress.show("head", len(options.scalings) * len(options.strengths), "fit", share=0.7) as bar:
        for scaling in options.scalings:
            for solution, logits in _follow(problem, scaling, options, progress.check):
                solutions.append(solution)
                bar.advance(loss=solution.held_out_loss, val=solution.val_accuracy)
                if chosen is None or _is_better(solution, chosen, options.is_balanced):
                    chosen, held_out = solution, logits
    assert chosen is not None
    return ProbePath(tuple(solutions), chosen, _explain(chosen, options, len(val.labels), len(folds)), *held_out)


class _Problem(NamedTuple):
    """Images, and which of them each fold of the cross-validation holds out; no folds if it is not needed."""

    train: Labelled
    val: Labelled
    num_classes: int
    folds: list[np.ndarray]


def _follow(
    problem: _Problem, scaling: Scaling, options: ProbeOptions, on_step: Callable[[], None]
) -> Iterator[tuple[Solution, Labelled]]:
    """Yield the solutions of a scaling, each with the held-out logits and their labels."""
    train, val, num_classes, folds = problem
    coordinates = Coordinates(train.features, scaling, on_step)
    factors = options.weigh(train.labels) / options.num_views
    targets = Targets(train.labels, factors, num_classes, options.label_smoothing)
    rows = np.arange(len(train.labels))
    # A view of a held-out image would give its class away; what is held out is judged by its plain view.
    kept = [rows, *(rows[~np.isin(rows // options.num_views, fold)] for fold in folds)]
    heads = [LogisticRegression(coordinates, rows, targets, on_step) for rows in kept]
    folds = [fold * options.num_views for fold in folds]
    labels = np.concatenate([val.labels, *(train.labels[fold] for fold in folds)])
    weights = options.weigh(labels)
    best, since_best = np.full(3, np.inf), 0
    for strength in options.strengths:
        (train_loss, num_iterations), *_ = [
            head.solve(strength, options.tolerance, options.max_iterations) for head in heads
        ]
        weight, bias = heads[0].unfold()
        val_logits = predict_logits(val.features, weight, bias, on_step)
        fold_logits = [
            predict_logits(train.features[fold], *head.unfold(), on_step)
            for fold, head in zip(folds, heads[1:], strict=True)
        ]
        logits = np.concatenate([val_logits, *fold_logits])
        held_out_loss = _measure_refined_loss(logits, labels, weights)
        held_out_recall = compute_mean_recall(labels, logits.argmax(axis=1)) if len(labels) else math.nan
        answers = val_logits.argmax(axis=1)
        yield (
            Solution(
                scaling=scaling,
                strength=strength,
                weight=weight,
                bias=bias,
                train_loss=train_loss,
                val_loss=compute_log_loss(val_logits, val.labels) if len(val.labels) else None,
                val_accuracy=float(np.mean(answers == val.labels)) if len(val.labels) else None,
                val_balanced_accuracy=compute_mean_recall(val.labels, answers) if len(val.labels) else None,
                held_out_loss=held_out_loss,
                held_out_recall=held_out_recall,
                num_iterations=num_iterations,
            ),
            Labelled(logits, labels),
        )
        # A temperature makes weak weights look better than they are: the plain loss tells that more is to come.
        losses = np.array([held_out_loss, compute_log_loss(logits, labels, 1, weights), np.inf])
        if options.is_balanced:
            losses[2] = 1 - held_out_recall
        since_best = 0 if np.any(losses < best * (1 - _MIN_GAIN)) else since_best + 1
        best = np.minimum(best, losses)
        if since_best == options.patience and len(labels):
            return


def predict_logits(
    features: np.ndarray, weight: np.ndarray, bias: np.ndarray, on_step: Callable[[], None]
) -> np.ndarray:
    """Return (N, K) float32 logits."""
    logits = np.empty((len(features), len(bias)), np.float32)
    for block in slice_rows(len(features), features.shape[1], len(bias)):
        on_step()
        logits[block] = features[block] @ weight.T + bias
    return logits


def _measure_refined_loss(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return the log loss after the best temperature; NaN without images."""
    if not len(labels):
        return math.nan
    return compute_log_loss(logits, labels, find_temperature(logits, labels, weights), weights)


def _is_better(new: Solution, old: Solution, is_balanced: bool) -> bool:
    if math.isnan(new.held_out_loss):
        # Nobody can tell: the strength nearest to scikit-learn's default, and the scaling that was named first.
        return abs(math.log(new.strength)) < abs(math.log(old.strength))
    if is_balanced and new.held_out_recall != old.held_out_recall:
        return new.held_out_recall > old.held_out_recall
    return new.held_out_loss < old.held_out_loss * (1 - _MIN_GAIN)


def _explain(chosen: Solution, options: ProbeOptions, num_val: int, num_folds: int) -> str:
    what = f"strength {chosen.strength:g}, features scaled {'each' if chosen.scaling == 'each' else 'all alike'}"
    if math.isnan(chosen.held_out_loss):
        return f"{what}: no image could be held out, so scikit-learn's default strength was taken"
    images = f"{num_val} validation images"
    if num_folds:
        images = f"cross-validation of the training images in {num_folds} folds" + (f" and {images}" * (num_val > 0))
    figure = f"the lowest log loss ({chosen.held_out_loss:.4f}, after the best temperature)"
    if options.is_balanced:
        figure = f"the highest mean recall of the classes ({chosen.held_out_recall:.4f}), then {figure}"
    return f"{what}: {figure} on {images}"


def _check(train: Labelled, val: Labelled, num_classes: int, on_step: Callable[[], None]) -> None:
    for name, (features, labels) in (("training", train), ("validation", val)):
        if features.ndim != 2 or labels.shape != features.shape[:1] or features.shape[1] != train.features.shape[1]:
            raise ValueError(
                f"expected {name} features (N, {train.features.shape[-1]}) and labels (N,), "
                f"got shapes {features.shape} and {labels.shape}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(
                f"expected {name} labels from 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}"
            )
        for block in slice_rows(*features.shape):
            on_step()
            if not np.isfinite(features[block]).all():
                raise ValueError(f"expected finite {name} features, got NaN or infinity; the backbone may be damaged")
    missing = np.flatnonzero(np.bincount(train.labels, minlength=num_classes) == 0)
    if len(missing):
        raise ValueError(f"expected a training image of every class, got none of class {missing[0]}")


def _list_folds(labels: np.ndarray, num_folds: int) -> list[np.ndarray]:
    """Return the images that each fold holds out, each a group of its own; folds without any are left out."""
    folds = deal_into_folds(labels, np.arange(len(labels)), num_folds)
    return [rows for fold in range(num_folds) if len(rows := np.flatnonzero(folds == fold))]
