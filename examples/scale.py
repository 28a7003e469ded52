"""From a data set to what Ikomia SCALE deploys: train, put the model into a workflow, save it.

`.venv/bin/python examples/scale.py fruit workflow.json`, after `make link`; then, with the platform's command-line tool
in an environment of its own (`pip install ikomia-cli`), `ikcli project push PROJECT workflow.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ikomia.dataprocess.workflow import Workflow

#: Parameters of train_resnet besides the data set.
TRAINING: dict[str, Any] = {}

#: What a caller of the deployed workflow may set, and what comes back.
EXPOSED_PARAMETERS = {"top_k": "How many of the most probable classes are reported"}
EXPOSED_OUTPUTS = {0: "The image", 2: "The answers, to be drawn over the image", 3: "The answers in a table"}


def train(dataset: Path) -> str:
    """Return the path of the best checkpoint after training."""
    workflow = Workflow("Train")
    task = workflow.add_task(name="train_resnet", auto_connect=True)
    task.set_parameters({"dataset_folder": str(dataset), **TRAINING})
    workflow.run()
    return task.get_checkpoint()


def save_workflow(checkpoint: str, path: Path) -> None:
    """Save a workflow that classifies with the checkpoint; the file names all that belongs to the model."""
    workflow = Workflow("Classify")
    workflow.description = "Classifies an image with a ResNet."
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": checkpoint})
    parameters = {name: {"name": name, "description": text} for name, text in EXPOSED_PARAMETERS.items()}
    outputs = [{"index": index, "description": text} for index, text in EXPOSED_OUTPUTS.items()]
    workflow.save(str(path), {task: parameters}, {task: outputs})


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", type=Path, help="folder with a sub-folder per class")
    parser.add_argument("workflow", type=Path, help="the .json file to write")
    options = parser.parse_args(arguments)
    save_workflow(train(options.dataset), options.workflow)
    print(f"{options.workflow} is ready: ikcli project push PROJECT {options.workflow}")


if __name__ == "__main__":
    main()
