"""Disks that become full at every write of a training."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soak.children import Child
from soak.material import FULL_TRAINING, write_digits
from soak.record import Finding
from soak.run_files import compare_runs, find_damage, find_run, list_temporary

TITLE = "A full disk costs no more than what did not fit"
CLAIM = """
A training that writes every kind of file was run once for each of its writes, with a disk that became full at that
write: by a limit on the size of files (RLIMIT_FSIZE), and on a small file system in memory (tmpfs) that was filled to
the last block where this machine lets one be mounted. The error must be one line that says so, every file that was
there before must be as it was, nothing half-written may stay, and the training must go on from its run folder to the
result that the uninterrupted one has.
"""

_SPACE_MB = 1000
_SIGNS = ("no space left", "file too large")


def run(folder: Path) -> Iterator[Finding]:
    """Fill the disk at every write, in both ways."""
    source = write_digits(folder / "digits")
    parameters = {**FULL_TRAINING, "epochs": 2}
    exports = {"export_onnx": True, "export_openvino": True}
    yield fill_at_every_write("file size limit", folder / "limit", {**parameters, **exports}, source)
    with _mount_small_disk(folder / "disk") as disk:
        if disk is None:
            yield Finding("full tmpfs", 0, "not tried: this machine lets none be mounted")
        else:
            yield fill_at_every_write("full tmpfs", disk, parameters, source)


def fill_at_every_write(
    what: str, folder: Path, parameters: Mapping[str, Any], source: Path, names: tuple[str, ...] = ()
) -> Finding:
    """Try each write of a training, or those of some files, on a disk that is full then.

    A write that needs no space, such as the renaming of a file that is there, may succeed.

    Args:
        what: Name of the finding; the file system is filled where it is "full tmpfs", else file sizes are limited.
        folder: Where the runs are made.
        parameters: Of the training.
        source: Its data set.
        names: Files to try; empty for all.
    """
    whole_output = folder / "whole"
    writes = _train(parameters, source, whole_output, None, "")["writes"]
    whole = find_run(whole_output)
    assert whole is not None
    tried = [number for number, name in enumerate(writes) if not names or name in names]
    failures, resumed_count, num_errors = [], 0, 0
    for number in tried:
        output = folder / f"write-{number}"
        answer = _train(parameters, source, output, number, "ballast" if what == "full tmpfs" else "limit")
        num_errors += answer["error"] is not None
        label = f"{writes[number]} (write {number + 1})"
        failures += [f"{label}: {text}" for text in _judge(answer, output)]
        run_folder = find_run(output)
        resume_from = str(run_folder) if run_folder else ""
        error = _train({**parameters, "resume_from": resume_from}, source, output, None, "")["error"]
        resumed = find_run(output)
        differences = [f"did not go on ({error})"]
        if error is None and resumed is not None:
            differences = compare_runs(whole, resumed)
        resumed_count += not differences
        failures += [f"{label}: {text}" for text in differences]
        shutil.rmtree(output)
    kinds = len({writes[number] for number in tried if not writes[number].startswith(".")})
    outcome = (
        f"{kinds} kinds of files, {num_errors} errors, each of one line that speaks of no space; all earlier files "
        f"whole and nothing half-written; {resumed_count} resumed runs equal the uninterrupted one"
    )
    return Finding(what, len(tried), outcome if not failures else f"{resumed_count} went on", failures)


def train_with_writes(
    parameters: Mapping[str, Any], source: str, full_at: int | None, how: str, output: str
) -> dict[str, Any]:
    """Train in this process (a child), note every write, and make the disk full at one of them.

    Returns:
        The names of the files in the order of their writes, the error if there was one, and how many bytes each
        finished file had when the disk became full.
    """
    import sys

    import torch

    from resnetkit.machine import files
    from resnetkit.parameters.training import TrainParameters
    from resnetkit.training.loop import train

    torch.set_num_threads(1)
    writes: list[str] = []
    original = files.atomic_path

    @contextmanager
    def watch(path: Path) -> Iterator[Path]:
        writes.append(path.name)
        with original(path) as temporary:
            if full_at != len(writes) - 1:
                yield temporary
            else:
                with _fill(Path(output), how):
                    yield temporary
                    files._flush_to_disk(temporary)

    for module in list(sys.modules.values()):
        if getattr(module, "atomic_path", None) is original:
            module.atomic_path = watch  # type: ignore[attr-defined]
    error = None
    try:
        train(TrainParameters().updated(parameters), Path(source))
    except (OSError, RuntimeError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    return {"writes": writes, "error": error}


@contextmanager
def _fill(output: Path, how: str) -> Iterator[None]:
    """Let nothing more be written: by a limit on this process's files, or by a file that takes all space."""
    import resource

    if how == "limit":
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        return
    ballast = output / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12):
            try:
                while stream.write(b"\1" * size) == size:
                    pass
            except OSError:
                continue
    try:
        yield
    finally:
        ballast.unlink()


def _train(parameters: Mapping[str, Any], source: Path, output: Path, full_at: int | None, how: str) -> dict[str, Any]:
    output.mkdir(parents=True, exist_ok=True)
    arguments = {
        "parameters": {**parameters, "output_folder": str(output)},
        "source": str(source),
        "full_at": full_at,
        "how": how,
        "output": str(output),
    }
    # Its own files lie elsewhere: the disk is full for the training alone.
    ended = Child(train_with_writes, arguments, source.parent / "child").wait(300)
    assert ended.answer is not None, ended.output
    answer: dict[str, Any] = ended.answer
    return answer


def _judge(answer: Mapping[str, Any], output: Path) -> Iterator[str]:
    error = answer["error"]
    if error is not None and ("\n" in error or not any(sign in error.lower() for sign in _SIGNS)):
        yield f"the error does not say it in one line: {error}"
    run_folder = find_run(output)
    if run_folder is not None:
        yield from find_damage(run_folder)
    yield from (f"{path.name} stayed" for path in list_temporary(output))


@contextmanager
def _mount_small_disk(folder: Path) -> Iterator[Path | None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SPACE_MB}m", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield folder if is_mounted else None
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True, timeout=30)
