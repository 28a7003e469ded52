"""Training finds one brightness range for the data set, and inference uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetkit import load_model
from resnetkit.images.pixels import EACH_IMAGE
from resnetkit.parameters.training import TrainParameters
from resnetkit.training.loop import train
from resnetkit.weights.checkpoint import open_weights


@pytest.fixture(scope="module")
def brightness_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12-bit files of two classes that differ in brightness alone, with a broken pixel in every other one."""
    folder = tmp_path_factory.mktemp("brightness")
    chance = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 6)):
        for name, level in (("dark", 900), ("light", 3600)):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                # The same texture for both, as a share of the level.
                values = (level * (0.7 + 0.3 * chance.random((40, 40)))).astype(np.uint16)
                if index % 2:
                    values[3, 3] = 65535
                Image.fromarray(values).save(folder / split / name / f"{index}.png")
    return folder


def test_classes_that_differ_in_brightness_alone_are_learned(
    brightness_folder: Path, make_parameters: Callable[..., TrainParameters], without_report: None
) -> None:
    result = train(make_parameters(epochs=12, learning_rate=0.005), brightness_folder)
    stored = open_weights(result.checkpoint).preprocessing
    assert stored is not None
    assert stored.value_range == (0, 4095)
    assert json.loads((result.checkpoint.parent / "preprocessing.json").read_text())["value_range"] == [0, 4095]
    model = load_model(result.checkpoint)
    assert model.info["value_range"] == [0, 4095]
    paths = sorted(brightness_folder.glob("val/*/*.png"))
    answers = [answer.label for answer in model.classify(paths)]
    assert answers == [path.parent.name for path in paths]
    # Arrays and files are seen alike, and one broken pixel changes no class.
    values = np.array(Image.open(paths[0]))
    clean = model.predict(values)
    assert clean.probabilities == pytest.approx(model.predict(paths[0]).probabilities, abs=1e-6)
    values[0, 0] = 65535
    assert model.predict(values).label == "dark"


def test_declared_range_wins_and_is_stored(
    brightness_folder: Path, make_parameters: Callable[..., TrainParameters], without_report: None
) -> None:
    result = train(make_parameters(epochs=1, value_range="16"), brightness_folder)
    stored = open_weights(result.checkpoint).preprocessing
    assert stored is not None
    assert stored.value_range == (0, 65535)
    assert load_model(result.checkpoint, value_range="14").info["value_range"] == [0, 16383]


@pytest.mark.parametrize("is_saved_before_ranges", [False, True], ids=["of today", "from before ranges"])
def test_a_resumed_run_keeps_its_range(
    brightness_folder: Path,
    make_parameters: Callable[..., TrainParameters],
    without_report: None,
    is_saved_before_ranges: bool,
) -> None:
    settings = {"optimizer": "sgd", "scheduler": "constant", "epochs": 1}
    result = train(make_parameters(**settings), brightness_folder)
    folder = result.checkpoint.parent.resolve()
    expected = [0, 4095]
    if is_saved_before_ranges:
        said = json.loads((folder / "preprocessing.json").read_text())
        del said["value_range"]
        (folder / "preprocessing.json").write_text(json.dumps(said))
        expected = list(EACH_IMAGE)
    for epochs in (2, 3):  # what the first resumed run writes must not change the second
        train(make_parameters(**{**settings, "epochs": epochs}, resume_from=str(folder)), brightness_folder)
        assert json.loads((folder / "preprocessing.json").read_text())["value_range"] == expected
