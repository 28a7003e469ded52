"""Training in two processes, as torchrun starts them: the same steps, the same files, and one end for all."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from resnetkit.data.dataset import read_dataset
from resnetkit.learners import finetuning, sharing
from resnetkit.learners.initialization import initialize
from resnetkit.learners.recipe import choose_recipe
from resnetkit.machine import ranks
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters
from resnetkit.probing.feature_parts import FeatureParts
from resnetkit.training.state import read_state

TRAIN = ("-m", "resnetkit", "train")
OPTIONS = (
    "--no-use-pretrained", "--no-feature-extract", "--input-size=32", "--batch-size=8", "--optimizer=sgd",
    "--learning-rate=0.02", "--augmentation=basic", "--tracking=off", "--no-export-pth", "--epochs=3",
)  # fmt: skip
#: `resnetkit`, but a process that hangs is noticed after 8 seconds instead of 30.
IMPATIENT = """
import sys
from resnetkit.machine import ranks
from resnetkit.__main__ import main
ranks.STEP_TIMEOUT_S = 8
sys.exit(main())
"""
#: Longest time from the end of one process to that of the other.
END_S = 40


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Two:
    """Two processes of a training, with the variables that torchrun sets, and what they say in files."""

    processes: list[subprocess.Popen[bytes]]
    folder: Path

    @classmethod
    def start(cls, folder: Path, *words: Sequence[str], homes: Sequence[Path] = ()) -> Two:
        """Start one process for each list of words, or both with the same one; `homes` are their home folders."""
        folder.mkdir(exist_ok=True, parents=True)
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        common["MASTER_PORT"] = str(find_port())
        two = cls([], folder)
        for rank in range(2):
            with (folder / f"{rank}.txt").open("wb") as output:
                command = [sys.executable, *words[rank % len(words)]]
                variables = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                if homes:
                    variables["HOME"] = str(homes[rank])
                two.processes.append(
                    subprocess.Popen(
                        command, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
                    )
                )
        return two

    def __enter__(self) -> Two:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def read(self, rank: int) -> str:
        return (self.folder / f"{rank}.txt").read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        while text not in self.read(0):
            assert self.processes[0].poll() is None, self.read(0) + self.read(1)
            time.sleep(0.02)

    def end(self, timeout_s: float = 120) -> list[int]:
        """Return both exit statuses."""
        return [process.wait(timeout_s) for process in self.processes]


def train(folder: Path, *words: Sequence[str], homes: Sequence[Path] = ()) -> Two:
    """Train in two processes to the end."""
    with Two.start(folder, *words, homes=homes) as two:
        assert two.end() == [0, 0], two.read(0) + two.read(1)
    return two


@pytest.fixture(scope="module")
def whole(three_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Two:
    """An uninterrupted training; its run folder is `run`."""
    folder = tmp_path_factory.mktemp("two")
    return train(folder, [*TRAIN, str(three_digits), *OPTIONS, "--run-folder", str(folder / "run")])


def test_the_first_process_speaks_and_writes_for_both(whole):
    assert whole.read(1) == ""
    lines = whole.read(0).splitlines()
    assert sum("epoch " in line and "train_loss" in line for line in lines) == 3
    assert f"checkpoint: {whole.folder / 'run' / 'best.safetensors'}" in lines
    assert sorted(path.name for path in whole.folder.iterdir()) == ["0.txt", "1.txt", "run"]
    state = read_state(whole.folder / "run")
    assert (state.epoch, state.circumstances.processes) == (3, 2)
    assert not list((whole.folder / "run").glob(".*"))


@pytest.mark.slow
@pytest.mark.timeout(600)  # four trainings of two processes, one after the other
def test_a_hung_a_killed_and_a_stopped_training_end_as_the_uninterrupted_one(whole, three_digits, tmp_path):
    words = ["train", str(three_digits), *OPTIONS, "--run-folder", str(tmp_path / "run")]
    command = ["-m", "resnetkit", *words]
    with Two.start(tmp_path / "hung", ["-c", IMPATIENT, *words]) as two:
        two.wait_for("epoch 1, train_loss")
        two.processes[1].send_signal(signal.SIGSTOP)
        assert two.processes[0].wait(END_S) == 1, two.read(0)
        assert "another process of this training has ended or no longer answers" in two.read(0)
        two.processes[1].send_signal(signal.SIGCONT)
        assert two.processes[1].wait(END_S) == 1, two.read(1)
    with Two.start(tmp_path / "killed", command) as two:
        two.wait_for("epoch 2, train_loss")
        two.processes[1].kill()
        assert two.end(END_S) == [1, -signal.SIGKILL], two.read(0)
        assert "another process of this training has ended" in two.read(0)
        assert "resume_from=" in two.read(0)
    with Two.start(tmp_path / "stopped", command) as two:
        two.wait_for("run folder")
        two.processes[1].send_signal(signal.SIGTERM)
        assert two.end(END_S) == [143, 143], two.read(0)
        assert "or start the same command again" in two.read(0)
    train(tmp_path / "resumed", command)
    expected = whole.folder / "run" / "best.safetensors"
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == expected.read_bytes()


def test_a_step_has_the_gradients_of_all_its_images(three_digits, tmp_path):
    two = train(
        tmp_path / "steps", [str(Path(__file__).with_name("two_steps.py")), str(three_digits), str(tmp_path / "run")]
    )
    # 33 images in batches of 20: the last one is uneven.
    assert "none [[10, 10], [7, 6]]" in two.read(0)
    assert "balanced [[10, 10], [7, 6]]" in two.read(0)


def test_the_head_of_two_is_that_of_one(three_digits, backbone, tmp_path):
    options = ["--feature-extract", "--model-weight-file", str(backbone), "--input-size=32", "--cached-views=1"]
    command = [*TRAIN, str(three_digits), *options, "--no-export-pth", "--run-folder"]
    train(tmp_path / "two", [*command, str(tmp_path / "two" / "run")], homes=[tmp_path / "home"] * 2)
    command = [*command, str(tmp_path / "one"), "--tracking=off"]
    as_many_threads = {**os.environ, "OMP_NUM_THREADS": "1"}  # with others, the last bits of features are others
    subprocess.run([sys.executable, *command], check=True, timeout=100, capture_output=True, env=as_many_threads)
    one, two = (tmp_path / name / "best.safetensors" for name in ("one", "two/run"))
    assert one.read_bytes() == two.read_bytes()
    assert not (tmp_path / "two" / "run" / "features").exists()
    assert len(list((tmp_path / "home" / "Ikomia" / "MLflow").glob("*/*/metrics"))) == 1  # both are told to track


@pytest.mark.parametrize(
    ("other_data", "other_options", "sentence"),
    [
        pytest.param(
            False, ["--learning-rate=0.5"],
            "must have the same parameter 'learning_rate'; process 0 has 0.02 and process 1 on", id="parameters",
        ),
        pytest.param(True, [], "must have the same data set; process 0 has", id="data"),
    ],
)  # fmt: skip
def test_what_differs_between_the_processes_is_one_sentence(
    three_digits, tmp_path, other_data, other_options, sentence
):
    sources = [three_digits, three_digits]
    if other_data:
        sources[1] = Path(shutil.copytree(three_digits, tmp_path / "copy"))
        next((sources[1] / "train" / "0").iterdir()).unlink()
    commands = [
        [*TRAIN, str(source), *OPTIONS, *options, "--run-folder", str(tmp_path / "run")]
        for source, options in zip(sources, ([], other_options), strict=True)
    ]
    with Two.start(tmp_path / "said", *commands) as two:
        assert two.end() == [2, 2]
        (line,) = two.read(0).splitlines()
        assert sentence in line
        assert two.read(1) == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("num_images", "batch_size", "sentence"),
    [
        (33, 9, "must be a multiple of the 2 processes"),
        (3, 8, "2 processes need at least 4 training images, got 3; start fewer"),
    ],
)
def test_what_two_processes_cannot_share_is_one_sentence(
    three_digits, make_parameters, monkeypatch, num_images, batch_size, sentence
):
    monkeypatch.setattr(ranks, "get_size", lambda: 2)
    monkeypatch.setattr(sharing, "check_agreement", lambda **_: None)
    dataset = read_dataset(three_digits, val_split=0.2, seed=0)
    dataset = replace(dataset, train=dataset.train[:num_images])
    parameters = make_parameters(batch_size=batch_size)
    start = initialize(parameters, dataset.classes)
    recipe = choose_recipe(parameters, len(dataset.train))
    with pytest.raises(sharing.JointError, match=sentence):
        sharing.check_processes(parameters, dataset, start, recipe)


def test_each_process_needs_two_small_images(make_parameters, monkeypatch):
    monkeypatch.setattr(ranks, "get_size", lambda: 4)
    parameters = make_parameters(input_size=32, batch_size=4)
    with pytest.raises(ParameterError, match="must be at least 8 where 'input_size' is 32"):
        finetuning._check_batch_norm(parameters, choose_recipe(parameters, 33))


def test_a_run_folder_that_the_other_machine_does_not_see_is_one_sentence(whole, three_digits, tmp_path):
    """Each process has a home folder of its own, as two machines have."""
    homes = [tmp_path / "home-0", tmp_path / "home-1"]
    homes[1].mkdir()
    shutil.copytree(whole.folder / "run", homes[0] / "run")
    command = [*TRAIN, str(three_digits), *OPTIONS, "--run-folder", "~/run"]
    with Two.start(tmp_path / "said", command, homes=homes) as two:
        assert two.end() == [2, 2], two.read(0)
        assert f"the run folder '{homes[0] / 'run'}' is not seen by process 1; give a 'run_folder' or" in two.read(0)
        assert two.read(1) == ""


def test_a_port_that_is_taken_is_named(three_digits, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        variables = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, *TRAIN, str(three_digits), *OPTIONS, "--run-folder", str(tmp_path / "run")]
        ended = subprocess.run(
            command, env={**os.environ, **variables}, timeout=100, capture_output=True, encoding="utf-8", check=False
        )
    assert ended.returncode == 1
    assert f"port {port} of 127.0.0.1 cannot be opened" in ended.stderr


@pytest.mark.parametrize(("count", "batch_size"), [(33, 8), (35, 8), (64, 16), (5, 4)])
def test_each_batch_is_dealt_out(monkeypatch: pytest.MonkeyPatch, count: int, batch_size: int) -> None:
    order = np.random.default_rng(0).permutation(count)
    monkeypatch.setattr(ranks, "get_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(ranks, "get_rank", lambda rank=rank: rank)
        own, size = sharing.share_out(order, batch_size)
        assert size == batch_size // 2
        shares.append([own[start : start + size] for start in range(0, len(own), size)])
    rest = count % batch_size
    kept = count - rest if rest < 4 else count
    batches = [np.sort(np.concatenate(parts)) for parts in zip(*shares, strict=True)]
    expected = [np.sort(order[start : min(kept, start + batch_size)]) for start in range(0, kept, batch_size)]
    assert [each.tolist() for each in batches] == [each.tolist() for each in expected]
    assert min(len(part) for share in shares for part in share) >= 2


def test_features_that_are_there_are_not_computed_again(tmp_path: Path) -> None:
    parts = FeatureParts(tmp_path, "train", 1000, batch_size=4, num_views=2)
    missing = list(parts.list_missing())
    assert [len(part) for part in missing] == [256, 256, 256, 232]
    for name in ("train-00000000-00000255.npz", "train-00000512-00000767.npz"):
        (tmp_path / "features" / name).touch()
    assert [part[0] for part in parts.list_missing()] == [256, 768]
    # With more cores, or in fewer processes, the backbone sees more images at a time.
    others = FeatureParts(tmp_path, "train", 1000, batch_size=8, num_views=2)
    assert [len(part) for part in others.list_missing()] == [512, 488]


def test_a_run_folder_of_something_else_is_refused(three_digits, make_parameters, tmp_path):
    from resnetkit.training.loop import train as train_alone

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("dear")
    parameters = make_parameters(run_folder=str(tmp_path / "run"), output_folder="")
    with pytest.raises(OSError, match="it holds no run, but something else"):
        train_alone(parameters, three_digits)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("other", ["output_folder", "resume_from"])
def test_a_run_folder_has_no_other_folder_beside_it(other: str) -> None:
    with pytest.raises(ParameterError, match="'run_folder'"):
        TrainParameters().updated({"run_folder": "here", other: "there"}).check_consistency()


@pytest.mark.parametrize("devices", ["cuda:0,cuda:1", "0,1", "[0, 1]", [0, 1]], ids=str)
def test_a_list_of_devices_is_answered_with_the_command(devices: object) -> None:
    with pytest.raises(ParameterError, match=r"torchrun --nproc-per-node=2 -m resnetkit train DATASET --run-folder"):
        TrainParameters().updated({"device": devices})


def test_other_wrong_devices_are_not() -> None:
    with pytest.raises(ParameterError) as caught:
        TrainParameters().updated({"device": "gpu"})
    assert "torchrun" not in str(caught.value)


def test_neighbours_are_those_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    variables: Mapping[str, str] = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
    assert ranks.count_neighbours() == 1
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks.count_neighbours() == 4
