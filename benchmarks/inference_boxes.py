"""64 boxes in one photograph of 1280x960 pixels: infer_resnet behind a detector against eager PyTorch behind it.

Milliseconds an image, median and in brackets the 10th and 90th percentile. All sides take turns in one process.
infer_resnet classifies the boxes in batches, the eager task one after the other, as inference_runs.py describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import cv2
import inference_runs
from tables import Table, parse_arguments

#: The most that ours may take, in shares of the eager task's time.
TARGETS: Mapping[str, float] = {"fp32": 0.42, "auto": 0.24}
MODEL_NAME = "resnet18"
BOX_SIZE = 160
#: Between the upper left corners of neighbours: they overlap a little.
STEPS = (140, 110)


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    inference_runs.prepare_engine()
    image = cv2.resize(inference_runs.make_photograph(), (1280, 960), interpolation=cv2.INTER_CUBIC)
    boxes = [
        (float(column * STEPS[0]), float(row * STEPS[1]), float(BOX_SIZE), float(BOX_SIZE))
        for row in range(8)
        for column in range(8)
    ]
    weights = inference_runs.prepare_weights(MODEL_NAME)
    sides = {"eager": inference_runs.make_eager_run(MODEL_NAME, weights, image, boxes)}
    for precision in TARGETS:
        parameters = inference_runs.choose_parameters(MODEL_NAME, precision)
        sides[precision] = inference_runs.make_our_run(parameters, image, boxes)
    rounds = arguments.repeats or (1 if arguments.quick else 12)
    times = inference_runs.take_turns(sides, rounds, runs_per_turn=1)

    table = Table("inference_boxes", __doc__, ("network", "precision", "eager", "ours", "ratio", "at most", "n"))
    eager = inference_runs.describe_percentiles(times["eager"])
    for precision, target in TARGETS.items():
        ours = inference_runs.describe_percentiles(times[precision])
        ratio = median(times[precision]) / median(times["eager"])
        table.add(MODEL_NAME, precision, eager, ours, f"{ratio:.2f}", f"{target:.2f}", str(rounds))
    table.write(arguments)


if __name__ == "__main__":
    main()
