"""Tracking: what reaches mlflow and TensorBoard, and what a server costs that is not there."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import suppress

import mlflow
import pytest

from resnetkit.training import tracking
from resnetkit.training.loop import train
from resnetkit.training.tracking import get_local_store


@pytest.fixture
def silent_server():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []
        thread = threading.Thread(target=lambda: accept_all(server, connections), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()
        thread.join(5)


def accept_all(server, connections):
    while True:
        try:
            connections.append(server.accept()[0])
        except OSError:
            return


def test_mlflows_file_store_gets_everything(three_digits, make_parameters, ikomia_root):
    address = mlflow.get_tracking_uri()
    result = train(make_parameters(tracking="local", epochs=2), three_digits)
    assert get_local_store() == ikomia_root / "MLflow"
    client = mlflow.MlflowClient(tracking_uri=get_local_store().as_uri())
    experiment = client.get_experiment_by_name("train_resnet")
    runs = client.search_runs([experiment.experiment_id], f"run_name = '{result.folder.name}'")
    (run,) = runs
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.02"
    assert run.data.metrics["test_accuracy"] == pytest.approx(result.test_metrics["accuracy"])
    history = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert [metric.value for metric in history] == [row["val_accuracy"] for row in result.history]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "metrics.json", "training_curves.png"} <= files
    assert "best.safetensors" not in files  # it stays where it is
    assert run.data.tags["checkpoint"] == str(result.checkpoint)
    assert run.data.tags["run_folder"] == str(result.folder)
    assert mlflow.get_tracking_uri() == address
    assert mlflow.active_run() is None


def test_a_failed_training_ends_its_run(three_digits, make_parameters, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("on purpose")

    monkeypatch.setattr("resnetkit.training.loop.conclude", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        train(make_parameters(tracking="local", epochs=1), three_digits)
    client = mlflow.MlflowClient(tracking_uri=get_local_store().as_uri())
    experiment = client.get_experiment_by_name("train_resnet")
    assert client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])[0].info.status == "FAILED"


def test_tensorboard_files_are_in_the_run_folder(three_digits, make_parameters):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(make_parameters(tracking="tensorboard", epochs=2), three_digits)
    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    values = [event.value for event in events.Scalars("val_accuracy")]
    assert values == pytest.approx([row["val_accuracy"] for row in result.history])


def test_off_writes_nothing(three_digits, make_parameters):
    result = train(make_parameters(tracking="off", epochs=1), three_digits)
    assert not (result.folder / "tensorboard").exists()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_an_unreachable_server_costs_a_warning(three_digits, make_parameters, caplog):
    result = train(make_parameters(tracking=f"http://127.0.0.1:{free_port()}", epochs=1), three_digits)
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "training goes on without it" in warning.getMessage()
    assert result.checkpoint.is_file()


def test_a_server_that_never_answers_costs_seconds(three_digits, make_parameters, caplog, silent_server, monkeypatch):
    monkeypatch.setattr("resnetkit.training.tracking._SERVER_PATIENCE", {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    })  # fmt: skip
    began = time.monotonic()
    train(make_parameters(tracking=silent_server, epochs=1), three_digits)
    assert time.monotonic() - began < 60  # mlflow's own patience is 247 s
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert not any(name.startswith("MLFLOW_HTTP") for name in os.environ)


@pytest.fixture
def answering_server():
    """`start(send)`: the address of a server that answers every request by `send(connection)`, which may never end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threads = []

        def start(send):
            def serve():
                with suppress(OSError):
                    while True:
                        connection = server.accept()[0]
                        threads.append(threading.Thread(target=answer, args=(connection, send), daemon=True))
                        threads[-1].start()

            threads.append(threading.Thread(target=serve, daemon=True))
            threads[-1].start()
            return f"http://127.0.0.1:{server.getsockname()[1]}"

        yield start
        server.shutdown(socket.SHUT_RDWR)


def answer(connection, send):
    with suppress(OSError), connection:
        if connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n\r\n")
            send(connection)


def drip(connection):
    while True:
        connection.sendall(b" ")
        time.sleep(0.05)


def flood(connection):
    while True:
        connection.sendall(bytes(1 << 20))


@pytest.mark.parametrize(
    ("send", "reason"), [(drip, "no whole answer within 1 s"), (flood, "its answer has more than 16777216 bytes")]
)
def test_a_server_that_answers_without_end_costs_a_warning(answering_server, send, reason, caplog, monkeypatch):
    if send is drip:
        monkeypatch.setattr(tracking, "_DEADLINE_S", 1.0)
    address = answering_server(send)
    began = time.monotonic()
    tracker = tracking.Tracker(address, lambda: tracking._open_server(address, "run"))
    tracker.log_epoch({"epoch": 1, "val_loss": 1.0})
    tracker.close("FINISHED")
    assert time.monotonic() - began < 25
    (warning,) = caplog.records
    assert reason in warning.getMessage()


def test_a_password_is_for_the_connection_alone(three_digits, make_parameters, capfd, caplog):
    address = f"http://ada:s3cr3t@127.0.0.1:{free_port()}"
    caplog.set_level(logging.DEBUG, "resnetkit")
    result = train(make_parameters(tracking=address, epochs=1), three_digits)
    written = b"".join(path.read_bytes() for path in result.folder.rglob("*") if path.is_file())
    assert b"s3cr3t" not in written
    assert b"http://ada:***@127.0.0.1" in written
    assert "tracking=http://ada:***@127.0.0.1" in caplog.text
    assert "s3cr3t" not in caplog.text + "".join(capfd.readouterr())


def test_a_password_with_a_slash_is_not_shown_as_a_port(caplog):
    tracking.Tracker("http://ada:s3/cr3t@host", lambda: tracking._open_server("http://ada:s3/cr3t@host", "run"))
    (warning,) = caplog.records
    assert "tracking=http://ada:***@host failed" in warning.getMessage()
    assert "its port is no number" in warning.getMessage()
    assert "s3" not in warning.getMessage()
