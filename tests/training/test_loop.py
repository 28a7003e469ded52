"""The loop: what it learns, what it writes, when it ends, how it fails."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from resnetkit.data.dataset import DatasetError
from resnetkit.exports.export import ExportError
from resnetkit.learners.optimization import Loss, build_optimizer
from resnetkit.machine.progress import Progress
from resnetkit.parameters.declaration import ParameterError
from resnetkit.training import loop as training
from resnetkit.training import run
from resnetkit.training.loop import TrainingDivergedError, train
from resnetkit.weights.checkpoint import open_weights
from resnetkit.weights.models import load_model

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture
def result(digit_reader):
    return digit_reader


def read_metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_digits_are_learned_from_scratch(result):
    assert result.test_metrics["num_images"] == 360
    assert result.test_metrics["accuracy"] >= 0.98


def test_the_run_folder_is_complete(result):
    names = {path.name for path in result.folder.iterdir()}
    assert ("worst_mistakes.png" in names) is (result.metrics["accuracy"] < 1)
    assert names - {"worst_mistakes.png"} == {
        "best.safetensors", "state.pt", "classes.txt", "resnet18.pth", "metrics.json", "metrics.csv",
        "data_report.json", "predictions.npz", "report.html", "training_curves.png", "confusion_matrix.png",
        "preprocessing.json",
        "training_samples.png", "figures", "doubtful_labels.csv", "near_duplicates.csv",
    }  # fmt: skip
    assert (result.folder.parent / "latest").resolve() == result.folder
    assert (result.folder / "classes.txt").read_text(encoding="utf-8").split("\n") == [*"0123456789", ""]


def test_the_checkpoint_describes_itself(result):
    metadata = open_weights(result.folder).metadata
    assert metadata.model_name == "resnet18"
    assert metadata.classes == tuple("0123456789")
    assert (metadata.preprocessing.input_size, metadata.preprocessing.resize_mode) == (32, "squash")
    assert metadata.metrics["val_accuracy"] == result.best["val_accuracy"]
    assert metadata.training["learning_rate"] == 0  # it was left to the recipe
    assert metadata.training["recipe"]["learning_rate"] == 0.003
    assert str(result.folder.parent) not in json.dumps(metadata.to_strings())


def test_thresholds_are_those_of_the_validation_images(result):
    saved = np.load(result.folder / "predictions.npz")
    is_right = saved["val_probabilities"].argmax(axis=1) == saved["val_labels"]
    for wanted, threshold, kept in open_weights(result.folder).metadata.thresholds:
        is_kept = saved["val_probabilities"].max(axis=1) >= threshold
        assert is_kept.mean() == pytest.approx(kept, abs=0.01)
        assert is_right[is_kept].mean() >= wanted


def test_the_last_epoch_within_a_standard_error_of_the_best_is_kept(result):
    highest = max(row["val_accuracy"] for row in result.history)
    error = math.sqrt(highest * (1 - highest) / 180)
    best = max((row for row in result.history if row["val_accuracy"] >= highest - error), key=lambda row: row["epoch"])
    assert result.best == {name: best[name] for name in ("epoch", "val_accuracy", "val_loss")}
    assert result.metrics["accuracy"] == pytest.approx(best["val_accuracy"])


def test_metrics_agree_with_scikit_learn_on_the_saved_predictions(result):
    saved = np.load(result.folder / "predictions.npz")
    labels, predicted = saved["test_labels"], saved["test_probabilities"].argmax(axis=1)
    metrics = read_metrics(result.folder)["test"]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert metrics["macro_avg"]["f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert metrics["confusion_matrix"] == confusion_matrix(labels, predicted).tolist()


def test_the_history_is_written_as_a_table(result):
    with (result.folder / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["epoch"]) for row in rows] == [*range(1, 12)]  # 400 / root of 1,257 images
    assert [float(row["val_accuracy"]) for row in rows] == [row["val_accuracy"] for row in result.history]


def test_the_bare_state_dict_loads_in_plain_torchvision(result):
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.load_state_dict(torch.load(result.folder / "resnet18.pth", weights_only=True))


def test_two_runs_never_share_a_folder(three_digits, make_parameters):
    parameters = make_parameters(epochs=1)
    first, second = train(parameters, three_digits), train(parameters, three_digits)
    assert first.folder != second.folder
    assert (first.folder.parent / "latest").resolve() == second.folder


def test_the_same_seed_gives_the_same_bytes(three_digits, make_parameters):
    first, second = (train(make_parameters(epochs=2), three_digits).checkpoint.read_bytes() for _ in range(2))
    assert first == second
    assert train(make_parameters(epochs=2, seed=1), three_digits).checkpoint.read_bytes() != first


@pytest.mark.usefixtures("without_report")
def test_trainings_at_once_give_what_each_gives_alone(three_digits, make_parameters, backbone):
    head = make_parameters(feature_extract=True, model_weight_file=str(backbone), epochs=2)
    trainings = [head, head, make_parameters(epochs=1)]

    def run(parameters):
        return train(parameters, three_digits).checkpoint.read_bytes()

    alone = [run(parameters) for parameters in trainings]
    assert alone[0] == alone[1]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, trainings)) == alone


def test_neither_processes_nor_another_start_change_the_weights(three_digits, make_parameters, run_script, tmp_path):
    expected = train(make_parameters(epochs=1, augmentation="strong"), three_digits).checkpoint.read_bytes()
    parameters = make_parameters(
        epochs=1, augmentation="strong", num_workers=2, output_folder=str(tmp_path / "elsewhere")
    )
    run_script(
        f"""
