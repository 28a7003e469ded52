"""Images through the engine: infer_resnet, and a task that does the same in eager PyTorch.

Imported by the inference benchmarks. The eager task is what a plain plugin does: torchvision's transforms squash the
image to 224x224, ToTensor, Normalize, forward, softmax, all 1,000 results; boxes one after the other.
It gets the same guard of OpenMP's thread count that infer_resnet has, and torch's own number of threads.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tables import DATA_FOLDER, REPOSITORY
from training_runs import link_plugins, prepare_job

HOME = DATA_FOLDER / "home"
CLASSES = tuple(f"class {number}" for number in range(1000))
CLASS_FILE = DATA_FOLDER / "classes.txt"
RUNS_PER_TURN = 5
#: Seconds from which on weights files and compiled networks are known by their stamps, as at every later start.
SETTLING_S = 61

#: Left, top, width and height in pixels.
Box = tuple[float, float, float, float]


def prepare_engine() -> None:
    """Give this process a home folder of its own; call it before ikomia is imported."""
    link_plugins(HOME)
    os.environ.update({"HOME": str(HOME), "IKOMIA_AUTO_COMPLETION": "0"})
    sys.path.insert(0, str(REPOSITORY))
    start_engine()


def start_engine() -> None:
    """Import the engine and keep it silent; torch's threads are guarded as infer_resnet guards them."""
    import ikomia  # noqa: F401 - sets up its logger

    from resnetkit.machine.threads import fix_thread_count

    logging.getLogger("ikomia").setLevel(logging.ERROR)
    fix_thread_count()


def prepare_weights(model_name: str) -> Path:
    """Return seeded weights with batch-norm statistics of photographs; speed does not depend on the values."""
    weights = prepare_job(model_name, 40, epochs=1, is_frozen=True).weights
    CLASS_FILE.write_text("\n".join(CLASSES), encoding="utf-8")
    return weights


def choose_parameters(model_name: str, precision: str) -> dict[str, object]:
    """Return infer_resnet's parameters for a precision, `int8` included."""
    if precision == "int8":
        return {"model_weight_file": quantize_weights(model_name)}
    weights = prepare_weights(model_name)
    return {
        "model_name": model_name,
        "model_weight_file": weights,
        "precision": precision,
        "class_file": CLASS_FILE,
    }


def make_photograph() -> np.ndarray:
    """Return a photograph of 640x480 pixels, (480, 640, 3) uint8."""
    import cv2
    from skimage import data

    return cv2.resize(data.astronaut(), (640, 480), interpolation=cv2.INTER_AREA)


def quantize_weights(model_name: str) -> Path:
    """Make `<model>_int8.xml` with the example, unless it is there."""
    import runpy

    path = DATA_FOLDER / f"{model_name}_int8.xml"
    if not path.is_file():
        main = runpy.run_path(str(REPOSITORY / "examples" / "quantize.py"))["main"]
        weights, images = str(prepare_weights(model_name)), str(DATA_FOLDER / "photographs-40")
        main([weights, images, "--output", str(path), "--class-file", str(CLASS_FILE)])
    return path


def make_eager_task(model_name: str, weights: Path) -> Any:
    """Return a task of the engine that classifies in eager PyTorch, as a plain plugin does."""
    import torch
    from ikomia import core, dataprocess
    from torchvision import models, transforms

    class EagerTask(dataprocess.CClassificationTask):
        def __init__(self) -> None:
            dataprocess.CClassificationTask.__init__(self, "eager_resnet")
            self.set_param_object(core.CWorkflowTaskParam())
            self.set_names(list(CLASSES))
            self.model = models.get_model(model_name, weights=None)
            self.model.load_state_dict(torch.load(weights, weights_only=True))
            self.model.eval()
            resize = [transforms.ToPILImage(), transforms.Resize((224, 224)), transforms.ToTensor()]
            normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            self.transform = transforms.Compose([*resize, normalize])

        def get_progress_steps(self) -> int:
            return 1

        def classify(self, image: np.ndarray) -> torch.Tensor:
            with torch.no_grad():
                return torch.nn.functional.softmax(self.model(self.transform(image)[None])[0], dim=0)

        def run(self) -> None:
            self.begin_task_run()
            image = self.get_input(0).get_image()
            objects = self.get_input_objects()
            for item in objects:
                left, top, width, height = (int(value) for value in item.get_bounding_rect())
                confidence, index = self.classify(image[top : top + height, left : left + width]).max(0)
                self.add_object(item, int(index), float(confidence))
            if not objects:
                self.rank(self.classify(image))
            self.emit_step_progress()
            self.end_task_run()

        def rank(self, probabilities: torch.Tensor) -> None:
            ranking = sorted(zip(probabilities.tolist(), self.get_names(), strict=True), reverse=True)
            self.set_whole_image_results([name for _, name in ranking], [str(value) for value, _ in ranking])

    return EagerTask()


