"""Weights files made to do harm, read with little memory and little time."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import runpy
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from soak.children import Child
from soak.material import write_model
from soak.record import Finding

TITLE = "Weights files from strangers run no code"
CLAIM = """
Each file was given to the reader that both tasks share, in a process that may take 2 GB more than it has at the start.
It must be refused in one sentence that names the file, within 10 seconds and 500 MB, and nothing that a gadget would
have done may have happened. That each gadget works is proved by unpickling it with Python's own pickle.
"""

MAX_SECONDS = 10.0
MAX_GROWTH_MB = 500.0
_LIMIT_BYTES = 2 << 30


class Gadget:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def make_gadgets(folder: Path) -> dict[str, tuple[Gadget, Path]]:
    """Return ten gadgets by name, each with the file that it would make."""
    import torch

    marks = [folder / f"ran-{number}" for number in range(10)]
    script = folder / "script.py"
    script.write_text(f"open({str(marks[7])!r}, 'w').close()\n", encoding="utf-8")
    inner = io.BytesIO()
    torch.save(Gadget(Path.touch, marks[9]), inner)
    calls: dict[str, tuple[Any, ...]] = {
        "os.system": (os.system, f"touch '{marks[0]}'"),
        "subprocess.call": (subprocess.call, ["touch", str(marks[1])]),
        "eval": (eval, f"open({str(marks[2])!r}, 'w').close()"),
        "exec": (exec, f"open({str(marks[3])!r}, 'w').close()"),
        "open": (open, str(marks[4]), "w"),
        "Path.touch": (Path.touch, marks[5]),
        "os.mkdir": (os.mkdir, str(marks[6])),
        "runpy.run_path": (runpy.run_path, str(script)),
        "shutil.copy": (shutil.copy, str(script), str(marks[8])),
        "torch.load": (functools.partial(torch.load, weights_only=False), io.BytesIO(inner.getvalue())),
    }
    return {name: (Gadget(*call), mark) for (name, call), mark in zip(calls.items(), marks, strict=True)}


def write_gadgets(folder: Path) -> dict[str, Path]:
    """Write each gadget as a bare pickle, inside a torch archive, and under a safetensors name; return their marks."""
    import torch

    marks = {}
    for number, (gadget, mark) in enumerate(make_gadgets(folder).values()):
        stem = folder / f"gadget-{number}"
        paths = [stem.with_suffix(suffix) for suffix in (".pth", ".pt", ".safetensors")]
        paths[0].write_bytes(pickle.dumps(gadget))
        torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": gadget}, paths[1])
        paths[2].write_bytes(pickle.dumps({"weight": gadget}))
        marks.update({str(path): mark for path in paths})
    return marks


def write_damaged(folder: Path) -> list[Path]:
    """Write files that claim more than they hold, are cut off, or hold the wrong thing."""
    import torch

    model = write_model(folder / "model" / "best.safetensors")
    whole = model.read_bytes()
    state_dict = _read(model)
    torch.save(state_dict, folder / "model" / "model.pth")
    archive = (folder / "model" / "model.pth").read_bytes()
    contents: dict[str, bytes] = {}
    for number, share in enumerate((0.0001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 0.99999)):
        contents[f"cut-{number}.safetensors"] = whole[: int(share * len(whole))]
        contents[f"cut-{number}.pth"] = archive[: int(share * len(archive))]
    for name, header in _make_headers().items():
        text = json.dumps(header).encode()
        contents[f"{name}.safetensors"] = struct.pack("<Q", len(text)) + text + bytes(64)
    contents["length.safetensors"] = struct.pack("<Q", 1 << 62) + b"{}"
    contents["long.safetensors"] = struct.pack("<Q", 60_000_000) + b" " * 60_000_000
    contents["deep.safetensors"] = struct.pack("<Q", 400_000) + b'{"a":' * 80_000
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for name, weights in _make_wrong_weights(state_dict).items():
        torch.save(weights, folder / f"{name}.pth")
    _write_archives(folder, archive)
    return sorted(path for path in folder.iterdir() if path.is_file())


def read_under_limit(paths: list[str]) -> list[dict[str, Any]]:
    """Read weights files in this process (a child) with bounded memory; return what became of each."""
    import resource
    import time

    import psutil
    import torch  # noqa: F401

    import resnetkit.runtimes.openvino_runtime  # noqa: F401 - part of the process before the limit is set
    from resnetkit.weights.checkpoint import open_weights
    from resnetkit.weights.errors import WeightsError
    from resnetkit.weights.models import build_model

    build_model("resnet18", 3)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + _LIMIT_BYTES,) * 2)
    answers = []
    for path in paths:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before, began = _read_peak_mb(), time.monotonic()
        error, kind = "", ""
        try:
            open_weights(Path(path)).read_state_dict()
        except WeightsError as refused:
            error = str(refused)
        except BaseException as other:
            kind, error = type(other).__name__, str(other)
        growth, seconds = _read_peak_mb() - before, time.monotonic() - began
        answers.append({"path": path, "error": error, "kind": kind, "seconds": seconds, "growth_mb": growth})
    return answers


def judge(answers: list[dict[str, Any]]) -> list[str]:
    """Return what went against the claim."""
    failures = []
    for answer in answers:
        name = Path(answer["path"]).name
        if not answer["error"]:
            failures.append(f"{name} was accepted")
        elif answer["kind"]:
            failures.append(f"{name} raised {answer['kind']}: {answer['error'][:200]}")
        elif answer["path"] not in answer["error"] or "\n" in answer["error"]:
            failures.append(f"{name}: not one sentence with its name: {answer['error'][:200]}")
        if answer["seconds"] > MAX_SECONDS or answer["growth_mb"] > MAX_GROWTH_MB:
            failures.append(f"{name} took {answer['seconds']:.1f} s and {answer['growth_mb']:.0f} MB")
    return failures


def run(folder: Path) -> Iterator[Finding]:
    """Read gadgets and damaged files."""
    yield try_gadgets(folder / "gadgets")
    yield try_damaged(folder / "damaged")


def try_gadgets(folder: Path) -> Finding:
    """Read ten gadgets in three forms, then prove that they work."""
    folder.mkdir(parents=True)
    marks = write_gadgets(folder)
    answers = read_in_child(sorted(marks), folder.with_name("gadgets-child"))
    failures = judge(answers)
    failures += [f"{Path(path).name} ran" for path, mark in marks.items() if mark.exists()]
    works = 0
    for path, mark in marks.items():
        if path.endswith(".pth"):
            result = pickle.loads(Path(path).read_bytes())
            if isinstance(result, io.IOBase):
                result.close()
            works += mark.exists()
    if works != len(marks) // 3:
        failures.append(f"only {works} of the gadgets work at all")
    return Finding(
        "10 gadgets: bare pickle, inside a .pt archive, under a .safetensors name",
        len(answers),
        f"all refused, none ran; at most {_describe(answers)}",
        failures,
    )


def try_damaged(folder: Path) -> Finding:
    """Read files that are damaged, oversized or hold the wrong thing."""
    folder.mkdir(parents=True)
    outside = set(folder.parent.iterdir())
    paths = [str(path) for path in write_damaged(folder)]
    child = folder.with_name("damaged-child")
    answers = read_in_child(paths, child)
    stray = {path.name for path in set(folder.parent.iterdir()) - outside - {child}}
    failures = judge(answers) + [f"{name} was written outside" for name in sorted(stray)]
    return Finding(
        "cut off, oversized headers, zip bombs, path traversal in zips, wrong shapes and dtypes, NaN",
        len(answers),
        f"all refused; at most {_describe(answers)}; nothing written",
        failures,
    )


def read_in_child(paths: list[str], folder: Path) -> list[dict[str, Any]]:
    """Read weights files in a process of its own; see `read_under_limit`."""
    ended = Child(read_under_limit, {"paths": paths}, folder).wait(60 + MAX_SECONDS * len(paths))
    assert ended.answer is not None, ended.output
    answers: list[dict[str, Any]] = ended.answer
    return answers


def _describe(answers: list[dict[str, Any]]) -> str:
    seconds, growth = (max(answer[name] for answer in answers) for name in ("seconds", "growth_mb"))
    return f"{seconds:.1f} s and {growth:.0f} MB a file"


def _read_peak_mb() -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def _read(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(path))


def _make_headers() -> dict[str, dict[str, Any]]:
    """Return headers of safetensors files that describe what is not there."""

    def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}

    return {
        "beyond": {"conv1.weight": tensor([1 << 40], 0, 1 << 42)},
        "negative": {"conv1.weight": tensor([-1, 16], 0, 64)},
        "overlapping": {"conv1.weight": tensor([16], 0, 64), "fc.weight": tensor([16], 0, 64)},
        "overflow": {"conv1.weight": tensor([1 << 33, 1 << 33], 0, 64)},
        "backwards": {"conv1.weight": tensor([16], 64, 0)},
        "dtype": {"conv1.weight": tensor([16], 0, 64, "F128")},
        "names": {f"tensor{number}": tensor([0], 0, 0) for number in range(100_000)},
        "foreign": {"weight": tensor([16], 0, 64)},
    }


def _make_wrong_weights(state_dict: dict[str, Any]) -> dict[str, dict[str, Any]]:
    import torch

    head = torch.zeros(1, 1)
    return {
        "shape": {**state_dict, "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)},
        "integers": {**state_dict, "fc.bias": torch.zeros(3, dtype=torch.int64)},
        "complex": {**state_dict, "fc.bias": torch.zeros(3, dtype=torch.complex64)},
        "nan": {**state_dict, "fc.bias": torch.full((3,), float("nan"))},
        "infinite": {**state_dict, "bn1.running_var": torch.full((64,), float("inf"))},
        "claimed": {**state_dict, "fc.weight": head.expand(10**9, 512), "fc.bias": head[0].expand(10**9)},
        "missing": {name: value for name, value in state_dict.items() if name != "fc.bias"},
        "more": {**state_dict, "layer1.0.attention.weight": torch.zeros(3)},
    }


def _write_archives(folder: Path, archive: bytes) -> None:
    """Write zip bombs, and archives whose entries have paths outside."""
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(400 << 20))
    with zipfile.ZipFile(folder / "nested.pt", "w", zipfile.ZIP_DEFLATED) as nested:
        nested.writestr("archive/data.pkl", (folder / "bomb.pt").read_bytes())
    with zipfile.ZipFile(folder / "entries.pt", "w") as many:
        for number in range(50_000):
            many.writestr(f"archive/{number}", b"")
    for name, prefix in (("traversal", "../../stray/"), ("absolute", f"{folder.parent}/stray/")):
        with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(folder / f"{name}.pt", "w") as target:
            for entry in source.namelist():
                target.writestr(prefix + entry.partition("/")[2], source.read(entry))
    # The directory at the end says that an entry is much larger than the file.
    position = archive.rfind(b"PK\x01\x02")
    large = bytearray(archive)
    large[position + 20 : position + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    (folder / "claim.pt").write_bytes(large)
