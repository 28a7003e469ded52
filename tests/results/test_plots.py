"""The charts: sizes, colours where they matter, and names that no font or formula parser may stumble over."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetkit.answers.fonts import shorten_names
from resnetkit.results.metrics import compute_metrics
from resnetkit.results.mistakes_plot import draw_mistakes
from resnetkit.results.pictures import Mistake
from resnetkit.results.plots import (
    ACCENT,
    GRID,
    PRIMARY,
    SURFACE,
    draw_confusion_matrix,
    draw_reliability,
    draw_training_curves,
    encode_png,
    to_array,
)

HISTORY = [
    {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "val_loss": 1.2 / epoch,
        "val_accuracy": 1 - 0.5 / epoch,
        "learning_rate": 0.01,
    }
    for epoch in range(1, 6)
]
HOSTILE_NAMES = ["$x^2", "$\\frac{", "東京", "", " a\n\tb ", "<b>", "x" * 300, "emoji 🍎"]


def _has_color(image: np.ndarray, color: str) -> bool:
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return bool((image == wanted).all(axis=2).any())


def test_curves_show_both_splits_on_white() -> None:
    image = to_array(draw_training_curves(HISTORY, best_epoch=5))
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.shape[1] > 2 * image.shape[0]
    assert _has_color(image, SURFACE)
    assert _has_color(image, PRIMARY)
    assert _has_color(image, ACCENT)


@pytest.mark.parametrize("num_epochs", [0, 1, 60])
def test_curves_of_any_length(num_epochs: int) -> None:
    rows = [{**HISTORY[0], "epoch": index + 1} for index in range(num_epochs)]
    assert to_array(draw_training_curves(rows, best_epoch=1 if rows else None)).size > 0


def test_missing_values_leave_gaps() -> None:
    rows = [{**row, "train_accuracy": None, "val_loss": float("nan")} for row in HISTORY]
    rows[2].pop("val_accuracy")
    assert to_array(draw_training_curves(rows)).size > 0


def test_one_epoch_is_marked_by_its_number() -> None:
    figure = draw_training_curves(HISTORY[:1])
    to_array(figure)
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1"]


@pytest.mark.parametrize("num_classes", [2, 10, 40, 160])
def test_every_row_and_column_of_a_confusion_matrix_is_named(num_classes: int) -> None:
    names = [f"class {i}" for i in range(num_classes)]
    figure = draw_confusion_matrix(np.eye(num_classes) * 7, names)
    image = to_array(figure)
    written = [text for text in figure.axes[0].texts if text.get_text() in names]
    assert len(written) == 2 * num_classes
    for box in (text.get_window_extent() for text in written):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= image.shape[1]
        assert box.y1 <= image.shape[0]


@pytest.mark.parametrize("num_classes", [2, 10, 40, 120, 600])
def test_confusion_matrix_is_drawn_for_any_number_of_classes(num_classes: int) -> None:
    image = to_array(draw_confusion_matrix(np.eye(num_classes) * 7, [f"class {i}" for i in range(num_classes)]))
    assert 200 < image.shape[0] < 4500
    assert _has_color(image, PRIMARY)
    assert not _has_color(image, ACCENT)


def test_rows_are_normalised_and_mistakes_have_their_own_colour() -> None:
    # Every image of the second class is wrong, so its cell has the full colour, though it holds a single image.
    image = to_array(draw_confusion_matrix([[1000, 0], [1, 0]], ["often", "rare"]))
    assert _has_color(image, PRIMARY)
    assert _has_color(image, ACCENT)


def test_class_without_images_is_grey() -> None:
    assert _has_color(to_array(draw_confusion_matrix([[5, 0], [0, 0]], ["a", "absent"])), GRID)


def test_too_many_classes_give_a_note() -> None:
    assert to_array(draw_confusion_matrix(None, [str(index) for index in range(5000)])).shape[0] < 400


def test_names_are_drawn_as_they_are() -> None:
    image = to_array(draw_confusion_matrix(np.eye(len(HOSTILE_NAMES)), shorten_names(HOSTILE_NAMES)))
    assert image.shape[0] < 2500


@pytest.mark.parametrize("num_images", [1, 300])
def test_reliability_diagram(num_images: int) -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([0.3] * 3, num_images)
    metrics = compute_metrics(generator.integers(0, 3, num_images), probabilities, ["a", "b", "c"])
    image = to_array(draw_reliability(metrics["calibration"]))
    assert _has_color(image, ACCENT)


NAMES = dict(zip(HOSTILE_NAMES, shorten_names(HOSTILE_NAMES, 18), strict=True))


def _make_mistakes(count: int, side: int = 60) -> list[Mistake]:
    """Mistakes with images, each of one colour of its own, twice as wide as high."""
    images = [np.full((side // 2, side, 3), (10 + index, 200, 90), np.uint8) for index in range(count)]
    names = [HOSTILE_NAMES[index % len(HOSTILE_NAMES)] for index in range(count)]
    return [
        Mistake(image, image[..., ::-1] if index % 2 else None, name, name, names[0], 0.1, 0.9)
        for index, (image, name) in enumerate(zip(images, names, strict=True))
    ]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (4, 4, 1), (5, 3, 2), (8, 4, 2)])
def test_mistakes_are_in_a_grid_with_their_heat_maps(count: int, columns: int, rows: int) -> None:
    image = to_array(draw_mistakes(_make_mistakes(count), NAMES))
    assert (round(image.shape[1] / 628), round(image.shape[0] / 325)) == (columns, rows)
    for index in range(8):
        assert _has_color(image, f"#{10 + index:02x}c85a") == (index < count)
        assert _has_color(image, f"#5ac8{10 + index:02x}") == (index < count and index % 2 == 1)
    for color in (SURFACE, ACCENT, PRIMARY):
        assert _has_color(image, color)


def test_no_more_than_eight_mistakes_are_drawn() -> None:
    eight, many = (draw_mistakes(_make_mistakes(count), NAMES) for count in (8, 12))
    np.testing.assert_array_equal(to_array(eight), to_array(many))


def test_mistakes_of_any_shape_fit() -> None:
    shapes = [(1, 500), (500, 1), (288, 100), (8, 8)]
    mistakes = [Mistake(np.zeros((*shape, 3), np.uint8), None, "x", "<b>", "<b>", 0.0, 1.0) for shape in shapes]
    assert (
        to_array(draw_mistakes(mistakes, NAMES)).shape[:2]
        == to_array(draw_mistakes(mistakes[1:2] * 4, NAMES)).shape[:2]
    )


def test_png_is_the_same_picture() -> None:
    figure = draw_training_curves(HISTORY)
    decoded = np.array(Image.open(io.BytesIO(encode_png(to_array(figure)))).convert("RGB"))
    image = to_array(figure)
    assert decoded.shape == image.shape
    # 128 colours: letters may differ by a shade, the whole may not.
    assert np.abs(decoded.astype(int) - image).mean() < 1
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(encode_png(image, num_colors=None)))), image)


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from resnetkit.results.plots import draw_training_curves, encode_png, to_array\n"
        "assert encode_png(to_array(draw_training_curves([{'epoch': 1, 'val_loss': 1.0}])))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    repository = Path(__file__).resolve().parents[2]
    with (tmp_path / "output.txt").open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=repository,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, (tmp_path / "output.txt").read_text()
