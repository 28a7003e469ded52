"""Workflows and weights that were saved before the library had rooms, in the engine; see tests/material/before_0_1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.material.before_0_1.digits import read_images

MATERIAL = Path(__file__).resolve().parents[1] / "material" / "before_0_1"
WORKFLOWS = sorted(path.stem for path in (MATERIAL / "workflows").glob("*.json"))
ANSWERS = json.loads((MATERIAL / "answers.json").read_text(encoding="utf-8"))


def get_saved(content: dict) -> dict[str, str]:
    """Return the parameters that stand in a workflow file of one task."""
    (task,) = content["tasks"]
    return {item["name"]: item["value"] for item in task["task_data"]["parameters"]}


def read(name: str) -> dict:
    return json.loads((MATERIAL / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def load(workflow, tmp_path):
    """`load(name, **changes)`: the task of an old workflow file, in which some values were replaced by hand."""

    def load_changed(name: str, **changes: str):
        content = read(name)
        (task,) = content["tasks"]
        for item in task["task_data"]["parameters"]:
            item["value"] = changes.get(item["name"], item["value"])
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        workflow.load(str(path))
        (task,) = workflow.find_task(task["task_data"]["name"])
        return task

    return load_changed


def get_expected(name: str) -> np.ndarray:
    return np.array(ANSWERS[name]["probabilities"])


def get_digits(name: str) -> tuple[int, ...]:
    """Return the digits whose first images are asked about."""
    return (0, 1, 2) if name.startswith("head") else (3, 4, 5)


def classify(workflow, task, digits) -> np.ndarray:
    """Return the probabilities of the first image of each digit, (3, classes)."""
    answers = []
    for image in read_images(digits):
        workflow.run_on(array=image)
        (prediction,) = task.get_predictions()
        answers.append(prediction.probabilities)
    return np.stack(answers)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_saved_parameter_is_in_force(load, name):
    """The old defaults stand in the files, too: new ones change nothing of an old workflow."""
    saved, parameters = get_saved(read(name)), load(name).get_parameters()
    assert len(saved) >= 16
    assert {parameter: parameters.get(parameter) for parameter in saved} == saved


def test_the_size_of_the_weights_file_wins_where_224_was_saved(workflow, load, old_folder):
    name = "full_finished/best.safetensors"
    task = load("infer_size_224", model_weight_file=str(old_folder("full_finished") / "best.safetensors"))
    assert task.get_parameters()["input_size"] == "224"
    np.testing.assert_allclose(classify(workflow, task, get_digits(name)), get_expected(name), atol=1e-4)
    assert task.get_model_info()["input_size"] == 32


def test_the_architecture_of_the_weights_file_wins_where_resnet18_was_saved(workflow, load, old_folder):
    name = "start/resnet50.safetensors"
    task = load("infer_resnet50", model_weight_file=str(old_folder("start") / "resnet50.safetensors"))
    assert task.get_parameters()["model_name"] == "resnet18"
    np.testing.assert_allclose(classify(workflow, task, get_digits(name)), get_expected(name), atol=1e-4)
    info = task.get_model_info()
    assert (info["model_name"], info["input_size"]) == ("resnet50", 64)


@pytest.mark.parametrize("name", [name for name in ANSWERS if not name.startswith("start/")])
def test_a_file_answers_as_it_did_then(workflow, load, old_folder, name):
    """Every file beside the defaults of then, but for a bare state dict, which needs its size and way of resizing."""
    folder, file = name.split("/")
    is_bare = ANSWERS[name]["metadata"] is None
    changes = {"input_size": "32", "resize_mode": "squash"} if is_bare else {}
    task = load("infer_defaults", model_weight_file=str(old_folder(folder) / file), device="cpu", **changes)
    # Sums of 8-bit products are cut off differently on another CPU.
    tolerance = 0.02 if "int8" in file else 1e-4
    np.testing.assert_allclose(classify(workflow, task, get_digits(name)), get_expected(name), atol=tolerance)
    assert task.get_model_info()["classes"] == list(map(str, get_digits(name)))
