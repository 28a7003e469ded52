"""train_resnet in the engine: a folder in, a run folder, charts and a table out."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ikomia import core, dataprocess

import train_resnet.library  # before anything of resnetkit: finds it, or says why not
from resnetkit.about import fill_shared_info
from resnetkit.machine.files import resolve_path
from resnetkit.machine.imports import pause_garbage_collection
from resnetkit.machine.speaking import get_logger, speak_as
from resnetkit.parameters.adapter import ParametersAdapter, SetParametersMixin
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters

with pause_garbage_collection():
    from ikomia.dnn.dnntrain import TrainProcess  # It imports mlflow.

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnetkit.training.evaluating import EvaluationResult
    from resnetkit.training.outcome import TrainingResult

logger = get_logger()

NAME = "train_resnet"

_CURVES, _CONFUSION, _TABLE, _CHECKPOINT = range(4)

#: Of Studio's progress bar.
_PROGRESS_STEPS = 100


class _Steps:
    """Turns the share of the work that is done into steps of the engine's progress bar."""

    def __init__(self, emit: Callable[[], None]) -> None:
        self._emit = emit
        self._count = 0

    def reach(self, share: float) -> None:
        """Go on to this share, 0..1."""
        while self._count < int(share * _PROGRESS_STEPS):
            self._count += 1
            self._emit()


class TrainResnetParam(ParametersAdapter, core.CWorkflowTaskParam):
    """Parameters of the task, as the engine holds them."""

    parameters_class = TrainParameters


