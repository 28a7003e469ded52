"""The report of a training: one page that needs no network, and what it shows as picture files.

Fill a `ReportData` and hand it to `write_report`: pictures come from `pictures`, figures from `metrics`, exports from
the room of that name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetkit.machine.files import atomic_path, write_text
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
    DARK,
    LIGHT,
    Theme,
    draw_confusion_matrix,
    draw_history,
    draw_reliability,
    encode_png,
    to_array,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resnetkit.exports.export import ExportedFile
    from resnetkit.results.pictures import Mistake, SamplePicture

REPORT_NAME = "report.html"
CURVES_NAME = "training_curves.png"
CONFUSION_NAME = "confusion_matrix.png"
MISTAKES_NAME = "worst_mistakes.png"

_TEMPLATE = "report_template.html"
_SCRIPT = "report_script.js"
_MAX_CLASS_ROWS = 1000
_MAX_FINDINGS = 50
_MAX_CONFUSIONS = 15
#: Beyond this many classes the confusion matrix can be switched to its full size.
_ZOOM_CLASSES = 40

_FINDING_TITLES = {
    "unreadable": "Unreadable images, left out",
    "leaks": "Same picture in training and in validation or test: the figures are too good",
    "label_conflicts": "Same picture in different classes",
    "duplicates": "Same picture more than once",
    "ignored": "Files that are no images",
}


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows.

    Attributes:
        model_name: Architecture.
        classes: Class names in the order of the outputs.
        dataset_path: Where the images come from.
        weights_path: The best checkpoint; the snippet that uses the model names it.
        counts: Images of each class after unreadable ones were left out, by split: train, val and, where there is
            one, test; each a sequence as long as `classes`.
        history: One row per epoch: epoch (0 is a solved head before them), train_loss, val_loss, val_accuracy,
            learning_rate, and train_accuracy where measured; or one per strength of a solved head: scaling,
            strength, train_loss, val_loss, val_accuracy, held_out_loss; other keys are ignored.
        best: What was kept: epoch or strength, val_accuracy, val_loss.
        metrics: Result of `compute_metrics` on the validation images, with the best weights.
        test_metrics: The same on the test images, where there are any.
        findings: `DataReport.to_dict()`: each of its lists becomes a section.
        samples: Pictures of the data set, see `collect_samples`.
        mistakes: The worst mistakes, see `collect_mistakes`.
        reasons: What the training chose by itself, a sentence for each name.
        parameters: Names and values as the training used them.
        versions: Names and versions of libraries, Python and system.
        timings: Seconds by name, such as checking images, training, validation, export, total.
        exports: Files beside the checkpoint, with their checks.
        notes: Sentences that a reader must know: stopped early, resumed, images that became unreadable ...
        finished_at: Date and time in ISO 8601.
    """

    model_name: str
    classes: Sequence[str]
    dataset_path: str
    weights_path: Path
    counts: Mapping[str, Sequence[int]]
    history: Sequence[Mapping[str, Any]]
    best: Mapping[str, Any]
    metrics: Mapping[str, Any]
    test_metrics: Mapping[str, Any] | None = None
    findings: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[SamplePicture] = ()
    mistakes: Sequence[Mistake] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    exports: Sequence[ExportedFile] = ()
    notes: Sequence[str] = ()
    finished_at: str = ""


@dataclass(frozen=True)
class _Chart:
    """A chart as PNG files in the colours of light and dark pages; sizes in CSS pixels."""

    light: bytes
    dark: bytes
    width: int
    height: int


