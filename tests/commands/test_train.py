"""`resnetkit train` in processes of its own: what it prints where, how it is stopped, how it goes on."""

from __future__ import annotations

import errno
import functools
import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from resnetkit.__main__ import main
from resnetkit.training import loop

COMMAND = [sys.executable, "-m", "resnetkit", "train"]
OPTIONS = (
    "--no-use-pretrained", "--feature_extract", "false", "--input-size=32", "--batch-size", "40", "--learning_rate",
    "0.02", "--tracking", "off", "--no-export-pth", "--augmentation", "none",
)  # fmt: skip
TIMEOUT_S = 150


@dataclass(frozen=True)
class Ended:
    """What a process that has ended leaves."""

    status: int
    stdout: str
    stderr: str


class Process:
    """A process whose standard error is read as it comes."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            # Whatever started the tests may ignore Ctrl-C, and ignoring is inherited.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        self._timer = threading.Timer(TIMEOUT_S, self._process.kill)
        self._timer.start()
        self._lines: list[str] = []

    def wait_for(self, text: str) -> None:
        for line in self._process.stderr:
            self._lines.append(line)
            if text in line:
                return
        pytest.fail(f"ended before it said {text!r}:\n{''.join(self._lines)}")

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> Ended:
        try:
            stdout, stderr = self._process.communicate()
        finally:
            self._timer.cancel()
        return Ended(self._process.returncode, stdout, "".join(self._lines) + stderr)


def run(words: Sequence[str], folder: Path) -> Ended:
    return Process(words, folder).end()


@pytest.fixture(scope="module")
def finished(three_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """A training of two epochs with `--json`, from another folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return run([*COMMAND, str(three_digits), *OPTIONS, "--epochs=2", "--output-folder", "runs", "--json"], folder)


def test_the_answer_is_one_json_object_on_standard_output(finished, three_digits):
    assert finished.status == 0, finished.stderr
    answer = json.loads(finished.stdout)
    folder = Path(answer["run_folder"])
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert Path(answer["checkpoint"]) == folder / "best.safetensors"
    assert Path(answer["report"]).is_file()
    assert (answer["best"], answer["ended"], answer["classes"]) == (
        metrics["best"],
        metrics["ended"],
        metrics["classes"],
    )
    assert answer["test_accuracy"] == metrics["test"]["accuracy"]
    given = {"epochs": 2, "feature_extract": False, "learning_rate": 0.02, "dataset_folder": str(three_digits)}
    assert given.items() <= metrics["parameters"].items()


def test_progress_is_a_line_per_epoch_on_standard_error(finished):
    folder = json.loads(finished.stdout)["run_folder"]
    lines = finished.stderr.splitlines()
    assert lines[0] == f"resnetkit train: run folder {folder}"
    epochs = [line for line in lines if line.startswith("resnetkit train: epoch ")]
    assert [line.split(",")[0] for line in epochs] == ["resnetkit train: epoch 1", "resnetkit train: epoch 2"]
    for word in ("train_loss", "val_accuracy", "seconds"):
        assert all(word in line for line in epochs)
    assert "\r" not in finished.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_stops_after_saving_and_the_command_that_is_shown_goes_on(three_digits, tmp_path, number, status):
    words = [str(three_digits), *OPTIONS, "--epochs", "5000", "--output_folder", str(tmp_path / "my runs")]
    if number == signal.SIGTERM:
        words += ["--tracking", "http://ada:s3cr3t@127.0.0.1:9"]
    process = Process([*COMMAND, *words], tmp_path)
    process.wait_for("epoch 1,")
    process.send(number)
    stopped = process.end()
    assert stopped.status == status, stopped.stderr
    assert stopped.stdout == ""
    assert "a second Ctrl-C or SIGTERM ends at once" in stopped.stderr
    assert "resnetkit train: stopped on request in epoch" in stopped.stderr
    assert "the best weights so far (epoch" in stopped.stderr
    command = stopped.stderr.splitlines()[-1]
    assert "s3cr3t" not in stopped.stderr
    if number == signal.SIGINT:  # once is enough
        resumed = run([*shlex.split(command), "--time-limit-minutes", "0.0001", "--quiet"], tmp_path)
        assert (resumed.status, resumed.stderr) == (0, "")
        folder = next((tmp_path / "my runs").glob("*/state.pt")).parent.resolve()
        assert resumed.stdout.splitlines() == [
            f"run_folder: {folder}",
            f"checkpoint: {folder / 'best.safetensors'}",
            f"report: {folder / 'report.html'}",
        ]


