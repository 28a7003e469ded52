"""What defaults learn: resnetkit beside what people use instead, from the same weights, on the same splits.

"Defaults" means that nothing is given but data set, starting weights, input size and `resize_mode="squash"`, which
belongs to the weights. The peers are described in programs/learning_peers.py; neither they nor ours were tuned on the
test images that this table is about. Accuracy, log loss and calibration error (15 bins, Guo et al., 2017) are those of
the test images, means over seeds ± the standard error of the mean; a seed changes initialization, order and
augmentation, while splits stay. scikit-learn's fits have no seed.

Seconds are CPU seconds of the process, all threads together, and wall seconds, medians of the runs of one day on one
machine; learners that did not run on the last of these days have none. Imports are left out on both sides. A peer's
begin with reading and end with the answers for the test images, so do ours, and ours are those of the whole `train`:
images checked, calibration, charts and the report page as well.

    python benchmarks/learning.py --data FOLDER [--sets sign15 digits] [--learners full timm] [--seeds 3]

Every run is kept as a line of results/learning.jsonl; those that are there are not repeated, and the table is made of
all. FOLDER holds `sign_digits`, `objects32` and the weights `resnet18_cifar10_64.pth`; without it there are digits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tables import DATA_FOLDER, REPOSITORY, RESULTS_FOLDER, Table
from training_accuracy import write_digits
from training_runs import PROGRAMS, ProgramError, run_program

sys.path.insert(0, str(REPOSITORY))

from sklearn.metrics import log_loss

from resnetkit.results.metrics import compute_metrics

FOLDER = DATA_FOLDER / "learning"
ENVIRONMENT = REPOSITORY / "build" / "learning-peers"
REQUIREMENTS = REPOSITORY / "benchmarks" / "requirements-learning.txt"
WEIGHTS = "resnet18_cifar10_64.pth"
#: The learner's own settings, all else is left to its defaults.
OURS: dict[str, dict[str, Any]] = {
    "frozen": {},
    "full": {"feature_extract": False},
    "scratch": {"feature_extract": False, "use_pretrained": False},
}
TRANSFER = ("frozen", "full", "sklearn", "fastai", "fastai_16", "fastai_find", "timm", "timm_still", "tutorial")
SCRATCH = ("scratch", "fastai", "fastai_find", "timm", "timm_still", "tutorial")


@dataclass(frozen=True)
class Problem:
    """A data set with its splits and the weights to start from.

    Attributes:
        folder: `{train,val,test}/<class>/*`.
        input_size: Side of the square that the network sees.
        weights: State dict to start from; None is from scratch.
        text: What it is, for the table.
    """

    folder: Path
    input_size: int
    weights: Path | None
    text: str

    @property
    def learners(self) -> Sequence[str]:
        """What can be compared."""
        return SCRATCH if self.weights is None else TRANSFER


def main() -> None:
    """Do the runs that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, help="folder with sign_digits, objects32 and the weights")
    parser.add_argument("--sets", nargs="*", help="data sets; all that there are")
    parser.add_argument("--learners", nargs="*", choices=sorted({*TRANSFER, *SCRATCH}), help="all")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each")
    parser.add_argument("--quick", action="store_true", help="one seed of ours; the results stay in build/")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    given = parser.parse_args()
    # Of a quick run nothing is mixed with the results that are kept.
    lines = (DATA_FOLDER if given.quick else RESULTS_FOLDER) / "learning.jsonl"
    lines.parent.mkdir(parents=True, exist_ok=True)
    learners = given.learners or ([*OURS] if given.quick else [*dict.fromkeys([*TRANSFER, *SCRATCH])])
    if not given.table:
        for name, problem in prepare_problems(given.data, given.sets).items():
            for learner in (each for each in learners if each in problem.learners):
                for seed in range(1 if given.quick or learner == "sklearn" else given.seeds):
                    complete(lines, {"set": name, "learner": learner, "seed": seed}, problem)
    write_table(read_rows(lines), given)


def complete(lines: Path, key: dict[str, Any], problem: Problem) -> None:
    """Do a run, unless there is a line of it, and append its line."""
    if any(key.items() <= row.items() for row in read_rows(lines)):
        return
    row = {**key, "text": problem.text, **run(problem, key["learner"], key["seed"])}
    print({name: row[name] for name in (*key, "accuracy", "log_loss", "calibration_error", "cpu_seconds")}, flush=True)
    with lines.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(lines: Path) -> list[dict[str, Any]]:
    """Return all runs that were kept."""
    return [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] if lines.is_file() else []


def run(problem: Problem, learner: str, seed: int) -> dict[str, Any]:
    """Train once in a process of its own; return its seconds and the figures of the test images."""
    output = FOLDER / f"predictions-{os.getpid()}.npz"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if learner in OURS:
        settings = {**OURS[learner], "input_size": problem.input_size, "resize_mode": "squash", "seed": seed}
        if problem.weights is not None:
            settings["model_weight_file"] = str(problem.weights)
        arguments: list[object] = [problem.folder, output, "--parameters", json.dumps(settings)]
        answer = dict(run_program("learning_ours.py", arguments).answer)
    else:
        arguments = [learner, problem.folder, output, "--input-size", problem.input_size, "--seed", seed]
        answer = run_peer([*arguments, *(["--weights", problem.weights] if problem.weights else [])])
    predictions = np.load(output)
    output.unlink()
    labels, probabilities = predictions["labels"], predictions["probabilities"].astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # of float32, which adds up to 1 in seven digits only
    metrics = compute_metrics(labels, probabilities, [str(label) for label in range(probabilities.shape[1])])
    return {
        "accuracy": metrics["accuracy"],
        "log_loss": float(log_loss(labels, probabilities, labels=np.arange(probabilities.shape[1]))),
        "calibration_error": metrics["expected_calibration_error"],
        "num_test": len(labels),
        **answer,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": load,
        "day": time.strftime("%Y-%m-%d"),
    }


