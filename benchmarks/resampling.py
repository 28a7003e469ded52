"""An image of 640x480 pixels to the network's 224x224: ways of the antialiased bilinear filter on one core.

Milliseconds an image, median, smallest and largest; values that differ from torch's float32 kernel, which is
torchvision's on tensors, of 150,528. "Ours" is `resnetkit.images.resampling`, also with the two threads that share a
single image.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read by numpy when it is imported

import time
from collections.abc import Callable

import inference_runs
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from PIL import Image
from tables import Table, describe_spread, parse_arguments

from resnetkit.images.resampling import resample

SIZE = (224, 224)
#: By how the centre is cut: height and width of the resized image.
RESIZED = {"crop": (256, 341), "squash": SIZE}


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    torch.set_num_threads(1)
    image = inference_runs.make_photograph()
    table = Table("resampling", __doc__, ("resize mode", "way", "ms", "differ", "at most by", "n"))
    rounds = arguments.repeats or (20 if arguments.quick else 200)
    for mode, resized in RESIZED.items():
        ways = make_ways(image, resized)
        expected = ways["torch, float32"]().astype(int)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                way()
                began = time.perf_counter()
                way()
                times[name].append(1000 * (time.perf_counter() - began))
        for name, way in ways.items():
            difference = np.abs(way() - expected)
            differing = str((difference > 0).sum())
            table.add(mode, name, describe_spread(times[name], 2), differing, str(difference.max()), str(rounds))
    table.write(arguments)


def make_ways(image: np.ndarray, resized: tuple[int, int]) -> dict[str, Callable[[], np.ndarray]]:
    """Return each way as a function that gives (3, 224, 224) uint8."""
    top, left = (round((whole - part) / 2) for whole, part in zip(resized, SIZE, strict=True))
    rows, columns = slice(top, top + SIZE[0]), slice(left, left + SIZE[1])
    vertical, horizontal = (make_matrix(*sides) for sides in zip(image.shape[:2], resized, strict=True))
    vertical, horizontal = vertical[rows], np.ascontiguousarray(horizontal[columns].T)

    def interpolate(dtype: torch.dtype) -> np.ndarray:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(dtype)
        lines = F.interpolate(pixels, size=resized, mode="bilinear", antialias=True)[0, :, rows, columns]
        return (lines if dtype == torch.uint8 else lines.round_().to(torch.uint8)).numpy()

    def multiply() -> np.ndarray:
        lines = vertical @ (image.transpose(2, 0, 1).astype(np.float32) @ horizontal)
        return np.rint(lines, out=lines).astype(np.uint8)

    def use_pillow() -> np.ndarray:
        picture = Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR)
        return np.asarray(picture)[rows, columns].transpose(2, 0, 1)

    return {
        "ours": lambda: resample(image, resized, SIZE),
        "ours, two threads": lambda: resample(image, resized, SIZE, 2),
        "whole matrices": multiply,
        "torch, float32": lambda: interpolate(torch.float32),
        "torch, uint8": lambda: interpolate(torch.uint8),
        "Pillow": use_pillow,
    }


def make_matrix(length: int, resized: int) -> np.ndarray:
    """Return the filter of an axis as a matrix, (resized, length) float32."""
    unit = torch.eye(length)[None, None]
    return F.interpolate(unit, size=(length, resized), mode="bilinear", antialias=True)[0, 0].T.numpy()


if __name__ == "__main__":
    main()
