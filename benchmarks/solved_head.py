"""The head of a large data set: 100,000 images of 2,048 features and 1,000 classes, solved on a CPU.

The features are seeded: a direction for each class, and noise, so that the best possible accuracy is known: that of the
directions themselves. Seconds are those of the whole path of strengths, memory is what solving takes on top of the
features, and the stop is the longest of some times from a request to the end of the work.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
from tables import REPOSITORY, Table, parse_arguments

sys.path.insert(0, str(REPOSITORY))

from resnetkit.machine.progress import Progress, TrainingStopped
from resnetkit.probing.linear_probe import Labelled, ProbeOptions, solve_path

#: Images to train on and to choose by, features of each, classes.
SIZE = 100_000, 10_000, 2048, 1000
QUICK_SIZE = 2_000, 500, 512, 20
#: Deviation of the noise; a direction has components of deviation 1.
NOISE = 8.0
#: Seconds after which a stop is asked for.
STOPS = 2, 7, 13


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    num_train, num_val, num_features, num_classes = QUICK_SIZE if arguments.quick else SIZE
    random = np.random.default_rng(0)
    directions = random.normal(size=(num_classes, num_features)).astype(np.float32)
    train = make_images(random, directions, num_train)
    val = make_images(random, directions, num_val)
    possible = np.mean((val.features @ directions.T - (directions**2).sum(axis=1) / 2).argmax(axis=1) == val.labels)
    table = Table("solved_head", __doc__, ("images", "seconds", "memory", "stop", "accuracy", "possible", "strengths"))
    before = get_peak_mb()
    began = time.perf_counter()
    path = solve_path(train, val, num_classes, ProbeOptions(), Progress(is_quiet=True))
    seconds, memory = time.perf_counter() - began, get_peak_mb() - before
    waited = max(measure_stop(train, val, num_classes, after) for after in STOPS)
    table.add(
        f"{num_train:,}", f"{seconds:.0f} s", f"{memory:.0f} MB", f"{waited:.1f} s",
        f"{path.chosen.val_accuracy:.3f}", f"{possible:.3f}", str(len(path.solutions)),
    )  # fmt: skip
    table.write(arguments)


def make_images(random: np.random.Generator, directions: np.ndarray, count: int) -> Labelled:
    """Draw features around the directions of their classes."""
    labels = np.arange(count) % len(directions)
    features = np.empty((count, directions.shape[1]), np.float32)
    for start in range(0, count, 10_000):
        block = labels[start : start + 10_000]
        noise = random.standard_normal((len(block), directions.shape[1]), np.float32)
        features[start : start + 10_000] = directions[block] + NOISE * noise
    return Labelled(features, labels)


def measure_stop(train: Labelled, val: Labelled, num_classes: int, after: float) -> float:
    """Return the seconds from a request to stop to the end of the work; 0 where it was done before."""
    asked_at = time.perf_counter() + after
    try:
        solve_path(
            train, val, num_classes, ProbeOptions(), Progress(lambda: time.perf_counter() > asked_at, is_quiet=True)
        )
    except TrainingStopped:
        return time.perf_counter() - asked_at
    return 0.0


def get_peak_mb() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
