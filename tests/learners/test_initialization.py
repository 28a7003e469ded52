"""Where training starts: the rows of a head that stay, and those that are drawn."""

from __future__ import annotations

import pytest
import torch

from resnetkit.learners.initialization import initialize
from resnetkit.parameters.training import TrainParameters
from resnetkit.weights.checkpoint import open_weights


@pytest.fixture
def start(checkpoint_path):
    """`start(*classes)`: the head of a training that starts from a checkpoint of cat, dog and fish."""

    def start(*classes, seed=0, path=checkpoint_path):
        parameters = TrainParameters().updated({"model_weight_file": str(path), "seed": seed})
        state_dict = initialize(parameters, classes).state_dict
        rows = zip(classes, state_dict["fc.weight"], state_dict["fc.bias"], strict=True)
        return {name: torch.cat([weight, bias[None]]) for name, weight, bias in rows}

    return start


@pytest.fixture(scope="module")
def stored(checkpoint_path):
    state_dict = open_weights(checkpoint_path).read_state_dict()
    rows = torch.cat([state_dict["fc.weight"], state_dict["fc.bias"][:, None]], 1)
    return dict(zip(("cat", "dog", "fish"), rows, strict=True))


@pytest.mark.parametrize(
    "classes",
    [
        ("cat", "dog", "fish"),
        ("fish", "dog", "cat"),
        ("ant", "cat", "dog", "fish"),
        ("cat", "fish"),
        ("cat", "fish", "hound"),
        ("ant", "fish"),
    ],
    ids=", ".join,
)
def test_classes_of_the_same_name_keep_their_rows(start, stored, classes):
    rows = start(*classes)
    for name in classes:
        assert (name in stored) == any(torch.equal(rows[name], row) for row in stored.values())
        assert name not in stored or torch.equal(rows[name], stored[name])


def test_names_beside_a_bare_state_dict_keep_their_rows_too(start, stored, checkpoint_path, tmp_path):
    path = tmp_path / "bare.pth"
    torch.save(open_weights(checkpoint_path).read_state_dict(), path)
    assert not any(
        torch.equal(row, kept) for row in start("cat", "ant", path=path).values() for kept in stored.values()
    )
    (tmp_path / "classes.txt").write_text("cat\ndog\nfish\n", encoding="utf-8")
    rows = start("ant", "cat", path=path)
    assert torch.equal(rows["cat"], stored["cat"])
    assert torch.equal(rows["ant"], start("ant", "cat")["ant"])
    (tmp_path / "classes.txt").write_text("of\nsomething else\n", encoding="utf-8")
    assert not torch.equal(start("ant", "cat", path=path)["cat"], stored["cat"])


def test_new_rows_depend_on_seed_and_name_alone(start):
    first, second = start("cat", "hound"), start("ant", "bee", "cat", "fish", "hound")
    assert torch.equal(first["hound"], second["hound"])
    assert not torch.equal(second["ant"], second["bee"])
    assert not torch.equal(start("cat", "hound", seed=1)["hound"], first["hound"])
    bound = (len(first["hound"]) - 1) ** -0.5
    assert 0.9 * bound < first["hound"].abs().max() <= bound, "as torch draws a linear layer"


def test_what_stays_and_what_is_new_is_said(checkpoint_path):
    parameters = TrainParameters().updated({"model_weight_file": str(checkpoint_path)})
    said = initialize(parameters, ("cat", "hound")).head
    assert said == "the head keeps the rows of 1 classes by their names; new: 'hound'; dropped: 'dog', 'fish'"
    assert initialize(parameters, ("ant", "bee")).head == "new head for 2 classes"