def write_report(folder: Path, data: ReportData) -> Path:
    """Write report.html and its pictures into a run folder, each whole or not at all.

    The picture of the worst mistakes is there only if there are mistakes; one of an earlier report is removed.

    Returns:
        Path of the page.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="encoding") as encoder:  # one picture, while the next is drawn
        mistakes = encoder.submit(encode_png, to_array(draw_mistakes(data.mistakes)), None) if data.mistakes else None
        charts = _draw_charts(data, encoder)
    page = _render(data, charts)
    _write_bytes(folder / CURVES_NAME, charts["curves"].light)
    _write_bytes(folder / CONFUSION_NAME, charts["confusion"].light)
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
    page = environment.get_template(_TEMPLATE).render(_collect(data), **charts)
    # A file name on Linux may hold bytes that are no text.
    return page.encode("utf-8", "replace").decode("utf-8")


def _collect(data: ReportData) -> dict[str, Any]:
    """Return the variables of the template."""
    script = (Path(__file__).parent / _SCRIPT).read_text(encoding="utf-8").removesuffix("\n")
    rows = [
        {**row, **{split: counts[index] for split, counts in data.counts.items()}}
        for index, row in enumerate(data.metrics["per_class"])
    ]
    sizes = [{"name": row["name"], "count": row["train"]} for row in rows]
    if len(rows) > _MAX_CLASS_ROWS:
        rows = sorted(rows, key=lambda row: row["f1"])[:_MAX_CLASS_ROWS]
    findings = {key: value for key, value in data.findings.items() if isinstance(value, (list, tuple)) and value}
    return {
        "data": data,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "dataset_name": Path(data.dataset_path).name or data.dataset_path,
        "totals": {split: sum(counts) for split, counts in data.counts.items()},
        "class_rows": rows,
        "smallest": min(sizes, key=lambda size: size["count"]),
        "largest": max(sizes, key=lambda size: size["count"]),
        "timings": {name: format_duration(seconds) for name, seconds in data.timings.items()},
        "confusions": data.metrics["top_confusions"][:_MAX_CONFUSIONS],
        "confidence_gap": _compute_confidence_gap(data.metrics),
        "findings": findings,
        "finding_titles": _FINDING_TITLES,
        "max_findings": _MAX_FINDINGS,
        "image_sizes": describe_sizes(data.findings.get("image_sizes", {})),
        "is_zoomable": len(data.classes) > _ZOOM_CLASSES and data.metrics["confusion_matrix"] is not None,
        "snippet": write_snippet(data.weights_path),
    }


def _draw_charts(data: ReportData, encoder: Executor) -> dict[str, _Chart]:
    matrix = data.metrics["confusion_matrix"]
    drawings: dict[str, Callable[[Theme], Figure]] = {
        "curves": lambda theme: draw_history(data.history, data.best, theme),
        "confusion": lambda theme: draw_confusion_matrix(matrix, data.classes, theme),
        "reliability": lambda theme: draw_reliability(data.metrics["calibration"], theme),
    }
    charts = {}
    for name, draw in drawings.items():
        light, dark = draw(LIGHT), draw(DARK)
        width, height = (round(96 * inches) for inches in light.get_size_inches())
        pictures = [encoder.submit(encode_png, to_array(figure)) for figure in (light, dark)]
        charts[name] = pictures, width, height
    return {
        name: _Chart(light.result(), dark.result(), width, height)
        for name, ((light, dark), width, height) in charts.items()
    }


def _compute_confidence_gap(metrics: Mapping[str, Any]) -> float:
    """Return mean confidence minus accuracy: above 0 the model is surer than it should be."""
    filled = [row for row in metrics["calibration"] if row["count"]]
    confidence = sum(row["count"] * row["confidence"] for row in filled) / sum(row["count"] for row in filled)
    return float(confidence - metrics["accuracy"])


def write_snippet(weights_path: Path) -> str:
    """Return Python source that runs the model on a photo."""
    try:
        location = f"~/{weights_path.relative_to(Path.home()).as_posix()}"
    except ValueError:
        location = weights_path.as_posix()
    return "\n".join(
        (
            "from ikomia.dataprocess.workflow import Workflow",
            "",
            "wf = Workflow()",
            'resnet = wf.add_task(name="infer_resnet", auto_connect=True)',
            f'resnet.set_parameters({{"model_weight_file": {json.dumps(location, ensure_ascii=False)}}})',
            'wf.run_on(path="photo.jpg")',
            "for answer in resnet.get_predictions()[0].top_k:",
            '    print(f"{answer.label}: {answer.confidence:.1%}")',
        )
    )


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
