"""The second names: scripts and workflow files written for the older plugins of these names run as they are."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resnetkit.parameters.old_names import forget_plugin_paths

REPOSITORY = Path(__file__).resolve().parents[2]
OLD_ROOT = "/data/ann/Ikomia/Plugins/Python"

#: What the older plugins save, with their defaults.
OLD_INFER = {
    "model_name": "resnet18",
    "dataset": "ImageNet",
    "input_size": "224",
    "model_weight_file": "",
    "class_file": f"{OLD_ROOT}/infer_torchvision_resnet/models/imagenet_classes.txt",
}
OLD_TRAIN = {
    "model_name": "resnet18",
    "batch_size": "8",
    "epochs": "15",
    "learning_rate": "0.001",
    "momentum": "0.9",
    "weight_decay": "0.0001",
    "num_workers": "0",
    "input_size": "224",
    "use_pretrained": "1",
    "feature_extract": "1",
    "export_pth": "1",
    "export_onnx": "0",
    "output_folder": f"{OLD_ROOT}/train_torchvision_resnet/models/",
}

#: Loads a workflow file and runs it on a path or a folder.
RUN_FILE = """
import sys
from ikomia.dataprocess.workflow import Workflow

wf = Workflow()
wf.load(sys.argv[1])
wf.run_on(**{sys.argv[2]: sys.argv[3]})
(task,) = wf.find_task(sys.argv[4])
print("parameters:", task.get_parameters())
if sys.argv[4].startswith("infer"):
    (prediction,) = task.get_predictions()
    print("answers:", len(prediction.top_k), prediction.label)
else:
    print("checkpoint:", task.get_checkpoint())
"""

#: The script of the older plugin's README, with the completion of this installation in a folder of its own.
OLD_SCRIPT = """
import importlib.util, pathlib, sys
from ikomia import utils
from ikomia.utils import autocomplete

