"""The plugins' own tests, in the convention of the Ikomia hub, run as the hub runs them."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
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


#: Reads and packs a plugin as `ikcli algo add` does before it sends it, and makes its demo workflow where there is one.
LOOK = """
import json, sys, zipfile
from ikcli.algos.core import LICENCES, Algos
from ikcli.algos.local import Package
from ikcli.utils.version import Version

for name in sys.argv[1:]:
    algo = Algos.get_local(name)
    Version(algo["version"])
    assert algo["license"] in LICENCES, algo["license"]
    info = algo.info
    assert info["icon"].is_file()
    with Package(algo) as package, zipfile.ZipFile(package) as archive:
        files = sorted(archive.namelist())
    tasks = None
    if info["algo_type"] == "INFER":
        with open(algo.create_workflow()) as file:
            tasks = [task["task_data"]["name"] for task in json.load(file)["tasks"]]
    print(json.dumps({**info, "icon": str(info["icon"]), "files": files, "demo": tasks}))
"""


def test_the_platforms_tool_finds_what_the_hub_shows(run_script: Callable[..., Any]) -> None:
    names = ("infer_resnet", "train_resnet")
    folders = (Path(__file__).resolve().parents[2], Path(sys.prefix) / "ikcli")
    lines = run_script(LOOK, names, PYTHONPATH=os.pathsep.join(map(str, folders))).output.splitlines()
    shown = [json.loads(line) for line in lines if line.startswith('{"name"')]
    assert [info["name"] for info in shown] == list(names)
    for info in shown:
        assert info["paper"] == {
            "authors": "Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun",
            "title": "Deep Residual Learning for Image Recognition",
            "journal": "CVPR",
            "year": 2016,
            "link": "https://arxiv.org/abs/1512.03385",
        }
        assert info["original_implementation_repository"] == "https://github.com/pytorch/vision"
        assert info["algo_task"] == ["CLASSIFICATION"]
        assert info["language"] == "PYTHON"
        assert "Apache-2.0" in info["description"], "who wrote the code stands in the description, which is README.md"
        assert 10 < len(info["short_description"]) < 100
        assert {"README.md", "LICENSE", "requirements.txt", f"{info['name']}_process.py"} <= set(info["files"])
        assert not [name for name in info["files"] if name.endswith(".pyc")]
    assert [info["algo_type"] for info in shown] == ["INFER", "TRAIN"]
    assert "infer_resnet" in shown[0]["demo"]
