"""Classify one image file through a workflow of the engine and end: with infer_resnet, or with the eager task.

BENCHMARK_BEGAN is the time at which whoever starts this began to: a process knows its own start by the second alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Print the answer and the seconds since the process was started, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("eager", "ours"))
    parser.add_argument("image")
    parser.add_argument("weights", type=Path)
    parser.add_argument("class_file", type=Path)
    parser.add_argument("--model", default="resnet18")
    arguments = parser.parse_args()
    os.environ["IKOMIA_AUTO_COMPLETION"] = "0"
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow()
    if arguments.side == "eager":
        from inference_runs import make_eager_task

        task = workflow.add_task(task=make_eager_task(arguments.model, arguments.weights), auto_connect=True)
    else:
        task = workflow.add_task(name="infer_resnet", auto_connect=True)
        parameters = {"model_name": arguments.model, "model_weight_file": arguments.weights}
        task.set_parameters({**parameters, "class_file": arguments.class_file, "resize_mode": "squash"})
    workflow.run_on(path=arguments.image)
    label = task.get_whole_image_results()[0][0]
    print(json.dumps({"label": label, "seconds": time.time() - float(os.environ["BENCHMARK_BEGAN"])}))


if __name__ == "__main__":
    main()
