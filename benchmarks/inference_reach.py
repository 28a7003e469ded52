"""How light an answer is: start, memory, installation and time an image, against eager PyTorch and an earlier commit.

The earlier commit is the last one whose answers imported torch, to resample images. Medians, in brackets the smallest
and the largest run of starts, and the 10th and 90th percentile of images; all sides take turns, with warm caches.
"In the engine" is from the start of a process that imports the engine, makes a workflow and classifies one JPEG file
of 640x480 pixels, to its answer. "Alone" are whole processes without the engine: `resnetkit classify` of one such
file, and a script with eager PyTorch that does the same. Memory is the most that such a process in the engine held.
Installed sizes are those of all files of the packages that are needed, as they are installed here; the engine is part
of what `make setup` installs, and no part of the light installation. "Own" is an image in the engine without the bare
network, as in inference_image.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from statistics import median

import cv2
import inference_runs
from installation import measure_installation, read_requirements
from tables import DATA_FOLDER, REPOSITORY, Table, describe_spread, parse_arguments
from training_runs import PROGRAMS, ProgramRun, link_plugins, run_program

EARLIER = "fab4fd5163322041f8855901d9b3c0f7c80d6eaa"
#: The most that ours may take, in shares of the other side; own time in milliseconds.
START_TARGETS = {"resnet18": 0.35, "resnet50": 0.40}
ALONE_TARGET = 0.30
MEMORY_TARGET = 0.55
SIZE_TARGET = 0.12
IMAGE_TARGETS = {"fp32": 0.97, "auto": 0.95, "int8": 0.95}
OWN_TARGETS = {"fp32": 2.2, "auto": 2.2}

IMAGE = DATA_FOLDER / "photograph.jpg"
MODEL_NAME = "resnet18"


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    link_plugins(inference_runs.HOME)
    earlier = check_out(EARLIER)
    cv2.imwrite(str(IMAGE), inference_runs.make_photograph()[..., ::-1])
    columns = ("what", "network", "against", "theirs", "ours", "ratio", "at most", "n")
    table = Table("inference_reach", __doc__, columns)
    measure_starts(table, earlier, arguments.repeats or (1 if arguments.quick else 7))
    measure_sizes(table)
    measure_images(table, earlier, 2 if arguments.quick else 40)
    table.notes.append(f"Seeded weights. The earlier commit is {EARLIER[:7]}.")
    table.write(arguments)


def measure_starts(table: Table, earlier: Path, rounds: int) -> None:
    """Start processes in turns, and add the rows of their times and memory."""
    sides: dict[str, Callable[[], ProgramRun]] = {}
    for model_name in START_TARGETS:
        for side in ("eager", "ours"):
            sides[f"{model_name} {side}"] = make_start(side, model_name, REPOSITORY, inference_runs.HOME)
    sides["earlier"] = make_start("ours", MODEL_NAME, earlier, earlier / "home")
    sides.update({f"alone {side}": make_start_alone(side) for side in ("eager", "ours")})
    runs: dict[str, list[ProgramRun]] = {name: [] for name in sides}
    for number in range(-2, rounds):
        if number == -1:
            time.sleep(inference_runs.SETTLING_S)
        for name, start in sides.items():
            run = start()
            runs[name] += [run] * (number >= 0)

    for model_name, target in START_TARGETS.items():
        eager, ours = ([run.answer["seconds"] for run in runs[f"{model_name} {side}"]] for side in ("eager", "ours"))
        add_ratio(table, "first answer in the engine, s", (model_name, "eager", target), eager, ours)
    eager, ours = ([run.seconds for run in runs[f"alone {side}"]] for side in ("eager", "ours"))
    add_ratio(table, "one file alone, s", (MODEL_NAME, "eager", ALONE_TARGET), eager, ours)
    before, ours = ([run.peak_mb for run in runs[name]] for name in ("earlier", f"{MODEL_NAME} ours"))
    add_ratio(table, "peak memory in the engine, MB", (MODEL_NAME, "earlier commit", MEMORY_TARGET), before, ours)


def measure_sizes(table: Table) -> None:
    """Add the row of installed sizes."""
    whole = measure_installation(read_requirements(REPOSITORY / "requirements.txt"))
    light = measure_installation(read_requirements(REPOSITORY / "infer_resnet" / "requirements.txt"))
    add_ratio(table, "installed size, GB", ("", "`make setup`", SIZE_TARGET), [whole / 1e9], [light / 1e9])


def measure_images(table: Table, earlier: Path, rounds: int) -> None:
    """Let processes of ours, of the earlier commit, and of the bare network take turns, and add the rows."""
    parameters = {name: inference_runs.choose_parameters(MODEL_NAME, name) for name in IMAGE_TARGETS}
    text = json.dumps(parameters, default=str)
    names = [f"{kind}{name}" for name in IMAGE_TARGETS for kind in ("", "bare ", "empty ")]
    times: dict[str, list[float]] = {name: [] for name in (*names, *(f"earlier {name}" for name in IMAGE_TARGETS))}
    with (
        serve_images(REPOSITORY, inference_runs.HOME, [text]) as take_ours,
        serve_images(REPOSITORY, inference_runs.HOME, [text, "--bare"]) as take_bare,
        serve_images(earlier, earlier / "home", [text]) as take_earlier,
    ):
        for _ in range(rounds):
            for name in IMAGE_TARGETS:
                times[f"earlier {name}"] += take_earlier(name)
                times[name] += take_ours(name)
                for kind in ("bare ", "empty "):
                    times[f"{kind}{name}"] += take_bare(f"{kind}{name}")

    for name, target in IMAGE_TARGETS.items():
        before, ours = times[f"earlier {name}"], times[name]
        texts = (inference_runs.describe_percentiles(values) for values in (before, ours))
        ratio = f"{median(ours) / median(before):.2f}"
        what = f"one image in {name}, ms"
        table.add(what, MODEL_NAME, "earlier commit", *texts, ratio, f"{target:.2f}", str(len(ours)))
    for name, limit in OWN_TARGETS.items():
        bare = median(times[f"bare {name}"])
        own, engine = (median(times[side]) - bare for side in (name, f"empty {name}"))
        cells = (f"{bare:.1f}", f"{own:.1f} (an empty task {engine:.1f})", "", f"{limit:.1f} ms")
        table.add(f"own time in {name}, ms", MODEL_NAME, "bare network", *cells, str(len(times[name])))


def make_start(side: str, model_name: str, tree: Path, home: Path) -> Callable[[], ProgramRun]:
    """Return the start of a process that classifies one file in the engine."""
    weights = inference_runs.prepare_weights(model_name)
    command = [side, IMAGE, weights, inference_runs.CLASS_FILE, "--model", model_name]
    return lambda: run_program("first_answer.py", command, make_environment(tree, home))


def make_start_alone(side: str) -> Callable[[], ProgramRun]:
    """Return the start of a process that classifies one file without the engine."""
    weights = inference_runs.prepare_weights(MODEL_NAME)
    environment = make_environment(REPOSITORY, inference_runs.HOME)

    def start() -> ProgramRun:
        if side == "eager":
            command = [IMAGE, weights, inference_runs.CLASS_FILE, MODEL_NAME]
            return run_program("eager_answer.py", command, environment)
        with tempfile.TemporaryDirectory() as folder:
            command = ["classify", weights, IMAGE, "--class-file", inference_runs.CLASS_FILE, "--resize-mode", "squash"]
            output = ["--output", Path(folder) / "answers.csv", "--quiet", "--json"]
            return run_program("resnetkit", [*command, *output], environment)

    return start


def make_environment(tree: Path, home: Path) -> dict[str, str]:
    """Return the variables by which a process takes library and plugins from a tree."""
    return {"HOME": str(home), "PYTHONPATH": str(tree), "IKOMIA_AUTO_COMPLETION": "0"}


@contextmanager
def serve_images(tree: Path, home: Path, arguments: list[str]) -> Iterator[Callable[[str], list[float]]]:
    """Yield a function that has a process of its own classify some images, and returns the milliseconds of each."""
    command = [sys.executable, str(PROGRAMS / "serve_images.py"), *arguments]
    environment = {**os.environ, **make_environment(tree, home)}
    with subprocess.Popen(
        command, env=environment, cwd=tempfile.gettempdir(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def take(name: str) -> list[float]:
            stdin.write(f"{name}\n")
            stdin.flush()
            for line in stdout:  # the engine writes there as well
                if line.startswith("times "):
                    return json.loads(line.removeprefix("times "))
            raise RuntimeError(f"{command} ended")

        yield take
        stdin.close()


def check_out(commit: str) -> Path:
    """Return a folder with the library and the plugins of a commit."""
    folder = DATA_FOLDER / commit[:7]
    if not folder.is_dir():
        command = ["git", "archive", commit, "resnetkit", "infer_resnet", "train_resnet"]
        content = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True).stdout
        with tempfile.TemporaryDirectory(dir=DATA_FOLDER) as temporary, tarfile.open(fileobj=BytesIO(content)) as tar:
            tree = Path(temporary) / "tree"
            tar.extractall(tree, filter="data")
            plugins = tree / "home" / "Ikomia" / "Plugins" / "Python"
            plugins.mkdir(parents=True)
            (plugins / "infer_resnet").symlink_to(folder / "infer_resnet", target_is_directory=True)
            tree.rename(folder)
    return folder


def add_ratio(
    table: Table, what: str, case: tuple[str, str, float], theirs: Sequence[float], ours: Sequence[float]
) -> None:
    """Add a row of both sides and the ratio of their medians; `case` is the network, the other side, and the target."""
    network, against, target = case
    digits = 0 if median(ours) > 100 else 2
    texts = (describe_spread(values, digits) for values in (theirs, ours))
    table.add(what, network, against, *texts, f"{median(ours) / median(theirs):.2f}", f"{target:.2f}", str(len(ours)))


if __name__ == "__main__":
    main()
