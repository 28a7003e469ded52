"""Rare classes: which figure chooses epoch, strength and end of a training."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from resnetkit.data.dataset import Dataset, Samples
from resnetkit.learners.optimization import choose_criterion
from resnetkit.probing.linear_probe import Labelled, ProbeOptions, solve_path
from resnetkit.sources.paths import PathList
from resnetkit.training import loop as training
from resnetkit.training import outcome
from resnetkit.training.loop import train
from resnetkit.training.state import read_state, write_state


@pytest.fixture
def rare_digits(digits_folder, tmp_path):
    """The digits 0 and 1: 27 images of the one, 3 of the other, which is the least that counts as large."""
    folder = tmp_path / "rare"
    for part, digit, count in (("train", 0, 18), ("train", 1, 2), ("val", 0, 9), ("val", 1, 1)):
        (folder / part / str(digit)).mkdir(parents=True)
        for path in sorted((digits_folder / part / str(digit)).iterdir())[:count]:
            shutil.copy(path, folder / part / str(digit))
    return folder


@pytest.mark.parametrize(
    ("class_weights", "counts", "is_balanced"),
    [
        ("none", (90, 10), True),
        ("none", (1000, 500, 10), True),
        ("none", (88, 10), False),
        ("none", (10, 10), False),
        ("balanced", (20, 10), True),
        ("balanced", (10, 10), False),
    ],
)
def test_rare_and_weighed_classes_count_alike(class_weights, counts, is_balanced, tmp_path):
    labels = np.repeat(np.arange(len(counts)), counts)
    samples = Samples(PathList(tmp_path, (tmp_path / str(i) for i in range(len(labels)))), labels)
    classes = tuple(map(str, range(len(counts))))
    dataset = Dataset(tmp_path, classes, samples[::2], samples[1::2], samples[:0], has_own_split=True)
    criterion = choose_criterion(class_weights, dataset)
    assert criterion.is_balanced is is_balanced
    assert criterion.figure == ("val_balanced_accuracy" if is_balanced else "val_accuracy")


def test_best_and_early_stopping_go_by_mean_recall(rare_digits, make_parameters, monkeypatch):
    scripted = [(0.9, 0.5), (0.8, 0.8), (0.9, 0.7), (0.9, 0.5), (0.99, 0.99)]

    def validate(run):
        accuracy, recall = scripted[run.state.epoch]
        return {"val_loss": 1.0, "val_accuracy": accuracy, "val_balanced_accuracy": recall}

    monkeypatch.setattr(training, "_validate", validate)
    monkeypatch.setattr(outcome, "_write_report", lambda *_: None)
    result = train(make_parameters(epochs=5, early_stopping_patience=2), rare_digits)
    assert result.best == {"epoch": 2, "val_accuracy": 0.8, "val_loss": 1.0, "val_balanced_accuracy": 0.8}
    assert result.reason == "stopped early after 4 epochs, 2 without a better balanced accuracy"
    # A run from before there was a choice goes on as it began.
    state = read_state(result.folder)
    for row in state.history:
        del row["val_balanced_accuracy"]
    state.figure = "val_accuracy"
    write_state(result.folder, state)
    state = read_state(result.folder)
    assert (state.best["epoch"], state.epochs_without_progress) == (1, 3)


def test_the_figure_is_scikit_learns_and_the_report_says_that_it_chose(rare_digits, make_parameters, monkeypatch):
    shown = []
    monkeypatch.setattr(outcome, "write_report", lambda *values: shown.append(values[1]))
    result = train(make_parameters(epochs=1), rare_digits)
    saved = np.load(result.folder / "predictions.npz")
    expected = balanced_accuracy_score(saved["val_labels"], saved["val_probabilities"].argmax(1))
    with (result.folder / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["val_balanced_accuracy"]) == pytest.approx(expected)
    assert shown[0].best["val_balanced_accuracy"] == pytest.approx(expected)
    assert "mean recall of the classes" in shown[0].reasons["best"]
    assert "the commonest class has 9 times the images of the rarest" in shown[0].reasons["best"]


def test_a_heads_strength_goes_by_mean_recall():
    """Overlapping classes, one of them rare: what is most accurate names the rare one too seldom."""
    random = np.random.default_rng(3)
    labels = np.repeat([0, 1], [270, 30])
    features = random.normal(size=(600, 6)).astype(np.float32)
    both = np.concatenate([labels, labels])
    features[:, 0] += 1.5 * both
    train_images, val = Labelled(features[:300], labels), Labelled(features[300:], labels)
    plain, balanced = (
        solve_path(train_images, val, 2, ProbeOptions(is_balanced=is_balanced)) for is_balanced in (False, True)
    )
    recalls = [solution.held_out_recall for solution in balanced.solutions]
    assert balanced.chosen.held_out_recall == max(recalls) > plain.chosen.held_out_recall
    answers = balanced.held_out_logits.argmax(1)
    assert balanced.chosen.val_balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, answers))
    assert "the highest mean recall of the classes" in balanced.reason
    assert "mean recall" not in plain.reason
