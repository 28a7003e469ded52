"""Probabilities that can be believed: one temperature that divides all logits, fitted on held-out images."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

#: Logits that are never wrong would ask for a temperature of 0, worthless ones for infinity.
TEMPERATURE_BOUNDS = (0.05, 20.0)

_NUM_FOLDS = 5
_LOG_TEMPERATURE_TOLERANCE = 1e-4


def compute_log_loss(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0, weights: np.ndarray | None = None
) -> float:
    """Return the mean negative log-likelihood of the labels; NaN without images.

    Args:
        logits: (N, num_classes).
        labels: (N,) integers.
        temperature: Divides the logits.
        weights: (N,) of the images in the mean; None is all 1.
    """
    if not len(labels):
        return math.nan
    scores = np.asarray(logits, np.float64) / temperature
    losses = logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels]
    return float(np.average(losses, weights=weights))


def find_temperature(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, doubt: float = 0.0
) -> float:
    """Return the temperature within `TEMPERATURE_BOUNDS` with the lowest log loss on these very images.

    The loss is convex in 1 / T, so that it has a single minimum in log T, too. The first arguments are those of
    `compute_log_loss`; `doubt` is the share of each label that is spread over the other classes.
    """
    low, high = map(math.log, TEMPERATURE_BOUNDS)
    logits = np.asarray(logits, np.float64)
    own = logits[np.arange(len(labels)), labels]
    # A share of the label moved to the others lowers the mean score of the targets by this much.
    distances = own - (logits.sum(axis=1) - own) / max(1, logits.shape[1] - 1)
    penalty = doubt * float(np.average(distances, weights=weights)) if doubt else 0.0
    result = minimize_scalar(
        lambda log_temperature: (
            compute_log_loss(logits, labels, math.exp(log_temperature), weights) + penalty / math.exp(log_temperature)
        ),
        bounds=(low, high),
        method="bounded",
        options={"xatol": _LOG_TEMPERATURE_TOLERANCE},
    )
    return float(math.exp(result.x))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature that makes probabilities agree with how often the answers are right.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2. Dividing all logits by
    one number changes no prediction; for a linear last layer it is the same as dividing its weight and bias.

    Where (nearly) all answers are right, the lowest loss would be that of absolute certainty, which a single mistake
    on other images disproves. As if another image had been answered wrong and one right, 1 / (N + 2) of each label is
    spread over the other classes: Platt, "Probabilistic Outputs for Support Vector Machines" (1999), section 2.2.

    A temperature is taken only where it pays in cross-validation: each fifth of the images is scored with the
    temperature of the other four. Otherwise the images are too few to tell, or the logits are right as they are.

    Args:
        logits: (N, num_classes), finite, of images that the weights were not fitted to.
        labels: (N,) integers from 0 to num_classes - 1.

    Returns:
        The temperature; 1.0 where none lowers the cross-validated log loss.

    Raises:
        ValueError: The shapes do not fit, a label is out of range, or a logit is not finite.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    _check(logits, labels)
    if len(labels) < 2:
        return 1.0
    # Counted through the classes, so that every class is spread over the folds; no random numbers are needed.
    folds = np.empty(len(labels), np.int64)
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % _NUM_FOLDS
    gain = 0.0
    for fold in range(min(_NUM_FOLDS, len(labels))):
        is_held_out = folds == fold
        temperature = _find_doubtful_temperature(logits[~is_held_out], labels[~is_held_out])
        held_out = logits[is_held_out], labels[is_held_out]
        gain += is_held_out.sum() * (compute_log_loss(*held_out) - compute_log_loss(*held_out, temperature))
    return _find_doubtful_temperature(logits, labels) if gain > 0 else 1.0


def _find_doubtful_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    return find_temperature(logits, labels, doubt=1 / (len(labels) + 2))


def _check(logits: np.ndarray, labels: np.ndarray) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"expected logits (N, classes) and labels (N,), got shapes {logits.shape} and {labels.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("expected finite logits, got NaN or infinity; the network's weights may be damaged")
    if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(f"expected labels from 0 to {logits.shape[1] - 1}, got {labels.min()} to {labels.max()}")
