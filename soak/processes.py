"""Training in two processes of which one is killed, hangs, or is asked to stop."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from soak.material import write_digits, write_model
from soak.record import Finding
from soak.run_files import compare_runs, find_damage

TITLE = "A process that dies, hangs or is stopped ends no training of two"
CLAIM = """
Two processes train one resnet18 (images of 32x32 pixels, three epochs). In the third epoch one of them is killed with
SIGKILL; or hangs (SIGSTOP); or is asked to stop (SIGTERM). The other must end within 40 seconds, and the same command
must come to what the training came to that nobody interrupted: weights, optimizer, predictions and all figures, bit for
bit, timings and dates aside. Behind a frozen backbone, one is killed when half of the features are there; those must
not be computed again.
"""

_END_S = 40
_TIMEOUT_S = 600

#: By the word for it: the signal, how often each process gets it, and the exit status of the other one.
INTERRUPTIONS = {"killed": (signal.SIGKILL, 5, 1), "hung": (signal.SIGSTOP, 2, 1), "stopped": (signal.SIGTERM, 2, 143)}

_COMMON = ("--no-use-pretrained", "--input-size=32", "--tracking=off", "--no-export-pth", "--augmentation=basic")
_WHOLE = ("--no-feature-extract", "--batch-size=20", "--optimizer=sgd", "--learning-rate=0.02", "--epochs=3")
#: 450 images, in parts of 64 batches of two: four parts.
_HEAD = ("--feature-extract", "--batch-size=2", "--cached-views=8", "--epochs=3")
#: Images of a class in each split, for the whole network and for the head alone.
_COUNTS = {"train": 60, "val": 6, "test": 3}
_HEAD_COUNTS = {"train": 150, "val": 6, "test": 3}


@dataclass
class Trial:
    """A training in two processes, and what it comes to when nobody interrupts it.

    Attributes:
        options: Of `resnetkit train`.
        source: Its data set.
        folder: Where its run folders are made.
        slowest: Most seconds from a signal to the end of the other process.
    """

    options: Sequence[str]
    source: Path
    folder: Path
    slowest: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        assert _end(self.start("whole")) == [0, 0], self.read_output()

    def start(self, name: str) -> list[subprocess.Popen[bytes]]:
        """Start both processes, with the variables that torchrun sets; what they say goes into files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "resnetkit", "train", str(self.source), *_COMMON, *self.options]
        port = str(random.SystemRandom().randrange(20_000, 30_000))
        processes = []
        for rank in range(2):
            variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            with (self.folder / f"{rank}.txt").open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        [*words, "--run-folder", str(self.folder / name)],
                        env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    )
                )  # fmt: skip
        return processes

    def read_output(self) -> str:
        """Return what the first process has said."""
        return (self.folder / "0.txt").read_text(encoding="utf-8")

    def interrupt(self, processes: Sequence[subprocess.Popen[bytes]], rank: int, what: str) -> list[str]:
        """Send a signal to one process, and return what is wrong with the end of both."""
        number, _, expected = INTERRUPTIONS[what]
        other, failures = processes[1 - rank], []
        began = time.monotonic()
        processes[rank].send_signal(number)
        try:
            if (status := other.wait(_END_S)) != expected:
                failures.append(f"the other process ended with exit status {status}: {self.read_output()[-300:]}")
        except subprocess.TimeoutExpired:
            failures.append(f"the other process went on for {_END_S} s")
        self.slowest = max(self.slowest, time.monotonic() - began)
        if number == signal.SIGSTOP:
            processes[rank].send_signal(signal.SIGCONT)
        try:
            processes[rank].wait(_END_S)
        except subprocess.TimeoutExpired:
            failures.append(f"the process itself went on for {_END_S} s")
        _end(processes, 0)
        return failures

    def finish(self, name: str, processes: Sequence[subprocess.Popen[bytes]]) -> list[str]:
        """Wait for the end of a run, remove it, and return in what it differs from the uninterrupted one."""
        run, statuses = self.folder / name, _end(processes)
        if statuses != [0, 0]:
            return [f"did not go on, exit statuses {statuses}: {self.read_output()[-300:]}"]
        differences = find_damage(run) + compare_runs(self.folder / "whole", run)
        shutil.rmtree(run)
        return differences


def run(folder: Path) -> Iterator[Finding]:
    """Interrupt each process of a training by three signals, and one that computes features."""
    trial = Trial(_WHOLE, write_digits(folder / "digits", _COUNTS), folder / "network")
    for what, (_, count, _) in INTERRUPTIONS.items():
        for rank in range(2):
            yield try_signal(trial, rank, what, count)
    source = write_digits(folder / "more digits", _HEAD_COUNTS)
    backbone = write_model(folder / "backbone.safetensors", 1, 32)
    trial = Trial((*_HEAD, "--model-weight-file", str(backbone)), source, folder / "head")
    for rank in range(2):
        yield try_features(trial, rank, 2)


def try_signal(trial: Trial, rank: int, what: str, count: int) -> Finding:
    """Send a signal to a process of two in the third epoch, and start the same command again."""
    failures, trial.slowest = [], 0.0
    for number in range(count):
        name = f"{what}-{rank}-{number}"
        processes = trial.start(name)
        _wait_until(lambda: "epoch 2, " in trial.read_output(), processes)
        time.sleep(random.Random(number).uniform(0, 0.5))
        ended = trial.interrupt(processes, rank, what)
        if "epoch 3, " in trial.read_output() and what != "stopped":
            ended.append("the epoch was over")
        failures += [f"trial {number}: {text}" for text in ended + trial.finish(name, trial.start(name))]
    outcome = f"the other ended after at most {trial.slowest:.0f} s; the same command came to the same, bit for bit"
    return Finding(f"process {rank} of two {what} in epoch 3", count, outcome, failures)


def try_features(trial: Trial, rank: int, count: int) -> Finding:
    """Kill a process of two when half of the features are there, and see which of them are computed again."""
    failures, trial.slowest, kept = [], 0.0, 0
    for number in range(count):
        name = f"features-{rank}-{number}"
        processes = trial.start(name)
        features = trial.folder / name / "features"
        _wait_until(partial(_has_half, features), processes)
        ended = trial.interrupt(processes, rank, "killed")
        before = _identify(features)
        processes = trial.start(name)
        while processes[0].poll() is None:
            now = _identify(features)
            if replaced := [part for part, file in before.items() if now.get(part, file) != file]:
                ended.append(f"computed again: {replaced}")
                break
            time.sleep(0.01)
        kept += len(before)
        failures += [f"trial {number}: {text}" for text in ended + trial.finish(name, processes)]
    outcome = f"{kept} parts of {4 * count} were there, none of which was computed again; the same head, bit for bit"
    return Finding(f"process {rank} of two killed when half of the features are there", count, outcome, failures)


def _identify(folder: Path) -> dict[str, int]:
    """Return the number of each file of training features: a file that is written again has another one."""
    found = {}
    for path in folder.glob("train-*.npz"):
        try:
            found[path.name] = path.stat().st_ino
        except FileNotFoundError:  # the run has ended
            continue
    return found


def _has_half(folder: Path) -> bool:
    return len(_identify(folder)) >= 2


def _wait_until(condition: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until something has happened, or the first process has ended."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition() and processes[0].poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def _end(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float = _TIMEOUT_S) -> list[int]:
    """Wait for processes; end those that are late."""
    deadline = time.monotonic() + timeout_s
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return [process.returncode for process in processes]