WAITING = """
import time
from resnetkit.commands.interruption import Interruption
with Interruption() as interruption:
    print("ready", file=__import__("sys").stderr, flush=True)
    while not interruption.is_requested():
        time.sleep(0.01)
    print("stopping", file=__import__("sys").stderr, flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_second_signal_ends_at_once(tmp_path, number):
    process = Process([sys.executable, "-c", WAITING], tmp_path)
    process.wait_for("ready")
    process.send(number)
    process.wait_for("stopping")
    process.send(number)
    assert process.end().status == -number


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch):
    from resnetkit.commands.interruption import Interruption

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
        assert not interruption.is_requested()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


STOPPED_AT_ONCE = """
import signal
import sys
from resnetkit.__main__ import main
from resnetkit.training import loop
from resnetkit.training import loop
def train(*arguments, real=loop.train):
    signal.raise_signal(signal.SIGTERM)
    return real(*arguments)
loop.train = train
sys.exit(main(sys.argv[1:]))
"""


def test_a_stop_before_training_begins_has_nothing_to_go_on_with(three_digits, tmp_path):
    words = ["train", str(three_digits), *OPTIONS, "--output-folder", str(tmp_path / "runs")]
    ended = run([sys.executable, "-c", STOPPED_AT_ONCE, *words], tmp_path)
    assert ended.status == 143
    assert ended.stderr.endswith("resnetkit train: stopped on request before training began; nothing was written\n")
    assert not list(tmp_path.glob("runs/*_resnet18"))


def test_a_data_set_or_weights_file_that_cannot_be_used_is_wrong_use(three_digits, tmp_path, capsys):
    assert main(["train", str(tmp_path / "nowhere"), *OPTIONS, "--output-folder", str(tmp_path / "runs")]) == 2
    assert main(["train", str(three_digits), "--model-weight-file", str(tmp_path / "no.pth"), *OPTIONS]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.startswith("resnetkit train: ") for line in err.splitlines()] == [True, True], err
    assert "nowhere" in err
    assert "no.pth" in err


def test_a_folder_that_cannot_be_written_to_is_failure(three_digits, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    assert main(["train", str(three_digits), *OPTIONS, "--output-folder", str(tmp_path / "file" / "runs")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"resnetkit train: output folder '{tmp_path / 'file' / 'runs'}' cannot be written to")
    assert err.count("\n") == 1


def test_a_loss_that_is_no_number_is_failure_and_says_what_was_kept(three_digits, tmp_path, capsys):
    words = [
        "--optimizer",
        "sgd",
        "--learning-rate",
        "10",
        "--momentum",
        "0.99",
        "--weight-decay",
        "1",
        "--epochs",
        "50",
    ]
    assert main(["train", str(three_digits), *OPTIONS, *words, "--output-folder", str(tmp_path), "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("resnetkit train: the loss became ")
    assert "resume_from=" in err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "No space left on device: '/a/b'"),
        (MemoryError("not enough memory; try batch_size=4"), "not enough memory; try batch_size=4"),
        (ModuleNotFoundError("No module named 'jinja2'"), "No module named 'jinja2'; install what this command needs"),
        (ZeroDivisionError("division by zero"), "unexpected ZeroDivisionError: division by zero\nTraceback "),
    ],
    ids=["system", "memory", "missing package", "a bug"],
)
def test_failures_have_status_1_and_only_bugs_have_a_traceback(three_digits, capsys, monkeypatch, error, line):
    def fail(*_):
        print("a library speaks")
        raise error

    monkeypatch.setattr(loop, "train", fail)
    assert main(["train", str(three_digits), "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"a library speaks\nresnetkit train: {line}")
    assert ("Traceback" in err) == isinstance(error, ZeroDivisionError)


ANSWERING = """
import sys
from resnetkit.commands import program, train
train.run = lambda *_: program.Answer(["the answer"], {})
sys.exit(program.run_command("train", ["digits"]))
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_an_answer_that_cannot_be_written_is_failure():
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-c", ANSWERING], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert result.returncode == 1
    assert result.stderr == (
        "resnetkit train: standard output cannot be written to (No space left on device); it should get: the answer\n"
    )
