"""A data set that changes or goes away while training runs, and names that no text file takes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from resnetkit.data.dataset import DatasetError
from resnetkit.machine.progress import Progress
from resnetkit.training import opening
from resnetkit.training.loop import train
from resnetkit.training.state import read_state
from resnetkit.weights.checkpoint import open_weights

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture
def folder(three_digits, tmp_path, monkeypatch):
    """A copy of the three digits, of which training keeps nothing in memory."""
    monkeypatch.setattr("resnetkit.learners.learner.IMAGE_BOUND_MB", 0)
    return Path(shutil.copytree(three_digits, tmp_path / "data"))


def test_a_data_set_that_vanishes_is_one_sentence_and_training_goes_on_later(folder, make_parameters, tmp_path):
    parameters = make_parameters(epochs=2)
    whole = train(make_parameters(epochs=2, output_folder=str(tmp_path / "whole")), folder)
    away = tmp_path / "away"
    with pytest.raises(DatasetError) as caught:
        train(parameters, folder, Progress(on_epoch=lambda: folder.rename(away)))
    message = str(caught.value)
    run_folder = (tmp_path / "runs" / "latest").resolve()
    assert f"the folder '{folder}" in message
    assert f"resume_from={run_folder} goes on after epoch 1" in message
    assert "\n" not in message
    away.rename(folder)
    resumed = train(parameters.updated({"resume_from": str(run_folder)}), folder)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_a_data_set_that_vanishes_before_its_features_is_one_sentence(
    folder, make_parameters, backbone, tmp_path, monkeypatch
):
    measure = opening.measure_files

    def lose(dataset):
        measured = measure(dataset)
        shutil.rmtree(folder)
        return measured

    monkeypatch.setattr(opening, "measure_files", lose)
    with pytest.raises(DatasetError, match=r"is no longer there.*resume_from=.* begins the first again"):
        train(make_parameters(feature_extract=True, model_weight_file=str(backbone)), folder)


def test_half_a_validation_split_chooses_nothing(folder, make_parameters, tmp_path):
    def lose() -> None:
        for path in sorted((folder / "val").rglob("*.png"))[::2]:
            path.unlink()

    with pytest.raises(DatasetError, match="of 15 images can no longer be read"):
        train(make_parameters(), folder, Progress(on_epoch=lose))
    run_folder = tmp_path / "runs" / "latest"
    assert read_state(run_folder).epoch == 1
    assert open_weights(run_folder / "best.safetensors").metadata.metrics["epoch"] == 1


def test_an_image_that_vanishes_before_it_is_hashed_is_left_out(folder, make_parameters, monkeypatch, caplog):
    victim = sorted((folder / "train" / "1").iterdir())[0]
    check = opening.check_images

    def lose(*arguments):
        checked = check(*arguments)
        victim.unlink()
        return checked

    monkeypatch.setattr(opening, "check_images", lose)
    result = train(make_parameters(epochs=1), folder)
    assert f"left out '{victim}': it vanished since it was checked" in caplog.text
    assert json.loads((result.folder / "metrics.json").read_text(encoding="utf-8"))["images"]["train"] == 32


def test_names_that_are_no_utf_8_are_written_with_a_sign_for_them(folder, make_parameters, capfd):
    odd = Path(os.fsdecode(bytes(folder) + b"-\xff"))
    try:
        folder.rename(odd)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    victim = sorted((odd / "val" / "1").iterdir())[0]
    broken = victim.with_name("broken\udcff.png")
    victim.rename(broken)
    parameters = make_parameters(epochs=2)
    result = train(parameters, odd, Progress(on_epoch=lambda: broken.write_bytes(b"no image")))
    metrics = json.loads((result.folder / "metrics.json").read_text(encoding="utf-8"))
    [(path, _)] = metrics["unreadable_while_training"]
    assert path.endswith("-\N{REPLACEMENT CHARACTER}/val/1/broken\N{REPLACEMENT CHARACTER}.png")
    assert "Logging error" not in capfd.readouterr().err


def test_training_into_its_own_data_set_finds_the_same_classes_again(three_digits, make_parameters, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(three_digits / "train", folder)
    parameters = make_parameters(epochs=1, output_folder=str(folder / "runs"))
    first, second = (train(parameters, folder) for _ in range(2))
    assert first.classes == second.classes == ("0", "1", "2")
    assert first.checkpoint.read_bytes() == second.checkpoint.read_bytes()
