"""Every kind of model that infer_resnet runs is evaluated, on the command line and by the task, to the same figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetkit import load_model
from resnetkit.__main__ import main
from resnetkit.parameters.training import TrainParameters
from resnetkit.training.evaluating import evaluate_weights
from resnetkit.weights.architectures import get_imagenet_classes

KINDS = ("run folder", "safetensors", "pth", "onnx", "openvino", "int8", "imagenet")


@pytest.fixture(scope="module")
def make_images(photographs: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """`make_images(names)`: a folder with three cuts of photographs for each class."""

    def make(names: tuple[str, ...]) -> Path:
        folder = tmp_path_factory.mktemp("later")
        for left, name in enumerate(names):
            (folder / name).mkdir()
            for index, photograph in enumerate(("china", "flower", "astronaut")):
                cut = photographs[photograph][100:260, 60 * left : 60 * left + 160]
                Image.fromarray(cut).save(folder / name / f"{index}.png")
        return folder

    return make


def read_table(path: Path) -> np.ndarray:
    """Return the probabilities of a table of predictions, (num_images, num_classes)."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return np.array([[float(cell) for name, cell in row.items() if name.startswith("probability of ")] for row in rows])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_evaluated_to_the_same_figures(
    kind: str, weights_files: Mapping[str, Path], imagenet_weights, make_images, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("resnetkit.evaluation.evaluation.write_report", lambda folder, _: folder / "report.html")
    if kind == "imagenet":
        imagenet_weights("resnet18")
        names, model, values = get_imagenet_classes()[3:5], "imagenet", {"model_name": "resnet18"}
        reference = load_model(runtime="torch", **values)
    else:
        names, model, values = ("cat", "fish"), str(weights_files[kind]), {}
        values = {"model_weight_file": model}
        reference = load_model(weights_files["safetensors"], runtime="torch")
    images = make_images(names)
    expected = [reference.predict(path) for name in names for path in sorted((images / name).iterdir())]
    accuracy = np.mean([answer.label == names[number // 3] for number, answer in enumerate(expected)])

    words = ["evaluate", model, str(images), "--output", str(tmp_path / "command"), "--json"]
    options = ["--model-name=resnet18"] if kind == "imagenet" else []
    assert main([*words, *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    parameters = {"evaluate_only": True, "output_folder": str(tmp_path / "task"), **values}
    result = evaluate_weights(TrainParameters().updated(parameters), images)

    found = read_table(Path(answer["predictions"]))
    np.testing.assert_allclose(found, read_table(result.folder / "predictions.csv"), atol=1e-5)
    tolerance = 0.05 if kind == "int8" else 1e-4
    np.testing.assert_allclose(found, [each.probabilities for each in expected], atol=tolerance)
    assert answer["num_images"] == result.metrics["num_images"] == 6
    assert answer["accuracy"] == result.metrics["accuracy"]
    if kind != "int8":
        assert answer["accuracy"] == pytest.approx(accuracy)
