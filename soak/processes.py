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
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import psutil

from soak.children import REPOSITORY
from soak.material import write_digits, write_model
from soak.record import Finding

TITLE = "A process or worker that dies ends no training and loses no row"
CLAIM = """
Two processes train one resnet18 (images of 32x32 pixels, three epochs). In the third epoch one of them is killed with
SIGKILL; or hangs (SIGSTOP); or is asked to stop (SIGTERM). All others must end within 40 seconds, and the same command
must come to the weights of the training that nobody interrupted, byte for byte. 3,000 small photographs and 3 damaged
files are classified by workers of Ray, one of which is killed in the middle: every file must have one row, 3 of them
with an error. Then the program itself is killed, and the other engine must do what is missing, with the same answers;
and one of two nodes of a cluster is killed. On one machine nothing may listen but on the loopback interface, and no
part of a job may run 120 seconds after its end.
"""

_TRAIN = (
    "--no-use-pretrained", "--no-feature-extract", "--input-size=32", "--batch-size=20", "--optimizer=sgd",
    "--learning-rate=0.02", "--augmentation=basic", "--tracking=off", "--no-export-pth", "--epochs=3",
)  # fmt: skip
_END_S = 40
_TIMEOUT_S = 600

INTERRUPTIONS = {"killed": signal.SIGKILL, "hung": signal.SIGSTOP, "stopped": signal.SIGTERM}
VICTIMS = ("worker", "program", "node")
_LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

#: Label, confidence and error by path.
Rows: TypeAlias = dict[str, tuple[str, float, str]]


def run(folder: Path) -> Iterator[Finding]:
    """Interrupt each process of a training by three signals, and jobs by three deaths."""
    source = write_digits(folder / "digits")
    _end(_start_two(_command(source, folder / "whole"), folder / "output"))
    for what, number in INTERRUPTIONS.items():
        for rank in range(2):
            count = 5 if number == signal.SIGKILL else 2
            yield interrupt(folder, source, (what, number), rank, count)
    model = write_model(folder / "model" / "best.safetensors")
    photographs = write_photographs(folder / "photographs")
    expected = classify(model, photographs, folder / "expected")
    for victim in VICTIMS:
        yield kill_job((model, photographs, folder / victim), expected, victim, 2)


def interrupt(folder: Path, source: Path, how: tuple[str, signal.Signals], rank: int, count: int) -> Finding:
    """Send a signal to a process of two in its third epoch, and start the same command again."""
    failures = []
    expected = (folder / "whole" / "best.safetensors").read_bytes()
    slowest = 0.0
    for trial in range(count):
        run_folder = folder / f"{how[0]}-{rank}-{trial}"
        words, output = _command(source, run_folder), folder / "output"
        processes = _start_two(words, output)
        _wait_for(output / "0.txt", "epoch 2, ")
        time.sleep(random.Random(trial).uniform(0, 0.5))
        began = time.monotonic()
        processes[rank].send_signal(how[1])
        try:
            processes[1 - rank].wait(_END_S)
        except subprocess.TimeoutExpired:
            failures.append(f"trial {trial}: the other process went on for {_END_S} s")
        slowest = max(slowest, time.monotonic() - began)
        if how[1] == signal.SIGSTOP:
            processes[rank].send_signal(signal.SIGCONT)
        _end(processes)
        if any(_end(_start_two(words, output))):
            failures.append(f"trial {trial}: did not go on: {(output / '0.txt').read_text()[-300:]}")
        elif (run_folder / "best.safetensors").read_bytes() != expected:
            failures.append(f"trial {trial}: other weights")
        shutil.rmtree(run_folder)
    outcome = f"the other ended after at most {slowest:.0f} s; the same weights"
    return Finding(f"process {rank} of two {how[0]} in epoch 3", count, outcome, failures)


def classify(model: Path, source: Path, output: Path) -> Rows:
    """Classify photographs without Ray and without an interruption; return the rows."""
    _end([subprocess.Popen(_classify_words(model, source, output))])
    return _read_rows(output)


