"""Runs side by side: McNemar's test by hand, on folders of evaluations and of trainings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from resnetkit.data.dataset import Samples
from resnetkit.evaluation.comparison import ComparisonError, compare
from resnetkit.evaluation.judging import judge
from resnetkit.evaluation.predictions import write_predictions
from resnetkit.machine.files import write_json
from resnetkit.sources.paths import PathList

CLASSES = ("a", "b")
LABELS = np.array([0, 1] * 10)


def _write_evaluation(folder: Path, wrong: list[int], **about) -> Path:
    """Write what `compare` reads of an evaluation whose answers to images of some numbers are wrong."""
    folder.mkdir(parents=True)
    said = LABELS.copy()
    said[wrong] = 1 - said[wrong]
    probabilities = 0.1 + 0.8 * np.eye(2)[said]
    samples = Samples(PathList(Path(), [Path(f"/images/{index}.png") for index in range(len(LABELS))]), LABELS)
    content = {
        "evaluation": judge("evaluation", CLASSES, samples, probabilities).to_dict(),
        "unknown_classes": {"zebra": 1},
        "model": {"model_name": "resnet18", **about},
    }
    write_json(folder / "metrics.json", content)
    files = [(sample.path, CLASSES[sample.label]) for sample in samples]
    files, probabilities = [*files, (Path("/images/z.png"), "zebra")], np.concatenate([probabilities, [[0.5, 0.5]]])
    write_predictions(folder / "predictions.csv", CLASSES, files, probabilities)
    return folder


def _write_training(folder: Path, paths: list[str]) -> Path:
    folder.mkdir(parents=True)
    labels = np.zeros(len(paths), int)
    probabilities = np.tile([0.9, 0.1], (len(paths), 1))
    samples = Samples(PathList(Path(), map(Path, paths)), labels)
    figures = judge("val", CLASSES, samples, probabilities).to_dict()
    content = {"test": None, "validation": figures, "classes": CLASSES, "parameters": {"epochs": 3}}
    write_json(folder / "metrics.json", content)
    np.savez(folder / "predictions.npz", val_paths=np.array(paths), val_labels=labels, val_probabilities=probabilities)
    return folder


def test_only_images_that_one_got_right_decide(tmp_path: Path) -> None:
    first = _write_evaluation(tmp_path / "first", [0, 1], precision="fp32", training={"epochs": 3, "seed": 0})
    second = _write_evaluation(
        tmp_path / "second", [0, 2, 3, 4, 5, 6, 7, 8, 9, 10], precision="bf16", training={"epochs": 4, "seed": 0}
    )
    comparison = compare([first, second])
    (duel,) = comparison.duels
    assert (duel.num_shared, duel.only_first_right, duel.only_second_right) == (20, 9, 1)
    assert duel.p_value == pytest.approx(2 * binom.cdf(1, 10, 0.5))
    assert comparison.differences == {"epochs": [3, 4], "precision": ["fp32", "bf16"]}
    assert [run.accuracy for run in comparison.runs] == pytest.approx([0.9, 0.5])
    text = comparison.format()
    assert "first and second differ (McNemar's exact test: p = 0.0215)" in text
    assert "90.00%" in text
    assert json.loads(json.dumps(comparison.to_dict()))["runs"][1]["name"] == "second"


def test_equal_answers_do_not_differ(tmp_path: Path) -> None:
    runs = [_write_evaluation(tmp_path / name / "run", [3]) for name in "xy"]
    comparison = compare(runs)
    assert [run.name for run in comparison.runs] == ["x/run", "y/run"]
    assert comparison.duels[0].p_value == 1
    assert "do not differ for certain" in comparison.format()
    assert comparison.differences == {}


def test_a_training_is_compared_with_an_evaluation(tmp_path: Path) -> None:
    training = _write_training(tmp_path / "training", ["/images/0.png", "/images/1.png", "/images/other.png"])
    evaluation = _write_evaluation(tmp_path / "evaluation", [])
    comparison = compare([training, evaluation])
    # The image 1 has another class in the two, so it is not the same.
    assert comparison.duels[0].num_shared == 1
    assert comparison.differences == {}  # they have no parameter in common


def test_runs_on_other_images_have_no_test(tmp_path: Path) -> None:
    comparison = compare([_write_training(tmp_path / name, [f"/{name}.png"]) for name in "pq"])
    assert comparison.duels[0].p_value is None
    assert "share no image" in comparison.format()


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path) -> None:
    run = _write_training(tmp_path / "run", ["/a.png"])
    with pytest.raises(ComparisonError, match="at least two run folders to compare, got 1"):
        compare([run])
    with pytest.raises(
        ComparisonError, match=r"'.*empty' cannot be compared \(.*\); expected a run folder of a training"
    ):
        compare([run, tmp_path / "empty"])
