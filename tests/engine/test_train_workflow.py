"""train_resnet in workflows of the real engine: folder in, run folder and outputs out, stopped, refused, resumed."""

from __future__ import annotations

import csv
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

SETTINGS = {
    "use_pretrained": False,
    "feature_extract": False,
    "input_size": 32,
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 0.02,
    "tracking": "off",
}


@pytest.fixture
def training(workflow, tmp_path):
    """The train_resnet task of a workflow; its run folders are in `tmp_path`/runs."""
    task = workflow.add_task(name="train_resnet", auto_connect=True)
    task.set_parameters({**SETTINGS, "output_folder": str(tmp_path / "runs")})
    return task


def list_runs(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]


def write_dataset_task(home: Path, name: str = "dataset_folder_source") -> str:
    """Install a data-set task with one folder output, as the hub's dataset_classification has; return its name."""
    folder = home / "Ikomia" / "Plugins" / "Python" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(
        f"""
from ikomia import dataprocess


class IkomiaPlugin(dataprocess.CPluginProcessInterface):
    def get_process_factory(self):
        from {name}.{name}_process import SourceFactory

        return SourceFactory()
""",
        encoding="utf-8",
    )
    (folder / f"{name}_process.py").write_text(
        f"""
from ikomia import core, dataprocess


class SourceParam(core.CWorkflowTaskParam):
    def __init__(self):
        super().__init__()
        self.folder = ""

    def get_values(self):
        return {{"folder": self.folder}}

    def set_values(self, values):
        self.folder = values["folder"]


class Source(core.CWorkflowTask):
    def __init__(self, name, param=None):
        core.CWorkflowTask.__init__(self, name)
        self.add_output(dataprocess.CPathIO(core.IODataType.FOLDER_PATH))
        self.set_param_object(param or SourceParam())

    def run(self):
        self.begin_task_run()
        self.get_output(0).set_path(self.get_param_object().folder)
        self.end_task_run()


class SourceFactory(dataprocess.CTaskFactory):
    def __init__(self):
        dataprocess.CTaskFactory.__init__(self)
        info = self.info
        info.name = "{name}"
        info.short_description = info.description = "Hands on a folder"
        info.authors = "ResNet for Ikomia contributors"
        info.path = "Plugins/Python/Dataset"
        info.version = "1.0.0"
        info.min_ikomia_version = "0.15.0"
        info.license = "Apache-2.0"
        info.keywords = "test"
        info.algo_type = core.AlgoType.DATASET
        info.algo_tasks = "CLASSIFICATION"

    def create(self, param=None):
        return Source(self.info.name, param)
""",
        encoding="utf-8",
    )
    return name


def test_dataset_folder_is_trained_on_and_used_by_a_second_workflow(
    workflow, training, three_digits, tmp_path, photographs
):
    from ikomia.dataprocess.workflow import Workflow

    assert training.get_checkpoint() == ""
    training.set_parameters({"dataset_folder": str(three_digits)})
    workflow.run()
    (run,) = list_runs(tmp_path / "runs")
    assert Path(training.get_checkpoint()) == run / "best.safetensors"
    assert (run / "metrics.json").is_file()
    second = Workflow()
    classifier = second.add_task(name="infer_resnet", auto_connect=True)
    classifier.set_parameters({"model_weight_file": training.get_checkpoint()})
    second.run_on(path=str(next((three_digits / "test" / "1").iterdir())))
    (prediction,) = classifier.get_predictions()
    assert prediction.label in {"0", "1", "2"}
    assert classifier.get_model_info()["input_size"] == 32


def test_outputs_serve_other_tasks(workflow, training, three_digits):
    training.set_parameters({"dataset_folder": str(three_digits)})
    workflow.run()
    curves, confusion = (training.get_output(index).get_image() for index in (0, 1))
    assert curves.ndim == confusion.ndim == 3
    assert np.ptp(curves) > 100
    table = training.get_output(2)
    assert list(table.get_all_header_labels()) == ["precision", "recall", "specificity", "f1", "support"]
    metrics = json.loads((Path(training.get_checkpoint()).parent / "metrics.json").read_text(encoding="utf-8"))
    recalls = [f"{row['recall']:.4f}" for row in metrics["validation"]["per_class"]]
    assert list(table.get_all_value_list()[1]) == recalls
    assert training.get_output(3).get_path() == training.get_checkpoint()


