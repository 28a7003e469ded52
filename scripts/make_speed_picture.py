"""Draw benchmarks/results/inference_image.md as docs/images/speed.png: milliseconds an image, bar by bar."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "inference_image.md"
PICTURE = REPOSITORY / "docs" / "images" / "speed.png"

_LABELS = {"fp32": "infer_resnet, fp32 (default)", "auto": "infer_resnet, precision=auto", "int8": "infer_resnet, int8"}
_GRAY, _BLUE, _INK = "#9aa4ae", "#1f5fd0", "#1b2530"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of the only table of a Markdown file, by the names of its columns."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def collect_bars(rows: list[dict[str, str]]) -> dict[str, list[tuple[str, float]]]:
    """Return labels and medians in milliseconds, by network; the eager task's first."""
    bars: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        group = bars.setdefault(row["network"], [("eager PyTorch", _read_median(row["eager"]))])
        group.append((_LABELS[row["precision"]], _read_median(row["ours"])))
    return bars


def draw(bars: dict[str, list[tuple[str, float]]]) -> None:
    """Draw a panel a network."""
    counts = [len(group) for group in bars.values()]
    figure, panels = plt.subplots(len(bars), 1, figsize=(7.2, 0.42 * sum(counts) + 1.3), height_ratios=counts)
    for panel, (name, group) in zip(panels, bars.items(), strict=True):
        labels, values = zip(*group, strict=True)
        colors = [_GRAY, *[_BLUE] * (len(values) - 1)]
        panel.barh(labels, values, color=colors, height=0.66)
        panel.invert_yaxis()
        panel.set_title(f"{name}: milliseconds an image of 640x480, in a workflow", loc="left", fontsize=10, color=_INK)
        panel.bar_label(panel.containers[0], fmt="%.1f", padding=4, fontsize=9, color=_INK)
        panel.set_xticks([])
        panel.set_xlim(0, 1.1 * max(values))
        panel.tick_params(length=0, labelsize=9, labelcolor=_INK)
        for side in ("top", "right", "bottom"):
            panel.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=120)


def _read_median(cell: str) -> float:
    match = re.match(r"[\d.]+", cell)
    if match is None:
        sys.exit(f"no number in '{cell}'")
    return float(match.group())


if __name__ == "__main__":
    draw(collect_bars(read_rows(RESULTS)))
    print(PICTURE.relative_to(REPOSITORY))
