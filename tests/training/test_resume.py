"""Resuming: what continues, bit for bit, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resnetkit.learners.finetuning import NetworkLearner
from resnetkit.machine.progress import Progress, TrainingStopped
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters
from resnetkit.training import loop as training
from resnetkit.training import opening, run
from resnetkit.training.loop import train
from resnetkit.training.state import read_state, write_state
from resnetkit.weights.checkpoint import open_weights

pytestmark = pytest.mark.usefixtures("without_report")


class StopIn:
    """Progress that ask to stop before a batch of an epoch, both counted from 0; validation's batches count, too."""

    def __init__(self, output_folder: str, epoch: int, batch: int) -> None:
        self.output_folder = Path(output_folder)
        self.epoch, self.batch = epoch, batch

    def is_reached(self) -> bool:
        if self.epoch or not list(self.output_folder.glob("*/state.pt")):
            return False  # the images are being checked, or it is too early
        self.batch -= 1
        return self.batch < 0

    def count_epoch(self) -> None:
        self.epoch -= 1


def interrupt(parameters, source, epoch, batch):
    """Train until that batch; return the run folder."""
    stop = StopIn(parameters.output_folder, epoch, batch)
    with pytest.raises(TrainingStopped, match=f"stopped on request in epoch {epoch + 1} of"):
        train(parameters, source, Progress(stop.is_reached, stop.count_epoch))
    return next(Path(parameters.output_folder).glob("*/state.pt")).parent.resolve()


