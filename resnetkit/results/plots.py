"""Training curves, confusion matrix and reliability diagram, as figures that know nothing of pyplot.

Only matplotlib's object interface is used: no global figure, no backend is chosen, so nothing here disturbs Studio or
a notebook. Each `draw_*` returns a `Figure`; `to_array` renders it, `encode_png` makes a file of that, `encode_pdf` one
for papers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from resnetkit.answers.fonts import find_families, measure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Columns of a history that are drawn together, with their labels.
Curves: TypeAlias = tuple[tuple[str, str], ...]

#: Drawn where it chose what was kept.
_BALANCED = "val_balanced_accuracy"
#: What journals ask of pictures of a page's width.
_DPI = 200
#: Beyond this many classes the names beside a confusion matrix are left out, and beyond `_MAX_FINE_CLASSES` those that
#: stand there are as sharp as on a screen: the picture has thousands of pixels as it is.
MAX_LABELLED_CLASSES = 500
_MAX_FINE_CLASSES = 150
_SCREEN_DPI = 100
_NUM_SPREAD_LABELS = 20
#: In inches: what lies between the edge and the names, between names and cells, and beside the cells; the least width.
_AXIS_SIDE, _NAME_GAP, _EDGE, _MIN_MATRIX_SIDE = 0.34, 0.05, 0.12, 3.2
#: Pixels of a side of the coloured cells, and the fewest of a cell as long as all together are not too many.
_CELLS_SIDE, _MAX_CELLS_SIDE = 800, 2000
_MIN_CELL_PIXELS = 4
#: Of a colour's parts, from 0 to 255.
_NEARLY_WHITE = 254
#: Sides in inches of the smallest cells of a confusion matrix that hold a count, and a percentage above it.
_MIN_COUNT_CELL = 0.21
_MIN_PERCENT_CELL = 0.5

#: Colours: page, text, lines, and the two colours of meaning. On dark pages a stylesheet turns light into dark.
SURFACE, INK, MUTED, GRID = "#ffffff", "#1b2530", "#5d6975", "#e2e7ec"
PRIMARY, ACCENT = "#1f5fd0", "#cf5c0a"


def encode_png(image: np.ndarray, num_colors: int | None = 128, dpi: float = _DPI) -> bytes:
    """Make a PNG file of an RGB image (height, width, 3) uint8, outside of Python's lock.

    Args:
        image: A rendered figure.
        num_colors: 128 make a fifth of the size of full colour (None).
        dpi: Pixels per inch of the figure.
    """
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    if num_colors is not None:
        # An octree takes a tenth of the time of a median cut. It has white as 254, which would be seen on a white page.
        picture = picture.quantize(num_colors, Image.Quantize.FASTOCTREE)
        palette = picture.getpalette() or []
        picture.putpalette([255 if value >= _NEARLY_WHITE else value for value in palette])
    picture.save(buffer, format="png", dpi=(dpi, dpi))  # trying harder takes ten times as long and saves a tenth
    return buffer.getvalue()


def encode_pdf(figure: Figure) -> bytes:
    """Make a PDF file of a figure that was rendered; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.set_layout_engine("none")  # laid out once, it stays as it is, in half of the time
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None}, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def to_array(figure: Figure) -> np.ndarray:
    """Render a figure as an RGB image (height, width, 3) uint8."""
    figure.canvas.draw()
    return np.array(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]


