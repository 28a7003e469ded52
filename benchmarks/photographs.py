"""Write a folder of photographs to train on: real pictures, real file sizes, as many as asked for.

Six photographs that come with scikit-learn and scikit-image are the six classes. Each picture is a random part of one
of them, at times mirrored, with other colours, contrast, sharpness and sensor noise, saved as a JPEG of 500x375
pixels, the commonest size in ImageNet. Everything is drawn from a seed.

    python benchmarks/photographs.py build/photographs --count 400
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

WIDTH, HEIGHT = 500, 375
JPEG_QUALITY = 92

_MARK = "photographs.txt"
_AREA = (0.4, 1.0)
_COLOUR = (0.7, 1.3)
_NOISE = (1.0, 5.0)


def make_photographs(folder: Path, count: int, seed: int = 0, val_share: float = 0.2) -> Path:
    """Write `folder`/{train,val}/<class>/<number>.jpg, unless exactly these are there already.

    Args:
        folder: Made anew, if it was made by this function or does not exist.
        count: Pictures in all.
        seed: Start of every random draw.
        val_share: Share of them in `val`.

    Raises:
        FileExistsError: The folder holds something else.
    """
    description = f"count {count}, seed {seed}, val_share {val_share}\n"
    mark = folder / _MARK
    if mark.is_file() and mark.read_text(encoding="utf-8") == description:
        return folder
    if folder.exists() and any(folder.iterdir()) and not mark.is_file():
        raise FileExistsError(f"'{folder}' holds other files; give a folder that is empty or new")
    shutil.rmtree(folder, ignore_errors=True)
    sources = list(read_sources().items())
    num_val = round(count * val_share)
    for number in range(count):
        name, source = sources[number % len(sources)]
        split = "val" if number >= count - num_val else "train"
        path = folder / split / name / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = vary(source, np.random.default_rng((seed, number)))
        picture.save(path, quality=JPEG_QUALITY)
    mark.write_text(description, encoding="utf-8")
    return folder


def read_sources() -> Mapping[str, Image.Image]:
    """Return the photographs by name; none is downloaded."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    arrays = {
        "astronaut": data.astronaut(),
        "cat": data.chelsea(),
        "coffee": data.coffee(),
        "flower": load_sample_image("flower.jpg"),
        "rocket": data.rocket(),
        "temple": load_sample_image("china.jpg"),
    }
    return {name: Image.fromarray(array) for name, array in arrays.items()}


def vary(source: Image.Image, draws: np.random.Generator) -> Image.Image:
    """Return a random part of a photograph in other colours, 500x375 pixels."""
    scale = np.sqrt(draws.uniform(*_AREA)) * min(source.width / WIDTH, source.height / HEIGHT)
    width, height = scale * WIDTH, scale * HEIGHT
    left, top = draws.uniform(0, source.width - width), draws.uniform(0, source.height - height)
    picture = source.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    if draws.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, ImageEnhance.Sharpness):
        picture = change(picture).enhance(draws.uniform(*_COLOUR))
    noise = draws.normal(0, draws.uniform(*_NOISE), (HEIGHT, WIDTH, 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def main() -> None:
    """Write the folder and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/photographs"))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = make_photographs(arguments.folder, arguments.count, arguments.seed)
    sizes = [path.stat().st_size for path in folder.rglob("*.jpg")]
    print(f"{folder}: {len(sizes)} photographs of {WIDTH}x{HEIGHT}, {np.mean(sizes) / 1000:.0f} kB each")


if __name__ == "__main__":
    main()
