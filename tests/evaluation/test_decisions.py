"""Thresholds and curves: by hand, against scikit-learn, and against images that chose nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as oracle

from resnetkit.evaluation.decisions import (
    WANTED_ACCURACIES,
    choose_thresholds,
    compute_class_curves,
    compute_curves,
    compute_threshold_curve,
)
from resnetkit.results.decision_plots import draw_class_curves, draw_thresholds
from resnetkit.results.plots import to_array


def _draw(num_classes: int, num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities of a classifier whose doubts are justified."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_images)
    logits = generator.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), labels] += 2.5
    powers = np.exp(2 * logits)
    return labels, powers / powers.sum(axis=1, keepdims=True)


def test_curve_by_hand() -> None:
    # Surest first: right, wrong, right; two of them equally sure, which only a threshold below both keeps.
    probabilities = np.array([[0.8, 0.2], [0.9, 0.1], [0.2, 0.8]])
    curve = compute_threshold_curve(np.array([1, 0, 1]), probabilities)
    assert curve["threshold"] == [0.9, 0.8]
    assert curve["kept"] == pytest.approx([1 / 3, 1], abs=1e-5)
    assert curve["accuracy"] == pytest.approx([1, 2 / 3], abs=1e-5)
    assert curve["lowest"][0] < curve["accuracy"][0] <= curve["highest"][0] == 1


def test_threshold_keeps_as_much_as_the_wanted_accuracy_allows() -> None:
    labels, probabilities = _draw(5, 2000, seed=0)
    confidences, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    rows = choose_thresholds(labels, probabilities)
    assert [row[0] for row in rows] == list(WANTED_ACCURACIES[: len(rows)])
    assert len(rows) > 45
    for wanted, threshold, kept in rows:
        is_kept = confidences >= threshold
        assert is_kept.mean() == kept
        assert is_right[is_kept].mean() >= wanted
    assert rows[0][1:] == [0.0, 1.0]  # more than half are right anyway
    thresholds = [row[1] for row in rows]
    assert thresholds == sorted(thresholds)


def test_what_was_promised_holds_on_other_images() -> None:
    num_kept_word = num_tried = 0
    for seed in range(60):
        rows = choose_thresholds(*_draw(5, 400, seed=seed))
        threshold = next((row[1] for row in rows if row[0] == 0.9), None)
        if threshold is not None:
            labels, probabilities = _draw(5, 20_000, seed=1000 + seed)
            is_kept = probabilities.max(axis=1) >= threshold
            num_kept_word += (probabilities.argmax(axis=1) == labels)[is_kept].mean() >= 0.9
            num_tried += 1
    assert num_tried > 50
    assert num_kept_word >= 0.9 * num_tried


def test_few_images_promise_little() -> None:
    labels = np.zeros(20, int)
    rows = choose_thresholds(labels, np.tile([0.9, 0.1], (20, 1)))  # all are right
    assert rows[-1] == [0.83, 0.0, 1.0]


def test_mistakes_that_are_as_sure_as_anything_promise_nothing() -> None:
    assert choose_thresholds(np.array([0, 1] * 50), np.tile([1.0, 0.0], (100, 1))) == []


def test_class_curves_are_scikit_learns() -> None:
    labels, probabilities = _draw(3, 5000, seed=1)
    curves = compute_class_curves(labels == 2, probabilities[:, 2])
    roc, recall = curves["roc"], curves["precision_recall"]
    assert len(roc["sensitivity"]) <= 200
    area = oracle.auc(roc["false_positive_rate"], roc["sensitivity"])
    assert area == pytest.approx(oracle.roc_auc_score(labels == 2, probabilities[:, 2]), abs=1e-3)
    expected = oracle.average_precision_score(labels == 2, probabilities[:, 2])
    assert recall["average_precision"] == pytest.approx(expected)
    assert oracle.auc(recall["recall"], recall["precision"]) == pytest.approx(expected, abs=5e-3)
    assert compute_class_curves(np.ones(3, bool), np.ones(3)) == {"roc": None, "precision_recall": None}


@pytest.mark.parametrize("num_classes", [2, 10, 11])
def test_curves_are_json_and_can_be_drawn(num_classes: int) -> None:
    labels, probabilities = _draw(num_classes, 300, seed=2)
    names = [f"$x_{index}" for index in range(num_classes)]
    curves = compute_curves(labels, probabilities, names)
    assert json.loads(json.dumps(curves, allow_nan=False)) == curves
    assert len(curves["per_class"]) == (num_classes if num_classes <= 10 else 0)
    assert (to_array(draw_thresholds(curves, {name: name for name in names}))[0, 0] == 255).all()
    if curves["per_class"]:
        areas = dict.fromkeys(names, 0.5)
        assert to_array(draw_class_curves(curves["per_class"], areas, {name: name for name in names})).size > 0


def test_one_image_can_be_drawn() -> None:
    curves = compute_curves(np.array([0]), np.array([[1.0, 0.0]]), ["a", "b"])
    assert curves["thresholds"] == []
    assert to_array(draw_thresholds(curves, {"a": "a", "b": "b"})).size > 0
