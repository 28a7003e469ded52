"""State files that are damaged or made to do harm: refused in one sentence before any kernel sees a tensor."""

from __future__ import annotations

import copy
import zipfile

import pytest
import torch
from torch import nn

from resnetkit.learners.optimization import build_optimizer, load_optimizer
from resnetkit.learners.recipe import choose_recipe
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters
from resnetkit.training.state import (
    STATE_FILE,
    Circumstances,
    TrainingState,
    check_averages,
    check_resumable,
    check_weights,
    read_recipe,
    read_state,
    write_state,
)

ROW = {"epoch": 1, "train_loss": 1.0, "train_accuracy": None, "val_loss": 1.0, "val_accuracy": 0.5, "seconds": 1.0}


def make_parameters(optimizer):
    """`auto` means AdamW in two groups, one of which decays."""
    return TrainParameters().updated({"optimizer": optimizer, "feature_extract": False})


@pytest.fixture(params=["sgd", "adamw", "auto"])
def trained(request, tmp_path):
    """A module, its parameters, and the content of the state file after an epoch."""
    module, parameters = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), make_parameters(request.param)
    recipe = choose_recipe(parameters, 100)
    optimizer = build_optimizer(recipe, module.parameters())
    module(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = TrainingState(
        parameters.model_dump(), Circumstances("a", "b", "c", 1), ("x", "y", "z"), [ROW], module.state_dict(),
        optimizer.state_dict(), recipe.to_dict(),
    )  # fmt: skip
    write_state(tmp_path, state)
    return module, parameters, tmp_path


def resume(module, parameters, folder):
    state = read_state(folder)
    check_resumable(state, parameters)
    check_weights(state, module)
    module.load_state_dict(dict(state.weights))
    optimizer = build_optimizer(read_recipe(state, choose_recipe(parameters, 100)), module.parameters())
    check_averages(state, optimizer)
    load_optimizer(optimizer, state.optimizer)
    for weights in module.parameters():
        weights.grad = torch.ones_like(weights)
    optimizer.step()
    return state


def edit(folder, change):
    content = torch.load(folder / STATE_FILE, weights_only=True)
    change(content)
    torch.save(content, folder / STATE_FILE)


def test_a_whole_state_is_taken(trained):
    module, parameters, folder = trained
    state = resume(copy.deepcopy(module), parameters, folder)
    assert state.history == [{**ROW, "val_balanced_accuracy": None}]  # from before it was measured
    assert state.circumstances == Circumstances("a", "b", "c", 1)
    assert all(torch.equal(state.weights[name], value) for name, value in module.state_dict().items())


def set_average(content, value):
    averages = content["optimizer"]["state"][0]
    name = next(name for name in averages if name != "step")
    averages[name] = value(averages[name])


EDITS = {
    "average of another shape": lambda c: set_average(c, lambda _: torch.ones(10**6)),
    "small average": lambda c: set_average(c, lambda _: torch.ones(1)),
    "average of another type": lambda c: set_average(c, lambda t: t.double()),
    "average of integers": lambda c: set_average(c, lambda t: t.long()),
    "average of bfloat16": lambda c: set_average(c, lambda t: t.bfloat16()),
    "NaN average": lambda c: set_average(c, lambda t: t * float("nan")),
    "average that is text": lambda c: set_average(c, lambda _: "x"),
    "claimed average": lambda c: set_average(c, lambda _: torch.zeros(1, 1).expand(3, 4)),
    "sparse average": lambda c: set_average(c, lambda t: t.to_sparse()),
    "meta average": lambda c: set_average(c, lambda t: t.to("meta")),
    "missing average": lambda c: c["optimizer"]["state"].pop(1),
    "average of nothing": lambda c: c["optimizer"]["state"].update({99: {}}),
    "average by name": lambda c: c["optimizer"]["state"].update(x=c["optimizer"]["state"].pop(0)),
    "another average": lambda c: c["optimizer"]["state"][0].update(max_exp_avg_sq=torch.ones(3, 4)),
    "averages as list": lambda c: c["optimizer"].update(state=[1]),
    "no averages": lambda c: c["optimizer"].pop("state"),
    "no optimizer": lambda c: c.update(optimizer={}),
    "optimizer as list": lambda c: c.update(optimizer=[1]),
    "weights of another shape": lambda c: c["weights"].update({"0.weight": torch.ones(3, 5)}),
    "weights of another type": lambda c: c["weights"].update({"0.weight": torch.ones(3, 4).half()}),
    "weights as numbers": lambda c: c["weights"].update({"0.weight": 3}),
    "more weights": lambda c: c["weights"].update(extra=torch.ones(1)),
    "fewer weights": lambda c: c["weights"].pop("0.bias"),
    "averaged weights of another shape": lambda c: c.update(average={**c["weights"], "0.weight": torch.ones(3, 5)}),
    "averaged weights as list": lambda c: c.update(average=[1]),
    "fewer averaged weights": lambda c: c.update(average={"0.bias": torch.ones(3)}),
    "a text of images": lambda c: c.update(num_choosing="many"),
    "weights by number": lambda c: c["weights"].update({3: torch.ones(1)}),
    "weights as list": lambda c: c.update(weights=[torch.ones(1)]),
    "no weights": lambda c: c.pop("weights"),
    "recipe as number": lambda c: c.update(recipe=3),
    "recipe of other names": lambda c: c.update(recipe={"optimizer": "sgd"}),
    "recipe of texts": lambda c: c["recipe"].update(learning_rate="x"),
    "recipe of an unknown optimizer": lambda c: c["recipe"].update(optimizer="x"),
    "recipe without batches": lambda c: c["recipe"].update(batch_size=0),
    "recipe of infinities": lambda c: c["recipe"].update(momentum=float("inf")),
    "recipe of lists": lambda c: c["recipe"].update(changes=[1]),
    "unknown part": lambda c: c.update(unheard_of=1),
    "unknown part that colours terminals": lambda c: c.update({"\x1b[31m": 1}),
    "weights that colour terminals": lambda c: c["weights"].update({"\x1b[31m": torch.ones(1)}),
    "cycles as text": lambda c: c.update(cycle_ends="1"),
    "cycles backwards": lambda c: c.update(cycle_ends=[3, 2]),
    "history as text": lambda c: c.update(history="x"),
    "rows as numbers": lambda c: c.update(history=[1]),
    "row without accuracy": lambda c: c["history"][0].pop("val_accuracy"),
    "accuracy as text": lambda c: c["history"][0].update(val_accuracy="0.5"),
    "NaN accuracy": lambda c: c["history"][0].update(val_accuracy=float("nan")),
    "accuracy of 2": lambda c: c["history"][0].update(val_accuracy=2.0),
    "chosen by nothing": lambda c: c.update(figure="val_loss"),
    "chosen by what is missing": lambda c: c.update(figure="val_balanced_accuracy"),
    "epoch 7": lambda c: c["history"][0].update(epoch=7),
    "loss as tensor": lambda c: c["history"][0].update(val_loss=torch.ones(3)),
    "circumstances as number": lambda c: c.update(circumstances=3),
    "circumstances of other types": lambda c: c["circumstances"].update(threads="many"),
    "more circumstances": lambda c: c["circumstances"].update(moon="full"),
    "classes as number": lambda c: c.update(classes=3),
    "classes of numbers": lambda c: c.update(classes=[1, 2, 3]),
    "parameters as list": lambda c: c.update(parameters=[1]),
    "epochs as text": lambda c: c["parameters"].update(epochs="many"),
    "parameter as tensor": lambda c: c["parameters"].update(epochs=torch.ones(3)),
}  # fmt: skip


@pytest.mark.parametrize("kind", EDITS)
def test_an_edited_state_is_refused_in_one_sentence(trained, kind):
    module, parameters, folder = trained
    edit(folder, EDITS[kind])
    with pytest.raises(ParameterError, match="'resume_from'") as caught:
        resume(module, parameters, folder)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def nest(value, levels):
    """The same list a thousand times in each level: some kilobytes stand for 1000**levels values."""
    for _ in range(levels):
        value = [value] * 1000
    return value


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(history=nest(1, 5)),
        lambda c: c["weights"].update({f"copy{index}": c["weights"]["0.weight"] for index in range(1000)}),
    ],
    ids=["values", "tensors"],
)
def test_values_that_stand_in_many_places_are_counted_in_each(trained, change):
    module, parameters, folder = trained
    edit(folder, change)
    with pytest.raises(ParameterError, match=r"it holds|holds the same values many times over"):
        resume(module, parameters, folder)


def test_settings_of_the_optimizer_are_those_of_the_parameters(trained):
    module, parameters, folder = trained
    edit(folder, lambda c: c["optimizer"].update(param_groups=[{"params": [0, 0], "lr": "x", "maximize": True}]))
    resume(module, parameters, folder)


def test_a_compressed_bomb_is_not_unpacked(trained):
    folder = trained[2]
    with zipfile.ZipFile(folder / STATE_FILE) as plain:
        entries = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(folder / STATE_FILE, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    with (folder / STATE_FILE).open("ab") as stream:
        stream.write(b"PK\x05\x06")
    with pytest.raises(ParameterError, match="damaged or was not written by train_resnet"):
        read_state(folder)
