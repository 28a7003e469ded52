"""Run folders and weights files that were written before the library had rooms; see tests/material/before_0_1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from resnetkit.data.dataset import read_dataset
from resnetkit.images.pixels import EACH_IMAGE
from resnetkit.parameters.training import TrainParameters
from resnetkit.training.loop import train
from resnetkit.training.state import read_state
from resnetkit.weights.checkpoint import open_weights
from tests.material.before_0_1.digits import write_digits

MATERIAL = Path(__file__).resolve().parents[1] / "material" / "before_0_1"
ANSWERS = json.loads((MATERIAL / "answers.json").read_text(encoding="utf-8"))
SELF_DESCRIBING = [name for name, answer in ANSWERS.items() if answer["metadata"] is not None]

#: Largest distance from what the old code came to, as a share of the way there. With the libraries of then it is 0 on
#: the machine that wrote the files with one thread, and 0.0001 with another instruction set or number of threads, which
#: add up in another order.
TOLERANCE = 0.001

DIGITS = {"full": "345", "head": "012"}
#: The file that training started from.
STARTS = {"full": "start/start.safetensors", "head": "full_finished/best.safetensors"}


def collect(content: Mapping, name: str = "") -> dict[str, dict[str, torch.Tensor]]:
    """Return all tensors of nested dictionaries: by the last part of their name, then by the whole of it."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for part, value in content.items():
        whole = f"{name}.{part}"
        if isinstance(value, torch.Tensor):
            found.setdefault(whole.rpartition(".")[2], {})[whole] = value.double()
        for kind, tensors in (collect(value, whole) if isinstance(value, Mapping) else {}).items():
            found.setdefault(kind, {}).update(tensors)
    return found


def measure_distance(some: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> float:
    assert some.keys() == others.keys()
    return sum(float((some[name] - others[name]).square().sum()) for name in some) ** 0.5


def assert_arrived(found: Mapping, expected: Mapping, before: Mapping) -> None:
    """Check that each kind of tensor (weight, running_mean, exp_avg ...) came from where it was to where it should."""
    found, expected, before = collect(found), collect(expected), collect(before)
    assert found.keys() == expected.keys()
    for kind, tensors in expected.items():
        way = measure_distance(before[kind], tensors)
        assert measure_distance(found[kind], tensors) <= TOLERANCE * way, kind


def write_old_split(folder: Path, val_split: float, seed: int) -> Path:
    """Move images into folders of splits as runs of rule 1 drew them: new runs draw by the images' names."""
    dataset = read_dataset(folder, val_split, seed, split_rule=1)
    for split, samples in (("train", dataset.train), ("val", dataset.val)):
        for sample in samples:
            target = folder.parent / "split" / split / sample.path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sample.path, target)
    return folder.parent / "split"


def without_seconds(history) -> list[dict]:
    """Return what runs of then measured as well, times aside."""
    left_out = ("seconds", "val_balanced_accuracy")
    return [{name: value for name, value in row.items() if name not in left_out} for row in history]


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("kind", ["head", "full"])
def test_an_interrupted_run_ends_as_it_would_have_without_a_break(kind, old_folder, unpack_old, tmp_path):
    """Parameters are taken as from an old workflow: those of then by name, all newer ones at their defaults."""
    folder, twin = unpack_old(f"{kind}_interrupted", tmp_path / "runs" / "old"), old_folder(f"{kind}_finished")
    before, expected = read_state(folder), read_state(twin)
    best_before, expected_best = open_weights(folder).read_state_dict(), open_weights(twin)
    assert before.epoch == expected.epoch - 2
    start = Path(STARTS[kind])
    values = {name: value for name, value in before.parameters.items() if name in TrainParameters.model_fields}
    values |= {name: False for name in values if name.startswith("export_")}
    values |= {"model_weight_file": old_folder(start.parent.name) / start.name, "resume_from": folder}
    result = train(TrainParameters().updated(values), write_digits(tmp_path / "data", DIGITS[kind]))

    assert result.folder == folder
    state, best = read_state(folder), open_weights(folder)
    assert_arrived(state.weights, expected.weights, before.weights)
    assert_arrived(state.optimizer, expected.optimizer, before.optimizer)
    assert_arrived(best.read_state_dict(), expected_best.read_state_dict(), best_before)
    assert without_seconds(state.history) == [
        pytest.approx(row, rel=TOLERANCE) for row in without_seconds(expected.history)
    ]
    assert best.metadata.metrics == pytest.approx(expected_best.metadata.metrics, rel=TOLERANCE)
    assert best.metadata.metrics["epoch"] > before.epoch


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("kind", ["head", "full"])
def test_old_settings_train_from_the_first_step_as_then(kind, old_folder, tmp_path):
    """The old defaults are explicit values in old workflows; all newer parameters are at their defaults."""
    twin, start = old_folder(f"{kind}_finished"), Path(STARTS[kind])
    start_path = old_folder(start.parent.name) / start.name
    expected, expected_best = read_state(twin), open_weights(twin)
    values = {name: value for name, value in expected.parameters.items() if name in TrainParameters.model_fields}
    values |= {name: False for name in values if name.startswith("export_")}
    values |= {"model_weight_file": start_path, "resume_from": "", "output_folder": str(tmp_path / "runs")}
    data = write_digits(tmp_path / "data", DIGITS[kind])
    result = train(TrainParameters().updated(values), write_old_split(data, values["val_split"], values["seed"]))
    state = read_state(result.folder)
    assert without_seconds(state.history) == [
        pytest.approx(row, rel=TOLERANCE) for row in without_seconds(expected.history)
    ]
    before = open_weights(start_path).read_state_dict()
    assert_arrived(open_weights(result.folder).read_state_dict(), expected_best.read_state_dict(), before)
    assert "temperature" not in result.metrics


@pytest.mark.parametrize("name", SELF_DESCRIBING)
def test_a_file_says_of_itself_what_it_said_then(old_folder, name):
    folder, file = name.split("/")
    metadata = open_weights(old_folder(folder) / file).metadata
    assert metadata is not None
    said = json.loads(json.dumps(asdict(metadata)))  # lists for tuples
    expected = dict(ANSWERS[name]["metadata"])
    # There was none: each image's own maximum decided.
    expected["preprocessing"] = {**expected["preprocessing"], "value_range": list(EACH_IMAGE)}
    assert {part: said[part] for part in expected} == expected


@pytest.mark.parametrize("kind", DIGITS)
def test_a_run_folder_is_read_by_its_best_checkpoint(old_folder, kind):
    weights = open_weights(old_folder(f"{kind}_finished"))
    assert weights.identify() == ("resnet18", 3, False)
    assert weights.metadata.classes == tuple(DIGITS[kind])
