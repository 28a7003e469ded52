"""What has no effect is said, where it was given."""

from __future__ import annotations

import pytest

from resnetkit.parameters.training import TrainParameters
from resnetkit.parameters.unused import describe_unused


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, []),
        ({"epochs": 5, "learning_rate": 0.1}, ["epochs", "learning_rate"]),
        ({"epochs": 5, "optimizer": "sgd"}, []),
        ({"epochs": 5, "feature_extract": False, "momentum": 0.5}, ["momentum"]),
        ({"model_weight_file": "best.pth", "use_pretrained": False}, ["use_pretrained"]),
    ],
)
def test_what_was_given_in_vain_is_named(values: dict[str, object], names: list[str]) -> None:
    sentences = describe_unused(TrainParameters().updated(values))
    assert [sentence.split("'")[1] for sentence in sentences] == names
