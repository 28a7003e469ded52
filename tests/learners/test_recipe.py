"""What is chosen where a parameter is left open, and that what is given is obeyed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from resnetkit.learners.finetuning import check_mirror
from resnetkit.learners.recipe import Recipe, choose_recipe, lengthen
from resnetkit.parameters.training import TrainParameters

SCRATCH = {"feature_extract": False, "use_pretrained": False, "input_size": 32}
FULL = {"feature_extract": False}


def choose(num_images, **values):
    return choose_recipe(TrainParameters().updated(values), num_images)


@pytest.mark.parametrize(
    ("start", "num_images", "epochs"),
    [
        pytest.param(FULL, 150, 12, id="weights, few"),
        pytest.param(FULL, 2_500, 6, id="weights, some"),
        pytest.param(FULL, 100_000, 4, id="weights, many"),
        pytest.param(SCRATCH, 150, 32, id="scratch, few"),
        pytest.param(SCRATCH, 1_250, 11, id="scratch, some"),
        pytest.param(SCRATCH, 100_000, 10, id="scratch, many"),
    ],
)
def test_few_images_are_passed_over_more_often(start, num_images, epochs):
    recipe = choose(num_images, **start)
    assert (recipe.optimizer, recipe.epochs) == ("adamw", epochs)
    assert str(epochs) in recipe.reasons["epochs"]


@pytest.mark.parametrize(("accuracy", "epochs"), [(0.4, 22), (0.899, 22), (0.9, 11), (1.0, 11)])
def test_from_scratch_what_is_hard_takes_twice_the_epochs(accuracy, epochs):
    recipe = lengthen(choose(1_250, **SCRATCH), accuracy)
    assert recipe.epochs == epochs
    assert recipe.reasons["epochs"].startswith(f"{epochs}: ")


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 32), (1_023, 32), (1_024, 64)])
def test_batches_are_larger_where_an_epoch_has_many(num_images, batch_size):
    assert choose(num_images, **FULL).batch_size == batch_size


def test_small_batches_have_smaller_rates():
    assert choose(100, **FULL, batch_size=8).learning_rate == pytest.approx(choose(100, **FULL).learning_rate / 2)


@pytest.mark.parametrize("start", [FULL, SCRATCH], ids=["weights", "scratch"])
def test_given_values_are_obeyed(start):
    recipe = choose(500, **start, epochs=3, batch_size=10, learning_rate=0.0123, label_smoothing=0.2)
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.label_smoothing) == (3, 10, 0.0123, 0.2)


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_no_reason_is_made_up_for_what_was_given(optimizer):
    values = {"epochs": 3, "batch_size": 10, "learning_rate": 0.0123, "label_smoothing": 0.2}
    reasons = choose(500, **FULL, optimizer=optimizer, **values).reasons
    given = [name for name in values if name in reasons]
    assert {"epochs", "batch_size", "learning_rate"} <= set(given)
    assert {name: reasons[name] for name in given} == {name: f"{values[name]:g}, as given" for name in given}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param({"cached_views": 0}, "0 augmented views of each image: as given", id="none wanted"),
        pytest.param({"augmentation": "none"}, "0 augmented views of each image: there is no augmentation", id="plain"),
        pytest.param({"input_size": 1024}, "0 augmented views of each image: of so many", id="too slow"),
        pytest.param({"input_size": 64}, "2 augmented views of each image: they take", id="quick"),
    ],
)
def test_it_is_said_why_there_are_so_many_views(values, reason):
    assert choose(600, **values).reasons["cached_views"].startswith(reason)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_named_optimizer_trains_as_it_did_before_there_were_recipes(optimizer):
    recipe = choose(500, optimizer=optimizer, feature_extract=False)
    assert (recipe.learning_rate, recipe.batch_size, recipe.epochs) == (0.001, 8, 15)
    assert (recipe.weight_decay, recipe.decays_all, recipe.label_smoothing) == (1e-4, True, 0)
    assert not recipe.starts_from_solved_head
    assert recipe.reasons["learning_rate"] == "0.001, that of plain training"


def test_a_frozen_backbone_has_no_epochs_and_views_only_where_they_take_seconds():
    assert choose(600, input_size=64).is_solved
    assert (choose(600, input_size=64).num_views, choose(100_000).num_views) == (2, 0)
    assert choose(600, cached_views=5).num_views == 5
    assert choose(600, augmentation="none", cached_views=5).num_views == 0


def test_images_are_not_mirrored_before_data_speak_for_it():
    assert not choose(500, **SCRATCH).changes.horizontal_flip
    assert choose(500, **SCRATCH, horizontal_flip="on").changes.horizontal_flip
    assert choose(500, **SCRATCH, augmentation="basic").changes.horizontal_flip


def test_a_recipe_survives_its_way_through_a_file():
    recipe = choose(500, **FULL).with_mirror(True, "said so")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def make_logits(answers):
    return np.eye(3)[np.asarray(answers)]


@pytest.mark.parametrize(
    ("mirrored", "is_allowed"),
    [
        pytest.param([0] * 40 + [1] * 40, True, id="nothing changes"),
        pytest.param([1] * 40 + [0] * 40, False, id="classes are swapped"),
        pytest.param([2] * 2 + [0] * 38 + [1] * 40, True, id="two of eighty are lost"),
        pytest.param([2] * 9 + [0] * 31 + [1] * 40, False, id="nine of eighty are lost"),
    ],
)
def test_the_mirror_is_refused_where_it_changes_classes(mirrored, is_allowed):
    labels = np.repeat([0, 1], 40)
    assert check_mirror(make_logits(labels), make_logits(mirrored), labels) is is_allowed


def test_few_images_cannot_condemn_the_mirror():
    assert check_mirror(make_logits([0, 1, 2]), make_logits([0, 1, 0]), np.array([0, 1, 2]))