import random, sys
import numpy as np, torch
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from resnetkit.parameters.training import TrainParameters
from resnetkit.training.loop import train

if __name__ == "__main__":
    torch.set_num_threads({torch.get_num_threads()})
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    train(TrainParameters().updated({parameters.model_dump()!r}), Path({str(three_digits)!r}))
"""
    )
    assert (tmp_path / "elsewhere" / "latest" / "best.safetensors").read_bytes() == expected


def test_global_random_state_is_left_alone(three_digits, make_parameters):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(make_parameters(epochs=1, augmentation="strong"), three_digits)
    assert torch.equal(torch.rand(1), expected)


def test_classes_come_from_train_where_val_lacks_one(three_digits, make_parameters, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(three_digits, folder)
    shutil.rmtree(folder / "val" / "1")
    result = train(make_parameters(epochs=1), folder)
    assert result.classes == ("0", "1", "2")
    saved = np.load(result.folder / "predictions.npz")
    assert set(saved["val_labels"].tolist()) == {0, 2}
    assert [row["support"] for row in result.metrics["per_class"]] == [5, 0, 5]


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "adamw", "learning_rate": 0.001},
        {"scheduler": "constant"},
        {"augmentation": "strong", "label_smoothing": 0.1, "class_weights": "balanced"},
        {"batch_size": 4096},
        {"batch_size": 1, "input_size": 64},
        {"precision": "fp32"},
        {"small_input_stem": True, "batch_size": 32},
    ],
    ids=lambda values: " ".join(f"{name}={value}" for name, value in values.items()),
)
def test_settings_train(three_digits, make_parameters, values):
    result = train(make_parameters(epochs=1, **values), three_digits)
    assert np.isfinite(result.history[0]["train_loss"])


def test_training_stops_early(three_digits, make_parameters):
    # A learning rate of nearly nothing: validation accuracy stays what it is.
    result = train(make_parameters(epochs=9, learning_rate=1e-12, early_stopping_patience=2), three_digits)
    accuracies = [row["val_accuracy"] for row in result.history]
    assert len(accuracies) < 9
    assert len(accuracies) - 1 - accuracies.index(max(accuracies)) == 2
    assert "stopped early" in read_metrics(result.folder)["ended"]


def test_the_time_limit_ends_after_an_epoch(three_digits, make_parameters):
    result = train(make_parameters(epochs=9, time_limit_minutes=0.0001), three_digits)
    assert len(result.history) == 1
    assert "limit" in read_metrics(result.folder)["ended"]


def test_hooks_hear_of_every_epoch(three_digits, make_parameters):
    heard = []
    train(make_parameters(epochs=2), three_digits, Progress(on_epoch=lambda: heard.append(1)))
    assert len(heard) == 2


def test_nothing_but_warnings_is_printed_in_a_log(three_digits, make_parameters, capfd):
    train(make_parameters(epochs=1), three_digits)
    assert capfd.readouterr() == ("", "")


# --- Bad input ---


def test_a_head_on_a_random_backbone_is_refused(three_digits, make_parameters, tmp_path):
    with pytest.raises(ParameterError, match=r"feature_extract.*use_pretrained.*model_weight_file"):
        train(make_parameters(feature_extract=True), three_digits)
    assert not (tmp_path / "runs").exists()


def test_a_bad_data_set_leaves_no_run_folder(make_parameters, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError):
        train(make_parameters(), tmp_path / "empty")
    assert list((tmp_path / "runs").iterdir()) == []


def test_one_image_a_batch_needs_more_than_one_value_a_channel(three_digits, make_parameters):
    with pytest.raises(ParameterError, match=r"'batch_size' must be at least 2"):
        train(make_parameters(batch_size=1), three_digits)


def test_a_file_of_another_architecture_is_refused(three_digits, make_parameters, checkpoint_path):
    with pytest.raises(ValueError, match=r"holds a resnet18, but 'model_name' is resnet34"):
        train(make_parameters(model_weight_file=str(checkpoint_path), model_name="resnet34"), three_digits)


def test_another_stem_is_refused(three_digits, make_parameters, checkpoint_path):
    with pytest.raises(ValueError, match=r"small_input_stem=False"):
        train(make_parameters(model_weight_file=str(checkpoint_path), small_input_stem=True), three_digits)


def test_divergence_names_step_and_learning_rate_and_keeps_the_last_good_state(three_digits, make_parameters, tmp_path):
    parameters = make_parameters(scheduler="constant", precision="fp32", learning_rate=10)
    heard = []

    def sour(self, logits, targets):
        loss = original(self, logits, targets)
        return loss * torch.nan if heard else loss

    original = Loss.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loss, "__call__", sour)
        with pytest.raises(
            TrainingDivergedError,
            match=r"nan at step 6 .*learning rate of 10;.*learning_rate=1\b.*goes on after epoch 1",
        ):
            train(parameters, three_digits, Progress(on_epoch=lambda: heard.append(1)))
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.name != "latest")
    weights = open_weights(folder)
    load_model("resnet18", weights.read_state_dict())
    assert weights.metadata.metrics["epoch"] == 1


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_optimizers_take_the_steps_of_plain_ones(three_digits, make_parameters, monkeypatch, tmp_path, name):
    values = {"optimizer": name, "learning_rate": 0.001, "epochs": 1, "precision": "fp32"}
    fused = open_weights(train(make_parameters(**values), three_digits).folder).read_state_dict()

    def build_plain(parameters, weights):
        optimizer = build_optimizer(parameters, weights)
        assert optimizer.param_groups[0]["fused"]
        optimizer.param_groups[0]["fused"] = False
        return optimizer

    monkeypatch.setattr(run, "build_optimizer", build_plain)
    parameters = make_parameters(output_folder=str(tmp_path / "plain"), **values)
    plain = open_weights(train(parameters, three_digits).folder).read_state_dict()
    for tensor_name, tensor in plain.items():
        # A step of AdamW has the size of the learning rate however small its gradient: where that is mere rounding
        # noise, single weights part.
        is_close = torch.isclose(fused[tensor_name], tensor, rtol=1e-3, atol=1e-4)
        assert is_close.double().mean() > 0.9999, tensor_name
        torch.testing.assert_close(fused[tensor_name], tensor, rtol=1e-2, atol=1e-3)


def test_too_little_memory_names_the_batch_size_to_try(three_digits, make_parameters, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Loss, "__call__", fail)
    with pytest.raises(MemoryError, match=r"batches of 8 images of 32x32; try batch_size=4"):
        train(make_parameters(), three_digits)


def test_a_full_disk_says_what_is_kept(three_digits, make_parameters, monkeypatch, tmp_path):
    heard = []
    write_state = run.write_state

    def fail(folder, state):
        if heard:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_state(folder, state)

    monkeypatch.setattr(run, "write_state", fail)
    with pytest.raises(OSError, match=r"no space left .*\(epoch 1, .*goes on after epoch 1") as caught:
        train(make_parameters(), three_digits, Progress(on_epoch=lambda: heard.append(1)))
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    folder = (tmp_path / "runs" / "latest").resolve()
    assert len(train(make_parameters(resume_from=str(folder)), three_digits).history) == 3


def test_a_file_size_limit_at_any_write_leaves_what_was_saved(three_digits, make_parameters, run_script, tmp_path):
    parameters = make_parameters(epochs=1)
    output = run_script(
        f"""
