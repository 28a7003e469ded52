"""A folder of 400 JPEG photographs of 500x375 pixels: `model.classify` against a plain loop in eager PyTorch.

Milliseconds an image, reading and decoding included; median, smallest and largest of the runs, which take turns. The
plain loop opens each file with Pillow and goes on as the eager task in inference_runs.py does, outside the engine.
`possible` is the bare runtime on the same batches, prepared before, plus decoding and preparing alone, each on all
cores; `reached` is its share in ours. CPU time counts the work itself, where other programs share the cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import inference_runs
import numpy as np
from PIL import Image
from tables import Table, describe_spread, parse_arguments
from training_runs import prepare_job

MODEL_NAME = "resnet18"
NUM_PHOTOGRAPHS = 400
BATCH_SIZE = 32  # as in resnetkit/answers/model.py
PRECISIONS = ("fp32", "auto", "int8")


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    inference_runs.prepare_engine()
    count = 40 if arguments.quick else NUM_PHOTOGRAPHS
    job = prepare_job(MODEL_NAME, count, epochs=1, is_frozen=True)
    paths = sorted(job.photographs.rglob("*.jpg"))
    task = inference_runs.make_eager_task(MODEL_NAME, inference_runs.prepare_weights(MODEL_NAME))
    sides: dict[str, Callable[[], object]] = {"eager": lambda: [task.classify(read(path)) for path in paths]}
    for precision in PRECISIONS:
        parameters = {"resize_mode": "squash", **inference_runs.choose_parameters(MODEL_NAME, precision)}
        sides.update(make_sides(precision, parameters, paths))
    times: dict[str, list[float]] = {name: [] for name in sides}
    cpu_times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.repeats or (1 if arguments.quick else 4)):
        for name, run in sides.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            run()
            times[name].append(1000 * (time.perf_counter() - began) / len(paths))
            cpu_times[name].append(1000 * (time.process_time() - cpu_began) / len(paths))

    columns = ("network", "precision", "eager", "ours", "ratio", "possible", "reached", "reached, CPU time", "n")
    table = Table("inference_folder", __doc__, columns)
    for precision in PRECISIONS:
        ratio = median(times[precision]) / median(times["eager"])
        possible, cpu_possible = (add_up(precision, each) for each in (times, cpu_times))
        cells = (describe_spread(times["eager"], 1), describe_spread(times[precision], 1), f"{ratio:.2f}")
        reached = (median(possible) / median(times[precision]), median(cpu_possible) / median(cpu_times[precision]))
        shares = (f"{share:.2f}" for share in reached)
        table.add(MODEL_NAME, precision, *cells, describe_spread(possible, 1), *shares, str(len(possible)))
    table.notes.append(f"{len(paths)} photographs.")
    table.write(arguments)


def make_sides(precision: str, parameters: Mapping[str, Any], paths: Sequence[Path]) -> dict[str, Callable[[], object]]:
    """Return our way, the bare network on batches that are ready, and decoding and preparing alone."""
    from resnetkit import load_model
    from resnetkit.images.reading import read_image
    from resnetkit.machine.threads import count_cores

    classifier = load_model(**parameters)
    runtime = classifier._loader.load(classifier.values, is_for_batches=True).runtime

    def prepare(path: Path) -> np.ndarray:
        return classifier.preprocessing.prepare(read_image(path))

    images = np.stack([prepare(path) for path in paths])
    batches = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]

    def prepare_all() -> None:
        with ThreadPoolExecutor(count_cores()) as pool:
            list(pool.map(prepare, paths))

    return {
        precision: lambda: list(classifier.classify(paths)),
        f"{precision} network": lambda: [runtime.run(batch) for batch in batches],
        f"{precision} images": prepare_all,
    }


def add_up(precision: str, times: Mapping[str, Sequence[float]]) -> list[float]:
    """Return network and images together, of each round."""
    return [sum(each) for each in zip(times[f"{precision} network"], times[f"{precision} images"], strict=True)]


def read(path: Path) -> np.ndarray:
    """Read a file as the plain loop does."""
    return np.asarray(Image.open(path).convert("RGB"))


if __name__ == "__main__":
    main()