def without_times(folder):
    """Return metrics.json without what may differ between two runs: times, dates and the run folder."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for name in ("timings", "finished_at"):
        del metrics[name]
    for row in metrics["history"]:
        del row["seconds"]
    for name in ("output_folder", "resume_from"):
        del metrics["parameters"][name]
    return metrics


def assert_same_tensors(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert_same_tensors(value, other[name])
    else:
        assert one == other


@pytest.fixture
def each_epoch_better(monkeypatch):
    """Let validation find every epoch better than the one before."""
    names = ("val_accuracy", "val_balanced_accuracy")
    figures = lambda run: {"val_loss": 1.0, **dict.fromkeys(names, run.state.epoch / 10)}  # noqa: E731
    monkeypatch.setattr(training, "_validate", figures)


@pytest.mark.parametrize(
    ("values", "epoch", "batch"),
    [
        pytest.param({}, 0, 2, id="in the first epoch"),
        pytest.param({}, 1, 3, id="in the second epoch"),
        pytest.param({"optimizer": "adamw", "learning_rate": 0.001, "augmentation": "strong"}, 1, 0, id="adamw strong"),
        pytest.param({"early_stopping_patience": 2, "learning_rate": 1e-12, "epochs": 9}, 2, 1, id="early stopping"),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(three_digits, make_parameters, tmp_path, values, epoch, batch):
    whole = train(make_parameters(**values), three_digits).folder
    parameters = make_parameters(output_folder=str(tmp_path / "interrupted"), **values)
    folder = interrupt(parameters, three_digits, epoch, batch)
    assert read_state(folder).epoch == epoch
    resumed = train(parameters.updated({"resume_from": str(folder)}), three_digits).folder
    assert resumed == folder
    assert (folder / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()
    assert without_times(folder) == without_times(whole)
    assert_same_tensors(dict(read_state(folder).weights), dict(read_state(whole).weights))
    assert_same_tensors(dict(read_state(folder).optimizer), dict(read_state(whole).optimizer))


def test_the_run_folder_alone_is_enough(three_digits, make_parameters, tmp_path):
    whole = train(make_parameters(), three_digits).folder
    folder = interrupt(make_parameters(output_folder=str(tmp_path / "interrupted")), three_digits, 1, 0)
    resumed = train(TrainParameters().updated({"resume_from": str(folder)}), None)
    assert resumed.folder == folder
    assert (folder / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()
    assert without_times(folder) == without_times(whole)
    with pytest.raises(ParameterError, match=r"epochs=3, batch_size=8; got epochs=0, batch_size=4;"):
        train(TrainParameters().updated({"resume_from": str(folder), "batch_size": 4, "epochs": 0}), None)


def test_a_data_set_that_was_moved_is_named_and_given_anew(three_digits, make_parameters, tmp_path):
    place, moved = tmp_path / "place", tmp_path / "moved"
    shutil.copytree(three_digits, place)
    folder = train(make_parameters(epochs=1), place).folder
    place.rename(moved)
    parameters = TrainParameters().updated({"resume_from": str(folder)})
    with pytest.raises(ValueError, match="place"):
        train(parameters, None)
    assert train(parameters, moved).folder == folder


def test_a_resumed_head_equals_the_uninterrupted_one(three_digits, make_parameters, backbone, tmp_path):
    values = {"feature_extract": True, "model_weight_file": str(backbone), "epochs": 4}
    whole = train(make_parameters(**values), three_digits).folder
    parameters = make_parameters(output_folder=str(tmp_path / "interrupted"), **values)
    folder = interrupt(parameters, three_digits, 2, 1)
    train(parameters.updated({"resume_from": str(folder)}), three_digits)
    assert (folder / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()
    assert without_times(folder) == without_times(whole)


@pytest.mark.usefixtures("each_epoch_better")
def test_epochs_that_end_within_a_second_are_saved_together(three_digits, make_parameters, tmp_path, monkeypatch):
    saved, folders = [], []
    write_state = run.write_state

    def write(folder, state):
        saved.append(state.epoch)
        write_state(folder, state)

    monkeypatch.setattr(opening, "write_state", write)
    monkeypatch.setattr(run, "write_state", write)
    for interval, expected in ((0.0, [0, 1, 2, 3]), (1000.0, [0, 1, 3])):
        monkeypatch.setattr(run, "SAVE_INTERVAL_S", interval)
        folders.append(train(make_parameters(output_folder=str(tmp_path / str(interval))), three_digits).folder)
        assert saved == expected
        saved.clear()
    one, other = folders
    assert (one / "best.safetensors").read_bytes() == (other / "best.safetensors").read_bytes()
    assert without_times(one) == without_times(other)
    assert_same_tensors(dict(read_state(one).weights), dict(read_state(other).weights))
    assert_same_tensors(dict(read_state(one).optimizer), dict(read_state(other).optimizer))


@pytest.mark.usefixtures("each_epoch_better")
def test_what_was_not_saved_yet_is_saved_when_training_fails(three_digits, make_parameters, tmp_path, monkeypatch):
    values = {"scheduler": "constant"}
    whole = train(make_parameters(**values), three_digits).folder
    two = train(make_parameters(epochs=2, output_folder=str(tmp_path / "two"), **values), three_digits).folder
    monkeypatch.setattr(run, "SAVE_INTERVAL_S", 1000)
    parameters = make_parameters(output_folder=str(tmp_path / "interrupted"), **values)
    folder = interrupt(parameters, three_digits, 2, 3)
    # What was trained of the third epoch is in nothing that is kept.
    assert read_state(folder).epoch == 2
    assert_same_tensors(dict(read_state(folder).weights), dict(read_state(two).weights))
    assert_same_tensors(open_weights(folder).read_state_dict(), open_weights(two).read_state_dict())
    train(parameters.updated({"resume_from": str(folder)}), three_digits)
    assert (folder / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()
    assert without_times(folder) == without_times(whole)


@pytest.mark.usefixtures("each_epoch_better")
@pytest.mark.parametrize("interval", [0.0, 1000.0])
def test_an_epoch_whose_weights_cannot_be_copied_is_trained_again(
    three_digits, make_parameters, tmp_path, monkeypatch, interval
):
    whole = train(make_parameters(), three_digits).folder
    get_state_dict = NetworkLearner.get_state_dict
    calls = []

    def fail(self):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("out of memory")
        return get_state_dict(self)

    monkeypatch.setattr(run, "SAVE_INTERVAL_S", interval)
    parameters = make_parameters(output_folder=str(tmp_path / "failed"))
    with monkeypatch.context() as patch:
        patch.setattr(NetworkLearner, "get_state_dict", fail)
        with pytest.raises(MemoryError, match=r"the best weights so far \(epoch 1, "):
            train(parameters, three_digits)
    (folder,) = (path for path in (tmp_path / "failed").iterdir() if not path.is_symlink())
    best = read_state(folder).best
    assert best["epoch"] == open_weights(folder).metadata.metrics["epoch"] == 1
    train(parameters.updated({"resume_from": str(folder)}), three_digits)
    assert (folder / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()
    assert without_times(folder) == without_times(whole)


def test_more_epochs_continue_a_constant_schedule(three_digits, make_parameters, tmp_path):
    whole = train(make_parameters(scheduler="constant"), three_digits).folder
    short = make_parameters(scheduler="constant", epochs=1, output_folder=str(tmp_path / "short"))
    folder = train(short, three_digits).folder
    longer = train(short.updated({"epochs": 3, "resume_from": str(folder)}), three_digits)
    assert without_times(longer.folder) == without_times(whole)
    assert_same_tensors(open_weights(folder).read_state_dict(), open_weights(whole).read_state_dict())


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="sgd"),
        pytest.param({"optimizer": "auto", "augmentation": "none", "learning_rate": 0, "batch_size": 0}, id="auto"),
    ],
)
def test_more_epochs_after_the_end_are_a_cycle_of_their_own(three_digits, make_parameters, tmp_path, caplog, values):
    caplog.set_level("INFO")
    first = make_parameters(epochs=2, **values)
    folder = train(first, three_digits).folder
    history = read_state(folder).history
    killed = shutil.copytree(folder, tmp_path / "killed" / folder.name)
    longer = train(first.updated({"epochs": 5, "resume_from": str(folder)}), three_digits)
    state = read_state(folder)
    assert (state.history[:2], state.epoch, state.cycle_ends) == (history, 5, [2])
    peak = max(row["learning_rate"] for row in state.history[2:])
    assert (
        state.history[-1]["learning_rate"] < peak <= 0.3 * state.recipe["learning_rate"] < state.recipe["learning_rate"]
    )
    assert "2, and 3 more, asked for later: a cycle of their own" in caplog.text
    assert state.recipe["reasons"]["epochs"] in caplog.text

    stop = StopIn(str(tmp_path / "killed"), 1, 0)
    further = first.updated({"epochs": 5, "resume_from": str(killed)})
    with pytest.raises(TrainingStopped, match="in epoch 4 of 5"):
        train(further, three_digits, Progress(stop.is_reached, stop.count_epoch))
    train(further, three_digits)
    assert (killed / "best.safetensors").read_bytes() == longer.checkpoint.read_bytes()
    assert without_times(killed) == without_times(folder)
    assert_same_tensors(dict(read_state(killed).weights), dict(state.weights))
    assert_same_tensors(dict(read_state(killed).optimizer), dict(state.optimizer))


def test_more_epochs_after_early_stopping_follow_the_last_one(three_digits, make_parameters):
    parameters = make_parameters(early_stopping_patience=1, learning_rate=1e-12, epochs=9)
    folder = train(parameters, three_digits).folder
    end = read_state(folder).epoch
    assert end < 9
    train(parameters.updated({"epochs": 10, "resume_from": str(folder)}), three_digits)
    state = read_state(folder)
    assert state.cycle_ends == [end]
    assert state.epoch > end


def test_a_finished_run_is_only_concluded_again(three_digits, make_parameters):
    parameters = make_parameters(epochs=1)
    first = train(parameters, three_digits)
    weights = first.checkpoint.read_bytes()
    metrics = without_times(first.folder)
    (first.folder / "metrics.json").unlink()
    again = train(parameters.updated({"resume_from": str(first.folder), "export_pth": True}), three_digits)
    metrics["parameters"]["export_pth"] = True
    concluded = without_times(again.folder)
    assert metrics.pop("exports") == []
    assert [export["path"] for export in concluded.pop("exports")] == ["resnet18.pth"]
    assert concluded == metrics
    assert again.checkpoint.read_bytes() == weights
    assert (again.folder / "resnet18.pth").is_file()


def test_latest_may_be_resumed(three_digits, make_parameters, tmp_path):
    first = train(make_parameters(epochs=1), three_digits)
    again = train(make_parameters(epochs=1, resume_from=str(tmp_path / "runs" / "latest")), three_digits)
    assert again.folder == first.folder


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.01), ("batch_size", 4), ("seed", 1), ("augmentation", "none"), ("epochs", 2)],
)
def test_parameters_that_change_the_result_are_refused(three_digits, make_parameters, name, value):
    folder = train(make_parameters(), three_digits).folder
    with pytest.raises(ParameterError, match=rf"{name}=.*; got {name}={value};"):
        train(make_parameters(resume_from=str(folder), **{name: value}), three_digits)


def test_all_parameters_that_differ_are_named_at_once(three_digits, make_parameters):
    folder = train(make_parameters(epochs=1), three_digits).folder
    with pytest.raises(ParameterError, match=r"batch_size=8, seed=0; got batch_size=4, seed=3; give the run's own"):
        train(make_parameters(epochs=1, resume_from=str(folder), batch_size=4, seed=3), three_digits)


def test_patience_may_change(three_digits, make_parameters, each_epoch_better):
    parameters = make_parameters(epochs=2, early_stopping_patience=1)
    first = train(parameters, three_digits)
    changes = {"resume_from": str(first.folder), "early_stopping_patience": 0}
    assert train(parameters.updated(changes), three_digits).folder == first.folder


def test_another_data_set_is_refused(three_digits, digits_folder, make_parameters):
    folder = train(make_parameters(epochs=1), three_digits).folder
    with pytest.raises(ParameterError, match="data set is not the one"):
        train(make_parameters(epochs=1, resume_from=str(folder)), digits_folder)


def test_other_numerics_are_refused(three_digits, make_parameters):
    folder = train(make_parameters(epochs=1, precision="fp32"), three_digits).folder
    state = read_state(folder)  # as if it had begun elsewhere: this CPU may have one precision only
    state.circumstances = replace(state.circumstances, numerics="torch cuda:0 bf16")
    write_state(folder, state)
    with pytest.raises(ParameterError, match="began on torch cuda:0 bf16, this would be torch cpu fp32"):
        train(make_parameters(epochs=1, precision="fp32", resume_from=str(folder)), three_digits)


@pytest.mark.parametrize("content", [None, b"", b"foreign", b"PK\x03\x04 cut"], ids=repr)
def test_a_folder_without_a_usable_state_is_refused(three_digits, make_parameters, tmp_path, content):
    folder = tmp_path / "run"
    folder.mkdir()
    if content is not None:
        (folder / "state.pt").write_bytes(content)
    with pytest.raises(ParameterError, match="'resume_from'"):
        train(make_parameters(resume_from=str(folder)), three_digits)


def test_a_state_that_would_run_code_does_not(three_digits, make_parameters, tmp_path):
    class Gadget:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"parameters": Gadget()}, folder / "state.pt")
    with pytest.raises(ParameterError, match="damaged or was not written"):
        train(make_parameters(resume_from=str(folder)), three_digits)
    assert not (tmp_path / "ran").exists()


def test_a_stop_before_training_writes_nothing(three_digits, make_parameters, tmp_path):
    with pytest.raises(TrainingStopped, match="nothing was written"):
        train(make_parameters(), three_digits, Progress(is_stop_requested=lambda: True))
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_stop_says_what_is_kept(three_digits, make_parameters):
    parameters = make_parameters()
    stop = StopIn(parameters.output_folder, 1, 0)
    with pytest.raises(TrainingStopped, match=r"in epoch 2 of 3; the best weights so far .*resume_from=") as caught:
        train(parameters, three_digits, Progress(stop.is_reached, stop.count_epoch))
    assert caught.value.checkpoint.is_file()


def test_a_stop_after_the_last_epoch_says_so_and_goes_on_to_the_report(three_digits, make_parameters, tmp_path):
    parameters = make_parameters(epochs=1, export_pth=True)
    has_answers = lambda: bool(list((tmp_path / "runs").glob("*/predictions.npz")))  # noqa: E731
    expected = r"after training, before its report; the best weights \(epoch 1, .*\) are kept; .* goes on to the report"
    with pytest.raises(TrainingStopped, match=expected) as caught:
        train(parameters, three_digits, Progress(has_answers))
    assert not (caught.value.run_folder / "metrics.json").exists()
    resumed = train(TrainParameters().updated({"resume_from": str(caught.value.run_folder)}), None)
    assert (resumed.folder / "metrics.json").is_file()
    assert (resumed.folder / "resnet18.pth").is_file()
