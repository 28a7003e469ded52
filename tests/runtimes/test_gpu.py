"""On a GPU: the same answers as on the CPU, and training that resumes. Skipped where PyTorch has none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from resnetkit.folders.classifier import Classifier
from resnetkit.machine.progress import Progress, TrainingStopped
from resnetkit.parameters.inference import InferParameters
from resnetkit.training.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch has no GPU here"),
]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 3e-2), ("fp16", 1e-2)])
def test_answers_are_those_of_the_cpu(
    checkpoint_path: Path, photographs: Mapping[str, np.ndarray], precision: str, tolerance: float
) -> None:
    probabilities = []
    for device, exactness in (("cpu", "fp32"), ("cuda", precision)):
        values = {
            "model_weight_file": str(checkpoint_path),
            "device": device,
            "precision": exactness,
            "runtime": "torch",
        }
        found = Classifier(InferParameters().updated(values)).predict(list(photographs.values()))
        probabilities.append(np.stack([each.probabilities for each in found]))
    np.testing.assert_allclose(*probabilities, atol=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_goes_on_after_a_stop(three_digits, make_parameters, tmp_path, precision):
    values = {"device": "cuda", "precision": precision, "output_folder": "", "run_folder": str(tmp_path / "run")}
    parameters = make_parameters(**values)
    ended = []
    with pytest.raises(TrainingStopped):
        train(parameters, three_digits, Progress(lambda: bool(ended), lambda: ended.append(1)))
    result = train(parameters, three_digits)
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert all(np.isfinite(row["train_loss"]) for row in result.history)
    assert result.checkpoint.is_file()
