"""Training in two processes of which one is killed, and folders in parts whose workers are killed."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from resnetkit.jobs.parts import name_part
from soak.material import write_digits, write_model
from soak.record import Finding

TITLE = "A process or worker that dies ends no training and loses no row"
CLAIM = """
Two processes train one resnet18 (images of 32x32 pixels, three epochs); in the third epoch one of them is killed with
SIGKILL. The other one must end within 40 seconds, and the same command must come to the weights of the training that
nobody interrupted, byte for byte. Folders are classified by workers of Ray, one of which is killed in the middle: every
file must have one row. Then the program itself is killed, and the other engine must do what is missing.
"""

_TRAIN = (
    "--no-use-pretrained", "--no-feature-extract", "--input-size=32", "--batch-size=20", "--optimizer=sgd",
    "--learning-rate=0.02", "--augmentation=basic", "--tracking=off", "--no-export-pth", "--epochs=3",
)  # fmt: skip
_END_S = 40
_TIMEOUT_S = 300


def run(folder: Path) -> Iterator[Finding]:
    """Kill each process of a training five times, a worker and a program three times each."""
    source = write_digits(folder / "digits")
    for rank in range(2):
        yield kill_process(folder / f"rank-{rank}", source, rank, 5)
    model = write_model(folder / "model" / "best.safetensors")
    for victim in ("worker", "program"):
        yield kill_job(folder / victim, source, model, victim, 3)


def kill_process(folder: Path, source: Path, rank: int, count: int) -> Finding:
    """Kill a process of two in its third epoch, and start the same command again."""
    failures = []
    command = [sys.executable, "-m", "resnetkit", "train", str(source), *_TRAIN, "--run-folder"]
    _end(_start_two([*command, str(folder / "whole")], folder))
    expected = (folder / "whole" / "best.safetensors").read_bytes()
    for number in range(count):
        words = [*command, str(folder / f"run-{number}")]
        processes = _start_two(words, folder)
        _wait_for(folder / "0.txt", "epoch 2, ")
        time.sleep(random.Random(number).uniform(0, 0.5))
        processes[rank].send_signal(signal.SIGKILL)
        try:
            processes[1 - rank].wait(_END_S)
        except subprocess.TimeoutExpired:
            failures.append(f"trial {number}: the other process went on for {_END_S} s")
        _end(processes)
        if any(_end(_start_two(words, folder))):
            failures.append(f"trial {number}: did not go on: {(folder / '0.txt').read_text()[-300:]}")
        elif (folder / f"run-{number}" / "best.safetensors").read_bytes() != expected:
            failures.append(f"trial {number}: other weights")
    return Finding(f"process {rank} of two killed in epoch 3", count, "the other ended; the same weights", failures)


def kill_job(folder: Path, source: Path, model: Path, victim: str, count: int) -> Finding:
    """Kill a worker of Ray, or the program that started it, in the middle of a folder."""
    from pyarrow import parquet

    failures = []
    paths = sorted(str(path) for path in source.rglob("*.png"))
    for number in range(count):
        output = folder / f"job-{number}"
        words = [sys.executable, "-m", "resnetkit", "classify", str(model), str(source), "--output", f"{output}/"]
        words += ["--part-size=50", "--quiet"]
        program = subprocess.Popen([*words, "--engine=ray", "--workers=2"])
        children = _wait_for_part(program, output)
        if victim == "program":
            program.kill()
        for worker in [each for each in children if "_Actor" in _name(each)][:1] if victim == "worker" else []:
            worker.kill()
        status = program.wait(_TIMEOUT_S)
        _, left = psutil.wait_procs(children, timeout=120)
        failures += [f"trial {number}: left running: {_name(each)}" for each in left]
        if victim == "worker" and status:
            failures.append(f"trial {number}: exit status {status}")
        subprocess.run(words, check=False, timeout=_TIMEOUT_S)
        parts = [output / name_part(part) for part in range(-(-len(paths) // 50))]
        found = [path for part in parts if part.exists() for path in parquet.read_table(part)["path"].to_pylist()]
        if sorted(found) != paths:
            failures.append(f"trial {number}: {len(found)} rows of {len(paths)} files")
        if rest := [path.name for path in output.iterdir() if re.match(r"\..*tmp", path.name)]:
            failures.append(f"trial {number}: temporary files: {rest}")
        shutil.rmtree(output)
    return Finding(f"{victim} of a job killed", count, "a row for each file, no process and no file left", failures)


def _start_two(words: Sequence[str], folder: Path) -> list[subprocess.Popen[bytes]]:
    folder.mkdir(parents=True, exist_ok=True)
    port = str(random.SystemRandom().randrange(20_000, 30_000))
    processes = []
    for rank in range(2):
        variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with (folder / f"{rank}.txt").open("wb") as output:
            processes.append(
                subprocess.Popen(words, env={**os.environ, **variables}, stdout=output, stderr=subprocess.STDOUT)
            )
    return processes


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for processes; end those that are late."""
    deadline = time.monotonic() + _TIMEOUT_S
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return [process.returncode for process in processes]


def _wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while text not in path.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)


def _wait_for_part(program: subprocess.Popen[bytes], output: Path) -> list[psutil.Process]:
    """Wait until a part is there; return all processes that the program started."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not list(output.glob("*.parquet")) and program.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return psutil.Process(program.pid).children(recursive=True) if program.poll() is None else []


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
