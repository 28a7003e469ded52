"""Training as it chooses by itself: awkward data, stops, resuming, and what the files that it writes answer."""

from __future__ import annotations

import math
import re
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from resnetkit.answers.loader import Loader
from resnetkit.data.dataset import read_dataset
from resnetkit.images.reading import read_image
from resnetkit.learners import finetuning
from resnetkit.learners.head import HeadLearner
from resnetkit.learners.initialization import initialize
from resnetkit.learners.learner import ImageSplits
from resnetkit.learners.recipe import choose_recipe
from resnetkit.machine.progress import Progress, TrainingStopped
from resnetkit.parameters.inference import InferParameters
from resnetkit.probing import feature_parts
from resnetkit.probing.linear_probe import solve_path
from resnetkit.results.metrics import compute_calibration, sum_calibration_gaps
from resnetkit.training import loop as training
from resnetkit.training import outcome
from resnetkit.training.loop import train
from resnetkit.training.state import read_state
from resnetkit.weights.checkpoint import open_weights
from tests.training.test_resume import without_times

pytestmark = pytest.mark.usefixtures("without_report")

#: Nothing but what a test must not take long for; the optimizer is left to the recipe.
AUTO = {"optimizer": "auto", "augmentation": "auto", "learning_rate": 0, "batch_size": 0, "epochs": 0}
KINDS = {"head": {"feature_extract": True}, "full": {"epochs": 2, "batch_size": 8}}


@pytest.fixture
def make_auto(make_parameters, backbone):
    """`make_auto(kind, **values)`: a recipe that is chosen, from the weights of `backbone`."""

    def make(kind="head", **values):
        return make_parameters(
            **{**AUTO, **KINDS[kind], "model_weight_file": str(backbone), "resize_mode": "squash", **values}
        )

    return make


