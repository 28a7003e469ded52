"""Draw the icons of both plugins: a residual block, on blue for inference and on orange for training.

python scripts/make_icons.py
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
SIZE = 128
#: Drawn larger and scaled down: Pillow's lines are not antialiased.
SCALE = 8

WHITE = (255, 255, 255, 255)
INFER_COLORS = ((25, 99, 190), (46, 150, 226))
TRAIN_COLORS = ((201, 80, 14), (245, 146, 32))


class Canvas:
    """A square picture in units of the final pixels."""

    def __init__(self, top: tuple[int, int, int], bottom: tuple[int, int, int]) -> None:
        gradient = Image.new("RGB", (1, 2))
        gradient.putpixel((0, 0), bottom)
        gradient.putpixel((0, 1), top)
        side = SIZE * SCALE
        mask = Image.new("L", (side, side), 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, side - 1, side - 1), 24 * SCALE, fill=255)
        self.image = gradient.resize((side, side), Image.Resampling.BILINEAR).convert("RGBA")
        self.image.putalpha(mask)
        self._draw = ImageDraw.Draw(self.image)

    def bar(self, box: tuple[float, float, float, float]) -> None:
        """Draw a layer."""
        self._draw.rounded_rectangle([value * SCALE for value in box], 5 * SCALE, fill=WHITE)

    def line(self, points: list[tuple[float, float]], width: float = 6) -> None:
        """Draw a line with round corners and ends."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, WHITE, round(width * SCALE))
        for x, y in points:
            self.dot(x, y, width / 2)

    def dot(self, x: float, y: float, radius: float) -> None:
        """Draw a full circle."""
        box = [(x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE]
        self._draw.ellipse(box, WHITE)

    def ring(self, x: float, y: float, radius: float, width: float = 6) -> None:
        """Draw a circle line."""
        box = [(x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE]
        self._draw.ellipse(box, outline=WHITE, width=round(width * SCALE))

    def save(self, path: Path) -> None:
        """Write the icon at its final size."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(path, optimize=True)


def draw_block(canvas: Canvas) -> None:
    """Draw two layers and the connection around them, which meets their output in a plus."""
    canvas.bar((38, 29, 84, 42))
    canvas.bar((38, 52, 84, 65))
    canvas.line([(61, 13), (61, 77)])
    canvas.line([(61, 20), (104, 20)])
    canvas.line([(104, 20), (104, 86)])
    canvas.line([(104, 86), (71, 86)])
    canvas.ring(61, 86, 12)
    canvas.line([(55.5, 86), (66.5, 86)], 4)
    canvas.line([(61, 80.5), (61, 91.5)], 4)


def draw_answer(canvas: Canvas) -> None:
    """Draw a label: the class that comes out."""
    canvas.line([(61, 96), (61, 104)])
    canvas.bar((32, 103, 90, 118))


def draw_feedback(canvas: Canvas) -> None:
    """Draw the error that goes back to the start."""
    canvas.line([(61, 96), (61, 113), (20, 113), (20, 36)])
    for angle in (math.radians(60), math.radians(120)):
        canvas.line([(20, 32), (20 + 17 * math.cos(angle), 32 + 17 * math.sin(angle))])


def main() -> None:
    """Write both icons, and those of the second names."""
    infer, train = Canvas(*INFER_COLORS), Canvas(*TRAIN_COLORS)
    for canvas in (infer, train):
        draw_block(canvas)
    draw_answer(infer)
    draw_feedback(train)
    for canvas, kind in ((infer, "infer"), (train, "train")):
        canvas.save(ROOT / f"{kind}_resnet" / "icons" / "icon.png")
        canvas.save(ROOT / "compat" / f"{kind}_torchvision_resnet" / "icons" / "icon.png")


if __name__ == "__main__":
    main()
