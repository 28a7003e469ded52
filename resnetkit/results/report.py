"""The report of a training or evaluation: one page that needs no network, and what it shows as picture files.

Fill a `ReportData` and hand it to `write_report`: pictures come from `pictures`, figures from `metrics` and
`judging`, exports from the room of that name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetkit.answers.fonts import shorten_names
from resnetkit.machine.files import atomic_path, write_text
from resnetkit.machine.imports import pause_garbage_collection
from resnetkit.machine.progress import check_stop
from resnetkit.results.decision_plots import draw_class_curves, draw_thresholds
from resnetkit.results.mistakes_plot import draw_mistakes
from resnetkit.results.page_text import (
    describe_finding,
    describe_sizes,
    encode_picture,
    format_date,
    format_duration,
    format_percent,
    format_size,
    is_small,
    to_address,
)
from resnetkit.results.plots import (
    MAX_LABELLED_CLASSES,
    draw_confusion_matrix,
    draw_history,
    draw_reliability,
    encode_pdf,
    encode_png,
    to_array,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resnetkit.exports.export import ExportedFile
    from resnetkit.results.pictures import DoubtfulLabel, Mistake, SamplePicture

REPORT_NAME = "report.html"
CURVES_NAME = "training_curves.png"
CONFUSION_NAME = "confusion_matrix.png"
MISTAKES_NAME = "worst_mistakes.png"
#: The folder of all charts, as PNG and as PDF for papers.
FIGURES_NAME = "figures"

_TEMPLATE = "report_template.html"
_SCRIPT = "report_script.js"
_MAX_CLASS_ROWS = 1000
_MAX_FINDINGS = 50
_MAX_CONFUSIONS = 15
#: Which of the wanted accuracies the table of thresholds has.
_SHOWN_ACCURACIES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_NUMBER = re.compile(r"\s*-?[0-9]+([.,][0-9]+)?\s*")
#: Beyond this many classes the confusion matrix can be switched to its full size.
_ZOOM_CLASSES = 40

_SNIPPET = """from ikomia.dataprocess.workflow import Workflow

wf = Workflow()
resnet = wf.add_task(name="infer_resnet", auto_connect=True)
{setting}wf.run_on(path="photo.jpg")
for answer in resnet.get_predictions()[0].top_k:
    print(f"{{answer.label}}: {{answer.confidence:.1%}}")"""

_FINDING_TITLES = {
    "unreadable": "Unreadable images, left out",
    "leaks": "Same picture in training and in validation or test: the figures are too good",
    "near_duplicates": "Nearly the same picture in training and in validation or test",
    "label_conflicts": "Same picture in different classes",
    "duplicates": "Same picture more than once",
    "ignored": "Left out: no images, or no part of a data set",
}


@dataclass(frozen=True)
class SplitFigures:
    """How the model does on one set of images.

    Attributes:
        name: val, test, or evaluation.
        metrics: Result of `compute_metrics`.
        curves: Result of `compute_curves`.
        mistakes: The worst mistakes, see `collect_mistakes`.
    """

    name: str
    metrics: Mapping[str, Any]
    curves: Mapping[str, Any]
    mistakes: Sequence[Mistake] = ()

    @property
    def title(self) -> str:
        """The name in words, as in "validation images"."""
        return {"val": "validation", "evaluation": "evaluated"}.get(self.name, self.name)

    @property
    def prefix(self) -> str:
        """What tells the charts of a test split from those of the first."""
        return "test_" if self.name == "test" else ""


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows.

    Attributes:
        model_name: Architecture.
        classes: Class names in the order of the outputs.
        dataset_path: Where the images come from.
        weights_path: The weights; the snippet that uses the model names them. None for ImageNet's.
        counts: Images of each class after unreadable ones were left out, by split: train, val and, where there is
            one, test, or evaluation alone; each a sequence as long as `classes`.
        splits: Figures of each split that was evaluated, the one of the headline first.
        history: One row per epoch: epoch (0 is a solved head before them), train_loss, val_loss, val_accuracy,
            learning_rate, and train_accuracy where measured; or one per strength of a solved head: scaling,
            strength, train_loss, val_loss, val_accuracy, held_out_loss; other keys are ignored. Empty where nothing was
            trained.
        best: What was kept: epoch or strength, val_accuracy, val_loss.
        findings: `DataReport.to_dict()`: each of its lists becomes a section; None where nobody looked.
        doubts: Images whose labels may be wrong, see `collect_doubts`; all of them are in a file beside the report.
        num_doubts: How many there are.
        cross_validation: `CrossValidation.summarize()`, where a head was cross-validated.
        samples: Pictures of the data set, see `collect_samples`.
        reasons: What the training chose by itself, a sentence for each name.
        parameters: Names and values as they were used.
        unused: Parameters that had no effect, and why, by name.
        versions: Names and versions of libraries, Python and system.
        timings: Seconds by name, such as checking images, training, validation, export, total.
        exports: Files beside the checkpoint, with their checks.
        notes: Sentences that a reader must know: stopped early, resumed, images that became unreadable ...
        finished_at: Date and time in ISO 8601.
    """

    model_name: str
    classes: Sequence[str]
    dataset_path: str
    weights_path: Path | None
    counts: Mapping[str, Sequence[int]]
    splits: Sequence[SplitFigures]
    history: Sequence[Mapping[str, Any]] = ()
    best: Mapping[str, Any] = field(default_factory=dict)
    findings: Mapping[str, Any] | None = None
    doubts: Sequence[DoubtfulLabel] = ()
    num_doubts: int = 0
    cross_validation: Mapping[str, Any] | None = None
    samples: Sequence[SamplePicture] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    unused: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    exports: Sequence[ExportedFile] = ()
    notes: Sequence[str] = ()
    finished_at: str = ""


