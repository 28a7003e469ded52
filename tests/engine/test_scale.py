"""Workflows as the platform's own command-line tool packs them, run from the archive in an empty home folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from resnetkit.exports.export import export_openvino
from resnetkit.weights.checkpoint import open_weights
from resnetkit.weights.metadata import write_preprocessing
from resnetkit.weights.models import load_model

REPOSITORY = Path(__file__).resolve().parents[2]

#: Packs a workflow file as `ikcli project push` does before it sends it.
PACK = """
import shutil, sys
from pathlib import Path
from ikcli.workflows.archive import Archive

with Archive(Path(sys.argv[1])) as archive:
    shutil.copy(archive, sys.argv[2])
"""

#: Runs the workflow of an archive that was unpacked where plugins are; prints the first answer.
RUN = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(getattr(finder, "__module__", ""))]
from ikomia.dataprocess.workflow import Workflow

workflow = Workflow()
workflow.load(sys.argv[1])
workflow.run_on(path=sys.argv[2])
task = workflow.find_task("infer_resnet")[0]
import resnetkit
print("library:", resnetkit.__file__)
print("weights:", task.get_model_info()["weights"])
print("answer:", *(f"{score.label} {score.confidence:.4f}" for score in task.get_predictions()[0].top_k))
"""


@pytest.fixture(scope="module")
def _link_plugins(tmp_path_factory):
    """The plugins as `make link` leaves them, the library shown in each."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "link_plugins.py"), "--home"]
    subprocess.run([*command, str(tmp_path_factory.mktemp("home"))], check=True, capture_output=True, timeout=60)


def pack(workflow_path: Path, archive_path: Path, home: Path) -> dict[str, int]:
    """Pack a workflow with the platform's tool; return the sizes of what the archive holds, by name."""
    environment = {**os.environ, "PYTHONPATH": str(Path(sys.prefix) / "ikcli"), "HOME": str(home)}
    command = [sys.executable, "-c", PACK, str(workflow_path), str(archive_path)]
    subprocess.run(command, check=True, env=environment, timeout=60)
    with zipfile.ZipFile(archive_path) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist()}


@pytest.fixture(scope="module")
def model_folder(checkpoint_path, tmp_path_factory):
    """A model as a run folder has it (best.safetensors), as OpenVINO's two files, and as a bare state dict."""
    folder = tmp_path_factory.mktemp("models")
    file = open_weights(checkpoint_path)
    model = load_model("resnet18", file.read_state_dict())
    shutil.copy(checkpoint_path, folder)
    export_openvino(folder, model, file.metadata, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    torch.save(model.state_dict(), folder / "resnet18.pth")
    (folder / "classes.txt").write_text("\n".join(file.metadata.classes), encoding="utf-8")
    write_preprocessing(folder, file.metadata.preprocessing)
    latest = Path.home() / "runs of mine" / "latest"
    latest.parent.mkdir()
    latest.symlink_to(folder)
    return folder


FORMS = {
    "a run folder below ~": "~/runs of mine/latest",
    "OpenVINO": "{folder}/resnet18.xml",
    "a state dict": "{folder}/resnet18.pth",
}


@pytest.mark.slow
@pytest.mark.usefixtures("_link_plugins")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_archive_of_a_workflow_answers_in_an_empty_home(
    form, model_folder, photograph_folder, tmp_path, workflow, run_script
):
    photograph = str(photograph_folder / "china.png")
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": form.format(folder=model_folder)})
    workflow.run_on(path=photograph)
    here = " ".join(f"{score.label} {score.confidence:.4f}" for score in task.get_predictions()[0].top_k)
    workflow.save(str(tmp_path / "workflow.json"))

    sizes = pack(tmp_path / "workflow.json", tmp_path / "archive.zip", home=tmp_path)
    assert max(size for name, size in sizes.items() if "/data/" in name) > 40e6, "the weights are in it"

    home = tmp_path / "home"
    plugins = home / "Ikomia" / "Plugins" / "Python"
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        archive.extractall(plugins)
    settings = {"PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    result = run_script(RUN, [str(plugins / "workflow.json"), photograph], home=home, **settings)
    assert f"library: {plugins / 'infer_resnet' / 'vendor'}" in result.output
    assert f"weights: {plugins / 'infer_resnet' / 'data'}" in result.output
    assert f"answer: {here}" in result.output


@pytest.mark.usefixtures("_link_plugins")
def test_the_example_leads_from_training_to_an_archive(three_digits, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    import scale

    settings = {"input_size": 32, "use_pretrained": False, "feature_extract": False, "epochs": 1, "tracking": "off"}
    settings |= {"batch_size": 8, "output_folder": str(tmp_path / "runs")}
    monkeypatch.setattr(scale, "TRAINING", settings)
    scale.main([str(three_digits), str(tmp_path / "workflow.json")])
    sizes = pack(tmp_path / "workflow.json", tmp_path / "archive.zip", home=tmp_path)
    assert sizes["infer_resnet/data/best.safetensors"] > 40e6
    assert "infer_resnet/vendor/resnetkit/about.py" in sizes


def test_a_saved_workflow_names_files_by_absolute_paths(checkpoint_path, workflow, tmp_path, monkeypatch):
    monkeypatch.chdir(checkpoint_path.parent)
    (tmp_path / "names.txt").write_text("cat\ndog\nfish\n", encoding="utf-8")
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": ".", "class_file": os.path.relpath(tmp_path / "names.txt")})
    workflow.save(str(tmp_path / "workflow.json"))
    (saved,) = json.loads((tmp_path / "workflow.json").read_text(encoding="utf-8"))["tasks"]
    values = {item["name"]: item["value"] for item in saved["task_data"]["parameters"]}
    assert values["model_weight_file"] == str(checkpoint_path)
    assert values["class_file"] == str(tmp_path / "names.txt")


def test_parameters_of_one_task_are_taken_by_another(model_folder, workflow):
    first, second = (workflow.add_task(name="infer_resnet") for _ in range(2))
    first.set_parameters({"model_weight_file": str(model_folder / "resnet18.xml")})
    assert first.get_parameters()["model_weight_file_part_2"].endswith(".bin")
    second.set_parameters(first.get_parameters())
    assert second.get_parameters() == first.get_parameters()


def test_a_model_that_is_not_there_yet_keeps_its_name(workflow):
    task = workflow.add_task(name="infer_resnet")
    task.set_parameters({"model_weight_file": "~/not trained yet"})
    assert task.get_parameters()["model_weight_file"] == "~/not trained yet"