def copy_few(source, folder, counts):
    """Copy some images: `counts` names part and class and says how many."""
    for (part, name), count in counts.items():
        (folder / part / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((source / part / name).iterdir())[:count]:
            shutil.copy(path, folder / part / name)
    return folder


def counts_of(train_counts, val_counts):
    counts = {("train", str(digit)): count for digit, count in enumerate(train_counts)}
    return {**counts, **{("val", str(digit)): count for digit, count in enumerate(val_counts) if count}}


def assert_usable(result):
    """Check that there is a checkpoint whose validation probabilities are such."""
    assert open_weights(result.checkpoint).metadata.classes == result.classes
    probabilities = np.load(result.folder / "predictions.npz")["val_probabilities"]
    assert probabilities.shape[1] == len(result.classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert all(math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"]) for row in result.history)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("train_counts", "val_counts"),
    [
        pytest.param((1, 11, 11), (5, 5, 5), id="a class with one image"),
        pytest.param((11, 11, 11), (1, 1, 1), id="one validation image a class"),
        pytest.param((11, 11, 11), (5, 5, 0), id="a class without validation image"),
        pytest.param((1, 1, 1), (1, 1, 1), id="as many classes as images"),
    ],
)
def test_few_images_give_a_usable_network(digits_folder, make_auto, tmp_path, kind, train_counts, val_counts):
    data = copy_few(digits_folder, tmp_path / "data", counts_of(train_counts, val_counts))
    result = train(make_auto(kind), data)
    assert_usable(result)
    assert result.metrics["num_images"] == sum(val_counts)


def write_plain_images(folder, colors):
    """Write images of one colour each: `colors` names the class and gives the gray of each of its images."""
    for part in ("train", "val"):
        for name, grays in colors.items():
            (folder / part / name).mkdir(parents=True)
            for number, gray in enumerate(grays):
                path = folder / part / name / f"{number}.png"
                Image.new("RGB", (32 + number, 32 + (part == "val")), (gray,) * 3).save(path)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_are_all_alike_teach_the_shares_of_the_classes(make_auto, tmp_path, kind):
    data = write_plain_images(tmp_path / "data", {"few": [128] * 4, "many": [128] * 12})
    values = {} if kind == "head" else {"learning_rate": 1e-9}
    result = train(make_auto(kind, cached_views=0, **values), data)
    assert_usable(result)
    assert result.metrics["accuracy"] == 0.75
    if kind == "head":
        probabilities = np.load(result.folder / "predictions.npz")["val_probabilities"]
        np.testing.assert_allclose(probabilities.mean(axis=0), [0.25, 0.75], atol=0.05)


def test_separable_images_are_all_right_and_no_solver_complains(make_auto, tmp_path):
    data = write_plain_images(
        tmp_path / "data", {"black": range(0, 24, 4), "gray": range(120, 144, 4), "white": range(230, 254, 4)}
    )
    result = train(make_auto(), data)
    assert_usable(result)
    assert result.metrics["accuracy"] == 1
    assert result.describe()["epochs"] == 0
    fits, strengths = len(result.history), len({row["strength"] for row in result.history})
    assert result.reason.startswith(f"solved the head {fits} times, for {strengths} strengths, and kept ")


def test_a_stop_while_features_are_computed_loses_a_part_at_most(three_digits, make_auto, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_parts, "_BATCHES", 1)
    compute, computed, is_resumed = feature_parts.FeatureParts.compute, [], []

    def count(self, runtime, images, batches):
        compute(self, runtime, images, batches)
        computed.append(len(images))

    monkeypatch.setattr(feature_parts.FeatureParts, "compute", count)
    whole = train(make_auto(), three_digits)
    num_parts = len(computed)
    assert num_parts > 3
    parameters = make_auto(run_folder=str(tmp_path / "run"), output_folder="")
    computed.clear()
    with pytest.raises(TrainingStopped):
        train(parameters, three_digits, Progress(lambda: len(computed) == 2 and not is_resumed))
    assert len(list((tmp_path / "run" / "features").iterdir())) == 2
    is_resumed.append(True)
    resumed = train(parameters, three_digits)
    assert len(computed) == num_parts
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert not (tmp_path / "run" / "features").exists()


def test_a_stop_while_the_head_is_solved_loses_nothing(three_digits, make_auto, tmp_path, monkeypatch):
    whole = train(make_auto(), three_digits)
    parameters = make_auto(output_folder=str(tmp_path / "stopped"))
    is_solving = []

    def solve(*arguments):
        is_solving.append(True)
        return solve_path(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("resnetkit.learners.head.solve_path", solve)
        with pytest.raises(TrainingStopped, match="stopped on request; no epoch was saved; resume_from="):
            train(parameters, three_digits, Progress(lambda: bool(is_solving)))
    folder = next((tmp_path / "stopped").glob("*/state.pt")).parent.resolve()
    assert read_state(folder).history == []
    resumed = train(parameters.updated({"resume_from": str(folder)}), three_digits)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert without_times(resumed.folder) == without_times(whole.folder)
    again = train(parameters.updated({"resume_from": str(folder)}), three_digits)
    assert again.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert again.metrics["temperature"] == whole.metrics["temperature"]
    before = "expected_calibration_error_before"
    assert again.metrics[before] == pytest.approx(whole.metrics[before], abs=1e-6)
    reasons = open_weights(whole.checkpoint).metadata.training["recipe"]["reasons"]
    assert reasons["strength"].startswith(f"strength {whole.best['strength']:g}, features scaled")


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_recipe_goes_on_from_the_head_that_was_solved(three_digits, make_auto, tmp_path, monkeypatch, epoch):
    whole = train(make_auto("full"), three_digits)
    assert [row["epoch"] for row in whole.history] == [0, 1, 2]
    parameters = make_auto("full", output_folder=str(tmp_path / "stopped"))
    begun = []
    train_epoch = training._train_epoch

    def begin(run, optimizer, number):
        begun.append(number)
        return train_epoch(run, optimizer, number)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_train_epoch", begin)
        kept = f"in epoch {epoch + 1} of 2; the best weights so far .* goes on after epoch {epoch}"
        with pytest.raises(TrainingStopped, match=kept):
            train(parameters, three_digits, Progress(lambda: epoch in begun))
    folder = next((tmp_path / "stopped").glob("*/state.pt")).parent.resolve()
    assert [row["epoch"] for row in read_state(folder).history] == list(range(epoch + 1))
    monkeypatch.setattr(finetuning, "HeadLearner", None)  # would fail if it was solved again
    resumed = train(parameters.updated({"resume_from": str(folder)}), three_digits)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert without_times(resumed.folder) == without_times(whole.folder)


def test_the_solved_head_is_kept_where_no_epoch_is_better(digits_folder, make_auto, backbone, tmp_path):
    counts = {(part, str(digit)): count for part, count in (("train", 30), ("val", 18)) for digit in range(10)}
    data = copy_few(digits_folder, tmp_path / "data", counts)
    result = train(make_auto("full", learning_rate=1e-12, epochs=1, batch_size=40), data)
    head, epoch = result.history
    assert head["val_accuracy"] > epoch["val_accuracy"]
    assert (result.best["epoch"], result.best["val_accuracy"]) == (0, head["val_accuracy"])
    assert "the solved head before them was better on the validation images and is kept" in result.reason
    # The network evaluated for the metrics is the one that was kept, in other numerics.
    assert result.metrics["accuracy"] == pytest.approx(head["val_accuracy"], abs=0.02)
    kept, start = (open_weights(path).read_state_dict() for path in (result.checkpoint, backbone))
    assert all(kept[name].equal(value) for name, value in start.items() if not name.startswith("fc."))


def test_fine_tuning_that_learns_more_is_kept(digits_folder, make_auto, tmp_path):
    counts = {(part, digit): count for part, count in (("train", 20), ("val", 10)) for digit in "0123"}
    data = copy_few(digits_folder, tmp_path / "data", counts)
    result = train(make_auto("full", epochs=6, batch_size=16), data)
    assert result.best["epoch"] > 0
    assert result.best["val_accuracy"] >= result.history[0]["val_accuracy"]


SCRATCH = {**AUTO, "epochs": 6, "batch_size": 8, "augmentation": "auto", "precision": "fp32"}


def write_halves(folder, are_stacked):
    """Write noisy images of which the left or right half is bright, as the class says; stacked, the top or bottom."""
    draws = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 12)):
        for side, name in enumerate(("first", "second")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 100, (32, 32, 3))
                pixels[:, 16 * side : 16 * side + 16] += 120
                image = Image.fromarray((pixels.swapaxes(0, 1) if are_stacked else pixels).astype(np.uint8))
                image.save(folder / part / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("are_stacked", [True, False], ids=["top and bottom", "left and right"])
def test_training_from_scratch_finds_out_whether_a_mirrored_image_keeps_its_class(
    make_parameters, tmp_path, are_stacked
):
    result = train(make_parameters(**SCRATCH), write_halves(tmp_path / "data", are_stacked))
    recipe = open_weights(result.checkpoint).metadata.training["recipe"]
    assert result.history[1]["val_accuracy"] > 0.9  # two of six epochs: it can tell by then
    assert recipe["changes"]["horizontal_flip"] is are_stacked
    assert recipe["reasons"]["horizontal_flip"]


def test_what_was_found_out_about_mirrors_outlives_a_stop(make_parameters, tmp_path, monkeypatch):
    data = write_halves(tmp_path / "data", are_stacked=True)
    whole = train(make_parameters(**SCRATCH), data)
    parameters = make_parameters(**SCRATCH, output_folder=str(tmp_path / "stopped"))
    count = []
    progress = Progress(lambda: len(count) >= 3, lambda: count.append(1))
    with pytest.raises(TrainingStopped, match="in epoch 4 of 6"):
        train(parameters, data, progress)
    folder = next((tmp_path / "stopped").glob("*/state.pt")).parent.resolve()
    monkeypatch.setattr(finetuning, "check_mirror", None)  # would fail if it was asked again
    resumed = train(parameters.updated({"resume_from": str(folder)}), data)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert without_times(resumed.folder) == without_times(whole.folder)


@pytest.fixture
def solve_unbalanced(digits_folder, make_auto, tmp_path):
    """`solve_unbalanced(**values)`: the path of a head on 12, 6 and 3 images, their probabilities and labels."""
    data = copy_few(digits_folder, tmp_path / "unbalanced", counts_of((12, 6, 3), (5, 5, 5)))

    def solve(**values):
        parameters = make_auto(cached_views=0, precision="fp32", **values)
        dataset = read_dataset(data, 0.2, 0)
        start = initialize(parameters, dataset.classes)
        recipe = choose_recipe(parameters, len(dataset.train))
        splits = ImageSplits(dataset, start.preprocessing, parameters, recipe)
        with closing(HeadLearner(start, splits, parameters, recipe)) as learner:
            learner.prepare(tmp_path, Progress())
            path = learner.solve(Progress())
            predictions = learner.predict("train", Progress())
        return path, softmax(predictions.logits.astype(float), axis=1), predictions.labels

    return solve


def test_after_a_head_it_is_said_what_the_whole_network_would_take(three_digits, make_auto, monkeypatch):
    monkeypatch.undo()  # the report is what counts here
    shown = []
    monkeypatch.setattr(outcome, "write_report", lambda _, data: shown.append(" ".join(data.notes)))
    for kind in KINDS:
        train(make_auto(kind), three_digits)
    assert re.search(r"\(feature_extract=False\) often learns more; .* about [1-9]0 seconds\.", shown[0])
    assert "feature_extract" not in shown[1]


def test_balanced_class_weights_reach_the_solver(solve_unbalanced):
    """At the optimum, the (free) bias makes the weighted mean probability of a class its weighted share."""
    _, probabilities, labels = solve_unbalanced()
    np.testing.assert_allclose(probabilities.mean(axis=0), np.array([12, 6, 3]) / 21, atol=0.01)
    _, probabilities, labels = solve_unbalanced(class_weights="balanced")
    weights = (21 / 3 / np.array([12, 6, 3]))[labels]
    np.testing.assert_allclose(np.average(probabilities, axis=0, weights=weights), [1 / 3] * 3, atol=0.01)


def test_label_smoothing_reaches_the_solver(solve_unbalanced):
    """No head has a lower loss than the entropy of the smoothed targets, which a plain one undercuts."""
    target = np.array([0.9, 0.05, 0.05])
    entropy = -(target * np.log(target)).sum()
    plain, smooth = solve_unbalanced()[0], solve_unbalanced(label_smoothing=0.15)[0]
    assert min(solution.train_loss for solution in plain.solutions) < entropy
    assert min(solution.train_loss for solution in smooth.solutions) >= entropy


def center(values):
    return values - values.mean(axis=1, keepdims=True)


def test_every_export_answers_as_the_calibrated_network(digits_folder, make_auto):
    exports = ("export_pth", "export_onnx", "export_openvino", "export_int8")
    result = train(make_auto(precision="fp32", **dict.fromkeys(exports, True)), digits_folder)
    assert abs(math.log(result.metrics["temperature"])) > 0.3
    assert open_weights(result.checkpoint).metadata.temperature == pytest.approx(result.metrics["temperature"])
    predictions = np.load(result.folder / "predictions.npz")
    uncalibrated = predictions["test_probabilities"] ** result.test_metrics["temperature"]
    uncalibrated /= uncalibrated.sum(axis=1, keepdims=True)
    bins = compute_calibration(uncalibrated.max(axis=1), uncalibrated.argmax(axis=1) == predictions["test_labels"])
    before = result.test_metrics["expected_calibration_error_before"]
    assert before == pytest.approx(sum_calibration_gaps(bins), abs=1e-4)
    images, expected = [read_image(Path(path)) for path in predictions["test_paths"]], predictions["test_probabilities"]
    for name in ("best.safetensors", "resnet18.pth", "resnet18.onnx", "resnet18.xml", "resnet18_int8.xml"):
        values = {"model_weight_file": str(result.folder / name), "precision": "fp32"}
        if name.endswith(".pth"):  # says nothing about itself
            values |= {"class_file": str(result.folder / "classes.txt"), "input_size": 32, "resize_mode": "squash"}
        answers = Loader().load(InferParameters().updated(values)).predict(images)
        found = np.stack([answer.probabilities for answer in answers])
        # A temperature that is left out, or used twice, stretches all log-probabilities alike.
        tolerance = 0.2 if "int8" in name else 0.01
        log_found, log_expected = (center(np.log(each)) for each in (found, expected))
        assert (log_found * log_expected).sum() / (log_expected**2).sum() == pytest.approx(1, abs=tolerance), name
        if "int8" not in name:
            np.testing.assert_allclose(found, expected, atol=0.001)
