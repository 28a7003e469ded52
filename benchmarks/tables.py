"""Results of the benchmarks as Markdown tables, with the machine that they were measured on."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS_FOLDER = REPOSITORY / "benchmarks" / "results"
#: Data sets and weights of the benchmarks, and the results of quick runs.
DATA_FOLDER = REPOSITORY / "build" / "benchmarks"


@dataclass
class Table:
    """Results of a benchmark, printed as they come and written at the end.

    Attributes:
        name: File name without ending.
        text: What was measured; its first line is the title.
        columns: Headings.
        notes: Sentences under the table.
    """

    name: str
    text: str
    columns: Sequence[str]
    notes: list[str] = field(default_factory=list)
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Add and print a row."""
        self.rows.append(cells)
        print(" | ".join(f"{column}: {cell}" for column, cell in zip(self.columns, cells, strict=True)), flush=True)

    def write(self, arguments: argparse.Namespace) -> None:
        """Write benchmarks/results/<name>.md, or build/benchmarks/<name>.md after a quick run."""
        title, *rest = self.text.strip().split("\n")
        lines = [f"# {title}", *rest, "", self._format(self.columns), self._format(["---"] * len(self.columns))]
        lines += [self._format(row) for row in self.rows]
        lines += ["", *self.notes, "", describe_machine(), ""]
        folder = DATA_FOLDER if arguments.quick else RESULTS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.md").write_text("\n".join(lines), encoding="utf-8")
        print(f"written: {folder / self.name}.md")

    @staticmethod
    def _format(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"


def describe_spread(values: Sequence[float], digits: int) -> str:
    """Return the median, and in brackets the smallest and the largest value where there are several."""
    text = f"{median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return text


def describe_machine() -> str:
    """Say in one line on what, with what and when it was measured."""
    cpu = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "openvino", "ikomia"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cpu}, {cores} cores; Python {platform.python_version()}, {versions}; {datetime.now().astimezone():%Y-%m-%d}."
    )


def parse_arguments(text: str) -> argparse.Namespace:
    """Read the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=text.strip().split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="a try on less data; the results stay in build/")
    parser.add_argument("--full", action="store_true", help="every epoch of the plain script, none reckoned")
    parser.add_argument("--repeats", type=int, default=0, help="runs of each side")
    return parser.parse_args()
