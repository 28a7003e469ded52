"""Train with resnetkit's defaults for benchmarks/learning.py; probabilities of the test images go into a file."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from resnetkit.learners.head import _NEEDED_LATER
from resnetkit.parameters.training import TrainParameters
from resnetkit.training.loop import train


def main() -> None:
    """Train, and print the seconds of all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--parameters", type=json.loads, default={}, help="values by name, as JSON")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for name in ("openvino", *_NEEDED_LATER):  # the peers' imports are not counted either
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"output_folder": folder, "tracking": "off", "export_pth": False, **given.parameters}
        began, began_cpu = time.monotonic(), time.process_time()
        result = train(TrainParameters().updated(settings), given.data)
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - began_cpu
        predictions = np.load(result.folder / "predictions.npz")
        np.savez(given.output, labels=predictions["test_labels"], probabilities=predictions["test_probabilities"])
        metrics = json.loads((result.folder / "metrics.json").read_text(encoding="utf-8"))
        for path in result.folder.glob("*.pth"):
            shutil.copy(path, given.output.with_suffix(".pth"))
    figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "timings": metrics["timings"]}
    print(json.dumps({**figures, "val_accuracy": metrics["validation"]["accuracy"], "ended": metrics["ended"]}))


if __name__ == "__main__":
    main()
