"""Write the workflow files of `examples/workflows/`, each built and saved by the engine itself.

Run it after a change of parameters: `.venv/bin/python scripts/write_workflows.py`.
"""

from __future__ import annotations

import json
import os
import runpy
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "examples" / "workflows"

#: The detector of the public hub that detect_then_classify names; only its name goes into the file.
DETECTOR = "infer_yolo_v8"

Exposed = dict[str, dict[str, dict[str, str]]]

CLASSIFY_PARAMETERS = {
    "model_name": "resnet18 to resnet152; a weights file of train_resnet decides it by itself",
    "model_weight_file": "Your own model: a file or run folder of train_resnet; empty means ImageNet",
    "top_k": "How many of the most probable classes are reported",
    "confidence_threshold": "Below this probability of the first class the answer is unknown",
}
CLASSIFY_OUTPUTS = [
    {"index": 0, "description": "The image"},
    {"index": 2, "description": "The answers, to be drawn over the image"},
    {"index": 3, "description": "Class, index and confidence of the answers"},
]
DETECT_OUTPUTS = [{"index": 1, "description": "The boxes with their new classes"}, *CLASSIFY_OUTPUTS]
TRAIN_PARAMETERS = {
    "dataset_folder": "Folder of class folders, or a CSV file; used where no data set is connected",
    "model_name": "resnet18 to resnet152",
    "epochs": "Passes over the training images",
    "batch_size": "Images a step",
    "learning_rate": "Peak learning rate",
    "output_folder": "Where run folders are made; empty means Models/train_resnet in the Ikomia folder",
}
TRAIN_OUTPUTS = [
    {"index": 0, "description": "Training curves"},
    {"index": 1, "description": "Confusion matrix"},
    {"index": 2, "description": "Precision, recall and F1 of each class"},
    {"index": 3, "description": "Path of the best checkpoint"},
]


def expose(parameters: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return parameters in the form in which the engine exposes them, under their own names."""
    return {name: {"name": name, "description": description} for name, description in parameters.items()}


def build_classify(path: Path) -> None:
    """Save infer_resnet alone."""
    workflow = make_workflow("classify", "Classifies an image with ResNet.")
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    workflow.save(str(path), {task: expose(CLASSIFY_PARAMETERS)}, {task: CLASSIFY_OUTPUTS})


def build_detect_then_classify(path: Path) -> None:
    """Save infer_resnet after a detector."""
    workflow = make_workflow("detect_then_classify", "Finds objects, then classifies every box with ResNet.")
    workflow.add_task(name=DETECTOR, auto_connect=True)
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    parameters = {**CLASSIFY_PARAMETERS, "box_margin": "Widens the boxes on each side by this share of their size"}
    workflow.save(str(path), {task: expose(parameters)}, {task: DETECT_OUTPUTS})


def build_train_digits(path: Path) -> None:
    """Save train_resnet with the settings of the demo, on the digits that it writes."""
    demo = runpy.run_path(str(REPOSITORY / "examples" / "demo.py"))
    dataset_folder = demo["DATASET_FOLDER"].relative_to(REPOSITORY).as_posix()
    workflow = make_workflow("train_digits", "Trains ResNet-18 from scratch on the handwritten digits of make demo.")
    task = workflow.add_task(name="train_resnet", auto_connect=True)
    task.set_parameters({**demo["TRAINING"], "dataset_folder": dataset_folder})
    workflow.save(str(path), {task: expose(TRAIN_PARAMETERS)}, {task: TRAIN_OUTPUTS})


BUILDERS = {
    "classify": build_classify,
    "detect_then_classify": build_detect_then_classify,
    "train_digits": build_train_digits,
}


def make_workflow(name: str, description: str) -> Any:
    """Return an empty workflow of the engine, with its texts."""
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow(name)
    workflow.description = description
    workflow.keywords = "resnet,classification"
    return workflow


def write_workflows(folder: Path) -> None:
    """Build and save every workflow; the engine must know both plugins and a detector of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in BUILDERS.items():
        path = folder / f"{name}.json"
        build(path)
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(tidy(content), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def tidy(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out what belongs to this machine or to the detector that stood in, whose own defaults then hold."""
    for task in content["tasks"]:
        data = task["task_data"]
        data["url"] = ""
        data["parameters"] = (
            [] if data["name"] == DETECTOR else sorted(data["parameters"], key=lambda item: item["name"])
        )
    return content


def main() -> None:
    """Write the files in a home folder of their own."""
    with tempfile.TemporaryDirectory() as home:
        conftest = runpy.run_path(str(REPOSITORY / "tests" / "conftest.py"))
        conftest["link_plugins"](Path(home))
        conftest["write_detector"](Path(home), DETECTOR)
        os.environ.update(conftest["make_environment"](Path(home)))
        write_workflows(FOLDER)


if __name__ == "__main__":
    main()
