"""Runs of the two training programs, ours and the plain one, each in a process of its own, with time and peak memory.

What is compared is the ratio of two runs that follow each other, so that a busy machine disturbs it little.
Imported by the training benchmarks; this process imports neither torch nor ikomia, since a child's peak memory begins
at that of its parent.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tables import DATA_FOLDER, REPOSITORY, describe_spread

PROGRAMS = Path(__file__).resolve().parent / "programs"

BATCH_SIZE = 8
TIMEOUT_S = 3600


class ProgramError(RuntimeError):
    """A program failed or took too long; the message ends with what it printed."""


@dataclass(frozen=True)
class ProgramRun:
    """What a run of a program took.

    Attributes:
        seconds: From the start of the process to its end.
        peak_mb: Most memory that it held at any time, in megabytes.
        answer: The JSON in the last line that it printed.
    """

    seconds: float
    peak_mb: float
    answer: Mapping[str, Any]


@dataclass
class Comparison:
    """Pairs of runs that took turns: the plain program, then ours."""

    plain: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    plain_peak_mb: float = 0.0
    our_peak_mb: float = 0.0

    def add(self, plain: ProgramRun, ours: ProgramRun, measure: Callable[[ProgramRun], float] | None = None) -> None:
        """Take a pair; `measure` gives the seconds of a run where they are not those of the whole process."""
        self.plain.append(measure(plain) if measure else plain.seconds)
        self.ours.append(measure(ours) if measure else ours.seconds)
        self.plain_peak_mb = max(self.plain_peak_mb, plain.peak_mb)
        self.our_peak_mb = max(self.our_peak_mb, ours.peak_mb)

    def describe(self, target: float | None) -> tuple[str, ...]:
        """Return medians and spread of both times and of their ratio, the target, n and peak memory, as texts."""
        ratios = [ours / plain for ours, plain in zip(self.ours, self.plain, strict=True)]
        return (
            f"{describe_spread(self.plain, 1)} s",
            f"{describe_spread(self.ours, 1)} s",
            describe_spread(ratios, 3),
            "" if target is None else f"{target:g}",
            str(len(ratios)),
            f"{self.plain_peak_mb:.0f}, {self.our_peak_mb:.0f} MB",
        )


@dataclass(frozen=True)
class TrainingJob:
    """One training, as both programs can do it.

    Attributes:
        model_name: Architecture.
        photographs: Folder with train/ and val/.
        weights: State dict from which both start.
        epochs: Passes over the training images.
        is_frozen: Whether only the head is trained.
    """

    model_name: str
    photographs: Path
    weights: Path
    epochs: int
    is_frozen: bool

    def run_plain(self, epochs: int | None = None) -> ProgramRun:
        """Train with PyTorch and torchvision alone."""
        with _make_folder() as folder:
            command = [self.photographs, self.weights, folder / "best.pth", "--model", self.model_name]
            command += ["--epochs", epochs or self.epochs, "--batch-size", BATCH_SIZE]
            return run_program("train_plain.py", [*command, *(["--freeze"] if self.is_frozen else [])])

    def run_ours(self, **parameters: object) -> ProgramRun:
        """Train with train_resnet in a workflow, with its defaults for all that is not given."""
        with _make_folder() as folder:
            link_plugins(folder)
            settings = {
                "dataset_folder": self.photographs,
                "output_folder": folder / "runs",
                "model_name": self.model_name,
                "model_weight_file": self.weights,
                "epochs": self.epochs,
                "batch_size": BATCH_SIZE,
                "feature_extract": self.is_frozen,
                **parameters,
            }
            arguments = [f"{name}={value}" for name, value in settings.items()]
            return run_program("train_ikomia.py", arguments, {"HOME": str(folder), "IKOMIA_AUTO_COMPLETION": "0"})


def prepare_job(model_name: str, num_photographs: int, epochs: int, is_frozen: bool) -> TrainingJob:
    """Write photographs and starting weights, unless they are there from an earlier run."""
    photographs = DATA_FOLDER / f"photographs-{num_photographs}"
    # In a process of its own: numpy and scikit-image would count into every child's peak.
    _call([sys.executable, str(PROGRAMS.parent / "photographs.py"), str(photographs), "--count", str(num_photographs)])
    weights = DATA_FOLDER / f"{model_name}-seed0.pth"
    if not weights.is_file():
        run_program("make_weights.py", [photographs / "train", weights, "--model", model_name], is_silent=True)
    return TrainingJob(model_name, photographs, weights, epochs, is_frozen)


def run_program(
    name: str,
    arguments: Sequence[object],
    environment: Mapping[str, str] | None = None,
    is_silent: bool = False,
) -> ProgramRun:
    """Run one of the programs to its end, or a module where the name is none of a file.

    Raises:
        ProgramError: It failed, or took longer than an hour.
    """
    program = [str(PROGRAMS / name)] if name.endswith(".py") else ["-m", name]
    command = [sys.executable, *program, *(str(argument) for argument in arguments)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=tempfile.gettempdir(),
            env={**os.environ, **(environment or {}), "BENCHMARK_BEGAN": str(time.time())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        exit_code, peak_mb = _wait(process, began + TIMEOUT_S)
        seconds = time.monotonic() - began
        output.seek(0)
        text = output.read().strip()
    if exit_code != 0:
        raise ProgramError(f"{' '.join(command)} ended with {exit_code}:\n{text[-4000:]}")
    answer = {} if is_silent else json.loads(text.splitlines()[-1])
    return ProgramRun(seconds, peak_mb, answer)


def link_plugins(home: Path) -> None:
    """Link the plugins into the Ikomia folder of a home folder."""
    _call([sys.executable, str(REPOSITORY / "scripts" / "link_plugins.py"), "--home", str(home)])


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[int, float]:
    """Wait for a process, or end it at the deadline; return its exit code and its peak memory in megabytes."""
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            unit = 1 if sys.platform == "darwin" else 1024
            return process.returncode, usage.ru_maxrss * unit / 1e6
        if time.monotonic() > deadline:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.005)


def _call(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT_S)


@contextmanager
def _make_folder() -> Iterator[Path]:
    """Make a folder that is gone afterwards; what a training writes is of no further use."""
    DATA_FOLDER.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=DATA_FOLDER))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