def kill_job(paths: tuple[Path, Path, Path], expected: Rows, victim: str, count: int) -> Finding:
    """Kill a worker of Ray, a node of a cluster, or the program that started it, in the middle of a folder."""
    failures = []
    for trial in range(count):
        output = paths[2] / f"job-{trial}"
        words = _classify_words(paths[0], paths[1], output)
        with _cluster() if victim == "node" else nullcontext() as cluster:
            variables = {**os.environ, "RAY_ADDRESS": cluster.address} if cluster else dict(os.environ)
            program = subprocess.Popen([*words, "--engine=ray", "--workers=2"], env=variables)
            children = _wait_for_part(program, output)
            if not cluster and (
                open_to := _list_addresses([program.pid, *(each.pid for each in children)]) - _LOOPBACK
            ):
                failures.append(f"trial {trial}: listened on {open_to}")
            if victim == "program":
                program.kill()
            elif cluster:
                cluster.remove_node(cluster.second, allow_graceful=False)
            for worker in [each for each in children if "_Actor" in _name(each)][:1] if victim == "worker" else []:
                worker.kill()
            status = program.wait(_TIMEOUT_S)
        if victim != "program" and status:
            failures.append(f"trial {trial}: exit status {status}")
        _, left = psutil.wait_procs(children, timeout=120)
        failures += [f"trial {trial}: left running: {_name(each)}" for each in left]
        if victim == "program":
            _end([subprocess.Popen(words)])
        failures += [f"trial {trial}: {text}" for text in _compare(_read_rows(output), expected)]
        if rest := [path.name for path in output.iterdir() if re.match(r"\..*tmp", path.name)]:
            failures.append(f"trial {trial}: temporary files: {rest}")
        shutil.rmtree(output)
    outcome = f"{len(expected)} rows, {sum(map(bool, (row[2] for row in expected.values())))} errors, the same answers"
    return Finding(f"{victim} of a job killed", count, outcome, failures)


def write_photographs(folder: Path, count: int = 3000) -> Path:
    """Write parts of two photographs, of 48x48 pixels, and three files that are no images."""
    import cv2
    import numpy as np
    from sklearn.datasets import load_sample_image

    draws = np.random.default_rng(0)
    images = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    folder.mkdir(parents=True)
    for number in range(count):
        image, (top, left) = images[number % 2], draws.integers(0, (379, 592))
        cv2.imwrite(str(folder / f"{number:04}.jpg"), image[top : top + 48, left : left + 48, ::-1])
    for number in range(3):
        (folder / f"damaged-{number}.jpg").write_bytes(b"no image")
    return folder


def _command(source: Path, run_folder: Path) -> list[str]:
    return [sys.executable, "-m", "resnetkit", "train", str(source), *_TRAIN, "--run-folder", str(run_folder)]


def _classify_words(model: Path, source: Path, output: Path) -> list[str]:
    words = [sys.executable, "-m", "resnetkit", "classify", str(model), str(source), "--output", f"{output}/"]
    return [*words, "--part-size=100", "--quiet"]


def _read_rows(output: Path) -> Rows:
    """Return label, confidence and error of each path of a job; a path that is there twice is not."""
    from pyarrow import parquet

    rows: Rows = {}
    for path in sorted(output.glob("part-*.parquet")):
        for row in parquet.read_table(path).to_pylist():
            if row["path"] in rows:
                rows[f"twice: {row['path']}"] = ("", 0.0, "")
            rows[row["path"]] = (row["label"], row["confidence"] or 0.0, row["error"])
    return rows


def _compare(found: Rows, expected: Rows) -> list[str]:
    if found.keys() != expected.keys():
        return [f"{len(found)} rows instead of {len(expected)}"]
    differing = [path for path, row in found.items() if row[0] != expected[path][0] or row[2] != expected[path][2]]
    differing += [path for path, row in found.items() if abs(row[1] - expected[path][1]) > 1e-4]
    return [f"other answers for {len(differing)} files, such as {differing[0]}"] if differing else []


@contextmanager
def _cluster() -> Iterator[Any]:
    """Start a cluster of two nodes on this machine, each of one core."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.second = cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
        yield cluster
    finally:
        cluster.shutdown()


def _list_addresses(numbers: Sequence[int]) -> set[str]:
    """Return the addresses on which processes listen."""
    addresses = set()
    for number in numbers:
        try:
            found = psutil.Process(number).net_connections("inet")
        except psutil.Error:
            continue
        addresses |= {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN}
    return addresses


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
