"""What classifies the parts of a job: this process, or the actors of Ray Data, on this machine or a cluster."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnetkit.folders.classifier import Classifier
from resnetkit.jobs.parts import Part, classify_parts
from resnetkit.jobs.plan import JobError
from resnetkit.machine.progress import Progress, ProgressBar, Stopped
from resnetkit.machine.speaking import get_logger
from resnetkit.machine.threads import count_cores
from resnetkit.parameters.inference import InferParameters

logger = get_logger()

#: Where the library lies: workers have to find it, too.
_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
#: How often a part is begun again after its worker died, before it is given up: an image may kill every one.
_RETRIES = 1
#: Seconds that a cluster has to answer; Ray itself would try for minutes.
_ANSWER_S = 10


class EngineError(RuntimeError):
    """An engine cannot be started."""


class LocalEngine:
    """This process: batches, and threads that decode.

    Args:
        classifier: The model.
        has_probabilities: Whether there is a column a class.
    """

    def __init__(self, classifier: Classifier, has_probabilities: bool) -> None:
        self._classifier = classifier
        self._columns = classifier.make_columns(has_probabilities)

    def run(self, parts: Iterable[Part], folder: Path, progress: Progress, bar: ProgressBar) -> None:
        """Classify parts.

        Raises:
            Stopped: The user asked for it; the parts so far are there.
        """
        for answers in classify_parts(self._classifier, self._columns, parts, folder):
            bar.update(len(answers))
            if progress.is_stop_requested():
                raise Stopped(f"stopped on request; the parts so far are in '{folder}', and the same command goes on")


class RayEngine:
    """Actors of Ray Data, each with a model of its own; a part whose actor dies is begun again by another.

    On one machine it is no faster than `LocalEngine`; it is for several, and for images that may kill a process. A
    cluster is used if `RAY_ADDRESS` names one, else everything is started here, on 127.0.0.1, and ended again.

    Args:
        values: The parameters of infer_resnet.
        has_probabilities: Whether there is a column a class.
        workers: Number of actors; 0 is one a GPU or, without any, one a CPU core.

    Raises:
        JobError: Ray is not installed, or there is no cluster at the given address.
    """

    def __init__(self, values: InferParameters, has_probabilities: bool, workers: int) -> None:
        # Read when ray is imported: without it, its servers listen on every interface.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            logging.getLogger("ray").setLevel(logging.ERROR)
            import ray.data  # noqa: F401
        except ImportError as error:
            raise JobError(
                f"the engine ray needs Ray, which cannot be imported ({error}); "
                "pip install 'resnet-for-ikomia[scale]', or take the engine local"
            ) from error
        self._settings = (values, has_probabilities)
        self._workers = workers
        self._address = os.environ.get("RAY_ADDRESS") or "local"
        _check_cluster(self._address)

    def run(self, parts: Iterable[Part], folder: Path, progress: Progress, bar: ProgressBar) -> None:
        """Classify parts; which of them are lost is for the caller to find.

        Raises:
            EngineError: Ray cannot be started.
            Stopped: The user asked for it; the parts so far are there.
        """
        import pyarrow
        import ray

        path = os.pathsep.join(filter(None, [str(_PACKAGE_FOLDER), os.environ.get("PYTHONPATH", "")]))
        try:
            ray.init(
                self._address,
                # Ray counts all cores of the machine, also those that `taskset` or Slurm keep from this process.
                num_cpus=count_cores() if self._address == "local" else None,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
            )
        except Exception as error:  # where the machine is too busy to start it in time, a plain one
            reason = "".join(str(error).strip().splitlines()[-1:])
            raise EngineError(f"Ray cannot be started ({reason}); try again, or take the engine local") from error
        try:
            self._set_limits(ray)
            blocks = [pyarrow.table({"number": [number], "paths": [cells]}) for number, cells in parts]
            resources = ray.cluster_resources()
            gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
            count = min(self._workers or gpus or cpus, len(blocks))
            # One operator: with a second one, actors on all cores would leave it none, and both would wait for ever.
            with warnings.catch_warnings():
                # Ray 2.60 announces that its 2.64 takes no such arguments, and has no others for them yet.
                warnings.simplefilter("ignore", DeprecationWarning)
                done = ray.data.from_arrow(blocks).map_batches(
                    _Actor,
                    batch_size=1,
                    compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
                    fn_constructor_args=(*self._settings, str(folder.absolute()), 0 if gpus else max(1, cpus // count)),
                    num_gpus=1 if gpus else None,
                    num_cpus=None if gpus else 1,
                    max_restarts=-1,
                    max_task_retries=_RETRIES,
                )
            for row in done.iter_rows():
                bar.update(row["count"])
                if progress.is_stop_requested():
                    raise Stopped(f"stopped on request; the parts so far are in '{folder}', the same command goes on")
        except ray.exceptions.RayError as error:
            logger.warning("Ray ended early: %s", str(error).strip().splitlines()[-1])
        finally:
            ray.shutdown()

    @staticmethod
    def _set_limits(ray: Any) -> None:
        """Let a part that cannot be done be lost alone: Ray would begin it again for ever, or end all others."""
        context = ray.data.DataContext.get_current()
        context.max_errored_blocks = -1
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _check_cluster(address: str) -> None:
    """Refuse an address `host:port` at which nobody listens.

    Raises:
        JobError: It is so.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except OSError as error:
        raise JobError(
            f"RAY_ADDRESS is '{address}', where no cluster answers ({error.strerror or error}); start one there with "
            "`ray start --head`, or unset it for a job on this machine"
        ) from error


class _Actor:
    """A worker: a model, and the parts that it is given."""

    def __init__(self, values: InferParameters, has_probabilities: bool, folder: str, threads: int) -> None:
        if values.threads == 0 and threads:
            values = values.updated({"threads": threads})
        self._classifier = Classifier(values)
        self._columns = self._classifier.make_columns(has_probabilities)
        self._folder = Path(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        parts = zip(batch["number"].tolist(), (list(cells) for cells in batch["paths"]), strict=True)
        counts = [len(done) for done in classify_parts(self._classifier, self._columns, parts, self._folder)]
        return {"count": counts}
