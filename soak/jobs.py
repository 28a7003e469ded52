"""Folders that are classified in parts: workers, nodes and whole programs that are killed, and a deadly image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import psutil

from soak.children import REPOSITORY
from soak.material import write_model
from soak.record import Finding

TITLE = "A worker that dies loses no row"
CLAIM = """
3,000 small photographs and 3 damaged files are classified in parts of 100 files, by as many workers of Ray as there are
cores. In the middle a worker is killed with SIGKILL; or one of two nodes of a cluster; or the program itself, and then
the other engine must do what is missing. Every file must have one row with the answer of the job that nobody
interrupted, 3 of them an error, and no temporary file may be left. An image that ends every process that opens it must
cost its part alone: the job must end by itself with exit status 1 and name this part. Nothing may listen but on the
loopback interface, and no process of a job may run 120 seconds after its end.
"""

_NUM_PHOTOGRAPHS, _PART_SIZE = 3000, 100
_TIMEOUT_S, _LEFT_S = 600, 120
_LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

#: Ends a process that opens this photograph, as an image might that a decoder cannot bear.
_DEADLY = "1500.jpg"
_HOOK = f"""
import os, sys
sys.addaudithook(lambda event, args: os._exit(9) if event == "open" and str(args[0]).endswith("{_DEADLY}") else None)
"""

#: Label, confidence and error by path.
Rows: TypeAlias = dict[str, tuple[str, float, str]]


@dataclass(frozen=True)
class Job:
    """What is classified, and what must come out.

    Attributes:
        model: The weights file.
        source: The photographs.
        folder: Where the parts are written, a folder for each trial.
        expected: The rows of the job that nobody interrupted.
    """

    model: Path
    source: Path
    folder: Path
    expected: Rows

    def write_words(self, output: Path, engine: str) -> list[str]:
        """Return the command."""
        words = [sys.executable, "-m", "resnetkit", "classify", str(self.model), str(self.source), "--quiet"]
        words += ["--output", f"{output}/", f"--part-size={_PART_SIZE}", f"--engine={engine}"]
        return [*words, f"--workers={len(os.sched_getaffinity(0))}"] if engine == "ray" else words

    def find_faults(self, output: Path) -> list[str]:
        """Return what is wrong with a finished job, and remove it."""
        faults = _compare(_read_rows(output), self.expected)
        if rest := [path.name for path in output.iterdir() if re.match(r"\..*tmp", path.name)]:
            faults.append(f"temporary files: {rest}")
        shutil.rmtree(output)
        return faults


class _Program:
    """A program, the processes that it (or a cluster of this process) has started, and where any of them listened."""

    def __init__(self, words: Sequence[str], folder: Path, **variables: str) -> None:
        self._said = folder / "said.txt"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                words, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        self.started: set[psutil.Process] = set()
        self.addresses: set[str] = set()

    def look(self) -> None:
        """Note what is running and listening now."""
        self.started |= set(psutil.Process().children(recursive=True))
        for process in self.started:
            try:
                found = process.net_connections("inet")
            except psutil.Error:
                continue
            self.addresses |= {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN}

    def wait_for_parts(self, output: Path, count: int) -> None:
        """Wait until some parts are there, or the program has ended."""
        deadline = time.monotonic() + _TIMEOUT_S
        while len(_list_parts(output)) < count and self.process.poll() is None and time.monotonic() < deadline:
            self.look()
            time.sleep(0.05)

    def wait(self) -> int:
        """Return the exit status; one that does not end is killed."""
        deadline = time.monotonic() + _TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self.look()
            time.sleep(0.2)
        self.process.kill()
        return self.process.wait()

    def find_faults(self) -> list[str]:
        """Return where it listened that others can reach it, and what still runs, once it has had its time to end."""
        _, left = psutil.wait_procs(self.started, timeout=_LEFT_S)
        reachable = self.addresses - _LOOPBACK
        return [*([f"listened on {reachable}"] if reachable else []), *(f"left running: {_name(one)}" for one in left)]

    def read(self) -> str:
        """Return what it has said."""
        return self._said.read_text(encoding="utf-8", errors="replace")


def run(folder: Path) -> Iterator[Finding]:
    """Interrupt jobs in each way, and give one an image that ends its workers."""
    job = prepare(folder)
    yield kill_worker(job, 2)
    yield kill_node(job, 2)
    for engine, other in (("ray", "local"), ("local", "ray")):
        yield kill_program(job, engine, other, 2)
    yield read_deadly(job, 1)


def prepare(folder: Path) -> Job:
    """Write model and photographs, and classify them without Ray and without an interruption."""
    job = Job(write_model(folder / "model" / "best.safetensors"), write_photographs(folder / "photographs"), folder, {})
    subprocess.run(job.write_words(folder / "expected", "local"), check=True, timeout=_TIMEOUT_S)
    return Job(job.model, job.source, folder, _read_rows(folder / "expected"))


def kill_worker(job: Job, count: int) -> Finding:
    """Kill a worker of Ray when some parts are there."""
    failures = []
    for trial in range(count):
        output = job.folder / f"worker-{trial}"
        program = _Program(job.write_words(output, "ray"), job.folder)
        program.wait_for_parts(output, 3)
        faults = _check_is_begun(job, output)
        workers = [each for each in program.started if "_Actor" in _name(each)]
        for worker in workers[:1]:
            worker.kill()
        faults += [] if workers else ["no worker was found"]
        if status := program.wait():
            faults.append(f"exit status {status}: {program.read()[-300:]}")
        faults += program.find_faults() + job.find_faults(output)
        failures += [f"trial {trial}: {text}" for text in faults]
    return _describe("a worker of Ray killed", job, count, failures)


def kill_node(job: Job, count: int) -> Finding:
    """Kill one of two nodes of a cluster when some parts are there."""
    failures = []
    for trial in range(count):
        output = job.folder / f"node-{trial}"
        with _cluster() as cluster:
            program = _Program(job.write_words(output, "ray"), job.folder, RAY_ADDRESS=cluster.address)
            program.wait_for_parts(output, 3)
            faults = _check_is_begun(job, output)
            cluster.remove_node(cluster.second, allow_graceful=False)
            if status := program.wait():
                faults.append(f"exit status {status}: {program.read()[-300:]}")
        faults += program.find_faults() + job.find_faults(output)
        failures += [f"trial {trial}: {text}" for text in faults]
    return _describe("one of two nodes of Ray killed", job, count, failures)


def kill_program(job: Job, engine: str, other: str, count: int) -> Finding:
    """Kill the program when some parts are there; the other engine does the rest."""
    failures = []
    for trial in range(count):
        output = job.folder / f"{engine}-{trial}"
        program = _Program(job.write_words(output, engine), job.folder)
        program.wait_for_parts(output, 3)
        program.process.kill()
        program.process.wait()
        faults = _check_is_begun(job, output) + program.find_faults()
        program = _Program(job.write_words(output, other), job.folder)
        if status := program.wait():
            faults.append(f"exit status {status}: {program.read()[-300:]}")
        faults += program.find_faults() + job.find_faults(output)
        failures += [f"trial {trial}: {text}" for text in faults]
    return _describe(f"the program killed, engine {engine}; gone on with by {other}", job, count, failures)


def read_deadly(job: Job, count: int) -> Finding:
    """Classify with Ray where an image ends each process that opens it; then without this image's spell."""
    failures = []
    hook = job.folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_HOOK, encoding="utf-8")
    number = sorted(path.name for path in job.source.iterdir()).index(_DEADLY) // _PART_SIZE
    lost, total = f"part-{number:06}.parquet", -(-len(job.expected) // _PART_SIZE)
    for trial in range(count):
        output = job.folder / f"deadly-{trial}"
        paths = os.pathsep.join([str(hook), str(REPOSITORY)])
        program = _Program(job.write_words(output, "ray"), job.folder, PYTHONPATH=paths)
        status, faults = program.wait(), []
        if status != 1 or f"1 of {total} parts could not be done, in two passes: {lost};" not in program.read():
            faults.append(f"exit status {status}: {program.read()[-300:]}")
        if len(_list_parts(output)) != total - 1 or (output / lost).exists():
            faults.append(f"{len(_list_parts(output))} parts of {total} are there")
        faults += program.find_faults()
        subprocess.run(job.write_words(output, "local"), check=True, timeout=_TIMEOUT_S)
        failures += [f"trial {trial}: {text}" for text in faults + job.find_faults(output)]
    outcome = f"exit status 1, its part of {total} named and all others there; {_describe('', job, 0, []).outcome}"
    return Finding("an image that ends each process that opens it", count, outcome, failures)


def write_photographs(folder: Path, count: int = _NUM_PHOTOGRAPHS) -> Path:
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


def _describe(what: str, job: Job, count: int, failures: list[str]) -> Finding:
    num_errors = sum(bool(error) for _, _, error in job.expected.values())
    return Finding(what, count, f"{len(job.expected):,} rows, {num_errors} errors, the same answers", failures)


def _check_is_begun(job: Job, output: Path) -> list[str]:
    """Return what is wrong with the moment: no part is there, or all are."""
    there, total = len(_list_parts(output)), -(-len(job.expected) // _PART_SIZE)
    return [] if 0 < there < total else [f"interrupted when {there} of {total} parts were there"]


def _list_parts(output: Path) -> list[Path]:
    return sorted(output.glob("part-*.parquet"))


def _read_rows(output: Path) -> Rows:
    """Return label, confidence and error of each path of a job; a path that is there twice is not."""
    from pyarrow import parquet

    rows: Rows = {}
    for path in _list_parts(output):
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
    """Start a cluster of two nodes on this machine, each of one core, on the loopback interface."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # read when ray is imported
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.second = cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