@dataclass(frozen=True)
class _Chart:
    """A chart as a PNG and a PDF file; sizes in CSS pixels."""

    png: bytes
    pdf: bytes
    width: int
    height: int


def write_report(folder: Path, data: ReportData) -> Path:
    """Write report.html and its pictures into a run folder, each whole or not at all.

    The picture of the worst mistakes is there only if there are mistakes; one of an earlier report is removed.

    Returns:
        Path of the page.
    """
    shown, names = data.splits[0].mistakes, _name_classes(data.classes)
    # One picture is encoded while the next is drawn; a search through all that training made would find no garbage.
    with pause_garbage_collection(), ThreadPoolExecutor(1, thread_name_prefix="encoding") as encoder:
        mistakes = encoder.submit(encode_png, to_array(draw_mistakes(shown, names)), None) if shown else None
        charts = _draw_charts(data, names, encoder)
    check_stop()
    page = _render(data, charts)
    check_stop()  # from here on, the files of one report replace those of another
    figures = folder / FIGURES_NAME
    figures.mkdir(exist_ok=True)
    for name, chart in charts.items():
        _write_bytes(figures / f"{name}.png", chart.png)
        _write_bytes(figures / f"{name}.pdf", chart.pdf)
    if "curves" in charts:
        _write_bytes(folder / CURVES_NAME, charts["curves"].png)
    _write_bytes(folder / CONFUSION_NAME, charts["confusion_matrix"].png)
    if mistakes is not None:
        _write_bytes(folder / MISTAKES_NAME, mistakes.result())
    else:
        (folder / MISTAKES_NAME).unlink(missing_ok=True)
    write_text(folder / REPORT_NAME, page)
    return folder / REPORT_NAME


def _render(data: ReportData, charts: Mapping[str, _Chart]) -> str:
    """Return the page: HTML without any address outside itself; names of classes and files are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": format_percent,
        "duration": format_duration,
        "size": format_size,
        "picture": encode_picture,
        "png": lambda content: to_address(content, "image/png"),
        "finding": describe_finding,
        "date": format_date,
    }
    environment.tests["small"] = is_small
    return environment.get_template(_TEMPLATE).render(_collect(data), charts=charts)


def _collect(data: ReportData) -> dict[str, Any]:
    """Return the variables of the template."""
    script = (Path(__file__).parent / _SCRIPT).read_text(encoding="utf-8").removesuffix("\n")
    main = data.splits[0]
    trained = data.counts.get("train", next(iter(data.counts.values())))
    sizes = [(count, name) for name, count in zip(data.classes, trained, strict=True) if count]
    findings = data.findings or {}
    shown_findings = {key: value for key, value in findings.items() if isinstance(value, (list, tuple)) and value}
    return {
        "data": data,
        "kind": "training" if data.history else "evaluation",
        "main": main,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "dataset_name": Path(data.dataset_path).name or data.dataset_path,
        "totals": {split: sum(counts) for split, counts in data.counts.items()},
        "sections": [_collect_split(data, split) for split in data.splits],
        "other_names": _list_other_names(data.classes),
        "num_classes": len(sizes),
        "smallest": min(sizes, key=lambda size: size[0]),
        "largest": max(sizes, key=lambda size: size[0]),
        "parameters": {name: value for name, value in data.parameters.items() if name not in data.unused},
        "timings": {name: format_duration(seconds) for name, seconds in data.timings.items()},
        "findings": shown_findings,
        "finding_titles": _FINDING_TITLES,
        "max_findings": _MAX_FINDINGS,
        "image_sizes": describe_sizes(findings.get("image_sizes", {})),
        "snippet": write_snippet(data.weights_path),
    }


def _collect_split(data: ReportData, split: SplitFigures) -> dict[str, Any]:
    """Return the variables of the sections about one split."""
    metrics = split.metrics
    shown = _find_shown(split)
    rows = [
        {**metrics["per_class"][index], **{name: counts[index] for name, counts in data.counts.items()}}
        for index in shown
    ]
    if len(rows) > _MAX_CLASS_ROWS:
        rows = sorted(rows, key=lambda row: row["f1"])[:_MAX_CLASS_ROWS]
    return {
        "split": split,
        "metrics": metrics,
        "class_rows": rows,
        "num_hidden": len(data.classes) - len(shown),
        "confusions": metrics["top_confusions"][:_MAX_CONFUSIONS],
        "confidence_gap": _compute_confidence_gap(metrics),
        "thresholds": [row for row in split.curves["thresholds"] if row[0] in _SHOWN_ACCURACIES],
        "is_zoomable": len(shown) > _ZOOM_CLASSES and metrics["confusion_matrix"] is not None,
        "has_all_names": len(shown) <= MAX_LABELLED_CLASSES,
    }


def _name_classes(classes: Sequence[str]) -> dict[str, str]:
    """Return what the legends of charts call each class."""
    return dict(zip(classes, shorten_names(classes, 18), strict=True))


def _list_other_names(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return what charts call classes and what they are called, where that differs by more than blanks."""
    return [
        (shown, name)
        for shown, name in zip(shorten_names(classes), classes, strict=True)
        if shown != " ".join(name.split())
    ]


