"""Fixtures for training: a data set of minutes ago in seconds, and parameters that train on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from resnetkit.parameters.training import TrainParameters

MakeParameters = Callable[..., TrainParameters]


@pytest.fixture
def make_parameters(tmp_path: Path) -> MakeParameters:
    """`make_parameters(**values)`: full training from scratch by plain SGD, 3 epochs of 5 steps."""

    def make(**values: object) -> TrainParameters:
        defaults = {
            "use_pretrained": False,
            "feature_extract": False,
            "input_size": 32,
            "optimizer": "sgd",
            "augmentation": "basic",
            "epochs": 3,
            "batch_size": 8,
            "learning_rate": 0.02,
            "output_folder": str(tmp_path / "runs"),
            "tracking": "off",
            "export_pth": False,
        }
        return TrainParameters().updated({**defaults, **values})

    return make


@pytest.fixture(scope="session")
def backbone(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best checkpoint of a short training on the digits 3 to 9, to start others from."""
    from resnetkit.training.loop import train

    folder = tmp_path_factory.mktemp("backbone")
    for part in ("train", "val"):
        for digit in "3456789":
            shutil.copytree(digits_folder / part / digit, folder / "digits" / part / digit)
    parameters = TrainParameters().updated(
        {
            "use_pretrained": False,
            "feature_extract": False,
            "input_size": 32,
            "resize_mode": "squash",
            "optimizer": "sgd",
            "augmentation": "basic",
            "epochs": 3,
            "batch_size": 16,
            "learning_rate": 0.02,
            "output_folder": str(folder / "runs"),
            "tracking": "off",
            "export_pth": False,
        }
    )
    return train(parameters, folder / "digits").checkpoint


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page and its charts, which take longer than the smallest trainings."""
    monkeypatch.setattr("resnetkit.training.outcome._write_report", lambda *_: None)
