"""Networks: built, initialized, frozen, given a head."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torchvision import models

from resnetkit.weights.architectures import ARCHITECTURES
from resnetkit.weights.models import (
    add_counters,
    build_model,
    initialize_head,
    initialize_model,
    load_model,
    skip_padding,
)


@pytest.mark.parametrize("model_name", ARCHITECTURES)
def test_a_built_model_has_torchvisions_names_and_takes_no_memory(model_name):
    with torch.device("meta"):
        expected = models.get_model(model_name, weights=None, num_classes=7).state_dict()
    found = build_model(model_name, 7).state_dict()
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in expected.items()}
    assert all(value.is_meta for value in found.values())


def test_a_loaded_model_shares_its_tensors_and_answers_as_the_original():
    original = initialize_model("resnet18", 3, seed=0, small_input_stem=True).eval()
    state_dict = {name: value for name, value in original.state_dict().items() if "num_batches" not in name}
    model = load_model("resnet18", state_dict, small_input_stem=True)
    assert not model.training
    assert model.fc.weight.data_ptr() == state_dict["fc.weight"].data_ptr()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), original(images))


@pytest.mark.parametrize("small_input_stem", [False, True])
def test_initialization_depends_on_the_seed_alone(small_input_stem):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (
        initialize_model("resnet18", 3, seed, small_input_stem).state_dict()["conv1.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(1), expected)  # the global state is as it was
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("model_name", ["resnet18", "resnet50"])
def test_initialization_is_torchvisions(model_name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = models.get_model(model_name, weights=None, num_classes=7)
        stem = torch.nn.Conv2d(3, 64, 3, bias=False)
        torch.nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    found = initialize_model(model_name, 7, seed=3)
    assert found.training
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    assert torch.equal(initialize_model(model_name, 7, 3, small_input_stem=True).conv1.weight, stem.weight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        linear = torch.nn.Linear(20, 3).state_dict()
    head = initialize_head(20, 3, seed=4)
    assert all(torch.equal(head[f"fc.{name}"], value) for name, value in linear.items())


def test_no_other_thread_has_a_part_in_the_first_weights():
    expected = [initialize_head(2048, 50, seed)["fc.weight"] for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        disturbing = [pool.submit(lambda: [torch.manual_seed(9), torch.rand(10_000)]) for _ in range(8)]
        found = list(pool.map(lambda seed: initialize_head(2048, 50, seed)["fc.weight"], range(8)))
    assert all(each.done() for each in disturbing)
    assert all(map(torch.equal, found, expected))


def test_a_new_head_has_its_outputs_and_depends_on_the_seed_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (initialize_head(512, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)  # the global state is as it was
    assert {name: tuple(tensor.shape) for name, tensor in first.items()} == {"fc.weight": (3, 512), "fc.bias": (3,)}
    assert torch.equal(first["fc.weight"], again["fc.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_counters_are_added_where_they_are_missing_and_load_strictly():
    original = initialize_model("resnet18", 3, seed=0).state_dict()
    original["bn1.num_batches_tracked"] += 7
    counted = {name: value for name, value in original.items() if "num_batches" not in name or name.startswith("bn1")}
    completed = add_counters(counted)
    assert completed.keys() == original.keys()
    assert all(torch.equal(completed[name], value) for name, value in original.items())


@pytest.mark.parametrize(("model_name", "sizes"), [("resnet18", (32, 48)), ("resnet50", (32,))])
def test_leaving_padding_out_changes_no_output_and_no_gradient(model_name, sizes):
    # In float64: single images and pixels magnify the rounding of the sums, whose order depends on the threads.
    plain, skipping = (initialize_model(model_name, 5, seed=1).double() for _ in range(2))
    skip_padding(skipping)
    assert skipping.state_dict().keys() == plain.state_dict().keys()
    for size in sizes:  # the last stage's output: one pixel, two by two
        images = torch.rand(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
        expected, found = plain(images), skipping(images)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        expected.square().sum().backward()
        found.square().sum().backward()
    for (name, weight), other in zip(plain.named_parameters(), skipping.parameters(), strict=True):
        scale = float(weight.grad.abs().max())
        torch.testing.assert_close(other.grad, weight.grad, rtol=1e-7, atol=1e-7 * scale, msg=name)