class TrainResnet(SetParametersMixin, TrainProcess):
    """Train a classifier on a folder of images.

    Input 0 is the folder; where nothing is connected, or no folder, the parameter `dataset_folder` serves.
    Outputs: 0 training curves, 1 confusion matrix, 2 figures of each class, 3 path of the best checkpoint.
    Constructing it starts nothing: no server, no browser, no thread.
    """

    def __init__(self, name: str, param: TrainResnetParam | None = None) -> None:
        # A task without a parameter object crashes the engine when the workflow is saved; and the constructor
        # alone does not keep the Python part of one that is made here.
        param = param or TrainResnetParam()
        TrainProcess.__init__(self, name, param)
        self.set_param_object(param)
        # A folder: with the engine's data-set input, run_on(folder) would train once for each image file.
        self.remove_input(0)
        self.add_input(dataprocess.CPathIO(core.IODataType.FOLDER_PATH))
        for output, label in (
            (dataprocess.CImageIO(), "Training curves"),
            (dataprocess.CImageIO(), "Confusion matrix"),
            (dataprocess.CDataStringIO(), "Classes"),
            (dataprocess.CPathIO(core.IODataType.FILE_PATH), "Best checkpoint"),
        ):
            output.name = label
            self.add_output(output)
        self.enable_mlflow(False)  # else the engine opens a browser
        self.enable_tensorboard(False)
        self._is_stop_requested = False
        self._checkpoint = ""
        self._metrics: dict[str, Any] = {}

    @staticmethod
    def _init_mlflow() -> None:
        """Start no server: the engine's would listen on all interfaces and outlive the process."""

    @staticmethod
    def _init_tensorboard() -> None:
        """Start no server."""

    def begin_task_run(self) -> None:
        """Prepare the engine, which starts its clock here.

        TrainProcess' own would wait minutes for an mlflow server; training keeps its records itself.
        """
        if self.get_input(0) is None:  # nothing is connected, on which the engine would raise
            self.set_input(dataprocess.CPathIO(core.IODataType.FOLDER_PATH), 0)
        dataprocess.CDnnTrainTask.begin_task_run(self)

    def end_task_run(self) -> None:
        """Tell the engine that the run is over; TrainProcess' own would end an mlflow run of the caller's."""
        dataprocess.CDnnTrainTask.end_task_run(self)

    def get_progress_steps(self) -> int:
        """Return the number of steps of Studio's progress bar: the parts of a training are not known before it."""
        return _PROGRESS_STEPS

    def stop(self) -> None:
        """End training within one batch; the best weights and the state of the last epoch stay."""
        dataprocess.CDnnTrainTask.stop(self)
        self._is_stop_requested = True

    def get_checkpoint(self) -> str:
        """Return the path of the best checkpoint of the last run; empty before there is one."""
        return self._checkpoint

    def get_metrics(self) -> dict[str, Any]:
        """Return the figures of the last run and where its files are, JSON-able; empty before there are any.

        `run_folder`, `checkpoint` and `report` are paths, `best` and `test_accuracy` the main figures. `metrics` and
        `test_metrics` (None without test images) hold all figures on validation and test images, as metrics.json does.
        With `evaluate_only` there are the paths and `metrics`.
        """
        return deepcopy(self._metrics)

    def run(self) -> None:
        """Train, or only evaluate (called by the engine)."""
        self._is_stop_requested = False  # first of all: the imports take seconds, in which `stop` may be called
        with pause_garbage_collection():
            from resnetkit.machine.progress import Meter, Progress, TrainingStopped
            from resnetkit.training.evaluating import evaluate_weights
            from resnetkit.training.loop import train

        self.begin_task_run()
        self._checkpoint, self._metrics = "", {}
        for index in range(self.get_output_count()):
            self.get_output(index).clear_data()
        for index in (_CURVES, _CONFUSION, _TABLE):
            # The engine would lay one picture over the other, under one name; the run folder has both.
            self.get_output(index).auto_save = False
        steps = _Steps(self.emit_step_progress)
        progress = Progress(is_stop_requested=lambda: self._is_stop_requested, meter=Meter(steps.reach))
        with speak_as(NAME):
            values = self._get_values()
            try:
                source = self._find_dataset()
                if values.evaluate_only:
                    assert source is not None  # only a run that is gone on with has one of its own
                    result: TrainingResult | EvaluationResult = evaluate_weights(values, source, progress)
                else:
                    result = train(values, source, progress)
            except TrainingStopped as stopped:
                logger.warning("%s", stopped)
                self._set_checkpoint(stopped.checkpoint)
            else:
                self._set_checkpoint(result.checkpoint)
                self._show(result)
                steps.reach(1)
        self.end_task_run()

    def _get_values(self) -> TrainParameters:
        values = self.get_param_object().values
        assert isinstance(values, TrainParameters)
        return values

    def _find_dataset(self) -> Path | None:
        """Return the data set; None for that of the run that is gone on with."""
        source = self.get_input(0)
        connected = source.get_path() if source is not None else ""
        # Unconnected inputs were seen to hold nothing, or the name of their type.
        if connected and Path(connected).is_dir():
            return Path(connected)
        values = self._get_values()
        folder = values.dataset_folder
        if not folder and values.resume_from and not values.evaluate_only:
            return None
        if not folder:
            raise ParameterError(
                f"no data set; expected a folder on input 0 or in 'dataset_folder', got {connected!r} and nothing"
            )
        return resolve_path(folder)

    def _set_checkpoint(self, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            self._checkpoint = str(checkpoint)
            self.get_output(_CHECKPOINT).set_path(self._checkpoint)

    def _show(self, result: TrainingResult | EvaluationResult) -> None:
        from resnetkit.images.reading import read_image

        self._metrics = {**result.describe(), "metrics": dict(result.metrics)}
        if hasattr(result, "test_metrics"):
            self._metrics["test_metrics"] = result.test_metrics and dict(result.test_metrics)
        if result.curves.is_file():
            self.get_output(_CURVES).set_image(read_image(result.curves))
        self.get_output(_CONFUSION).set_image(read_image(result.confusion))
        rows = result.metrics["per_class"]
        table = self.get_output(_TABLE)
        names = [row["name"] for row in rows]
        for column in ("precision", "recall", "specificity", "f1", "support"):
            digits = 0 if column == "support" else 4
            table.add_value_list([f"{row[column]:.{digits}f}" for row in rows], column, names)
        if self.get_output(_CHECKPOINT).auto_save and self.output_folder:
            self._save_table()

    def _save_table(self) -> None:
        """Save the figures of each class where the engine saves; its own file would lack a heading."""
        from resnetkit.folders.cells import write_text
        from resnetkit.folders.tables import write_csv

        table = self.get_output(_TABLE)
        header = ["class", *table.get_all_header_labels()]
        columns = [[write_text(name) for name in table.get_all_label_list()[0]], *table.get_all_value_list()]
        folder = Path(self.output_folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder.with_name(f"{folder.name}_classes.csv"), [header, *zip(*columns, strict=True)])


class TrainResnetFactory(dataprocess.CTaskFactory):
    """Creates the task, and says what it is."""

    def __init__(self) -> None:
        dataprocess.CTaskFactory.__init__(self)
        info = self.info
        fill_shared_info(info)
        info.name = NAME
        info.short_description = "Train ResNet image classifiers on your own folders of images"
        info.description = (
            "Trains a ResNet on class folders: the head alone on cached features, or the whole network. Resumable, "
            "deterministic, with a report, and with a checkpoint that infer_resnet runs as it is."
        )
        info.version = train_resnet.library.VERSION
        info.keywords = "resnet,classification,training,fine-tuning,transfer learning"
        info.algo_type = core.AlgoType.TRAIN
        info.hardware_config.min_cpu = 2
        info.hardware_config.min_ram = 4

    def create(self, param: TrainResnetParam | None = None) -> TrainResnet:
        """Create a task; its parameters may be ready already."""
        return TrainResnet(self.info.name, param)


class TrainResnetParamFactory(dataprocess.CTaskParamFactory):
    """Creates the parameters."""

    def __init__(self) -> None:
        dataprocess.CTaskParamFactory.__init__(self)
        self.name = NAME

    def create(self) -> TrainResnetParam:
        """Create parameters with their default values."""
        return TrainResnetParam()
