"""Answers where PyTorch is not installed: weights files of all kinds, and one sentence for what needs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import HIDE_TORCH

REPOSITORY = Path(__file__).resolve().parents[2]

COMMAND = HIDE_TORCH + "\nfrom resnetkit.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"


@pytest.fixture
def image_path(photograph_folder) -> Path:
    return photograph_folder / "china.png"


def test_openvino_answers_without_torch(weights_files, torch_answer, image_path, classify_without_torch):
    files = [weights_files[kind] for kind in ("run folder", "safetensors", "pth", "onnx", "openvino", "int8")]
    answers = classify_without_torch(image_path, files)
    for what, probabilities in answers.items():
        np.testing.assert_allclose(probabilities, torch_answer, atol=0.03 if "int8" in what else 1e-4, err_msg=what)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runtime", "torch"], "'runtime' torch needs PyTorch, which cannot be loaded here"),
        (["--device", "cuda"], "'device' cuda needs PyTorch, which cannot be loaded here"),
    ],
    ids=["runtime", "device"],
)
def test_what_needs_torch_says_what_to_install(words, message, checkpoint_path, image_path, run_script):
    arguments = ["classify", str(checkpoint_path), str(image_path), *words]
    result = run_script(COMMAND, arguments, is_failure_expected=True, PYTHONPATH=str(REPOSITORY))
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith(f"resnetkit classify: {message}")
    assert line.endswith("pip install 'resnet-for-ikomia[torch]'")


def test_training_says_what_to_install(three_digits, run_script):
    result = run_script(COMMAND, ["train", str(three_digits)], is_failure_expected=True, PYTHONPATH=str(REPOSITORY))
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("resnetkit train: No module named 'torch'")
    assert line.endswith("pip install 'resnet-for-ikomia[train]'")
