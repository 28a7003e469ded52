"""The same training several times over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soak.children import Child
from soak.material import FULL_TRAINING, get_head_training, write_digits, write_model
from soak.record import Finding
from soak.run_files import compare_runs

TITLE = "The same seed gives the same model"
CLAIM = """
The same training of a resnet18 was repeated on the same machine, with the same versions and the same number of CPU
threads; weights, optimizer, predictions and all figures were compared bit for bit, timings and dates aside.
"""

KINDS: dict[str, dict[str, Any]] = {
    "whole network": {**FULL_TRAINING, "epochs": 3},
    "whole network, strong augmentation, AdamW": {
        **FULL_TRAINING, "epochs": 3, "augmentation": "strong", "optimizer": "adamw", "learning_rate": 0.001,
    },
}  # fmt: skip


def run(folder: Path) -> Iterator[Finding]:
    """Repeat three kinds of training in one process, in another one, and with worker processes."""
    source, checkpoint = write_digits(folder / "digits"), write_model(folder / "backbone" / "best.safetensors", 1, 32)
    for name, parameters in {**KINDS, "head alone": get_head_training(checkpoint)}.items():
        yield repeat(name, parameters, source, folder / name)


def repeat(name: str, parameters: Mapping[str, Any], source: Path, folder: Path) -> Finding:
    """Train twice in one process, then in a new one without and in one with two worker processes."""
    first, again = _train(folder / "one process", parameters, source, times=2)
    (new,) = _train(folder / "new process", parameters, source)
    (workers,) = _train(folder / "workers", {**parameters, "num_workers": 2}, source)
    others = {"again": again, "in a new process": new, "with 2 worker processes": workers}
    failures = [f"{label}: {text}" for label, path in others.items() for text in compare_runs(first, path)]
    return Finding(
        name, 4, "twice in one process, in a new process, with 0 and with 2 worker processes: all the same", failures
    )


def train_repeatedly(parameters: Mapping[str, Any], source: str, times: int) -> list[str]:
    """Train in this process (a child); return the run folders."""
    from resnetkit.parameters.training import TrainParameters
    from resnetkit.training.loop import train

    return [str(train(TrainParameters().updated(parameters), Path(source)).folder) for _ in range(times)]


def _train(folder: Path, parameters: Mapping[str, Any], source: Path, times: int = 1) -> list[Path]:
    arguments = {
        "parameters": {**parameters, "output_folder": str(folder / "runs")},
        "source": str(source),
        "times": times,
    }
    ended = Child(train_repeatedly, arguments, folder).wait(300)
    assert ended.answer is not None, ended.output
    return [Path(path) for path in ended.answer]