def run_peer(arguments: Sequence[object]) -> dict[str, Any]:
    """Run the peers' program in the environment of its own, which is made first."""
    python = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not (ENVIRONMENT / "installed").is_file():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", "-r", str(REQUIREMENTS)]
        subprocess.run(pip, check=True)
        (ENVIRONMENT / "installed").touch()
    command = [str(python), str(PROGRAMS / "learning_peers.py"), *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=7200, env=environment)
    if process.returncode:
        raise ProgramError(f"{' '.join(command)} ended with {process.returncode}:\n{process.stderr[-4000:]}")
    return dict(json.loads(process.stdout.splitlines()[-1]))


def prepare_problems(data: Path | None, names: Sequence[str] | None) -> dict[str, Problem]:
    """Write the splits of the data sets that were asked for, unless they are there from an earlier run."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    problems = {}
    if data is not None:
        weights = data.resolve() / WEIGHTS
        for count in (15, 60):
            folder = FOLDER / f"sign{count}"
            link_signs(data / "sign_digits", folder, count)
            problems[f"sign{count}"] = Problem(folder, 64, weights, f"hand signs, {count} a class")
        problems["objects32"] = Problem(data.resolve() / "objects32", 32, None, "objects32 from scratch")
    problems["digits"] = Problem(
        write_digits(FOLDER / "digits", range(10), 0, test_share=0.2), 32, None, "digits from scratch"
    )
    if names is None or "late" in names:
        late = write_digits(FOLDER / "late", range(5, 10), seed=0)
        problems["late"] = Problem(late, 32, train_backbone(), "digits 5-9 on 0-4")
    return {name: problem for name, problem in problems.items() if names is None or name in names}


def link_signs(source: Path, folder: Path, count: int) -> None:
    """Split the photographs of a class by the MD5 of their names: `count` to train, 20 to select, the rest to test."""
    if folder.is_dir():
        return
    for place in sorted(source.iterdir()):
        paths = sorted(place.iterdir(), key=lambda path: hashlib.md5(path.name.encode()).hexdigest())
        splits = {"train": paths[:count], "val": paths[count : count + 20], "test": paths[count + 20 :]}
        for split, members in splits.items():
            (folder / split / place.name).mkdir(parents=True)
            for path in members:
                (folder / split / place.name / path.name).symlink_to(path.resolve())


def train_backbone() -> Path:
    """Train on the digits 0 to 4, with settings that no default changes, unless that was done earlier."""
    path = FOLDER / "backbone.pth"
    if not path.is_file():
        early = write_digits(FOLDER / "early", range(5), seed=0, test_share=0.1)
        settings = {
            **OURS["scratch"],
            "input_size": 32,
            "resize_mode": "squash",
            "optimizer": "sgd",
            "augmentation": "none",
            "epochs": 15,
            "batch_size": 32,
            "learning_rate": 0.05,
            "weight_decay": 5e-4,
            "export_pth": True,
        }
        output = FOLDER / "backbone.npz"
        run_program("learning_ours.py", [early, output, "--parameters", json.dumps(settings)])
        output.unlink()
    return path


def write_table(rows: Sequence[dict[str, Any]], given: argparse.Namespace) -> None:
    """Write mean and standard error of each learner on each data set."""
    columns = ("data", "learner", "accuracy", "log loss", "calibration error", "n", "CPU", "wall", "timed")
    table = Table("learning", __doc__ or "", columns)
    last_day = max(row.get("day", "") for row in rows)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["set"], row["learner"] not in OURS, row["learner"])):
        groups.setdefault((row["set"], row["learner"]), []).append(row)
    for (_, learner), members in groups.items():
        name = f"**resnetkit, {learner}**" if learner in OURS else learner
        figures = (describe(members, "accuracy"), describe(members, "log_loss"), describe(members, "calibration_error"))
        timed = [row for row in members if row.get("day") == last_day]
        seconds = [
            f"{median(row[kind] for row in timed):.1f} s" if timed else "" for kind in ("cpu_seconds", "seconds")
        ]
        data = f"{members[0]['text']} ({members[0]['num_test']} tested)"
        table.add(data, name, *figures, str(len(members)), *seconds, str(len(timed)))
    cores = sorted({row["cores"] for row in rows})
    loads = [row["load_before"] for row in rows if row["load_before"] is not None]
    table.notes.append(
        f"Each process had {' or '.join(map(str, cores))} core(s); load of the machine before a run: "
        f"{min(loads, default=0):.1f} to {max(loads, default=0):.1f}. Timed {last_day}."
    )
    table.write(given)


def describe(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Return the mean and, of several runs, its standard error."""
    values = [row[name] for row in rows]
    error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{error}"


if __name__ == "__main__":
    main()
