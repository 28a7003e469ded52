"""The snippet at the end of a report, run as a user would: by the engine, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnetkit.images.preprocessing import Preprocessing
from resnetkit.results.report import write_snippet
from resnetkit.weights.checkpoint import BEST_CHECKPOINT, write_checkpoint
from resnetkit.weights.metadata import ModelMetadata
from resnetkit.weights.models import initialize_model


def test_snippet_prints_the_answers(
    run_script: Callable[..., Any], photographs: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    Image.fromarray(photographs["china"]).save(tmp_path / "photo.jpg")
    weights = tmp_path / 'it\'s a "run"' / BEST_CHECKPOINT
    weights.parent.mkdir()
    preprocessing = Preprocessing(64, 73, "crop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    metadata = ModelMetadata("resnet18", ("first class", "second class"), preprocessing)
    write_checkpoint(weights, initialize_model("resnet18", 2, seed=0).state_dict(), metadata)

    snippet = write_snippet(weights).replace('"photo.jpg"', repr(str(tmp_path / "photo.jpg")))
    result = run_script(snippet)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "class: " in line]
    shares = [float(line.rsplit(" ", 1)[1].removesuffix("%")) for line in lines]
    assert len(lines) == 2
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 100) < 0.2