import resource, sys
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from resnetkit.training import loop as training
from resnetkit.parameters.training import TrainParameters

def limit(*_):  # from now on every file of more than a megabyte fails
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    return validate(*_)

validate, training._validate = training._validate, limit
try:
    training.train(TrainParameters().updated({parameters.model_dump()!r}), Path({str(three_digits)!r}))
except OSError as error:
    print("error:", error)
"""
    ).output
    assert "no space left to write into" in output
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["data_report.json", "state.pt", "training_samples.png"]
    resumed = train(parameters.updated({"resume_from": str(folder)}), three_digits)
    assert len(resumed.history) == 1


@pytest.mark.parametrize(
    "settings",
    [{}, {"augmentation": "none"}, {"feature_extract": True, "cached_views": 1}],
    ids=["augmented", "plain", "head"],
)
def test_each_file_is_read_once(three_digits, make_parameters, backbone, tmp_path, monkeypatch, settings):
    """What the check of the images read is what training sees: the files may change behind it."""
    parameters = make_parameters(epochs=2, model_weight_file=str(backbone), **settings)
    untouched = train(parameters, three_digits).checkpoint.read_bytes()
    folder = tmp_path / "data"
    shutil.copytree(three_digits, folder)
    open_run = training.open_run

    def spoil(*arguments):
        run = open_run(*arguments)
        for path in folder.rglob("*.png"):
            path.write_bytes(b"no image")
        return run

    monkeypatch.setattr(training, "open_run", spoil)
    monkeypatch.setattr("resnetkit.training.outcome._write_report", lambda *_: None)
    result = train(parameters, folder)
    assert result.checkpoint.read_bytes() == untouched
    assert read_metrics(result.folder)["unreadable_while_training"] == []


@pytest.mark.parametrize(
    ("num_workers", "bound"), [(1, 1024), (0, 0)], ids=["read in a process", "read again in a thread"]
)
def test_an_image_that_becomes_unreadable_is_skipped_and_counted(
    three_digits, make_parameters, tmp_path, monkeypatch, num_workers, bound
):
    monkeypatch.setattr("resnetkit.learners.learner.IMAGE_BOUND_MB", bound)
    folder = tmp_path / "data"
    shutil.copytree(three_digits, folder)
    victim = sorted((folder / "val" / "1").iterdir())[0]
    read_data = training.open_run

    def spoil(*arguments):
        run = read_data(*arguments)
        victim.write_bytes(b"no image")
        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "open_run", spoil)
        result = train(make_parameters(epochs=1, num_workers=num_workers), folder)
    ((path, _),) = read_metrics(result.folder)["unreadable_while_training"]
    assert path == str(victim)
    assert result.metrics["num_images"] == 14


def test_an_export_without_images_to_check_it_on_fails_and_the_figures_are_written(
    three_digits, make_parameters, backbone, tmp_path, monkeypatch
):
    folder = tmp_path / "data"
    shutil.copytree(three_digits, folder)
    conclude = training.conclude

    def spoil(*arguments):
        for path in folder.rglob("*.png"):
            path.write_bytes(b"no image")
        return conclude(*arguments)

    monkeypatch.setattr(training, "conclude", spoil)
    parameters = make_parameters(epochs=1, feature_extract=True, model_weight_file=str(backbone), export_pth=True)
    with pytest.raises(ExportError, match="the validation images can no longer be read"):
        train(parameters, folder)
    (written,) = {path.parent for path in (tmp_path / "runs").glob("*/metrics.json")} - {tmp_path / "runs" / "latest"}
    assert not list(written.glob("*.pth"))
