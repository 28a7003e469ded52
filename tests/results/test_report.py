"""The report page: whole without a network, and safe whatever classes and files are called."""

from __future__ import annotations

import ast
import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnetkit.evaluation.decisions import compute_curves
from resnetkit.exports.export import ExportedFile
from resnetkit.parameters.training import TrainParameters
from resnetkit.results.metrics import compute_metrics
from resnetkit.results.page_text import (
    describe_finding,
    describe_sizes,
    estimate_duration,
    format_duration,
    format_percent,
    format_size,
)
from resnetkit.results.pictures import Mistake, SamplePicture
from resnetkit.results.report import (
    CONFUSION_NAME,
    CURVES_NAME,
    FIGURES_NAME,
    MISTAKES_NAME,
    REPORT_NAME,
    ReportData,
    SplitFigures,
    write_report,
)

ATTACK = "<script>alert(1)</script>"
ADDRESSES = {"src", "srcset", "href", "action", "formaction", "poster", "data", "background", "cite", "xlink:href"}
VOID = {"meta", "img", "source", "input", "br", "hr", "link", "wbr", "col"}


class _Page(HTMLParser):
    """Collects what a page consists of, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif self._open and self._open[-1] != "style":
            self.text += data

    def get_all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _make_data(photo: np.ndarray, classes: list[str], **changes: Any) -> ReportData:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % len(classes)
    probabilities = generator.dirichlet(np.ones(len(classes)), 60) + 0.6 * np.eye(len(classes))[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    history = [
        {"epoch": 1, "train_loss": 0.9, "val_loss": 0.8, "val_accuracy": 0.6, "learning_rate": 0.01},
        {"epoch": 2, "train_loss": 0.5, "val_loss": 0.6, "val_accuracy": 0.8, "learning_rate": 0.001},
    ]
    data = ReportData(
        model_name="resnet18",
        classes=classes,
        dataset_path="/photos/zoo",
        weights_path=Path.home() / "runs" / "best.safetensors",
        counts={"train": [10 + index for index in range(len(classes))], "val": np.bincount(labels).tolist()},
        history=history,
        best={"epoch": 2},
        findings={},
        splits=[
            SplitFigures(
                "val",
                compute_metrics(labels, probabilities, classes),
                compute_curves(labels, probabilities, classes),
                [Mistake(photo[:100], photo[:100], "a.jpg", classes[0], classes[1], 0.1, 0.9)],
            )
        ],
        samples=[SamplePicture(photo[:200, :300], classes[0]), SamplePicture(photo[:32, :32], classes[1])],
        parameters=TrainParameters().model_dump(),
        versions={"torch": "2.6.0"},
        timings={"training": 61.2, "total": 75.0},
        exports=[ExportedFile(Path("resnet18_int8.xml"), "OpenVINO int8", 11_300_000, 60, 0.01, 0.99, 0.8, -0.0125)],
    )
    return dataclasses.replace(data, **changes)


@pytest.fixture(scope="module")
def photo(photographs: dict[str, np.ndarray]) -> np.ndarray:
    return photographs["china"]


@pytest.fixture(scope="module")
def plain_folder(photo: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of two classes."""
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, _make_data(photo, ["cat", "dog"]))
    return folder


@pytest.fixture(scope="module")
def plain_page(plain_folder: Path) -> _Page:
    return _Page((plain_folder / REPORT_NAME).read_text(encoding="utf-8"))


def _write(folder: Path, data: ReportData) -> _Page:
    path = write_report(folder, data)
    assert path == folder / REPORT_NAME
    return _Page(path.read_text(encoding="utf-8"))


