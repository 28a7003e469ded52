"""Cross-validation of a solved head, and labels that it doubts: against scikit-learn, and with labels made wrong."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from resnetkit.data.dataset import Samples
from resnetkit.evaluation.labels import doubt_labels, find_doubtful
from resnetkit.evaluation.predictions import read_predictions
from resnetkit.machine.progress import Progress
from resnetkit.probing.cross_validation import cross_validate
from resnetkit.probing.folds import deal_into_folds
from resnetkit.probing.linear_probe import Labelled, ProbeOptions
from resnetkit.sources.paths import PathList
from resnetkit.training.loop import train


def test_every_image_is_answered_by_a_head_that_did_not_see_it():
    features, labels = load_digits(return_X_y=True)
    features, labels = features[:300].astype(np.float32), labels[:300]
    options = ProbeOptions(scalings=("all",), strengths=(0.01,), tolerance=1e-5, max_iterations=500)
    found = cross_validate(Labelled(features, labels), np.arange(300), 10, options, Progress())
    assert sorted(set(found.folds.tolist())) == list(range(5))
    scale = np.sqrt(features.var(axis=0).mean())
    for fold in range(5):
        kept = found.folds != fold
        oracle = LogisticRegression(C=0.01, tol=1e-6, max_iter=2000).fit(features[kept] / scale, labels[kept])
        expected = oracle.decision_function(features[~kept] / scale)
        difference = found.logits[~kept] - expected
        np.testing.assert_allclose(difference - difference.mean(axis=1, keepdims=True), 0, atol=0.02)
    figures = found.summarize()
    assert figures["accuracy"] == pytest.approx(np.mean(found.accuracies))
    assert figures["spread"] == pytest.approx(np.std(found.accuracies, ddof=1))


def test_groups_stay_together_and_a_class_is_never_left_without_images():
    groups = np.repeat(np.arange(20), 6)
    labels = np.where(groups == 19, 3, groups % 3)  # class 3 is one group alone
    folds = deal_into_folds(labels, groups, 4)
    assert all(len(set(folds[groups == group])) == 1 for group in range(20))
    assert (folds[labels == 3] == -1).all()
    for fold in range(4):
        assert set(labels[folds == fold]) == {0, 1, 2}


def test_doubts_are_the_confident_joint_beside_its_diagonal():
    labels = np.array([0, 0, 0, 1, 1, 1])
    first = np.array([0.9, 0.8, 0.1, 0.2, 0.05, 0.75])
    # The thresholds are the means of the classes' own probabilities: 0.6 and 2/3.
    assert find_doubtful(labels, np.stack([first, 1 - first], axis=1)) == [(2, 1), (5, 0)]
    # Less than a threshold convinces of nothing, and a class without images is suggested to nobody.
    unsure = np.array([[0.45, 0.55, 0], [0.9, 0.1, 0], [0.1, 0.9, 0], [0.1, 0.1, 0.8]])
    assert find_doubtful(np.array([0, 0, 1, 1]), unsure) == [(0, 1)]


def test_a_spreadsheet_runs_no_cell_of_the_list(tmp_path):
    samples = Samples(PathList(Path(), [Path(f"/{index}.png") for index in range(4)]), (0, 0, 1, 1))
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    doubt_labels(["=1+1", "@dog"], samples, probabilities).write(tmp_path)
    with (tmp_path / "doubtful_labels.csv").open(encoding="utf-8-sig", newline="") as stream:
        assert list(csv.reader(stream))[1:] == [["/1.png", "'=1+1", "'@dog", "0.1", "0.9"]]


@pytest.fixture(scope="module")
def swapped(three_digits, tmp_path_factory):
    """Three digits, two training images and a validation image of which lie in folders of another digit."""
    folder = tmp_path_factory.mktemp("swapped") / "digits"
    shutil.copytree(three_digits, folder)
    names = sorted(path.name for path in (folder / "train").iterdir())
    moved = []
    for part, source, target in (("train", 0, 1), ("train", 1, 2), ("val", 2, 0)):
        path = sorted((folder / part / names[source]).iterdir())[3]
        moved.append(path.rename(folder / part / names[target] / f"moved_{path.name}"))
    return folder, moved


def test_labels_made_wrong_are_found_and_shown_first(swapped, make_parameters, backbone):
    folder, moved = swapped
    auto = {"optimizer": "auto", "augmentation": "none", "learning_rate": 0, "batch_size": 0, "epochs": 0}
    parameters = make_parameters(
        **{**auto, "feature_extract": True, "model_weight_file": str(backbone), "resize_mode": "squash", "folds": 4}
    )
    result = train(parameters, folder)
    with (result.folder / "doubtful_labels.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    # At the least: of so few images, one may look like its label, depending on the last bits of the features.
    assert len({str(path) for path in moved} & {row["path"] for row in rows[: 2 * len(moved)]}) >= len(moved) - 1
    metrics = json.loads((result.folder / "metrics.json").read_text(encoding="utf-8"))
    assert len(metrics["cross_validation"]["fold_accuracies"]) == 4
    assert metrics["doubtful_labels"] == len(rows)
    answers = list(read_predictions(result.folder / "cross_validation.csv"))
    assert len(answers) == sum(metrics["images"].values())
    page = result.report.read_text(encoding="utf-8")
    assert page.index("Perhaps wrongly labelled") < page.index('id="training"')
    assert "moved_" in page
    assert "Cross-validated accuracy" in page
    assert "The cross-validated accuracy is slightly flattering" in page


def test_other_trainings_doubt_only_images_that_chose_no_weights(swapped, make_parameters):
    folder, _ = swapped
    result = train(make_parameters(epochs=1), folder)
    assert not (result.folder / "cross_validation.csv").exists()
    with (result.folder / "doubtful_labels.csv").open(encoding="utf-8-sig", newline="") as stream:
        assert all("/train/" not in row["path"] for row in csv.DictReader(stream))
