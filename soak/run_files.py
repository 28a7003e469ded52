"""Run folders: whether every file in one is whole, and whether two runs came to the same."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

#: Figures and paths that differ between two runs of the same training.
_OWN_FIGURES = ("timings", "finished_at")
_OWN_PARAMETERS = ("output_folder", "resume_from", "run_folder", "num_workers")


def find_run(output_folder: Path) -> Path | None:
    """Return the newest run folder that is there under its name; None if there is none."""
    runs = sorted(path.parent for path in output_folder.glob("[!.]*/state.pt") if not path.parent.is_symlink())
    return runs[-1] if runs else None


def list_temporary(folder: Path) -> list[Path]:
    """Return what is only on its way to a name of its own, in a folder and all below it."""
    return [path for path in folder.rglob(".*") if ".tmp" in path.name]


def find_damage(run_folder: Path) -> list[str]:
    """Read every file of a run folder; return one sentence for each that is not whole."""
    damaged = []
    for path in sorted(run_folder.rglob("*")):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(run_folder).parts):
            continue
        try:
            _CHECKS[path.suffix](path)
        except Exception as error:  # whatever the reader of a damaged file comes up with
            damaged.append(f"{path.name} is damaged ({type(error).__name__}: {error})")
    latest = run_folder.parent / "latest"
    if latest.is_symlink() and not (latest / "best.safetensors").is_file():
        damaged.append("latest points to no model")
    return damaged


def compare_runs(one: Path, other: Path) -> list[str]:
    """Return in what two finished runs differ, timings, dates and their own paths aside."""
    from resnetkit.training.state import read_state

    differences = [
        f"{name} differs"
        for name in ("best.safetensors", "classes.txt", "data_report.json", "resnet18.pth")
        if (one / name).exists() != (other / name).exists()
        or ((one / name).exists() and (one / name).read_bytes() != (other / name).read_bytes())
    ]
    if _read_metrics(one) != _read_metrics(other):
        differences.append("metrics.json differs")
    if _read_history(one) != _read_history(other):
        differences.append("metrics.csv differs")
    states = [read_state(folder) for folder in (one, other)]
    if not _is_same([[dict(state.weights), dict(state.optimizer)] for state in states]):
        differences.append("the last weights or the optimizer's state differ")
    arrays = [dict(np.load(folder / "predictions.npz")) for folder in (one, other)]
    if arrays[0].keys() != arrays[1].keys() or any(
        not np.array_equal(arrays[0][key], arrays[1][key]) for key in arrays[0]
    ):
        differences.append("predictions.npz differs")
    return differences


def _read_metrics(folder: Path) -> dict[str, Any]:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for name in _OWN_FIGURES:
        del metrics[name]
    for row in metrics["history"]:
        del row["seconds"]
    for name in _OWN_PARAMETERS:
        del metrics["parameters"][name]
    return metrics


def _read_history(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    for row in rows:
        del row["seconds"]
    return rows


def _is_same(pair: list[Any]) -> bool:
    """Compare two values of nested lists, dictionaries and tensors, bit for bit."""
    import torch

    one, other = pair
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_is_same([one[key], other[key]]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_same, map(list, zip(one, other, strict=True))))
    return bool(one == other)


def _check_checkpoint(path: Path) -> None:
    from resnetkit.weights.checkpoint import open_weights

    weights = open_weights(path)
    assert weights.metadata is not None or path.suffix == ".pth"
    weights.read_state_dict()


def _check_state(path: Path) -> None:
    from resnetkit.training.state import read_state

    read_state(path.parent)


def _check_graph(path: Path) -> None:
    from resnetkit.weights.checkpoint import open_weights

    assert open_weights(path).metadata is not None


def _check_table(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    rows = list(csv.DictReader(text.splitlines()))
    assert all(None not in row and None not in row.values() for row in rows)
    if path.name == "metrics.csv":
        assert rows
        # A head that is solved has strengths instead of epochs.
        assert "strength" in rows[0] or all(row["epoch"] == str(number) for number, row in enumerate(rows, 1))


def _check_picture(path: Path) -> None:
    from resnetkit.images.reading import read_image

    read_image(path)


def _check_arrays(path: Path) -> None:
    with np.load(path) as arrays:
        assert len([arrays[name] for name in arrays.files]) >= 3


def _check_end(end: str) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        content = path.read_bytes()
        assert content.endswith(end.encode()), f"ends with {content[-20:]!r}"

    return check


_CHECKS: dict[str, Callable[[Path], object]] = {
    ".safetensors": _check_checkpoint,
    ".pth": _check_checkpoint,
    ".pt": _check_state,
    ".onnx": _check_graph,
    ".xml": _check_graph,
    ".bin": lambda path: _check_graph(path.with_suffix(".xml")),
    ".csv": _check_table,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".npz": _check_arrays,
    ".png": _check_picture,
    ".html": _check_end("</html>"),
    ".pdf": _check_end("%%EOF\n"),
    ".txt": _check_end("\n"),
}
