"""Letters of class names: which fonts of this machine have them, and names as they fit a chart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import to_printable

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

logger = get_logger()

#: matplotlib's own, which is there on every system, with most of the world's letters.
FAMILY = "DejaVu Sans"
#: Fonts that are looked at first, since they have many letters of one style.
_PREFERRED = (
    *("Noto Sans CJK", "Source Han Sans", "Noto Sans", "PingFang", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic"),
    *("Malgun Gothic", "WenQuanYi", "Droid Sans Fallback", "Arial Unicode", "Noto Emoji"),
)
#: They have every letter as an empty box, or in colours that neither matplotlib nor Pillow draws.
_UNFIT = re.compile("Last ?Resort|Adobe (Blank|NotDef)|Color ?Emoji|NonUnicode")
#: Letters that are in matplotlib's font: nothing needs to be looked up.
_LATIN = re.compile("[ -~\u00a1-\u024f]*")

#: The family and file of the font that has a letter, None where no font has it; of all letters that were asked for.
_known: dict[str, tuple[str, str] | None] = {}


def shorten_names(names: Sequence[str], length: int = 26) -> list[str]:
    """Return class names as charts show them: on one line, shortened, and distinct where the names are.

    Args:
        names: All classes in order: `#index` stands for a name that no font of this machine can show.
        length: In letters; wide ones, as in Chinese, count twice.
    """
    lines = [" ".join(name.split()) for name in names]
    look_up("".join(lines))
    lines = [line if line and is_drawable(line) else f"#{index}" for index, line in enumerate(lines)]
    short = [_cut(line, length // 2, length) for line in lines]
    for alike in _find_alike(lines, short):
        # What tells them apart begins with the first letter that differs; of sorted names, the outer two have it.
        first, last = (choose(lines[index] for index in alike) for choose in (min, max))
        start = next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
        head = length // 3
        for index in alike:
            line = lines[index]
            short[index] = _cut(f"{line[:head]}…{line[start:]}" if start > head else line, length - 1, length)
    for index in {index for alike in _find_alike(lines, short) for index in alike}:
        number = f" #{index}"
        short[index] = _cut(lines[index], length - len(number) - 1, length - len(number)) + number
    return short


def is_drawable(text: str) -> bool:
    """Tell whether the fonts of this machine have all letters of a text."""
    look_up(text)
    return all(_known[letter] is not None for letter in _LATIN.sub("", text))


def to_drawable(text: str) -> str:
    """Return a text on one line, with a sign of replacement for each letter that no font of this machine has."""
    look_up(text)
    line = " ".join(text.split())
    return "".join("\N{REPLACEMENT CHARACTER}" if _known.get(letter, FAMILY) is None else letter for letter in line)


def shorten_text(text: str, length: int) -> str:
    """Return a text that can be drawn, shortened in the middle."""
    return _cut(to_drawable(text), length // 2, length)


def find_families(texts: Iterable[str]) -> list[str]:
    """Return the families of fonts that matplotlib needs for texts, in the order in which it should try them."""
    letters = {letter for text in texts for letter in text}
    look_up("".join(sorted(letters)))
    fonts = {font[0] for letter in letters if (font := _known.get(letter)) is not None}
    return [FAMILY, *sorted(fonts - {FAMILY})]


def measure_columns(text: str) -> int:
    """Return the width of a text in letters; those of Chinese, Japanese and Korean are twice as wide."""
    return len(text) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)


def take_columns(text: str, columns: int) -> str:
    """Return as many of the first letters as fit into columns, see `measure_columns`."""
    count = 0
    while count < len(text) and measure_columns(text[: count + 1]) <= columns:
        count += 1
    return text[:count]


def measure_text(text: str, size: int) -> float:
    """Return the width of a line in pixels, as `draw_text` draws it."""
    return sum(font.getlength(part) for part, font in _split(text, size))


def draw_text(pen: ImageDraw.ImageDraw, position: tuple[float, float], text: str, size: int, **style: Any) -> None:
    """Draw a line, each part in the first font that has its letters.

    Args:
        pen: Draws on the picture.
        position: The left end of the line, at half of the height of its letters.
        text: What is drawn.
        size: Of the font, in pixels.
        style: The colour: `fill`.
    """
    ascent, descent = load_font(size).getmetrics()
    left, baseline = position[0], position[1] + (ascent - descent) / 2
    for part, font in _split(text, size):
        pen.text((left, baseline), part, font=font, anchor="ls", **style)
        left += font.getlength(part)


@lru_cache(maxsize=16)
def load_font(size: int, path: str = "") -> ImageFont.FreeTypeFont:
    """Load matplotlib's own copy of DejaVu Sans, or the font of a file."""
    from PIL import ImageFont

    if not path:
        spec = find_spec("matplotlib")  # importing it takes longer than a quick answer
        assert spec is not None and spec.origin is not None
        path = str(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
    return ImageFont.truetype(path, size)


def look_up(text: str) -> None:
    """Find a font for each letter beyond Latin ones, and say once if there is none for some."""
    missing = set(_LATIN.sub("", text)) - _known.keys()
    if not missing:
        return
    from matplotlib.font_manager import get_font

    is_first = None not in _known.values()
    for family, path in _list_fonts():
        try:
            font = get_font(path)
        except (OSError, RuntimeError):  # a file that FreeType does not understand
            continue
        found = {letter for letter in missing if font.get_char_index(ord(letter))} if font.scalable else set()
        _known.update(dict.fromkeys(found, (family, path)))
        missing -= found
        if not missing:
            return
    _known.update(dict.fromkeys(missing))
    if is_first:
        logger.warning(
            "no font of this machine has the letters %s: pictures and charts call such a class by its number, as in "
            "'#3'; install a font that has them, such as Noto Sans CJK, to see names",
            to_printable(" ".join(sorted(missing)[:5])),
        )


def _list_fonts() -> list[tuple[str, str]]:
    """Return family and file of one upright font of each family, matplotlib's own first."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    fonts: dict[str, str] = {FAMILY: findfont(FontProperties(family=FAMILY))}
    for entry in fontManager.ttflist:
        if entry.style == "normal" and entry.weight in {400, "normal", "regular"} and not _UNFIT.search(entry.name):
            fonts.setdefault(entry.name, str(entry.fname))
    others = sorted(fonts.keys() - {FAMILY}, key=lambda name: (_get_rank(name), "Serif" in name, name))
    return [(name, fonts[name]) for name in (FAMILY, *others)]


def _get_rank(name: str) -> int:
    return next((rank for rank, start in enumerate(_PREFERRED) if name.startswith(start)), len(_PREFERRED))


def _split(text: str, size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Split a line into the parts that one font each can draw."""
    look_up(text)

    def get_path(letter: str) -> str:
        family, path = _known.get(letter) or (FAMILY, "")
        return "" if family == FAMILY else path

    return [("".join(part), load_font(size, path)) for path, part in groupby(text, key=get_path)]


def _cut(text: str, head: int, length: int) -> str:
    """Leave letters out behind the first `head` columns, so that a text fits into `length`."""
    if measure_columns(text) <= length:
        return text
    first = take_columns(text, head)
    last = take_columns(text[::-1], length - 1 - head)[::-1]
    return f"{first.rstrip()}…{last.lstrip()}"


def _find_alike(lines: Sequence[str], short: Sequence[str]) -> list[list[int]]:
    """Return the indices of different names that have become one."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(short):
        groups.setdefault(name, []).append(index)
    return [group for group in groups.values() if len({lines[index] for index in group}) > 1]
