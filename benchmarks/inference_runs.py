"""One image through the engine: infer_resnet, and a task that does the same in eager PyTorch.

Imported by the inference benchmarks. The eager task is what a plain plugin does: OpenCV resizes to 224x224 without
antialiasing (quicker than Pillow), ToTensor, Normalize, forward, softmax, all 1,000 results, boxes one after the other.
It gets the same guard of OpenMP's thread count that infer_resnet has, and torch's own number of threads.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tables import DATA_FOLDER, REPOSITORY
from training_runs import link_plugins, prepare_job

HOME = DATA_FOLDER / "home"
CLASSES = tuple(f"class {number}" for number in range(1000))
RUNS_PER_TURN = 5


def prepare_engine() -> None:
    """Give this process a home folder of its own; call it before ikomia is imported."""
    link_plugins(HOME)
    os.environ.update({"HOME": str(HOME), "IKOMIA_AUTO_COMPLETION": "0"})
    sys.path.insert(0, str(REPOSITORY))
    import ikomia  # noqa: F401 - sets up its logger

    from infer_resnet.openmp import fix_thread_count

    logging.getLogger("ikomia").setLevel(logging.ERROR)
    fix_thread_count()


def prepare_weights(model_name: str) -> Path:
    """Return seeded weights with batch-norm statistics of photographs; speed does not depend on the values."""
    (DATA_FOLDER / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    return prepare_job(model_name, 40, epochs=1, is_frozen=True).weights


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
        main([weights, images, "--output", str(path), "--class-file", str(DATA_FOLDER / "classes.txt")])
    return path


def make_eager_task(model_name: str) -> Any:
    """Return a task of the engine that classifies in eager PyTorch, as a plain plugin does."""
    import cv2
    import torch
    from ikomia import core, dataprocess
    from torchvision import models, transforms

    class EagerTask(dataprocess.CClassificationTask):
        def __init__(self) -> None:
            dataprocess.CClassificationTask.__init__(self, "eager_resnet")
            self.set_param_object(core.CWorkflowTaskParam())
            self.set_names(list(CLASSES))
            self.model = models.get_model(model_name, weights=None)
            self.model.load_state_dict(torch.load(prepare_weights(model_name), weights_only=True))
            self.model.eval()
            normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            self.transform = transforms.Compose([transforms.ToTensor(), normalize])

        def get_progress_steps(self) -> int:
            return 1

        def classify(self, image: np.ndarray) -> torch.Tensor:
            images = self.transform(cv2.resize(image, (224, 224)))[None]
            with torch.no_grad():
                return torch.nn.functional.softmax(self.model(images)[0], dim=0)

        def run(self) -> None:
            self.begin_task_run()
            probabilities = self.classify(self.get_input(0).get_image())
            ranking = sorted(zip(probabilities.tolist(), self.get_names(), strict=True), reverse=True)
            self.set_whole_image_results([name for _, name in ranking], [str(value) for value, _ in ranking])
            self.emit_step_progress()
            self.end_task_run()

    return EagerTask()


def make_bare_network(model_name: str) -> Callable[[], Any]:
    """Return a run of the network alone in eager PyTorch."""
    import torch

    model, images = make_eager_task(model_name).model, torch.zeros((1, 3, 224, 224))

    def run() -> None:
        with torch.no_grad():
            model(images)

    return run


def make_eager_run(model_name: str, image: np.ndarray) -> Callable[[], Any]:
    """Return a run of a workflow with the eager task."""
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow()
    workflow.add_task(task=make_eager_task(model_name), auto_connect=True)
    return lambda: workflow.run_on(array=image)


def make_our_runs(image: np.ndarray, **parameters: object) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a run of a workflow with infer_resnet, and a run of the network alone in the same runtime."""
    from ikomia.dataprocess.workflow import Workflow

    from infer_resnet.loader import Loader

    workflow = Workflow()
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"resize_mode": "squash", **parameters})
    _, predictor = Loader().load(task.get_param_object().values)
    prepared = predictor.preprocessing.prepare(image)[None]
    return lambda: workflow.run_on(array=image), lambda: predictor.runtime.run(prepared)


def take_turns(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Run all sides in turns; return the milliseconds of each run.

    A turn is five runs after one that is not counted: what the side before left to the caches and to the spinning
    threads of OpenMP would else count against the next one.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            run()
            for _ in range(RUNS_PER_TURN):
                began = time.perf_counter()
                run()
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def describe_percentiles(values: list[float]) -> str:
    """Return the median, and in brackets the 10th and the 90th percentile."""
    low, middle, high = np.percentile(values, (10, 50, 90))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"
