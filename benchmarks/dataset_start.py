"""Time and memory of a data set of many files until training could begin: at the first start, and at the second."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

_START = """
import gc, sys, threading, time
from pathlib import Path
import cv2, torch  # whatever a start needs of them
from resnetkit.data.dataset import read_dataset
from resnetkit.data.identity import hash_dataset, measure_files
from resnetkit.data.scanning import check_images
from resnetkit.machine.progress import Progress

def measure_mb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1e3

def start(folder):
    dataset = read_dataset(Path(folder), 0.2, 0)
    listed_mb = measure_mb()
    dataset, _ = check_images(dataset, 500, Progress())
    hash_dataset(*measure_files(dataset))
    return dataset, listed_mb

def watch():
    while not is_over.wait(0.02):
        seen_mb.append(measure_mb())

start(sys.argv[2])  # imports the rest
before_mb, began, cpu = measure_mb(), time.perf_counter(), time.process_time()
is_over, seen_mb = threading.Event(), [before_mb]
watcher = threading.Thread(target=watch)
watcher.start()
dataset, listed_mb = start(sys.argv[1])
is_over.set()
watcher.join()
seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
gc.collect()
million = 1e6 / (len(dataset.train) + len(dataset.val) + len(dataset.test))
listed, peak, left = ((mb - before_mb) * million for mb in (listed_mb, max(seen_mb), measure_mb()))
print(f"{seconds:.1f} s, {max(seen_mb):.0f} MB with libraries; for a million files {cpu * million:.0f} CPU seconds, "
      f"{listed:.0f} MB when they are listed, {peak:.0f} MB at most and {left:.0f} MB when training begins")
"""


def write_images(folder: Path, count: int) -> None:
    """Write images of 32x32 random pixels in ten classes, an hour old."""
    draws = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class {number % 10}" / f"{number:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        os.utime(path, (time.time() - 3600,) * 2)


def main() -> None:
    """Print a line for each start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    count = parser.parse_args().files
    folder = Path(tempfile.mkdtemp())
    try:
        write_images(folder / "images", count)
        write_images(folder / "few", 40)
        environment = {**os.environ, "HOME": str(folder / "home")}
        for start in ("first", "second"):
            command = [sys.executable, "-c", _START, str(folder / "images"), str(folder / "few")]
            ended = subprocess.run(command, env=environment, check=True, capture_output=True, encoding="utf-8")
            print(f"{count} files, {start} start: {ended.stdout.strip()}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
