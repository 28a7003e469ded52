"""CPU seconds and time of a training in two processes on this machine, beside those of one process."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

_OPTIONS = (
    "--no-use-pretrained", "--no-feature-extract", "--batch-size=32", "--optimizer=sgd", "--learning-rate=0.02",
    "--augmentation=basic", "--tracking=off", "--no-export-pth", "--quiet",
)  # fmt: skip


def write_images(folder: Path, count: int, size: int) -> None:
    """Write JPEG files of random pixels in ten classes, a fifth of them to validate with."""
    draws = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("val" if number % 5 == 0 else "train") / f"class {number // 5 % 10}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (size // 8, size // 8, 3), np.uint8)
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(path)


def train(images: Path, folder: Path, count: int, options: list[str]) -> tuple[float, float]:
    """Train in a number of processes, one thread each; return CPU seconds of all of them, and the time."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "resnetkit", "train", str(images), *_OPTIONS, *options]
    began, running = time.perf_counter(), set()
    for rank in range(count):
        variables = {"OMP_NUM_THREADS": "1", "HOME": str(folder / f"home-{count}")}
        if count > 1:
            variables |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "RANK": str(rank)}
            variables |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        words = [*command, "--run-folder", str(folder / f"run-{count}")]
        running.add(subprocess.Popen(words, env={**os.environ, **variables}).pid)
    cpu_s = 0.0
    while running:
        process, status, usage = os.wait4(-1, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        running.discard(process)
        cpu_s += usage.ru_utime + usage.ru_stime
    return cpu_s, time.perf_counter() - began


def main() -> None:
    """Print a line for one process and one for two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", options.images, options.size)
        words = [f"--input-size={options.size}", f"--epochs={options.epochs}"]
        figures = {count: train(folder / "images", folder, count, words) for count in (1, 2)}
    for count, (cpu_s, seconds) in figures.items():
        print(f"{count} process{'es' * (count > 1)}: {cpu_s:.0f} CPU seconds in {seconds:.0f} s")
    print(f"CPU seconds of two for those of one: {figures[2][0] / figures[1][0]:.2f}")


if __name__ == "__main__":
    main()