def draw_history(history: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> Figure:
    """Draw what training did: curves over the epochs, or the path of a solved head over its strengths.

    Args:
        history: See `ReportData`.
        best: The epoch or strength that was kept.
    """
    balanced = ((_BALANCED, "mean recall"),) if _BALANCED in best else ()
    if "strength" in history[0]:
        return draw_strengths(history, best["strength"], balanced)
    return draw_training_curves(history, best["epoch"], balanced)


def draw_strengths(history: Sequence[Mapping[str, Any]], chosen: float, balanced: Curves = ()) -> Figure:
    """Draw loss and accuracy of a solved head over the strength of the fit.

    Args:
        history: One row per strength and scaling, see `ReportData`.
        chosen: The strength that was kept, marked by a dotted line.
        balanced: Further accuracies, with their labels.
    """
    # Of the two ways to scale the features, the one that was kept.
    scaling = next((row["scaling"] for row in history if row.get("is_chosen")), history[0]["scaling"])
    rows = [row for row in history if row["scaling"] == scaling]
    strengths = [row["strength"] for row in rows]
    figure = make_figure(11.0, 3.4)
    panels: tuple[tuple[str, Curves], ...] = (
        ("Loss", (("train_loss", "training"), ("val_loss", "validation"))),
        ("Held-out loss, calibrated", (("held_out_loss", ""),)),
        ("Accuracy in %", (("val_accuracy", "validation"), *balanced)),
    )
    for axes, (title, curves) in zip(figure.subplots(1, 3), panels, strict=True):
        style_axes(axes, title)
        for key, label in curves:
            values = _get_column(rows, key) * (100 if "accuracy" in key else 1)
            color = {"training": ACCENT, "validation": PRIMARY}.get(label, MUTED)
            axes.plot(strengths, values, color=color, label=label, marker="o", markersize=3.5, linewidth=1.8)
        axes.axvline(chosen, color=MUTED, linestyle=":", linewidth=1.2, zorder=0)
        axes.set_xscale("log", subs=())  # small ticks between the powers of ten take most of the time of drawing
        axes.set_xlabel("strength of the fit (C)", color=MUTED)
        if len(curves) > 1:
            add_legend(axes)
    return figure


def draw_training_curves(
    history: Sequence[Mapping[str, Any]], best_epoch: int | None = None, balanced: Curves = ()
) -> Figure:
    """Draw loss, accuracy and learning rate over the epochs.

    Args:
        history: One row an epoch with epoch (0 is a solved head), train_loss, val_loss, val_accuracy, learning_rate
            and, where it was measured, train_accuracy. Accuracies are shares; a missing value or None leaves a gap.
        best_epoch: The epoch whose weights were kept, marked by a dotted line.
        balanced: Further accuracies, with their labels.
    """
    figure = make_figure(11.0, 3.4)
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = [int(row["epoch"]) for row in history]
    marker = "o" if len(epochs) < 20 else ""
    for axes, title, curves in (
        (loss, "Loss", (("train_loss", "training"), ("val_loss", "validation"))),
        (accuracy, "Accuracy in %", (("train_accuracy", "training"), ("val_accuracy", "validation"), *balanced)),
        (rate, "Learning rate", (("learning_rate", ""),)),
    ):
        style_axes(axes, title)
        for key, label in curves:
            values = _get_column(history, key) * (100 if axes is accuracy else 1)
            if np.isfinite(values).any():
                color = {"training": ACCENT, "validation": PRIMARY}.get(label, MUTED)
                axes.plot(epochs, values, color=color, label=label, marker=marker, markersize=3.5, linewidth=1.8)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=MUTED, linestyle=":", linewidth=1.2, zorder=0)
        axes.set_xlabel("epoch", color=MUTED)
        if len(epochs) == 1:
            axes.set_xticks(epochs)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        add_legend(axes)
    rate.set_ylim(bottom=0)
    return figure


