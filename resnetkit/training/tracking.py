"""Where a training's figures go besides its run folder: mlflow's file store, an mlflow server, or TensorBoard files.

Nothing is started and no port is opened. Tracking that fails costs a warning, never the training.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from resnetkit.machine.files import get_ikomia_root
from resnetkit.machine.progress import TrainingStopped
from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import hide_password
from resnetkit.parameters.training import TrainParameters
from resnetkit.results.report import CONFUSION_NAME, CURVES_NAME, MISTAKES_NAME, REPORT_NAME

if TYPE_CHECKING:
    from resnetkit.training.outcome import TrainingResult

logger = get_logger()

Result = TypeVar("Result")

EXPERIMENT = "train_resnet"
_THREAD_NAME = "tracking"

#: Seconds that a server has for an answer; mlflow's own patience adds up to minutes.
_TIMEOUT_S = 5
#: Seconds that a call has for a whole answer, however it trickles in, and bytes that an answer may have.
_DEADLINE_S = 30.0
_MAX_ANSWER_BYTES = 16 << 20
_SERVER_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(_TIMEOUT_S), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class _Backend(Protocol):
    """One kind of tracking."""

    def log_parameters(self, parameters: Mapping[str, str]) -> None: ...
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...
    def log_file(self, path: Path) -> None: ...
    def log_places(self, places: Mapping[str, str]) -> None: ...
    def close(self, status: str) -> None: ...


class Tracker:
    """Hands figures to a backend until the first failure; that one is a warning."""

    def __init__(self, address: str, open_backend: Callable[[], _Backend] | None) -> None:
        self._address = address
        self._num_rows = 0
        self._backend: _Backend | None = None
        if open_backend is not None:
            with self._guard():
                self._backend = open_backend()

    def log_parameters(self, parameters: Mapping[str, str]) -> None:
        """Hand over the parameters of the run."""
        with self._guard() as backend:
            if backend is not None:
                backend.log_parameters(parameters)

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Hand over the figures of an epoch."""
        metrics = {name: float(value) for name, value in row.items() if isinstance(value, (int, float))}
        step = int(metrics.pop("epoch", self._num_rows + 1))
        self._num_rows += 1
        with self._guard() as backend:
            if backend is not None:
                backend.log_metrics(metrics, step)

    def log_result(self, result: TrainingResult) -> None:
        """Hand over the final figures, the report, and where the weights are: no store grows by 45 to 240 MB a run."""
        figures = {"best_val_accuracy": result.best["val_accuracy"]}
        if result.test_metrics is not None:
            figures["test_accuracy"] = result.test_metrics["accuracy"]
        names = (REPORT_NAME, CURVES_NAME, CONFUSION_NAME, MISTAKES_NAME, "metrics.json")
        with self._guard() as backend:
            if backend is not None:
                backend.log_metrics(figures, int(result.best.get("epoch", self._num_rows)))
                for name in names:
                    if (result.folder / name).is_file():
                        backend.log_file(result.folder / name)
                backend.log_places({"run_folder": str(result.folder), "checkpoint": str(result.checkpoint)})

    def close(self, status: str) -> None:
        """End the run with one of mlflow's words: FINISHED, FAILED or KILLED."""
        with self._guard() as backend:
            if backend is not None:
                backend.close(status)

    @contextmanager
    def _guard(self) -> Iterator[_Backend | None]:
        try:
            yield self._backend
        except Exception as error:  # whatever a server or a library may come up with
            self._backend = None
            logger.warning(
                "tracking=%s failed, training goes on without it (%s: %s)",
                hide_password(self._address),
                type(error).__name__,
                " ".join(hide_password(str(error)).split())[:300],
            )


@contextmanager
def start_tracking(parameters: TrainParameters, address: str, run_folder: Path) -> Iterator[Tracker]:
    """Open a tracking; its run is ended whatever happens.

    Args:
        parameters: Those of the run, which are tracked.
        address: The parameter `tracking` as the user gave it, with a password perhaps.
        run_folder: Names the run.
    """
    openers: dict[str, Callable[[], _Backend] | None] = {
        "off": None,
        "tensorboard": lambda: _TensorBoardFiles(run_folder),
        "local": lambda: _MlflowRun(get_local_store().as_uri(), run_folder.name),
    }
    open_backend = openers.get(address, lambda: _open_server(address, run_folder.name))
    tracker = Tracker(address, open_backend)
    status = "FAILED"
    try:
        tracker.log_parameters(parameters.to_strings())
        yield tracker
        status = "FINISHED"
    except TrainingStopped:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def get_local_store() -> Path:
    """Return the folder of mlflow's file store: the one that Ikomia's own dashboard reads."""
    return get_ikomia_root() / "MLflow"


