"""A folder of 400 JPEG photographs of 500x375 pixels: the model's batch API against a plain loop in eager PyTorch.

Milliseconds an image, reading and decoding included; median, smallest and largest of the runs, which take turns. The
plain loop opens each file with Pillow and goes on as the eager task in inference_runs.py does, outside the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import inference_runs
import numpy as np
from PIL import Image
from tables import Table, describe_spread, parse_arguments
from training_runs import prepare_job

MODEL_NAME = "resnet18"
NUM_PHOTOGRAPHS = 400


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    inference_runs.prepare_engine()
    count = 40 if arguments.quick else NUM_PHOTOGRAPHS
    job = prepare_job(MODEL_NAME, count, epochs=1, is_frozen=True)
    paths = sorted(job.photographs.rglob("*.jpg"))
    task = inference_runs.make_eager_task(MODEL_NAME, inference_runs.prepare_weights(MODEL_NAME))
    sides: dict[str, Callable[[], object]] = {"eager": lambda: [task.classify(read(path)) for path in paths]}
    for precision in ("fp32", "auto", "int8"):
        model = inference_runs.load_model(inference_runs.choose_parameters(MODEL_NAME, precision))
        sides[precision] = lambda model=model: list(model.predict_files(paths))  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.repeats or (1 if arguments.quick else 4)):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - began) / len(paths))

    table = Table("inference_folder", __doc__, ("network", "precision", "eager", "ours", "ratio", "n"))
    for precision in list(sides)[1:]:
        ratio = median(times[precision]) / median(times["eager"])
        cells = (describe_spread(times["eager"], 1), describe_spread(times[precision], 1))
        table.add(MODEL_NAME, precision, *cells, f"{ratio:.2f}", str(len(times[precision])))
    table.notes.append(f"{len(paths)} photographs.")
    table.write(arguments)


def read(path: Path) -> np.ndarray:
    """Read a file as the plain loop does."""
    return np.asarray(Image.open(path).convert("RGB"))


if __name__ == "__main__":
    main()
