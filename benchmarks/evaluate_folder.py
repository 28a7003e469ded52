"""10,000 images of 64 pixels: `resnetkit evaluate` beside `resnetkit classify` of the same files.

Seconds of the whole process, start included; both sides take turns. Classifying writes a CSV file; evaluating writes
the table of predictions with all probabilities, the figures, every chart, and the report page. The images are parts of
six photographs as JPEG files, in a folder per photograph; the weights are seeded.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from statistics import median

import numpy as np
from classify_many import write_model
from photographs import read_sources, vary
from tables import DATA_FOLDER, REPOSITORY, Table, describe_spread, parse_arguments
from training_runs import run_program

NUM_IMAGES = 10_000
SIZE = 64
#: Seconds that evaluating may take longer.
LIMIT = 5


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    sys.path.insert(0, str(REPOSITORY))
    count = 600 if arguments.quick else NUM_IMAGES
    folder = DATA_FOLDER / "evaluated"
    shutil.rmtree(folder, ignore_errors=True)
    images = write_images(folder / "images", count)
    model = write_model(folder, sorted(read_sources()), SIZE)
    environment = {"HOME": str(folder / "home"), "PYTHONPATH": str(REPOSITORY), "IKOMIA_AUTO_COMPLETION": "0"}
    commands = {
        "classify": ["classify", model, images, "--quiet", "--output", folder / "answers.csv"],
        "evaluate": ["evaluate", model, images, "--quiet", "--output", folder / "evaluation"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for is_counted in (False, *[True] * (arguments.repeats or (1 if arguments.quick else 3))):
        for name, command in commands.items():
            (folder / "answers.csv").unlink(missing_ok=True)
            times[name] += [run_program("resnetkit", [*command, "--json"], environment).seconds] * is_counted
    table = Table("evaluate_folder", __doc__, ("images", "classify, s", "evaluate, s", "difference, s", "at most", "n"))
    difference = median(times["evaluate"]) - median(times["classify"])
    spreads = (describe_spread(each, 1) for each in times.values())
    table.add(str(count), *spreads, f"{difference:.1f}", str(LIMIT), str(len(times["classify"])))
    table.write(arguments)
    shutil.rmtree(folder)


def write_images(folder: Path, count: int) -> Path:
    """Write `folder`/<photograph>/<number>.jpg."""
    sources = list(read_sources().items())
    for number in range(count):
        name, source = sources[number % len(sources)]
        path = folder / name / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        vary(source, np.random.default_rng(number)).resize((SIZE, SIZE)).save(path)
    return folder


if __name__ == "__main__":
    main()