def test_files_are_written_and_nothing_else(plain_folder: Path) -> None:
    pictures = (CURVES_NAME, CONFUSION_NAME, MISTAKES_NAME)
    assert {path.name for path in plain_folder.iterdir()} == {REPORT_NAME, FIGURES_NAME, *pictures}
    charts = ("curves", "confusion_matrix", "calibration", "thresholds", "roc")
    figures = {path.name for path in (plain_folder / FIGURES_NAME).iterdir()}
    assert figures == {f"{name}.{suffix}" for name in charts for suffix in ("png", "pdf")}
    for name in (*pictures, *(f"{FIGURES_NAME}/{name}.png" for name in charts)):
        with Image.open(plain_folder / name) as picture:
            assert min(picture.size) > 200
            assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.01)


def test_charts_for_papers_are_lines_and_letters(plain_folder: Path) -> None:
    for path in (plain_folder / FIGURES_NAME).glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/Font" in content


def test_page_needs_no_network(plain_folder: Path, plain_page: _Page) -> None:
    ids = {attributes["id"] for _, attributes in plain_page.tags if "id" in attributes}
    for tag, attributes in plain_page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "video", "audio"}
        for name in ADDRESSES & attributes.keys():
            address = attributes[name] or ""
            assert address.startswith("data:image/") or address.removeprefix("#") in ids
    content = (plain_folder / REPORT_NAME).read_text(encoding="utf-8")
    assert "http:" not in content
    assert "https:" not in content
    assert "@import" not in content
    assert "url(" not in content


