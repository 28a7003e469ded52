"""Training runs killed at random moments and in the middle of a write."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from soak.material import FULL_TRAINING, get_head_training, write_digits, write_model
from soak.record import Finding
from soak.run_files import compare_runs, find_damage, find_run, list_temporary

TITLE = "Training that is killed loses nothing but its last epoch and five seconds before it"
CLAIM = """
Every file of a run is written under another name, flushed to the disk, and then renamed. Training runs of a resnet18
(images of 32x32 pixels; the whole network for 4 epochs, the head alone for 8) were killed with SIGKILL, and every file
that was left was read; then each run was resumed, and what it came to was compared with a run that nobody interrupted:
weights, optimizer, predictions and all figures, bit for bit, timings and dates aside. Epochs that end within five
seconds are saved together, so those of the whole network, which may take longer, were told to be saved one by one.
"""

TIMEOUT_S = 180

_context = multiprocessing.get_context("forkserver")


@dataclass
class Tally:
    """What a number of kills came to.

    Attributes:
        kills: Processes that were killed.
        in_writes: Of these, those that left a half-written temporary file.
        after_end: Processes that had ended before they could be killed; they count for nothing.
        same: Resumed runs that equal the uninterrupted one.
        left: Temporary files that were still there after resuming.
        failures: Damaged files, and runs that did not go on or differ.
    """

    kills: int = 0
    in_writes: int = 0
    after_end: int = 0
    same: int = 0
    left: int = 0
    failures: list[str] = field(default_factory=list)


class Trial:
    """One training, run as often as wanted, each time in a process and an output folder of its own.

    Args:
        parameters: Of the training.
        source: Its data set.
        folder: Where output folders are made.
        save_interval: Seconds within which epochs are saved together; None for what users have.
    """

    def __init__(
        self, parameters: Mapping[str, Any], source: Path, folder: Path, save_interval: float | None = None
    ) -> None:
        self._parameters, self._source, self._folder = parameters, source, folder
        self._save_interval = save_interval
        self._chance = random.Random(0)
        self._count = 0
        began = time.monotonic()
        output = folder / "whole"
        process = self._start(output)
        seen = _wait_for_run(process, output)
        process.join(TIMEOUT_S)
        whole = find_run(output)
        assert process.exitcode == 0
        assert whole is not None
        self.whole = whole
        self.seconds = time.monotonic() - began
        self._seconds_to_run = seen - began

    def kill_at_random(self, tally: Tally) -> None:
        """Kill a run at a moment between its first file and its end."""

        def wait(process: ForkServerProcess, output: Path) -> None:
            moment = self._chance.uniform(0, self.seconds - self._seconds_to_run)
            _wait_for_run(process, output)
            process.join(moment)

        self._kill(tally, wait)

    def kill_in_write(self, tally: Tally) -> None:
        """Kill a run as soon as a checkpoint of a random epoch is seen on its way to the disk."""

        def wait(process: ForkServerProcess, output: Path) -> None:
            number = self._chance.randrange(1, 5)
            seen: set[Path] = set()
            while process.is_alive() and len(seen) < number:
                run = find_run(output)
                if run is not None:
                    seen |= {path for path in list_temporary(run) if path.suffix in (".pt", ".safetensors")}

        self._kill(tally, wait)

    def _kill(self, tally: Tally, wait: Any) -> None:
        self._count += 1
        output = self._folder / f"killed-{self._count}"
        process = self._start(output)
        wait(process, output)
        process.kill()
        process.join(TIMEOUT_S)
        if process.exitcode == 0:
            tally.after_end += 1
        else:
            tally.kills += 1
            self._check(output, tally)
        shutil.rmtree(output)

    def _check(self, output: Path, tally: Tally) -> None:
        run = find_run(output)
        if run is not None:
            tally.in_writes += bool(list_temporary(run))
            tally.failures += find_damage(run)
        process = self._start(output, resume_from=str(run) if run else "")
        process.join(TIMEOUT_S)
        resumed = find_run(output)
        if process.exitcode != 0 or resumed is None:
            process.kill()
            tally.failures.append(f"run {self._count} did not go on (exit code {process.exitcode})")
            return
        differences = find_damage(resumed) + compare_runs(self.whole, resumed)
        tally.failures += [f"run {self._count}: {text}" for text in differences]
        tally.same += not differences
        tally.left += len(list_temporary(resumed))

    def _start(self, output: Path, **changes: object) -> ForkServerProcess:
        parameters = {**self._parameters, "output_folder": str(output), **changes}
        arguments = parameters, str(self._source), str(output), self._save_interval
        process = _context.Process(target=_train, args=arguments)
        output.mkdir(exist_ok=True)
        process.start()
        return process


def run(folder: Path) -> Iterator[Finding]:
    """Kill 50 runs and more."""
    source, checkpoint = write_digits(folder / "digits"), write_model(folder / "backbone" / "best.safetensors", 1, 32)
    trainings = (("whole network", FULL_TRAINING, 0.0), ("head alone", get_head_training(checkpoint), None))
    for name, parameters, save_interval in trainings:
        (folder / name).mkdir()
        trial = Trial(parameters, source, folder / name, save_interval)
        for moment, kill in (("at a random moment", trial.kill_at_random), ("while writing", trial.kill_in_write)):
            tally = Tally()
            while tally.kills < (18 if moment.startswith("at") else 9):
                kill(tally)
            yield describe(f"{name}, killed {moment}", tally)


def describe(what: str, tally: Tally) -> Finding:
    """Put a tally into words."""
    outcome = (
        f"{tally.in_writes} of the kills fell into a write; {len(tally.failures)} damaged files or differences; "
        f"{tally.same} resumed runs equal the uninterrupted one bit for bit; {tally.left} temporary files left"
    )
    return Finding(what, tally.kills, outcome, tally.failures)


def _wait_for_run(process: ForkServerProcess, output: Path) -> float:
    while process.is_alive() and find_run(output) is None:
        time.sleep(0.002)
    return time.monotonic()


def _train(parameters: Mapping[str, Any], source: str, output: str, save_interval: float | None) -> None:
    """Train in this process (a child); what it prints goes into a file."""
    import os
    import sys

    with (Path(output) / ".log").open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    import torch

    from resnetkit.parameters.training import TrainParameters
    from resnetkit.training import run
    from resnetkit.training.loop import train

    torch.set_num_threads(1)
    if save_interval is not None:
        run.SAVE_INTERVAL_S = save_interval
    train(TrainParameters().updated(parameters), Path(source))


_context.set_forkserver_preload(["resnetkit.training.loop", "resnetkit.training.tracking"])