def make_detector(boxes: Sequence[Box]) -> Any:
    """Return a task of the engine that finds the given boxes."""
    from ikomia import core, dataprocess

    class Detector(dataprocess.CObjectDetectionTask):
        def __init__(self) -> None:
            dataprocess.CObjectDetectionTask.__init__(self, "detector")
            self.set_param_object(core.CWorkflowTaskParam())

        def run(self) -> None:
            self.begin_task_run()
            self.set_names(["thing"])
            for number, box in enumerate(boxes):
                self.add_object(number, 0, 1.0, *box)
            self.end_task_run()

    return Detector()


def make_bare_network(model_name: str, weights: Path) -> Callable[[], Any]:
    """Return a run of the network alone in eager PyTorch."""
    import torch

    model, images = make_eager_task(model_name, weights).model, torch.zeros((1, 3, 224, 224))

    def run() -> None:
        with torch.no_grad():
            model(images)

    return run


def make_eager_run(model_name: str, weights: Path, image: np.ndarray, boxes: Sequence[Box] = ()) -> Callable[[], Any]:
    """Return a run of a workflow with the eager task, behind a detector where there are boxes."""
    workflow = _make_workflow(boxes)
    workflow.add_task(task=make_eager_task(model_name, weights), auto_connect=True)
    return lambda: workflow.run_on(array=image)


def make_our_run(parameters: Mapping[str, object], image: np.ndarray, boxes: Sequence[Box] = ()) -> Callable[[], Any]:
    """Return a run of a workflow with infer_resnet, behind a detector where there are boxes."""
    workflow = _make_workflow(boxes)
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"resize_mode": "squash", **parameters})
    return lambda: workflow.run_on(array=image)


def make_our_bare_network(parameters: Mapping[str, object]) -> Callable[[], Any]:
    """Return a run of the network alone in the runtime that infer_resnet chooses."""
    model = load_model(parameters)
    images = np.zeros((1, 3, 224, 224), np.uint8)
    return lambda: model.runtime.run(images)


def make_empty_run(run_network: Callable[[], Any], image: np.ndarray) -> Callable[[], Any]:
    """Return a run of a workflow whose task takes the image and runs a bare network, without any answer."""
    from ikomia import core, dataprocess

    class EmptyTask(dataprocess.CClassificationTask):
        def __init__(self) -> None:
            dataprocess.CClassificationTask.__init__(self, "empty")
            self.set_param_object(core.CWorkflowTaskParam())

        def get_progress_steps(self) -> int:
            return 1

        def run(self) -> None:
            self.begin_task_run()
            self.get_input(0).get_image()
            run_network()
            self.emit_step_progress()
            self.end_task_run()

    workflow = _make_workflow(())
    workflow.add_task(task=EmptyTask(), auto_connect=True)
    return lambda: workflow.run_on(array=image)


def load_model(parameters: Mapping[str, object]) -> Any:
    """Return the model that infer_resnet makes from its parameters."""
    from resnetkit.answers.loader import Loader
    from resnetkit.parameters.inference import InferParameters

    return Loader().load(InferParameters(resize_mode="squash").updated(parameters))


def _make_workflow(boxes: Sequence[Box]) -> Any:
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow()
    if boxes:
        workflow.add_task(task=make_detector(boxes), auto_connect=True)
    return workflow


def take_turns(
    sides: Mapping[str, Callable[[], Any]], rounds: int, runs_per_turn: int = RUNS_PER_TURN
) -> dict[str, list[float]]:
    """Run all sides in turns; return the milliseconds of each run.

    A turn is some runs after one that is not counted: what the side before left to the caches and to the spinning
    threads of OpenMP would else count against the next one.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            times[name] += time_runs(run, runs_per_turn)
    return times


def time_runs(run: Callable[[], Any], count: int = RUNS_PER_TURN) -> list[float]:
    """Return the milliseconds of some runs, after one that is not counted."""
    run()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - began))
    return times


def describe_percentiles(values: list[float]) -> str:
    """Return the median, and in brackets the 10th and the 90th percentile."""
    low, middle, high = np.percentile(values, (10, 50, 90))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"
