"""Letters of any language: a font of the machine has them, or a class goes by its own number and a hint says why."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image, ImageDraw

from resnetkit.answers import fonts
from resnetkit.answers.drawing import annotate
from resnetkit.answers.fonts import (
    draw_text,
    find_families,
    is_drawable,
    measure_columns,
    measure_text,
    shorten_names,
    shorten_text,
    to_drawable,
)
from resnetkit.answers.model import ClassScore, Prediction

#: No font of a test machine has these; of the first the font below has a square.
HAN, UNKNOWN = "東京", "\U000e0100"


@pytest.fixture
def _no_fonts(monkeypatch):
    """A machine with matplotlib's fonts alone."""
    monkeypatch.setattr(fonts, "_known", {})
    monkeypatch.setattr(fontManager, "ttflist", [e for e in fontManager.ttflist if "mpl-data" in e.fname])


@pytest.fixture
def _han_font(_no_fonts, tmp_path):
    """A machine with one more font, whose signs are full squares."""
    builder = FontBuilder(1000)
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (1000, 800), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", "east", "capital"]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, HAN), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares of Han", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    fontManager.addfont(tmp_path / "squares.ttf")


def draw(text: str, size: int = 40) -> np.ndarray:
    """Return a line on white, (60, 200) uint8."""
    picture = Image.new("L", (200, 60), 255)
    draw_text(ImageDraw.Draw(picture), (0, 30), text, size, fill=0)
    return np.asarray(picture)


@pytest.mark.usefixtures("_no_fonts")
def test_a_class_without_letters_goes_by_its_own_number_and_one_hint_says_so(caplog):
    caplog.set_level(logging.WARNING)
    names = shorten_names(["cat", "Bär", HAN, "", "кошка"])
    assert names == ["cat", "Bär", "#2", "#3", "кошка"]
    assert find_families(names) == ["DejaVu Sans"]
    assert not is_drawable("犬")
    assert to_drawable("a 犬\n") == "a \N{REPLACEMENT CHARACTER}"
    (record,) = caplog.records
    assert "京 東" in record.getMessage()
    assert "Noto Sans CJK" in record.getMessage()


@pytest.mark.usefixtures("_han_font")
def test_fonts_of_the_machine_draw_what_they_have(caplog):
    assert shorten_names([f"{HAN} 1", f"{HAN}{UNKNOWN}"]) == [f"{HAN} 1", "#1"]
    assert find_families(["cat", HAN]) == ["DejaVu Sans", "Squares of Han"]
    mixed = draw(f"a{HAN}")
    start = round(measure_text("a", 40))
    assert measure_text(f"a{HAN}", 40) == pytest.approx(measure_text("a", 40) + 80, abs=1)
    assert (mixed[30, start + 2 : start + 78] == 0).all(), "two squares"
    assert (mixed[:, start + 84 :] == 255).all()
    np.testing.assert_array_equal(mixed[:, : start - 2], draw("a")[:, : start - 2])


@pytest.mark.usefixtures("_no_fonts")
def test_pictures_of_answers_name_a_class_as_charts_do():
    image = np.full((240, 320, 3), 128, np.uint8)

    def answer(label: str) -> np.ndarray:
        prediction = Prediction(label, 7, 0.5, (ClassScore(label, 7, 0.5),))
        return annotate(image, [prediction], [(0, 0, 0)])

    np.testing.assert_array_equal(answer(HAN), answer("#7"))
    assert (answer("Bär") != answer("#7")).any()


@pytest.mark.parametrize(
    "names",
    [
        [f"northern great-crested woodpecker of the {side} forest" for side in ("eastern", "western")],
        [f"northern great-crested woodpecker {number}" for number in range(12)],
        [f"a very long name that is the same until here, then {word} is it, and then the same" for word in "xy"],
        ["x" * 80 + letter + "y" * 80 + end for letter in "ab" for end in "cd"],
        ["z" * count for count in range(30, 34)],
    ],
    ids=["middle", "end", "one letter", "two places", "length"],
)
@pytest.mark.parametrize("length", [18, 26])
def test_long_names_stay_distinct(names, length):
    shown = shorten_names(names, length)
    assert len(set(shown)) == len(names)
    assert all(measure_columns(name) <= length for name in shown)


def test_names_are_shortened_in_the_middle():
    hostile = ["$x^2", "$\\frac{", " a\n\tb ", "<b>", "x" * 300, "\x07\ud800"]
    shown = shorten_names(hostile)
    assert shown[:4] == ["$x^2", "$\\frac{", "a b", "<b>"]
    assert shown[5] == "#5"
    assert all(len(name) <= 26 for name in shown)
    assert shorten_names(["northern great-crested woodpecker 1"])[0] == "northern grea…woodpecker 1"
    assert shorten_text("a very long name of a file.jpg", 20) == "a very lon…file.jpg"