autocomplete.__file__ = str(pathlib.Path.cwd() / "autocomplete.py")
autocomplete.ik_autocomplete.make_local_plugins(force=True)
spec = importlib.util.spec_from_file_location("ikomia.utils.ik", pathlib.Path.cwd() / "ik.py")
utils.ik = sys.modules["ikomia.utils.ik"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(utils.ik)

from ikomia.dataprocess.workflow import Workflow
from ikomia.utils import ik
from ikomia.utils.displayIO import display

wf = Workflow()
resnet = wf.add_task(ik.infer_torchvision_resnet(model_name="resnet50"), auto_connect=True)
wf.run_on(url=sys.argv[1])
display(resnet.get_image_with_graphics())
print(resnet.name, resnet.get_parameters()["model_name"], resnet.get_predictions()[0].label)

names = pathlib.Path("Ikomia/Plugins/Python/infer_torchvision_resnet/models/imagenet_classes.txt").absolute()
every = ik.infer_torchvision_resnet(
    model_name="resnet34", dataset="ImageNet", input_size="224", model_weight_file="", class_file=str(names)
)
print("all five:", every.get_parameters()["model_name"], repr(every.get_parameters()["class_file"]))
"""


@pytest.fixture
def conftest(request: pytest.FixtureRequest) -> Any:
    return request.config.pluginmanager.get_plugin(str(REPOSITORY / "tests" / "conftest.py"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder after `make link link-compat`."""
    folder = tmp_path / "home"
    for arguments in ([], ["--compat"]):
        command = [sys.executable, str(REPOSITORY / "scripts" / "link_plugins.py"), "--home", str(folder), *arguments]
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture
def write_old_file(tmp_path: Path, home: Path, run_script: Any) -> Any:
    """Write a workflow file as an older plugin saved it: its name, its parameters, and no others."""

    def write(name: str, parameters: dict[str, str]) -> Path:
        path = tmp_path / f"{name}.json"
        run_script(
            "import sys\n"
            "from ikomia.dataprocess.workflow import Workflow\n"
            "wf = Workflow()\n"
            "wf.add_task(name=sys.argv[1], auto_connect=True)\n"
            "wf.save(sys.argv[2])\n",
            [name, str(path)],
            home=home,
        )
        content = json.loads(path.read_text(encoding="utf-8"))
        (task,) = (task["task_data"] for task in content["tasks"] if task["task_data"]["name"] == name)
        task["parameters"] = [{"name": key, "value": value} for key, value in parameters.items()]
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


def test_an_old_script_runs_unchanged(
    home: Path, run_script: Any, conftest: Any, local_server: Any, photograph_folder: Path
) -> None:
    conftest.write_imagenet_weights(home, "resnet50")
    (local_server.folder / "img_porsche.jpg").write_bytes((photograph_folder / "china.png").read_bytes())
    result = run_script(OLD_SCRIPT, [f"{local_server.url}/img_porsche.jpg?raw=true"], home=home)
    assert "infer_torchvision_resnet resnet50 " in result.output
    assert "all five: resnet34 ''" in result.output
    assert result.output.count("'dataset' is no longer used and has no effect") == 1
    assert "'class_file' was inside the old plugin's folder" in result.output


def test_an_old_workflow_with_imagenet_weights(
    home: Path, run_script: Any, conftest: Any, write_old_file: Any, photograph_folder: Path
) -> None:
    conftest.write_imagenet_weights(home, "resnet18")
    path = write_old_file("infer_torchvision_resnet", OLD_INFER)
    picture = str(photograph_folder / "china.png")
    result = run_script(RUN_FILE, [str(path), "path", picture, "infer_torchvision_resnet"], home=home)
    assert "answers: 5" in result.output
    assert "'class_file': ''" in result.output
    assert "'dataset': ''" in result.output
    assert result.output.count("'dataset' is no longer used and has no effect") == 1
    assert "'class_file' was inside the old plugin's folder" in result.output


def test_an_old_workflow_with_a_model_of_ones_own(
    home: Path, tmp_path: Path, run_script: Any, write_old_file: Any, photograph_folder: Path
) -> None:
    import torch

    from resnetkit.weights.models import initialize_model

    torch.save(initialize_model("resnet34", 3, seed=0).state_dict(), tmp_path / "own.pth")
    (tmp_path / "own.txt").write_text("cat\ndog\nfish\n", encoding="utf-8")
    own = {
        "model_name": "resnet34",
        "dataset": "Custom",
        "input_size": "96",
        "model_weight_file": str(tmp_path / "own.pth"),
        "class_file": str(tmp_path / "own.txt"),
    }
    path = write_old_file("infer_torchvision_resnet", own)
    picture = str(photograph_folder / "china.png")
    result = run_script(RUN_FILE, [str(path), "path", picture, "infer_torchvision_resnet"], home=home)
    assert "answers: 3" in result.output
    assert result.output.rstrip().endswith(("cat", "dog", "fish"))


def test_an_old_training_workflow(
    home: Path, tmp_path: Path, run_script: Any, write_old_file: Any, digits_folder: Path
) -> None:
    for part in ("train", "val"):
        for digit in ("0", "1"):
            shutil.copytree(digits_folder / part / digit, tmp_path / "digits" / part / digit)
    fast = {"epochs": "1", "batch_size": "40", "input_size": "32", "use_pretrained": "0", "feature_extract": "0"}
    path = write_old_file("train_torchvision_resnet", OLD_TRAIN | fast)
    arguments = [str(path), "folder", str(tmp_path / "digits"), "train_torchvision_resnet"]
    result = run_script(RUN_FILE, arguments, home=home, timeout_s=200, OMP_NUM_THREADS="1")
    assert "'output_folder' was inside the old plugin's folder" in result.output
    checkpoint = Path(result.output.rpartition("checkpoint: ")[2].strip())
    assert checkpoint.is_file()
    assert checkpoint.is_relative_to(home / "Ikomia" / "Models" / "train_resnet")


@pytest.mark.parametrize("kind", ["infer", "train"])
def test_the_form_has_the_second_name(kind: str, home: Path, run_script: Any) -> None:
    result = run_script(
        "import gc\n"
        "from PyQt6.QtWidgets import QApplication\n"
        "application = QApplication([])\n"
        "from ikomia.dataprocess.registry import ik_registry\n"
        f"name = '{kind}_torchvision_resnet'\n"
        "task = ik_registry.create_algorithm(name, {'input_size': '96'}, public_hub=False)\n"
        f"from {kind}_torchvision_resnet.{kind}_torchvision_resnet import IkomiaPlugin\n"
        "plugin = IkomiaPlugin()\n"
        "factories = plugin.get_process_factory(), plugin.get_widget_factory(), plugin.get_param_factory()\n"
        "assert [factories[0].info.name, factories[1].name, factories[2].name] == [name] * 3\n"
        "widget = factories[1].create(task.get_param_object())\n"
        "widget.form.get_field('input_size').write('128')\n"
        "widget.on_apply()\n"
        "print('input_size', task.get_parameters()['input_size'])\n"
        "del widget\n"
        "gc.collect()\n",
        home=home,
    )
    assert "input_size 128" in result.output


@pytest.mark.parametrize("kind", ["infer", "train"])
def test_a_second_name_alone_says_what_is_missing(kind: str, tmp_path: Path, run_script: Any) -> None:
    folder = tmp_path / "alone" / "Ikomia" / "Plugins" / "Python"
    folder.mkdir(parents=True)
    (folder / f"{kind}_torchvision_resnet").symlink_to(REPOSITORY / "compat" / f"{kind}_torchvision_resnet")
    result = run_script(
        # As if it were not installed in this Python either.
        f"import sys\nsys.modules['{kind}_resnet'] = None\n"
        f"from ikomia.dataprocess.workflow import Workflow\nWorkflow().add_task(name='{kind}_torchvision_resnet')\n",
        home=tmp_path / "alone",
        is_failure_expected=True,
    )
    assert result.exit_code != 0
    assert f"is a second name of {kind}_resnet, but '{kind}_resnet" in result.output
    assert f"install or link {kind}_resnet there" in result.output


# --- What of an old file is kept ---


@pytest.mark.parametrize(
    "text",
    [
        f"{OLD_ROOT}/train_torchvision_resnet/models/",
        "C:\\Users\\Ann\\Ikomia\\Plugins\\Python\\train_torchvision_resnet\\models\\",
        "C:\\Users\\Ann\\Ikomia\\Plugins\\Python\\train_torchvision_resnet/models/",
        f"{OLD_ROOT}//train_torchvision_resnet",
    ],
)
def test_a_path_inside_the_old_plugin_is_the_default(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        kept = forget_plugin_paths({"output_folder": text, "epochs": "3"}, "train_torchvision_resnet")
    assert kept == {"output_folder": "", "epochs": "3"}
    (message,) = caplog.messages
    assert message.startswith("train_torchvision_resnet: 'output_folder' was inside the old plugin's folder")
    assert text in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/data/train_torchvision_resnet/",
        f"{OLD_ROOT}/other/models",
        f"{OLD_ROOT}/train_torchvision_resnet2/x",
        "a b",
    ],
)
def test_any_other_path_is_kept(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert forget_plugin_paths({"output_folder": text}, "train_torchvision_resnet") == {"output_folder": text}
    assert caplog.messages == []


def test_the_words_of_the_old_form_are_no_path() -> None:
    assert forget_plugin_paths({"model_weight_file": "Not used"}, "infer_torchvision_resnet") == {
        "model_weight_file": ""
    }


def test_the_old_name_of_training_keeps_the_old_training(home: Path, run_script: Any) -> None:
    result = run_script(
        "from ikomia.dataprocess.workflow import Workflow\n"
        "values = Workflow().add_task(name='train_torchvision_resnet').get_parameters()\n"
        "print([values[name] for name in ('optimizer', 'epochs', 'batch_size', 'learning_rate', 'augmentation')])\n",
        home=home,
    )
    assert "['sgd', '15', '8', '0.001', 'basic']" in result.output
