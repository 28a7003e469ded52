"""Several runs side by side: accuracies with intervals, McNemar's test on the images they share, what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from resnetkit.evaluation.predictions import find_predictions, read_predictions
from resnetkit.machine.imports import require_installed
from resnetkit.results.metrics import compute_wilson_intervals

_METRICS_NAME = "metrics.json"
_TRAINING_PREDICTIONS_NAME = "predictions.npz"
#: What differs between any two runs and explains nothing.
_TRIVIAL = {"output_folder", "resume_from", "tracking", "num_workers", "metrics", "versions", "training"}


class ComparisonError(ValueError):
    """Folders that cannot be compared."""


@dataclass(frozen=True)
class JudgedRun:
    """A run folder of a training, or the folder of an evaluation.

    Attributes:
        name: The folder's.
        split: Which images its figures are about: test, val or evaluation.
        accuracy: Share of right answers.
        interval: Its 95 % interval (Wilson).
        metrics: Result of `compute_metrics`.
        parameters: By name, as they were used.
        answers: Whether the answer is right, by path and true class of each image.
    """

    name: str
    split: str
    accuracy: float
    interval: tuple[float, float]
    metrics: Mapping[str, Any]
    parameters: Mapping[str, Any]
    answers: Mapping[tuple[str, str], bool]


@dataclass(frozen=True)
class Duel:
    """Two runs on the images they share.

    Attributes:
        first: Name of a run.
        second: Name of another.
        num_shared: Images that both judged.
        only_first_right: How many of these the first alone got right.
        only_second_right: How many the second alone got right.
        p_value: Of McNemar's exact test: how probable so large a difference would be if both were equally good; None
            where they share no image.
    """

    first: str
    second: str
    num_shared: int
    only_first_right: int
    only_second_right: int
    p_value: float | None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: In the order given.
        duels: Each pair of them.
        differences: Parameters that all runs have, but not of the same value, with the value in each.
    """

    runs: Sequence[JudgedRun]
    duels: Sequence[Duel]
    differences: Mapping[str, Sequence[Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        runs = [
            {
                "name": run.name,
                "split": run.split,
                "num_images": len(run.answers),
                "accuracy": run.accuracy,
                "accuracy_interval": list(run.interval),
                "balanced_accuracy": run.metrics.get("balanced_accuracy"),
                "macro_f1": run.metrics["macro_avg"]["f1"],
                "expected_calibration_error": run.metrics["expected_calibration_error"],
            }
            for run in self.runs
        ]
        duels = [asdict(duel) for duel in self.duels]
        return {"runs": runs, "mcnemar": duels, "parameters": {name: list(v) for name, v in self.differences.items()}}

    def format(self) -> str:
        """Return it as text with aligned columns."""
        rows = [["run", "images", "accuracy", "95 % interval", "macro F1", "calibration error"]]
        rows += [
            [
                run.name,
                f"{len(run.answers):,} {run.split}",
                f"{run.accuracy:.2%}",
                f"{run.interval[0]:.2%} to {run.interval[1]:.2%}",
                f"{run.metrics['macro_avg']['f1']:.2%}",
                f"{run.metrics['expected_calibration_error']:.2%}",
            ]
            for run in self.runs
        ]
        parts = [_align(rows), *(_describe_duel(duel) for duel in self.duels)]
        if self.differences:
            names = [["parameter", *(run.name for run in self.runs)]]
            parts.append(_align(names + [[name, *map(str, values)] for name, values in self.differences.items()]))
        return "\n\n".join(parts)


def compare(folders: Sequence[Path]) -> Comparison:
    """Compare run folders of trainings and folders of evaluations.

    McNemar, "Note on the sampling error of the difference between correlated proportions" (1947): only images that one
    of two got right and the other wrong say which is better. The exact form is a binomial test of those.

    Raises:
        ComparisonError: Fewer than two folders, or one without metrics.json and predictions.
        NotInstalledError: scipy is missing, which computes the test.
    """
    require_installed(["scipy"], "evaluate")
    if len(folders) < 2:
        raise ComparisonError(f"expected at least two run folders to compare, got {len(folders)}")
    runs = [read_run(folder, name) for folder, name in zip(folders, _name_all(folders), strict=True)]
    duels = [_fight(first, second) for first, second in combinations(runs, 2)]
    names = [name for name in runs[0].parameters if name not in _TRIVIAL]
    values = {
        name: [run.parameters[name] for run in runs] for name in names if all(name in run.parameters for run in runs)
    }
    return Comparison(runs, duels, {name: row for name, row in values.items() if any(one != row[0] for one in row)})


def read_run(folder: Path, name: str) -> JudgedRun:
    """Read figures and answers of a run: on test images where it has some, else on validation images.

    Raises:
        ComparisonError: It is no folder of a training or evaluation, or one that has not ended.
    """
    try:
        content = json.loads((folder / _METRICS_NAME).read_text(encoding="utf-8"))
        if "evaluation" in content:
            split, metrics = "evaluation", content["evaluation"]
            parameters = {**content["model"].get("training", {}), **content["model"]}
            rows = read_predictions(find_predictions(folder))
            unknown = content["unknown_classes"]
            answers = {(row.path, row.true): row.true == row.predicted for row in rows if row.true not in unknown}
        else:
            split = "test" if content["test"] else "val"
            metrics, parameters = content["test"] or content["validation"], content["parameters"]
            answers = _read_training(folder / _TRAINING_PREDICTIONS_NAME, split, content["classes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComparisonError(
            f"'{folder}' cannot be compared ({error}); expected a run folder of a training that ended, or the folder "
            "of an evaluation"
        ) from error
    low, high = compute_wilson_intervals(sum(answers.values()), len(answers)).tolist()
    accuracy = sum(answers.values()) / max(1, len(answers))
    return JudgedRun(name, split, accuracy, (low, high), metrics, parameters, answers)


def _read_training(path: Path, split: str, classes: Sequence[str]) -> dict[tuple[str, str], bool]:
    with np.load(path) as saved:
        paths, labels = saved[f"{split}_paths"].tolist(), saved[f"{split}_labels"]
        is_right = saved[f"{split}_probabilities"].argmax(axis=1) == labels
    return {
        (path, classes[label]): right
        for path, label, right in zip(paths, labels.tolist(), is_right.tolist(), strict=True)
    }


def _fight(first: JudgedRun, second: JudgedRun) -> Duel:
    from scipy.stats import binomtest

    shared = first.answers.keys() & second.answers.keys()
    only_first = sum(first.answers[key] and not second.answers[key] for key in shared)
    only_second = sum(second.answers[key] and not first.answers[key] for key in shared)
    p_value: float | None = None
    if shared:
        discordant = only_first + only_second
        p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return Duel(first.name, second.name, len(shared), only_first, only_second, p_value)


def _describe_duel(duel: Duel) -> str:
    if duel.p_value is None:
        return f"{duel.first} and {duel.second} share no image: their accuracies are of different images."
    verdict = "differ" if duel.p_value < 0.05 else "do not differ for certain"
    return (
        f"{duel.first} and {duel.second} {verdict} (McNemar's exact test: p = {duel.p_value:.3g}): of "
        f"{duel.num_shared:,} shared images, the first alone is right on {duel.only_first_right:,}, "
        f"the second alone on {duel.only_second_right:,}."
    )


def _name_all(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as much of their paths as tells them apart."""
    folders = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            break
    return names


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
