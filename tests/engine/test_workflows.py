"""The workflow files of examples/: up to date, loadable, and doing what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "examples" / "workflows"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.fixture(scope="module")
def hub_detector(ikomia_root, request):
    """Install a stand-in for the hub's detector that detect_then_classify.json names."""
    conftest = request.config.pluginmanager.get_plugin(str(REPOSITORY / "tests" / "conftest.py"))
    conftest.write_detector(ikomia_root.parent, "infer_yolo_v8")
    return "infer_yolo_v8"


def load(name: str):
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow()
    workflow.load(str(FOLDER / f"{name}.json"))
    return workflow


def test_the_files_are_those_that_the_script_writes(tmp_path, hub_detector, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import write_workflows

    write_workflows.write_workflows(tmp_path)
    assert [path.name for path in FILES] == sorted(path.name for path in tmp_path.iterdir())
    for path in FILES:
        stored, written = (
            json.loads((folder / path.name).read_text(encoding="utf-8")) for folder in (FOLDER, tmp_path)
        )
        for content in (stored, written):
            del content["api"]  # the versions of Python and of the engine
        assert stored == written, "run scripts/write_workflows.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_everything_exposed_is_described(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["metadata"]["description"]
    assert content["exposed_parameters"]
    assert content["exposed_outputs"]
    assert all(item["description"] for item in content["exposed_parameters"] + content["exposed_outputs"])


def test_classify(photographs, checkpoint_path):
    workflow = load("classify")
    workflow.set_workflow_parameters({"model_weight_file": str(checkpoint_path), "top_k": "2"})
    workflow.run_on(array=photographs["china"])
    (prediction,) = workflow.find_task("infer_resnet")[0].get_predictions()
    assert len(prediction.top_k) == 2
    assert prediction.label in {"cat", "dog", "fish"}


def test_classify_with_imagenet_weights_as_it_stands(photographs, imagenet_weights):
    imagenet_weights("resnet18")
    workflow = load("classify")
    workflow.run_on(array=photographs["china"])
    assert len(workflow.find_task("infer_resnet")[0].get_predictions()[0].top_k) == 5


def test_detect_then_classify(photographs, checkpoint_path, hub_detector):
    workflow = load("detect_then_classify")
    workflow.set_workflow_parameters({"model_weight_file": str(checkpoint_path)})
    workflow.run_on(array=photographs["china"])
    assert len(workflow.find_task("infer_resnet")[0].get_predictions()) == 2


@pytest.mark.slow
def test_train_digits(digits_folder, tmp_path, monkeypatch):
    dataset = tmp_path / "build" / "demo" / "digits"
    dataset.parent.mkdir(parents=True)
    dataset.symlink_to(digits_folder)
    monkeypatch.chdir(tmp_path)
    workflow = load("train_digits")
    workflow.set_workflow_parameters({"epochs": "1", "output_folder": str(tmp_path / "runs")})
    workflow.run()
    task = workflow.find_task("train_resnet")[0]
    assert Path(task.get_checkpoint()).is_file()
    assert task.get_parameters()["resize_mode"] == "squash"


@pytest.mark.slow
def test_the_demo(tmp_path, monkeypatch, capsys):
    """A short one: what it reaches is for `make demo` to show."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    monkeypatch.delitem(sys.modules, "demo", raising=False)
    import demo

    for name in ("DATASET_FOLDER", "RUNS_FOLDER", "PICTURES_FOLDER"):
        monkeypatch.setattr(demo, name, tmp_path / name)
    monkeypatch.setitem(demo.TRAINING, "epochs", 1)
    demo.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("demo: test accuracy 0.")
    assert lines[-1].endswith(f"on 360 images; pictures in {(tmp_path / 'PICTURES_FOLDER').name}/")
    assert {path.name for path in (tmp_path / "PICTURES_FOLDER").iterdir()} >= {"answers.png", "digit_7.png"}
    parts = {part: len(list((tmp_path / "DATASET_FOLDER" / part).rglob("*.png"))) for part in ("train", "val", "test")}
    assert parts == {"train": 1257, "val": 180, "test": 360}
