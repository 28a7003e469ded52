"""The quick part of `make soak`: the same trials, fewer of each, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak import images, kills, leftovers, parameters, service, weights
from soak.__main__ import load_claims
from soak.children import link_plugins
from soak.material import FULL_TRAINING, write_digits, write_model
from soak.page import PAGE, render_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits, a home folder and a model; trials that write much do so elsewhere."""
    folder = tmp_path_factory.mktemp("reliability")
    write_digits(folder / "digits")
    link_plugins(folder / "home")
    write_model(folder / "best.safetensors", input_size=32)
    return folder


def test_a_training_that_is_killed_goes_on_to_the_same_end(folder, tmp_path):
    trial = kills.Trial({**FULL_TRAINING, "epochs": 2, "export_pth": False}, folder / "digits", tmp_path)
    tally = kills.Tally()
    while not tally.kills:
        trial.kill_in_write(tally)
    assert tally.failures == []
    assert tally.kills == tally.same == 1


def test_no_gadget_runs(tmp_path):
    found = weights.try_gadgets(tmp_path / "gadgets")
    assert found.failures == []
    assert found.count == 30


def test_damaged_and_oversized_weights_cost_little(tmp_path):
    found = weights.try_damaged(tmp_path / "damaged-weights")
    assert found.failures == []
    assert found.count > 30


def test_damaged_images_end_no_process(folder):
    for found in images.try_files(folder, folder / "home", folder / "best.safetensors", 150):
        assert found.failures == []
        assert found.count == 150


def test_values_are_taken_or_refused_by_name(folder):
    for found in parameters.try_parameters(folder, 10):
        assert found.failures == []
        assert found.count >= 100


def test_a_stop_leaves_nothing(tmp_path):
    for found in leftovers.try_lives(tmp_path / "lives", 1, ("stop",)):
        assert found.failures == []


def test_two_threads_answer_as_one(folder):
    models = [str(folder / "best.safetensors"), str(write_model(folder / "other" / "best.safetensors", 1, 32))]
    assert service.run_side_by_side(folder, folder / "home", models, 20).failures == []


def test_the_page_shows_the_records():
    assert PAGE.read_text(encoding="utf-8") == render_page(load_claims())
