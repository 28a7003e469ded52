"""200,000 names of six small images into a CSV file: memory while the table grows.

Resident memory of the process in MB at some numbers of rows, and images per second between them. The names are links in
folders of 1,000; the second run finds all of them in the table.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from photographs import read_sources
from tables import DATA_FOLDER, REPOSITORY, Table, parse_arguments

NUM_NAMES = 200_000
SIZE = 32


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    sys.path.insert(0, str(REPOSITORY))
    count = 3_000 if arguments.quick else NUM_NAMES
    folder = DATA_FOLDER / "many"
    shutil.rmtree(folder, ignore_errors=True)
    link_images(folder / "names", count)

    from resnetkit import load_model
    from resnetkit.folders.classification import classify_into_table

    model = load_model(write_model(folder, ("cat", "dog", "fish"), SIZE), top_k=1)
    table = Table("classify_many", __doc__, ("rows", "memory", "images/s"))
    table.add("0", f"{get_memory():.0f}", "")
    output = folder / "answers.csv"
    watcher = threading.Thread(target=note, args=(table, output, count // 5, count))
    watcher.start()
    classify_into_table(model, folder / "names", output)
    watcher.join()
    began = time.perf_counter()
    summary = classify_into_table(model, folder / "names", output)
    seconds = time.perf_counter() - began
    assert (summary.num_rows, summary.num_there) == (0, count)
    table.add(f"{count} again", f"{get_memory():.0f}", f"{count / seconds:.0f}")
    table.write(arguments)
    shutil.rmtree(folder)


def note(table: Table, output: Path, step: int, total: int) -> None:
    """Add memory and speed to the table at every `step` rows of the output, until it has all."""
    rows, size, wanted = 0, 0, step
    last, before = time.perf_counter(), 0
    while rows < total:
        time.sleep(0.2)
        if not output.exists():
            continue
        with output.open("rb") as file:
            file.seek(size)
            new = file.read()
        rows += new.count(b"\n") - (size == 0)
        size += len(new)
        if rows >= wanted:
            now = time.perf_counter()
            table.add(str(rows), f"{get_memory():.0f}", f"{(rows - before) / (now - last):.0f}")
            wanted, last, before = wanted + step, now, rows


def get_memory() -> float:
    """Return the resident memory of this process in MB."""
    return psutil.Process().memory_info().rss / 1e6


def link_images(folder: Path, count: int) -> None:
    """Write six small images, and as many links to them as asked for."""
    folder.mkdir(parents=True)
    images = []
    for name, source in read_sources().items():
        images.append(folder.parent / f"{name}.png")
        source.resize((SIZE, SIZE)).save(images[-1])
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:03}").mkdir()
        (folder / f"{number // 1000:03}" / f"{number:06}.png").symlink_to(images[number % len(images)])


def write_model(folder: Path, classes: Sequence[str], size: int) -> Path:
    """Write a seeded resnet18 for squashed images of `size` pixels."""
    from resnetkit.images.preprocessing import Preprocessing
    from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD
    from resnetkit.weights.checkpoint import write_checkpoint
    from resnetkit.weights.metadata import ModelMetadata
    from resnetkit.weights.models import initialize_model

    preprocessing = Preprocessing(size, size, "squash", IMAGENET_MEAN, IMAGENET_STD)
    path = folder / "model.safetensors"
    metadata = ModelMetadata("resnet18", tuple(classes), preprocessing)
    write_checkpoint(path, initialize_model("resnet18", len(classes), seed=0).state_dict(), metadata)
    return path


if __name__ == "__main__":
    main()