class _MlflowRun:
    """One run in the experiment `train_resnet`, through a client of its own: mlflow's global state stays as it is."""

    def __init__(self, address: str, run_name: str) -> None:
        from mlflow.tracking import MlflowClient

        self._is_remote = not address.startswith("file:")
        if self._is_remote:
            _bound_answers()
        self._client = MlflowClient(tracking_uri=address)
        self._run_id = self._call(
            lambda: self._client.create_run(self._find_experiment(), run_name=run_name)
        ).info.run_id

    def log_parameters(self, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(name, text) for name, text in parameters.items()]
        self._call(lambda: self._client.log_batch(self._run_id, params=entries))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._call(lambda: self._client.log_batch(self._run_id, entries))

    def log_file(self, path: Path) -> None:
        self._call(lambda: self._client.log_artifact(self._run_id, str(path)))

    def log_places(self, places: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entries = [RunTag(name, text) for name, text in places.items()]
        self._call(lambda: self._client.log_batch(self._run_id, tags=entries))

    def close(self, status: str) -> None:
        self._call(lambda: self._client.set_terminated(self._run_id, status))

    def _find_experiment(self) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                return str(self._client.create_experiment(EXPERIMENT))
            except Exception:  # another process was faster
                experiment = self._client.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _call(self, call: Callable[[], Result]) -> Result:
        """Call a server in a thread that is left alone when its time is up: a limit on each read would not end it.

        Raises:
            TimeoutError: It is.
        """
        if not self._is_remote:
            return call()
        results: list[Result] = []
        errors: list[Exception] = []

        def work() -> None:
            try:
                results.append(call())
            except Exception as error:
                errors.append(error)

        with self._patience():
            thread = threading.Thread(target=work, name=_THREAD_NAME, daemon=True)
            thread.start()
            thread.join(_DEADLINE_S)
        if errors:
            raise errors[0]
        if not results:
            raise TimeoutError(f"no whole answer within {_DEADLINE_S:g} s")
        return results[0]

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Set mlflow's limits for one call; it reads them from the environment only."""
        before = {name: os.environ.get(name) for name in _SERVER_PATIENCE}
        if self._is_remote:
            os.environ.update(_SERVER_PATIENCE)
        try:
            yield
        finally:
            for name, value in before.items() if self._is_remote else ():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _bound_answers() -> None:
    """Let no answer to our own calls fill the memory; mlflow offers no limit, and reads through requests."""
    from requests import Response

    if hasattr(Response.iter_content, "is_bounded"):
        return
    read = Response.iter_content

    def iter_content(self: Response, *arguments: Any, **named: Any) -> Iterator[bytes]:
        size = 0
        for chunk in read(self, *arguments, **named):
            size += len(chunk)
            if size > _MAX_ANSWER_BYTES and threading.current_thread().name == _THREAD_NAME:
                self.close()
                raise OSError(errno.EFBIG, f"its answer has more than {_MAX_ANSWER_BYTES} bytes")
            yield chunk

    iter_content.is_bounded = True  # type: ignore[attr-defined]
    Response.iter_content = iter_content  # type: ignore[method-assign]


class _TensorBoardFiles:
    """Event files in the run folder."""

    def __init__(self, run_folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_folder / "tensorboard"))

    def log_parameters(self, parameters: Mapping[str, str]) -> None:
        rows = ["| parameter | value |", "|---|---|", *(f"| {name} | {text} |" for name, text in parameters.items())]
        self._writer.add_text("parameters", "\n".join(rows))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_file(self, path: Path) -> None:
        """Do nothing: the file is in the run folder already."""

    def log_places(self, places: Mapping[str, str]) -> None:
        """Do nothing: so are the weights."""

    def close(self, status: str) -> None:  # noqa: ARG002 - TensorBoard knows none
        self._writer.close()


def _open_server(address: str, run_name: str) -> _MlflowRun:
    """Connect to an mlflow server, if there is anything at its address."""
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # whose text has a piece of a password
        raise ValueError("its port is no number; in a password, write %2F for /, %3F for ? and %23 for #") from None
    socket.create_connection((parts.hostname or "", port), timeout=_TIMEOUT_S).close()
    return _MlflowRun(address, run_name)
