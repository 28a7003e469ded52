"""The plugins' own tests, in the convention of the Ikomia hub, run as the hub runs them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ikomia.dataprocess.registry import ik_registry
from PIL import Image


@pytest.fixture
def hub_data(tmp_path: Path, photographs: Any, photograph_folder: Path) -> dict[str, Any]:
    """The parts of the hub's data that the tests read, on local photographs."""
    dataset = tmp_path / "dataset_classification"
    for label, name in (("tower", "china"), ("dahlia", "flower")):
        for part, numbers in (("train", range(3)), ("val", range(3, 5))):
            (dataset / part / label).mkdir(parents=True)
            for number in numbers:
                crop = photographs[name][number * 20 :, number * 30 :]
                Image.fromarray(crop).resize((96, 72)).save(dataset / part / label / f"{number}.jpg")
    return {
        "images": {"detection": {"coco": str(photograph_folder / "china.png")}},
        "datasets": {"classification": {"dataset_classification": str(dataset)}},
    }


def run_as_the_hub(name: str, data: dict[str, Any]) -> list[tuple[Any, str]]:
    """Create the task, call the plugin's test, and collect what it returns or yields."""
    module = importlib.import_module(f"{name}.{name}_test")
    results = module.test(ik_registry.create_algorithm(name, public_hub=False), data)
    return list(results) if inspect.isgenerator(results) else [results]


@pytest.mark.parametrize("name", ["infer_resnet", "train_resnet"])
def test_the_plugins_own_test_succeeds(
    name: str, hub_data: dict[str, Any], imagenet_weights: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    imagenet_weights("resnet18")
    results = run_as_the_hub(name, hub_data)
    assert len(results) >= 2
    for parameters, outcome in results:
        assert outcome == "OK", outcome
        assert parameters["model_name"] == "resnet18"


def test_a_failing_run_is_reported(hub_data: dict[str, Any]) -> None:
    hub_data["datasets"]["classification"]["dataset_classification"] = "there is no such folder"
    outcomes = [outcome for _, outcome in run_as_the_hub("train_resnet", hub_data)]
    assert all("no data set" in outcome for outcome in outcomes)