def _find_shown(split: SplitFigures) -> list[int]:
    """Return the classes that have images or are predicted; all of them where most do, so that none seems forgotten.

    They are in the order of the outputs, but numbers are in that of numbers.
    """
    rows, matrix = split.metrics["per_class"], split.metrics["confusion_matrix"]
    called = np.asarray(matrix).sum(axis=0) if matrix is not None else np.array([row["precision"] for row in rows])
    shown = [index for index, row in enumerate(rows) if row["support"] or called[index]]
    shown = shown if 2 * len(shown) < len(rows) else list(range(len(rows)))
    names = [row["name"] for row in rows]
    are_numbers = all(_NUMBER.fullmatch(name) for name in names)
    return sorted(shown, key=lambda index: float(names[index].replace(",", "."))) if are_numbers else shown


def _draw_charts(data: ReportData, names: Mapping[str, str], encoder: Executor) -> dict[str, _Chart]:
    pictures = {}
    for name, draw in _list_charts(data, names):
        check_stop()
        figure = draw()
        size = [round(96 * inches) for inches in figure.get_size_inches()]
        encoded = encoder.submit(encode_png, to_array(figure), dpi=figure.dpi)
        pictures[name] = encoded, encode_pdf(figure), size
    return {name: _Chart(encoded.result(), pdf, *size) for name, (encoded, pdf, size) in pictures.items()}


def _list_charts(data: ReportData, names: Mapping[str, str]) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield the name of each chart, which is its file's, and what draws it."""
    if data.history:
        yield "curves", lambda: draw_history(data.history, data.best)
    for split in data.splits:
        yield from _list_split_charts(data.classes, names, split)


def _list_split_charts(
    classes: Sequence[str], names: Mapping[str, str], split: SplitFigures
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    metrics, curves, shown = split.metrics, split.curves, _find_shown(split)
    matrix = metrics["confusion_matrix"]
    if matrix is not None:
        matrix = np.asarray(matrix)[np.ix_(shown, shown)]
    rows = shorten_names(classes)
    row_names = [rows[index] for index in shown]
    areas = {row["name"]: row["auc"] for row in metrics["per_class"]}
    yield f"{split.prefix}confusion_matrix", lambda: draw_confusion_matrix(matrix, row_names)
    yield f"{split.prefix}calibration", lambda: draw_reliability(metrics["calibration"])
    yield f"{split.prefix}thresholds", lambda: draw_thresholds(curves, names)
    if any(row["roc"] for row in curves["per_class"]):
        yield f"{split.prefix}roc", lambda: draw_class_curves(curves["per_class"], areas, names)


def _compute_confidence_gap(metrics: Mapping[str, Any]) -> float:
    """Return mean confidence minus accuracy: above 0 the model is surer than it should be."""
    filled = [row for row in metrics["calibration"] if row["count"]]
    confidence = sum(row["count"] * row["confidence"] for row in filled) / sum(row["count"] for row in filled)
    return float(confidence - metrics["accuracy"])


def write_snippet(weights_path: Path | None) -> str:
    """Return Python source that runs the model on a photo; None for ImageNet's weights, which are the default."""
    if weights_path is None:
        return _SNIPPET.format(setting="")
    try:
        location = f"~/{weights_path.relative_to(Path.home()).as_posix()}"
    except ValueError:
        location = weights_path.as_posix()
    text = json.dumps(location, ensure_ascii=False)
    return _SNIPPET.format(setting=f'resnet.set_parameters({{"model_weight_file": {text}}})\n')


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