def test_policy_allows_this_script_alone(plain_page: _Page) -> None:
    policy = next(
        attributes["content"] or ""
        for attributes in plain_page.get_all("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert len(plain_page.scripts) == 1
    digest = base64.b64encode(hashlib.sha256(plain_page.scripts[0].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_names_are_text_and_never_markup(photo: np.ndarray, plain_page: _Page, tmp_path: Path) -> None:
    quoted = '" onerror="alert(1)'
    hostile = _write(
        tmp_path,
        _make_data(
            photo,
            [ATTACK, quoted],
            dataset_path=f"/photos/{ATTACK}",
            weights_path=tmp_path / f"{quoted}{ATTACK}" / "best.safetensors",
            notes=[ATTACK],
            findings={"unreadable": [{"path": ATTACK, "reason": quoted}], "leaks": [[ATTACK, quoted]]},
            unused={ATTACK: quoted},
            versions={ATTACK: quoted},
            finished_at=ATTACK,
        ),
    )
    assert hostile.scripts == plain_page.scripts
    assert all("onerror" not in attributes for _, attributes in hostile.tags)
    assert hostile.text.count(ATTACK) >= 8
    assert hostile.text.count(quoted) >= 4


def test_page_says_what_was_measured(photo: np.ndarray, tmp_path: Path) -> None:
    data = _make_data(
        photo, ["cat", "dog", "bird"], notes=["Stopped in epoch 2 of 9."], finished_at="2026-07-14T15:32:01+02:00"
    )
    metrics = data.splits[0].metrics
    page = _write(tmp_path, dataclasses.replace(data, unused={"augmentation": "the head sees plain views"}))
    num_right = round(60 * metrics["accuracy"])
    for text in (
        "resnet18 on zoo",
        f"{num_right} of 60 validation images are classified correctly",
        format_percent(metrics["accuracy"]),
        format_percent(metrics["macro_avg"]["f1"]),
        format_percent(metrics["expected_calibration_error"]),
        "Stopped in epoch 2 of 9.",
        "2026-07-14 15:32",
        "{:.1f} % to".format(100 * metrics["accuracy_interval"][0]),
        "the head sees plain views",
        "11.3 MB",
        "80.0 % (-1.25 points)",
        "learning_rate",
        "2.6.0",
        "1 min 15 s",
    ):
        assert text in page.text
    # Two samples, one mistake with its heat map, five charts.
    assert len(page.get_all("img")) == 9
    assert page.text.count("augmentation") == 1  # among those without effect alone


@pytest.mark.parametrize(
    ("temperature", "text"),
    [
        pytest.param(2.5, "The temperature 2.5, fitted on the validation images, divides all logits", id="fitted"),
        pytest.param(1.0, "The probabilities are the network's own: no temperature lowered", id="none"),
    ],
)
def test_page_says_what_the_temperature_did(photo: np.ndarray, tmp_path: Path, temperature: float, text: str) -> None:
    data = _make_data(photo, ["cat", "dog"])
    further = {"temperature": temperature, "expected_calibration_error_before": 0.1234}
    split = dataclasses.replace(data.splits[0], metrics={**data.splits[0].metrics, **further})
    page = _write(tmp_path, dataclasses.replace(data, splits=[split]))
    assert text in page.text
    assert ("Before it, the calibration error was 12.3 %" in page.text) is (temperature != 1)


def test_a_test_split_is_shown_as_fully_as_validation(photo: np.ndarray, tmp_path: Path) -> None:
    data = _make_data(photo, ["cat", "dog"])
    test = dataclasses.replace(data.splits[0], name="test")
    page = _write(tmp_path, dataclasses.replace(data, splits=[*data.splits, test]))
    sections = [attributes["id"] for attributes in page.get_all("section")]
    both = ["confusion", "mistakes", "classes", "calibration", "thresholds"]
    assert sections == ["training", *both, *(f"test_{name}" for name in both), "data", "use", "details"]
    assert len(page.get_all("img")) == 2 + 2 * 2 + 9
    assert "They also chose the epoch" in page.text
    assert "They were used once" in page.text
    assert "Test accuracy" in page.text
    assert (tmp_path / FIGURES_NAME / "test_confusion_matrix.pdf").is_file()


def test_an_evaluation_speaks_of_no_training(photo: np.ndarray, tmp_path: Path) -> None:
    classes = ["cat", "dog", *(f"absent {index}" for index in range(20))]
    labels = np.array([0, 1, 0, 1])
    probabilities = np.eye(22)[[0, 1, 1, 1]]
    figures = compute_metrics(labels, probabilities, classes), compute_curves(labels, probabilities, classes)
    mistake = Mistake(photo[:100], None, "a.jpg", "cat", "dog", 0.1, 0.9)
    page = _write(
        tmp_path,
        _make_data(
            photo,
            classes,
            splits=[SplitFigures("evaluation", *figures, [mistake])],
            counts={"evaluation": np.bincount(labels, minlength=22).tolist()},
            history=(),
            best={},
            findings=None,
            parameters={"model_name": "resnet18"},
        ),
    )
    assert "evaluation report" in page.text
    for word in ("epoch", "training images", "validation", "Every file was looked at"):
        assert word not in page.text.replace("compared with PyTorch on validation images", "")
    assert not (tmp_path / CURVES_NAME).exists()
    # Classes that play no part, and a heat map that would say nothing.
    assert "absent 3" not in page.text
    assert "20 classes that have no image and were never predicted are left out" in page.text
    assert "4 images in 2 classes" in page.text
    assert "too few cells" in page.text


def test_what_is_printed_is_light_and_whole(plain_folder: Path, plain_page: _Page) -> None:
    assert all("loading" not in attributes for attributes in plain_page.get_all("img"))
    style = (plain_folder / REPORT_NAME).read_text(encoding="utf-8")
    assert "@media (prefers-color-scheme" not in style


def test_everything_optional_may_be_missing(photo: np.ndarray, tmp_path: Path) -> None:
    single = np.array([0]), np.array([[0.9, 0.1]])
    data = _make_data(
        photo,
        ["cat", "dog"],
        splits=[SplitFigures("val", compute_metrics(*single, ["cat", "dog"]), compute_curves(*single, ["cat", "dog"]))],
    )
    nothing = {"samples": (), "parameters": {}, "versions": {}, "timings": {}, "exports": ()}
    (tmp_path / MISTAKES_NAME).write_bytes(b"of an earlier report")
    page = _write(tmp_path, dataclasses.replace(data, **nothing))  # type: ignore[arg-type]
    assert "nothing unreadable, no duplicates" in page.text
    assert "Worst mistakes" not in page.text
    assert not (tmp_path / MISTAKES_NAME).exists()
    assert "–" in page.text  # the figures of the class without validation images


def test_long_lists_are_cut(photo: np.ndarray, tmp_path: Path) -> None:
    findings = {"duplicates": [[f"a/{index}.jpg", f"b/{index}.jpg"] for index in range(70)], "leaks": []}
    page = _write(tmp_path, _make_data(photo, ["10", "2.5"], findings=findings))
    rows = re.findall(r'scope="row">([\d.]+)<', (tmp_path / REPORT_NAME).read_text("utf-8"))
    assert rows == ["2.5", "10"], "classes that are numbers are in their order"
    assert "a/49.jpg = b/49.jpg" in page.text
    assert "a/50.jpg" not in page.text
    assert "and 20 more in data_report.json" in page.text


def test_names_that_no_chart_can_show(photo: np.ndarray, plain_page: _Page, tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    page = _write(tmp_path, _make_data(photo, ["dog", name]))
    table = page.text[page.text.index("Names in the charts") :]
    assert "#1caf\N{REPLACEMENT CHARACTER}" in table.replace("\n", "")
    assert "Names in the charts" not in plain_page.text


@pytest.mark.slow
def test_many_classes(photo: np.ndarray, tmp_path: Path) -> None:
    page = _write(tmp_path, _make_data(photo, [f"class {index:02d} {'long ' * 8}" for index in range(60)]))
    assert {"type": "checkbox", "class": "zoom", "id": "zoom"} in page.get_all("input")
    assert (tmp_path / REPORT_NAME).stat().st_size < 3_000_000


def test_snippet_is_python_that_names_the_checkpoint(photo: np.ndarray, tmp_path: Path) -> None:
    weights = tmp_path / 'it\'s "quoted"' / "best.safetensors"
    page = _write(tmp_path, _make_data(photo, ["cat", "dog"], weights_path=weights))
    start = page.text.index("from ikomia.")
    end = '{answer.confidence:.1%}")'
    source = page.text[start : page.text.index(end) + len(end)]
    constants = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    assert weights.as_posix() in constants


def test_snippet_hides_the_home_folder(plain_page: _Page) -> None:
    assert '"~/runs/best.safetensors"' in plain_page.text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0 %"), (0.9994, "99.9 %"), (0.9999, "99.9 %"), (1.0, "100.0 %"), (None, "–")],
)
def test_percentages_never_promise_more_than_there_is(share: float | None, text: str) -> None:
    assert format_percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59.96, "60.0 s"), (61, "1 min 1 s"), (3599.7, "1 h 0 min"), (7260, "2 h 1 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "10 seconds"), (84, "80 seconds"), (100, "2 minutes"), (5000, "83 minutes"), (7000, "2 hours")],
)
def test_foretold_durations(seconds: float, text: str) -> None:
    assert estimate_duration(seconds) == text


@pytest.mark.parametrize(("num_bytes", "text"), [(12, "12 B"), (44_700_000, "44.7 MB"), (2.5e9, "2.5 GB")])
def test_sizes(num_bytes: float, text: str) -> None:
    assert format_size(num_bytes) == text


def test_findings_and_image_sizes_in_words() -> None:
    assert describe_finding({"path": "a.jpg", "reason": "is empty"}) == "a.jpg: is empty"
    assert describe_finding(["a.jpg", "b.jpg"]) == "a.jpg = b.jpg"
    sizes = {side: {"smallest": 32, "median": 40, "largest": 640} for side in ("width", "height")}
    assert describe_sizes(sizes) == "32 × 32 to 640 × 640 pixels (median 40 × 40)"
    assert describe_sizes({}) == ""
