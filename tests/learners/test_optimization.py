"""Learning rates, class weights, loss and optimizers against the formulas and scikit-learn."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from resnetkit.learners.optimization import (
    FURTHER_PEAK,
    Loss,
    WeightAverage,
    build_optimizer,
    choose_numerics,
    compute_class_weights,
    compute_cycled_rate,
    compute_learning_rate,
    find_best,
    load_optimizer,
)
from resnetkit.learners.recipe import choose_recipe
from resnetkit.parameters.training import TrainParameters
from resnetkit.runtimes.network import RuntimeOptionError


def make(**values):
    """The recipe of an optimizer that was asked for."""
    return choose_recipe(TrainParameters().updated({"optimizer": "sgd", "feature_extract": False, **values}), 100)


def test_cosine_warms_up_peaks_and_ends_near_zero():
    recipe = make(learning_rate=0.1)
    rates = [compute_learning_rate(recipe, step, 1000) for step in range(1000)]
    assert rates[0] < 0.1 / 40
    assert np.argmax(rates) == 50
    assert max(rates) == pytest.approx(0.1)
    assert (np.diff(rates[:50]) > 0).all()
    assert (np.diff(rates[50:]) < 0).all()
    assert rates[-1] < 0.1 / 10000


def test_added_epochs_have_a_lower_cycle_of_their_own():
    recipe = replace(make(learning_rate=0.1), epochs=5)
    rates = [compute_cycled_rate(recipe, [2, 4], step, 100) for step in range(500)]
    assert rates[:200] == [compute_learning_rate(recipe, step, 200) for step in range(200)]
    assert rates[200:400] == [FURTHER_PEAK * rate for rate in rates[:200]]
    assert rates[400:] == [FURTHER_PEAK * compute_learning_rate(recipe, step, 100) for step in range(100)]


def test_cosine_is_torchs_own_sequence_of_schedules():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 51, 1.0, total_iters=50)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=950)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[50])
    expected = []
    for _ in range(1000):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    recipe = make(learning_rate=0.1)
    rates = [compute_learning_rate(recipe, step, 1000) for step in range(1000)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


def test_constant_is_constant():
    assert {compute_learning_rate(make(scheduler="constant"), step, 10) for step in range(20)} == {0.001}


@pytest.mark.parametrize("total_steps", [1, 2, 3])
def test_very_short_schedules_have_rates(total_steps):
    for step in range(total_steps):
        assert 0 < compute_learning_rate(make(), step, total_steps) <= 0.001


def test_balanced_class_weights_are_scikit_learns():
    labels = np.array([0] * 7 + [1] * 2 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(compute_class_weights("balanced", labels, 3), expected, rtol=1e-6)
    assert compute_class_weights("none", labels, 3) is None


@pytest.mark.parametrize(
    ("accuracies", "num_choosing", "expected"),
    [
        ([0.5, 0.9, 0.8], 0, 2),
        ([0.5, 0.9, 0.9], 0, 2),
        ([0.5, 0.90, 0.88, 0.86], 100, 3),  # a standard error is 0.03
        ([0.5, 0.90, 0.88, 0.86], 10_000, 2),
        ([0.5, 1.0, 1.0, 0.99], 100, 3),
        ([0.5, 0.88, 0.9], 100, 3),
    ],
)
def test_the_last_of_the_good_epochs_is_the_best_where_the_rate_falls_to_zero(accuracies, num_choosing, expected):
    history = [{"epoch": n, "val_accuracy": each, "val_loss": 1.0} for n, each in enumerate(accuracies, start=1)]
    assert find_best(history, "val_accuracy", num_choosing)["epoch"] == expected
    growing = [find_best(history[: end + 1], "val_accuracy", num_choosing) for end in range(len(history))]
    kept = [best for best, row in zip(growing, history, strict=True) if best is row]
    assert kept[-1]["epoch"] == expected  # what was saved on the way


@pytest.mark.parametrize(("head", "expected"), [(0.92, 0), (0.87, 3), (0.89, 2)])
def test_no_epoch_below_the_solved_head_is_the_best(head, expected):
    accuracies = [head, 0.5, 0.9, 0.88]
    history = [{"epoch": n, "val_accuracy": each, "val_loss": 1.0} for n, each in enumerate(accuracies)]
    assert find_best(history, "val_accuracy", 100)["epoch"] == expected


def test_loss_of_labels_and_of_the_same_shares_agree():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    loss = Loss(0.1, None)
    assert loss(logits, labels).item() == pytest.approx(loss(logits, torch.eye(4)[labels]).item(), rel=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizers_take_their_settings(name, kind):
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = build_optimizer(make(optimizer=name, momentum=0.8, weight_decay=0.01), [weight])
    assert type(optimizer) is kind
    assert optimizer.defaults["weight_decay"] == 0.01
    assert 0.8 in (optimizer.defaults.get("momentum"), *optimizer.defaults.get("betas", ()))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_goes_on_whatever_the_layout_in_which_it_was_saved(name):
    recipe = choose_recipe(TrainParameters().updated({"optimizer": name, "feature_extract": False}), 100)
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(5, 8, 4, 3, 3, generator=generator)

    def step(weights, optimizer, gradient):
        weights.grad = torch.empty_like(weights).copy_(gradient)
        optimizer.step()

    def make(layout):
        weights = torch.nn.Parameter(start.clone(memory_format=layout))
        return weights, build_optimizer(recipe, [weights])

    expected, optimizer = make(torch.contiguous_format)
    for gradient in gradients[:2]:
        step(expected, optimizer, gradient)
    saved = copy.deepcopy(optimizer.state_dict())
    weights, resumed = make(torch.channels_last)
    weights.data.copy_(expected.data)
    load_optimizer(resumed, saved)
    for gradient in gradients[2:]:
        step(expected, optimizer, gradient)
        step(weights, resumed, gradient)
    assert weights.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(weights, expected)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(
        RuntimeOptionError, match=r"'device' cuda:99 does not exist .*cpu; set 'device' to one of them, or to auto"
    ):
        choose_numerics("cuda:99", "auto")


@pytest.mark.parametrize(("total_steps", "interval"), [(40, 1), (800, 8)])
def test_weights_are_averaged_over_the_last_steps_and_taken_up_after_the_last(total_steps, interval):
    module = torch.nn.Linear(1, 1, bias=False)
    average, seen = WeightAverage(module, share=0.05), {module.weight.item()}
    for step in range(total_steps):
        module.weight.data.fill_(float(step))
        average.update(module, step, total_steps)
        seen.add(average.module.weight.item())
    assert len(seen) == 1 + total_steps / interval
    # Of weights that grow by one a step, an average lags behind by as many steps as it looks back on.
    lag = total_steps - 1 - average.module.weight.item()
    assert lag == pytest.approx(0.05 * total_steps - interval, rel=0.02)