def test_weights_are_evaluated_without_training(workflow, training, trained_run, digits_folder, tmp_path):
    training.set_parameters(
        {"dataset_folder": str(digits_folder), "evaluate_only": True, "model_weight_file": str(trained_run)}
    )
    workflow.run()
    (folder,) = list_runs(tmp_path / "runs")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    expected = json.loads((trained_run / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert metrics["split"] == "test"
    assert metrics["evaluation"]["num_images"] == expected["num_images"] == 100
    # Training may have computed in bfloat16, which may change an answer that was in doubt.
    assert metrics["evaluation"]["accuracy"] == pytest.approx(expected["accuracy"], abs=0.02)
    assert training.get_checkpoint() == str(trained_run / "best.safetensors")
    assert len(training.get_output(2).get_all_value_list()[0]) == 10
    assert np.ptp(training.get_output(1).get_image()) > 100


def test_an_evaluation_of_nothing_is_refused(workflow, training, three_digits):
    training.set_parameters({"dataset_folder": str(three_digits), "evaluate_only": True})
    with pytest.raises(
        RuntimeError, match=r"'evaluate_only' evaluates weights without training; expected a 'model_weight_file'"
    ):
        workflow.run()


def test_a_wanted_accuracy_makes_doubtful_answers_unknown(workflow, trained_run, digits_folder):
    from resnetkit.weights.checkpoint import open_weights

    thresholds = open_weights(trained_run).metadata.thresholds
    wanted, threshold, _ = thresholds[-1]
    classifier = workflow.add_task(name="infer_resnet", auto_connect=True)
    classifier.set_parameters({"model_weight_file": str(trained_run), "wanted_accuracy": wanted})
    labels = set()
    for path in sorted((digits_folder / "test").glob("*/*.png"))[::9]:
        workflow.run_on(path=str(path))
        (prediction,) = classifier.get_predictions()
        assert (prediction.label == "unknown") == (prediction.confidence < threshold)
        labels.add(prediction.label)
    assert len(labels) > 3


def test_a_second_run_replaces_the_outputs(workflow, training, three_digits, tmp_path):
    training.set_parameters({"dataset_folder": str(three_digits), "epochs": 1})
    workflow.run()
    first = training.get_checkpoint()
    workflow.run()
    assert training.get_checkpoint() != first
    assert len(list_runs(tmp_path / "runs")) == 2
    assert len(training.get_output(2).get_all_value_list()) == 5


def test_a_folder_on_the_input_wins(workflow, ikomia_root, three_digits, tmp_path):
    name = write_dataset_task(ikomia_root.parent)
    workflow.add_task(name=name).set_parameters({"folder": str(three_digits)})
    task = workflow.add_task(name="train_resnet", auto_connect=True)
    task.set_parameters(
        {**SETTINGS, "epochs": 1, "output_folder": str(tmp_path / "runs"), "dataset_folder": str(tmp_path / "nothing")}
    )
    workflow.run()
    assert Path(task.get_checkpoint()).is_file()


def test_an_upstream_path_that_is_no_folder_gives_way_to_dataset_folder(workflow, ikomia_root, three_digits, tmp_path):
    name = write_dataset_task(ikomia_root.parent)
    workflow.add_task(name=name).set_parameters({"folder": str(tmp_path / "nothing")})
    task = workflow.add_task(name="train_resnet", auto_connect=True)
    task.set_parameters(
        {**SETTINGS, "epochs": 1, "output_folder": str(tmp_path / "runs"), "dataset_folder": str(three_digits)}
    )
    workflow.run()
    assert Path(task.get_checkpoint()).is_file()


def test_no_data_set_is_an_error_and_the_task_is_usable_afterwards(workflow, training, three_digits):
    with pytest.raises(RuntimeError, match="no data set; expected a folder on input 0 or in 'dataset_folder'"):
        workflow.run()
    training.set_parameters({"dataset_folder": str(three_digits), "epochs": 1})
    workflow.run()
    assert Path(training.get_checkpoint()).is_file()


def test_wrong_parameters_are_refused_and_the_old_ones_stay(training):
    before = training.get_parameters()
    with pytest.raises(ValueError, match=r"no parameter 'epoch'; did you mean 'epochs'\?"):
        training.set_parameters({"batch_size": 4, "epoch": 1})
    with pytest.raises(ValueError, match="'batch_size' must be an integer from 0 to 4096, got -1"):
        training.set_parameters({"epochs": 3, "batch_size": -1})
    assert training.get_parameters() == before


def test_stop_ends_within_a_batch_and_resume_goes_on(workflow, training, three_digits, tmp_path, caplog):
    training.set_parameters({"dataset_folder": str(three_digits), "epochs": 500, "batch_size": 8})
    errors: list[str] = []

    def run() -> None:
        try:
            workflow.run()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "runs" / "latest").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    began = time.monotonic()
    workflow.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert time.monotonic() - began < 20
    assert "Stop workflow requested" in errors[0]
    assert "stopped on request in epoch" in caplog.text
    (run_folder,) = list_runs(tmp_path / "runs")
    assert Path(training.get_checkpoint()) == run_folder / "best.safetensors"
    assert not (run_folder / "metrics.json").exists()


def test_the_workflow_is_saved_and_loaded(workflow, training, three_digits, tmp_path):
    from ikomia.dataprocess.workflow import Workflow

    training.set_parameters({"dataset_folder": str(three_digits), "epochs": 1})
    workflow.save(str(tmp_path / "workflow.json"))
    loaded = Workflow()
    loaded.load(str(tmp_path / "workflow.json"))
    (task,) = loaded.find_task("train_resnet")
    assert task.get_parameters() == training.get_parameters()


def test_progress_moves_from_the_first_image_to_the_end(workflow, training, three_digits, monkeypatch):
    from resnetkit.training.run import Run

    training.set_parameters({"dataset_folder": str(three_digits)})
    steps, before_training = [], []
    monkeypatch.setattr(type(training), "emit_step_progress", lambda _: steps.append(1))
    open_optimizer = Run.open_optimizer
    monkeypatch.setattr(Run, "open_optimizer", lambda run: before_training.append(len(steps)) or open_optimizer(run))
    workflow.run()
    assert len(steps) == training.get_progress_steps() == 100
    assert 10 <= before_training[0] <= 50, "images were checked"


def test_the_engine_measures_the_time_of_a_run(workflow, training, three_digits):
    training.set_parameters({"dataset_folder": str(three_digits), "epochs": 1})
    began = time.monotonic()
    workflow.run()
    assert 0 < training.get_elapsed_time() / 1000 <= time.monotonic() - began


def test_the_figures_of_a_run_are_those_of_its_files(workflow, training, three_digits):
    assert training.get_metrics() == {}
    training.set_parameters({"dataset_folder": str(three_digits)})
    workflow.run()
    figures = training.get_metrics()
    run_folder = Path(figures["run_folder"])
    written = json.loads((run_folder / "metrics.json").read_text(encoding="utf-8"))
    assert figures["checkpoint"] == training.get_checkpoint()
    assert Path(figures["report"]).is_file()
    assert figures["metrics"]["accuracy"] == written["validation"]["accuracy"]
    assert figures["test_accuracy"] == figures["test_metrics"]["accuracy"] == written["test"]["accuracy"]
    assert json.loads(json.dumps(figures)) == figures
    training.set_parameters({"evaluate_only": True, "model_weight_file": training.get_checkpoint()})
    workflow.run()
    assert training.get_metrics()["metrics"]["accuracy"] == figures["test_accuracy"]
    assert Path(training.get_metrics()["report"]).is_file()


def test_construction_is_quick_and_starts_nothing(run_script):
    result = run_script(
        """
import sys, threading
from ikomia.dataprocess.registry import ik_registry
threads = threading.active_count()
task = ik_registry.create_algorithm("train_resnet")
assert task.name == "train_resnet"
assert "torch" not in sys.modules
assert threading.active_count() == threads
import psutil
assert psutil.Process().children() == []
print("constructed")
"""
    )
    assert "constructed" in result.output  # and that no process is left, `run_script` has seen itself


def test_it_needs_no_other_plugin(run_script, tmp_path):
    home = tmp_path / "home"
    plugins = home / "Ikomia" / "Plugins" / "Python"
    plugins.mkdir(parents=True)
    (plugins / "train_resnet").symlink_to(REPOSITORY / "train_resnet", target_is_directory=True)
    result = run_script(
        """
import sys
sys.modules["infer_resnet"] = None
from ikomia.dataprocess.registry import ik_registry
task = ik_registry.create_algorithm("train_resnet", public_hub=False)
print("created:", task.name)
""",
        home=home,
    )
    assert "created: train_resnet" in result.output


def test_a_csv_through_dataset_folder(workflow, training, three_digits, tmp_path):
    rows = ["path,label,split"]
    for part in ("train", "val"):
        rows += [f"{path},{path.parent.name},{part}" for path in sorted((three_digits / part).rglob("*.png"))]
    (tmp_path / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    training.set_parameters({"dataset_folder": str(tmp_path / "table.csv"), "epochs": 1})
    workflow.run()
    assert Path(training.get_checkpoint()).is_file()


def test_nothing_is_written_into_plugins_or_data(workflow, training, three_digits, tmp_path, ikomia_root):
    data = tmp_path / "data"
    shutil.copytree(three_digits, data)
    before = sorted(data.rglob("*"))
    code = {path for name in ("train_resnet", "infer_resnet") for path in (REPOSITORY / name).rglob("*")}
    training.set_parameters({"dataset_folder": str(data), "epochs": 1, "output_folder": ""})
    workflow.run()
    assert Path(training.get_checkpoint()).is_relative_to(ikomia_root / "Models" / "train_resnet")
    assert sorted(data.rglob("*")) == before
    written = {path for name in ("train_resnet", "infer_resnet") for path in (REPOSITORY / name).rglob("*")} - code
    assert not [path for path in written if "__pycache__" not in path.parts]


def test_what_the_engine_saves_has_names_of_its_own(workflow, training, three_digits):
    """Both pictures would be `train_resnet.png`, and the table's file would lack a heading."""
    training.set_parameters({"epochs": 1, "dataset_folder": str(three_digits)})
    workflow.set_auto_save(True)
    workflow.run()
    saved = Path(workflow.get_last_run_folder())
    files = sorted(path.name for path in saved.rglob("*") if path.is_file())
    assert [name for name in files if name.endswith((".png", ".csv"))] == ["train_resnet_classes.csv"]
    with (saved / "train_resnet_classes.csv").open(encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "precision", "recall", "specificity", "f1", "support"]
    assert [(row[0], len(row)) for row in rows] == [(name, 6) for name in "012"]
    assert len(list(Path(training.get_checkpoint()).parent.glob("*.png"))) >= 2