def draw_confusion_matrix(matrix: Sequence[Sequence[int]] | np.ndarray | None, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix, each row as shares of its true class; what is right in one colour, mistakes in another.

    Mistakes are coloured by the square root of their share, from a visible minimum, so that rare ones show. Counts and
    percentages stand in the cells where they fit, else counts; names beside up to 500 classes, and some beyond.

    Args:
        matrix: (num_classes, num_classes) counts, rows are true classes; None draws a note in its place.
        names: Of the classes in order, see `resnetkit.answers.fonts.shorten_names`.
    """
    if matrix is None:
        return _draw_note(f"{len(names):,} classes are too many for a picture; see the figures per class.")
    counts = np.asarray(matrix, dtype=np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    figure, axes = _make_matrix_axes(names)
    cells = _color_cells(shares, totals > 0)
    # Cells of some pixels keep their edges in PDF files as well, whose readers smooth what they enlarge.
    factor = max(1, _CELLS_SIDE // len(names), min(_MIN_CELL_PIXELS, _MAX_CELLS_SIDE // len(names)))
    limits = -0.5, len(names) - 0.5
    enlarged = np.dstack([cells, np.full(counts.shape, 255, np.uint8)]).repeat(factor, axis=0).repeat(factor, axis=1)
    smoothing = "antialiased" if len(names) > MAX_LABELLED_CLASSES else "none"
    axes.imshow(enlarged, interpolation=smoothing, extent=(*limits, *limits[::-1]))
    for spine in axes.spines.values():
        spine.set_color(GRID)
    if _choose_cell_size(len(names))[0] >= _MIN_COUNT_CELL:
        _write_numbers(axes, counts, shares, cells)
    return figure


def draw_reliability(calibration: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how often the model is right against how sure it says it is, and how many images stand behind each bar.

    Args:
        calibration: Bins from `resnetkit.results.metrics.compute_calibration`.
    """
    figure = make_figure(5.2, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    style_axes(upper, "Right in % against confidence in %")
    style_axes(lower, "")
    upper.plot([0, 100], [0, 100], color=MUTED, linestyle="--", linewidth=1.2)
    for row in calibration:
        left, width = 100 * row["low"], 100 * (row["high"] - row["low"])
        lower.bar(left, row["count"], width * 0.92, align="edge", color=MUTED)
        if row["count"]:
            upper.bar(left, 100 * row["accuracy"], width * 0.92, align="edge", color=PRIMARY, alpha=0.85)
            upper.plot(100 * row["confidence"], 100 * row["accuracy"], marker="o", markersize=4, color=ACCENT)
    upper.set(xlim=(0, 100), ylim=(0, 101))
    lower.set_ylabel("images", color=MUTED, fontsize=9)
    lower.set_xlabel("confidence of the prediction in % (dashed: perfectly calibrated)", color=MUTED)
    lower.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    return figure


def make_figure(width: float, height: float) -> Figure:
    """Return an empty figure, width and height in inches, in the colour of the page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor=SURFACE)
    FigureCanvasAgg(figure)
    return figure


def add_legend(axes: Axes) -> None:
    """Name the lines of axes, where they have names, beside the title: it never lies over a line there."""
    if axes.get_legend_handles_labels()[1]:
        style = {"frameon": False, "labelcolor": INK, "fontsize": 9, "handlelength": 1.2, "columnspacing": 1.0}
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.99), ncols=2, borderaxespad=0, **style)


def _draw_note(text: str) -> Figure:
    figure = make_figure(7.0, 1.6)
    figure.text(0.5, 0.5, text, color=MUTED, ha="center", va="center", fontsize=10)
    return figure


def style_axes(axes: Axes, title: str) -> None:
    """Give axes the page's colours, a title, horizontal lines and no frame."""
    axes.set_facecolor(SURFACE)
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)


def _get_column(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    values = [row.get(key) for row in history]
    return np.array([math.nan if value is None or value == "" else float(value) for value in values])


def _choose_cell_size(num_classes: int) -> tuple[float, float]:
    """Return the side of a cell in inches and the font size in points that fits it."""
    if num_classes > MAX_LABELLED_CLASSES:
        return 8.0 / num_classes, 9.0
    if num_classes > _MAX_FINE_CLASSES:
        return 0.09, 5.5
    cell = float(np.clip(6.6 / num_classes, 0.13, 1.0))
    return cell, float(np.clip(cell * 72 * 0.62, 5.5, 10.0))


def _color_cells(shares: np.ndarray, has_images: np.ndarray) -> np.ndarray:
    """Return (num_classes, num_classes, 3) uint8: surface where 0, full colour where 1, grid colour without images."""
    from matplotlib.colors import to_rgb

    surface, primary, accent, grid = (np.array(to_rgb(color)) for color in (SURFACE, PRIMARY, ACCENT, GRID))
    is_right = np.eye(len(shares), dtype=bool)
    # A single mistake among hundreds is meant to be seen: any share but 0 starts at a fifth of the colour.
    weights = np.where(is_right, shares, np.sqrt(shares))
    weights = np.where(shares > 0, 0.2 + 0.8 * weights, 0.0)[..., None]
    cells = surface + weights * (np.where(is_right[..., None], primary, accent) - surface)
    return np.round(255 * np.where(has_images[..., None], cells, grid)).astype(np.uint8)


def _make_matrix_axes(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Return figure and axes of a confusion matrix with the names of its classes, laid out by what the names measure.

    Ticks and layouts of matplotlib's own take a minute for 500 names.
    """
    cell, font_size = _choose_cell_size(len(names))
    step = 1 if len(names) <= MAX_LABELLED_CLASSES else math.ceil(len(names) / _NUM_SPREAD_LABELS)
    shown, side = names[::step], cell * len(names)
    width = max(measure_text(name, 100) for name in shown) * font_size / 7200  # inches
    is_turned = width > 0.95 * cell * step
    left, bottom = (_AXIS_SIDE + size for size in (width, width if is_turned else font_size / 72))
    size = max(left + side + _EDGE, _MIN_MATRIX_SIDE), bottom + side + _EDGE
    figure = make_figure(*size)
    figure.set_layout_engine("none")
    if _MAX_FINE_CLASSES < len(names) <= MAX_LABELLED_CLASSES:
        figure.set_dpi(_SCREEN_DPI)
    axes = figure.add_axes((left / size[0], bottom / size[1], side / size[0], side / size[1]), xticks=(), yticks=())
    # A "$" in a class name is no formula.
    style: dict[str, Any] = {
        "color": INK,
        "fontsize": font_size,
        "parse_math": False,
        "fontfamily": find_families(shown),
    }
    gap = len(names) - 0.5 + _NAME_GAP / cell
    for index, name in zip(range(0, len(names), step), shown, strict=True):
        axes.text(-0.5 - _NAME_GAP / cell, index, name, ha="right", va="center_baseline", **style)
        rotation = 90 if is_turned else 0
        axes.text(index, gap, name, ha="center", va="top", rotation=rotation, rotation_mode="default", **style)
    style = {"color": MUTED, "fontsize": max(9.0, font_size + 1), "ha": "center", "va": "center"}
    figure.text((left + side / 2) / size[0], 0.14 / size[1], "predicted class", **style)
    figure.text(0.14 / size[0], (bottom + side / 2) / size[1], "true class", rotation=90, **style)
    return figure, axes


def _write_numbers(axes: Axes, counts: np.ndarray, shares: np.ndarray, cells: np.ndarray) -> None:
    """Write counts, and shares in percent above them where there is room, in whichever colour is farther from the cell.

    Every cell of a small matrix has its count; of a large one, those that are not 0, which are then seen at once.
    """
    from matplotlib.colors import to_rgb

    brightness = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    surface, ink = (float(np.dot(to_rgb(color), brightness)) for color in (SURFACE, INK))
    is_near_ink = np.abs(cells / 255 @ brightness - ink) < np.abs(cells / 255 @ brightness - surface)
    cell, _ = _choose_cell_size(len(counts))
    has_shares = cell >= _MIN_PERCENT_CELL
    digits = max(3, len(f"{counts.max():.0f}"))
    font_size = float(np.clip(72 * 0.75 * cell / 0.62 / (digits + 2 * has_shares), 4.0, 10.0))
    for row, column in np.argwhere(counts > 0):
        color = SURFACE if is_near_ink[row, column] else INK
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": color}
        count = f"{counts[row, column]:.0f}"
        if has_shares:
            axes.text(column, row - 0.14, _format_share(shares[row, column]), fontsize=font_size, **style)
            axes.text(column, row + 0.2, count, fontsize=0.8 * font_size, **style)
        else:
            axes.text(column, row, count, fontsize=font_size, **style)


def _format_share(share: float) -> str:
    """Return a share above 0 as a percentage that is 100 % only where nothing is missing."""
    if share < 0.005:
        return "<1 %"
    return ">99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"
