"""Our constants against torchvision's weights objects."""

from __future__ import annotations

import pytest
from torchvision import models

from resnetkit.weights.architectures import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD, get_imagenet_classes
from resnetkit.weights.models import build_model

PUBLISHED = [
    pytest.param(architecture, weights, id=f"{architecture.name}-{weights.name}")
    for architecture in ARCHITECTURES.values()
    for weights in architecture.weights
]


@pytest.mark.parametrize(("architecture", "weights"), PUBLISHED)
def test_published_weights_are_torchvisions(architecture, weights):
    reference = models.get_model_weights(architecture.name)[weights.name]
    transforms = reference.transforms()
    assert reference.url.endswith(f"/{weights.file_name}")
    assert (transforms.crop_size, transforms.resize_size) == ([weights.crop_size], [weights.resize_size])
    assert (tuple(transforms.mean), tuple(transforms.std)) == (IMAGENET_MEAN, IMAGENET_STD)
    assert get_imagenet_classes() == tuple(reference.meta["categories"])
    assert reference.meta["num_params"] == architecture.parameter_count


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_no_published_weights_are_missing_and_default_is_torchvisions(architecture):
    reference = models.get_model_weights(architecture.name)
    assert {weights.name for weights in architecture.weights} == {weights.name for weights in reference}
    assert architecture.get_weights("DEFAULT").name == reference.DEFAULT.name


@pytest.mark.parametrize(
    ("model_name", "count"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameter_counts_are_the_published_ones(model_name, count):
    model = build_model(model_name, 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert ARCHITECTURES[model_name].parameter_count == count
    assert ARCHITECTURES[model_name].feature_size == model.fc.in_features


@pytest.mark.parametrize("small_input_stem", [False, True])
@pytest.mark.parametrize("model_name", ARCHITECTURES)
def test_names_and_shapes_are_torchvisions(model_name, small_input_stem):
    expected = build_model(model_name, 7, small_input_stem).state_dict()
    found = ARCHITECTURES[model_name].list_shapes(7, small_input_stem)
    assert list(found) == [name for name in expected if not name.endswith("num_batches_tracked")]
    assert found == {name: tuple(expected[name].shape) for name in found}


def test_weights_that_do_not_exist_are_refused_with_those_that_do():
    with pytest.raises(
        ValueError, match="'pretrained_weights' IMAGENET1K_V2 do not exist for resnet18; it has IMAGENET1K_V1"
    ):
        ARCHITECTURES["resnet18"].get_weights("IMAGENET1K_V2")
