"""Charts to decide by: what a threshold keeps and how much of that is right, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetkit.answers.fonts import find_families
from resnetkit.results.plots import ACCENT, INK, MUTED, PRIMARY, add_legend, make_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: One colour a class: Tableau's ten, which are told apart on light and dark ground.
_CLASS_COLORS = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1"),
    *("#9c755f", "#ff9da7", "#76b7b2", "#edc948", "#8a8f98"),
)


def draw_thresholds(curves: Mapping[str, Any], names: Mapping[str, str]) -> Figure:
    """Draw what each threshold keeps, and how many of the answers kept are right; beside it the same for each class.

    Args:
        curves: Result of `resnetkit.evaluation.decisions.compute_curves`.
        names: What is drawn for each class, of about 18 letters.
    """
    per_class = curves["per_class"]
    figure = make_figure(11.0 if per_class else 5.6, 4.2)
    axes = figure.subplots(1, 2 if per_class else 1, squeeze=False)[0]
    overall, curve = axes[0], curves["threshold_curve"]
    style_axes(overall, "Above a threshold")
    thresholds, kept, accuracy, lowest, highest = (
        100 * np.array(curve[name]) for name in ("threshold", "kept", "accuracy", "lowest", "highest")
    )
    overall.plot(thresholds, accuracy, color=PRIMARY, linewidth=1.8, label="right of those kept")
    overall.fill_between(thresholds, lowest, highest, color=PRIMARY, alpha=0.15, linewidth=0)
    overall.plot(thresholds, kept, color=ACCENT, linewidth=1.8, label="kept")
    overall.set(xlim=(min(float(thresholds[-1]), 99.0), 100), ylim=(0, 101))
    _label(overall, "threshold of the confidence in %", "% of the answers")
    add_legend(overall)
    if per_class:
        _draw_classes(axes[1], per_class, names)
    return figure


def draw_class_curves(
    per_class: Iterable[Mapping[str, Any]],
    areas: Mapping[str, float],
    names: Mapping[str, str],
) -> Figure:
    """Draw ROC and precision-recall curves of each class against all others.

    Args:
        per_class: `per_class` of `resnetkit.evaluation.decisions.compute_curves`.
        areas: Area under the ROC curve of each class, by its name.
        names: What is drawn for each class, of about 18 letters.
    """
    rows = [row for row in per_class if row["roc"] is not None]
    figure = make_figure(11.0, 4.2)
    roc, precision_recall = figure.subplots(1, 2)
    style_axes(roc, "ROC")
    style_axes(precision_recall, "Precision and recall")
    roc.plot([0, 100], [0, 100], color=MUTED, linestyle="--", linewidth=1.0)
    for row, color in zip(rows, _CLASS_COLORS, strict=False):
        name, curve = names[row["name"]], row["roc"]
        x, y = 100 * np.array(curve["false_positive_rate"]), 100 * np.array(curve["sensitivity"])
        roc.plot(x, y, color=color, linewidth=1.6, label=f"{name}  {areas[row['name']]:.3f}", clip_on=False)
        curve = row["precision_recall"]
        x, y = 100 * np.array(curve["recall"]), 100 * np.array(curve["precision"])
        label = f"{name}  {curve['average_precision']:.3f}"
        precision_recall.plot(x, y, color=color, linewidth=1.6, label=label, clip_on=False)
    for axes in (roc, precision_recall):
        axes.set(xlim=(0, 100), ylim=(0, 101))
    _label(roc, "others called so, in % (1 - specificity)", "found in % (sensitivity)")
    _label(precision_recall, "recall in %", "precision in %")
    _list_classes(roc, "area under the curve")
    _list_classes(precision_recall, "average precision")
    return figure


def _draw_classes(axes: Axes, per_class: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    style_axes(axes, "Class by class")
    rows = [row for row in per_class if row["threshold_curve"]["kept"]]
    lowest = 100.0
    for row, color in zip(rows, _CLASS_COLORS, strict=False):
        kept, accuracy = (100 * np.array(row["threshold_curve"][key]) for key in ("kept", "accuracy"))
        lowest = min(lowest, float(accuracy.min()))
        axes.plot(kept, accuracy, color=color, linewidth=1.6, label=names[row["name"]], clip_on=False)
    axes.set(xlim=(0, 100), ylim=(max(0.0, lowest - 5), 101))
    _label(axes, "kept, in % of the answers that name the class", "right, in % of those kept")
    _list_classes(axes, "")


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, color=MUTED)
    axes.set_ylabel(y, color=MUTED)


def _list_classes(axes: Axes, title: str) -> None:
    """Name the classes right of the axes, where no line is."""
    if not axes.get_legend_handles_labels()[1]:
        return
    families = find_families(axes.get_legend_handles_labels()[1])
    legend = axes.legend(
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        labelcolor=INK,
        prop={"size": 8.5, "family": families},
        title_fontsize=8.5,
        handlelength=1.2,
    )
    legend.get_title().set_color(MUTED)
    for text in legend.get_texts():
        text.set_parse_math(False)
