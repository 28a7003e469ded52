"""Settings of the caller's process have no part in answers and trainings: autocast, default type, default device."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pytest
import torch

from resnetkit import load_model
from resnetkit.training.loop import train
from resnetkit.weights.models import initialize_model


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def rounded_products():
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


SETTINGS = {
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "default dtype": default_dtype,
    "default device": partial(torch.device, "meta"),
    "inference": torch.inference_mode,
    "rounded products": rounded_products,
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_answer_is_exact_whatever_the_caller_has_set(setting, checkpoint_path, photographs):
    expected = load_model(checkpoint_path, runtime="torch").predict(photographs["astronaut"]).probabilities
    before = load_model(checkpoint_path, runtime="torch")
    before.predict(photographs["china"])
    with SETTINGS[setting]():
        inside = load_model(checkpoint_path, runtime="torch").predict(photographs["astronaut"]).probabilities
        kept = before.predict(photographs["astronaut"]).probabilities
    after = before.predict(photographs["astronaut"]).probabilities
    for found in (inside, kept, after):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("without_report")
def test_a_training_is_the_same_whatever_the_caller_has_set(three_digits, make_parameters):
    values = {"epochs": 1, "precision": "fp32"}
    expected = train(make_parameters(**values), three_digits).checkpoint.read_bytes()
    with ExitStack() as stack:
        for setting in SETTINGS.values():
            stack.enter_context(setting())
        found = train(make_parameters(**values), three_digits).checkpoint.read_bytes()
        assert torch.get_default_dtype() == torch.float64
    assert found == expected


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_weights_saved_as_parameters_are_taken(runtime, tmp_path, photographs):
    model = initialize_model("resnet18", 2, seed=0)
    (tmp_path / "classes.txt").write_text("one\nother\n", encoding="utf-8")
    plain, kept = tmp_path / "plain.pth", tmp_path / "parameters.pth"
    torch.save(model.state_dict(), plain)
    torch.save({**model.state_dict(), **dict(model.named_parameters())}, kept)
    expected, found = (
        load_model(path, runtime=runtime, input_size=64).predict(photographs["small"]).probabilities
        for path in (plain, kept)
    )
    np.testing.assert_array_equal(found, expected)
