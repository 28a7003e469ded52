"""infer_resnet in the engine: its inputs and outputs on one side, numpy arrays and the predictor on the other."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ikomia import core, dataprocess

import infer_resnet.library  # before anything of resnetkit: finds it, or says why not
from infer_resnet.engine_paths import extend_run_on
from infer_resnet.inputs import check_folder_run, has_detector
from resnetkit.about import fill_shared_info
from resnetkit.machine.files import resolve_path
from resnetkit.machine.imports import pause_garbage_collection
from resnetkit.machine.speaking import speak_as
from resnetkit.parameters.adapter import ParametersAdapter, SetParametersMixin
from resnetkit.parameters.inference import InferParameters

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy as np

    from infer_resnet.session import Session
    from resnetkit.answers.model import Prediction
    from resnetkit.folders.classification import Summary
    from resnetkit.folders.classifier import Answers

NAME = "infer_resnet"

_IMAGE, _DETECTIONS, _GRAPHICS, _TABLE, _HEATMAP, _EMBEDDING = range(6)

#: Names under which the further files of a model stand among the strings: an OpenVINO model's .bin is part 2.
_PART = "model_weight_file_part_"


def _leave_out_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not str(name).startswith(_PART)}


class InferResnetParam(ParametersAdapter, core.CWorkflowTaskParam):
    """Parameters of the task, as the engine holds them."""

    parameters_class = InferParameters
    values: InferParameters

    def get_values(self) -> dict[str, str]:
        """Return all parameters as strings (called by the engine), so that a saved workflow can be sent away.

        What packs a workflow for SCALE takes a file along where its absolute path is the value of a parameter: no `~`,
        no folder, and nothing that lies beside it. So paths are given as those of files, and what else belongs to the
        model has names of its own, which the engine drops when it loads the workflow.
        """
        strings = super().get_values()
        with suppress(OSError, ValueError):  # no name that a file can have
            if self.values.class_file and (class_file := resolve_path(self.values.class_file)).is_file():
                strings["class_file"] = str(class_file)
        if self.values.model_weight_file:
            from resnetkit.answers.portable import list_model_files

            for number, path in enumerate(list_model_files(self.values.model_weight_file)):
                strings[f"{_PART}{number + 1}" if number else "model_weight_file"] = str(path)
        return strings

    def set_values(self, strings: Mapping[str, str]) -> None:
        """Take the engine's full set of strings."""
        super().set_values(_leave_out_parts(strings))

    def update(self, values: Mapping[str, Any]) -> None:
        """Change some parameters, all of them or none; those of another task are taken as they are."""
        super().update(_leave_out_parts(values))


class InferResnet(SetParametersMixin, dataprocess.CClassificationTask):
    """Classify the whole image, or every box of a connected detector.

    Inputs: 0 image, 1 graphics, 2 the table of a connected classifier, which tells it from a detector.
    Outputs: 0 image, 1 object detection, 2 graphics, 3 table, 4 heat map image, 5 embedding. Outputs 4 and 5 are empty
    unless asked for.
    """

    def __init__(self, name: str, param: InferResnetParam | None = None) -> None:
        dataprocess.CClassificationTask.__init__(self, name)
        extend_run_on()
        self.add_input(dataprocess.CDataStringIO())
        self.get_input(2).name = "Classification"
        self.add_output(dataprocess.CImageIO())
        self.add_output(dataprocess.CNumericIO())
        self.get_output(_HEATMAP).name = "Heat map"
        self.get_output(_EMBEDDING).name = "Embedding"
        # A task without a parameter object crashes the engine when the workflow is saved.
        self.set_param_object(param or InferResnetParam())
        self._unconnected_name = self.get_input(1).name
        self._predictions: list[Prediction] = []

    @cached_property
    def _session(self) -> Session:
        """What is loaded. The engine builds every installed task, only to list its parameters: importing waits."""
        with pause_garbage_collection():
            from infer_resnet.session import Session

            return Session(self)

    def get_progress_steps(self) -> int:
        """Return the number of steps of Studio's progress bar."""
        return 1

    def init_long_process(self) -> None:
        """Load the model ahead of the first image (called by the engine)."""
        dataprocess.CClassificationTask.init_long_process(self)
        with speak_as(NAME):
            self._session.load(self._get_values())

    def get_predictions(self) -> list[Prediction]:
        """Return the answers of the last run: one for a whole image, or one a box in the detector's order."""
        return list(self._predictions)

    def classify_files(self, sources: Any, output: str | os.PathLike[str] | None = None) -> Answers | Summary:
        """Classify image files without running the workflow, many at a time, with this task's parameters.

        Args:
            sources: Files, folders with what is below them, patterns, lists of paths (.txt, .csv); one, or several.
            output: A table, .csv, .jsonl or .parquet, that is written as it goes; one that is there is gone on with.

        Returns:
            An iterator of answers (`path`, `label`, `confidence`, `top_k`, `error`), whose `to_dataframe()` gives a
            pandas DataFrame; with `output` what came of it.
        """
        with speak_as(NAME):
            return self._session.classify_files(self._get_values(), sources, output)

    def get_model_info(self) -> dict[str, Any]:
        """Return what is loaded: architecture, weights, classes, preprocessing, runtime; JSON-able."""
        with speak_as(NAME):
            return self._session.describe(self._get_values())

    def get_image_with_graphics(self) -> np.ndarray:
        """Return the last image with the answers drawn on it, (height, width, 3) uint8 RGB.

        The engine's own version draws strokes of one pixel whatever the size of the image, and no letters beyond ASCII.

        Raises:
            ValueError: There is no image.
        """
        with speak_as(NAME):
            return self._session.annotate(self.get_input(0), self._predictions)

    def clear_answers(self) -> None:
        """Forget the answers of the last run, in all outputs."""
        self._predictions = []
        for index in (_DETECTIONS, _GRAPHICS, _TABLE, _HEATMAP, _EMBEDDING):
            self.get_output(index).clear_data()

    def reset_smoothing(self) -> None:
        """Forget the frames that `smoothing` has averaged so far."""
        self._session.smoother.reset()

    def run(self) -> None:
        """Classify the connected image (called by the engine).

        Raises:
            ValueError: There is no image, or one of a shape or type that is no picture; weights or class names do not
                fit; or the machine lacks the device, precision or runtime.
        """
        self.begin_task_run()
        self.clear_answers()  # A direct `task.run()` would add to the last results.
        with speak_as(NAME):
            check_folder_run(self.get_input(0))
            self._session.files.keep_from_engine()
            has_boxes = has_detector(self.get_input(1), self.get_input(2), self._unconnected_name)
            self._predictions = self._session.classify(self._get_values(), has_boxes)
            self._session.files.save(self._predictions)
        self.emit_step_progress()
        self.end_task_run()

    def _get_values(self) -> InferParameters:
        return self.get_param_object().values


class InferResnetFactory(dataprocess.CTaskFactory):
    """Creates the task, and says what it is."""

    def __init__(self) -> None:
        dataprocess.CTaskFactory.__init__(self)
        info = self.info
        fill_shared_info(info)
        info.name = NAME
        info.short_description = "Classify images, boxes and video frames with ResNet"
        info.description = (
            "ResNet image classification with ImageNet weights or your own, on the whole image or on every box of a "
            "detector. Preprocessing is that of the weights; OpenVINO makes it fast on a CPU; heat maps show why."
        )
        info.version = infer_resnet.library.VERSION
        info.keywords = "resnet,classification,imagenet,openvino,heatmap,embedding"
        info.algo_type = core.AlgoType.INFER
        info.hardware_config.min_cpu = 1
        info.hardware_config.min_ram = 2

    def create(self, param: InferResnetParam | None = None) -> InferResnet:
        """Create a task; its parameters may be ready already."""
        return InferResnet(self.info.name, param)


class InferResnetParamFactory(dataprocess.CTaskParamFactory):
    """Creates the parameters."""

    def __init__(self) -> None:
        dataprocess.CTaskParamFactory.__init__(self)
        self.name = NAME

    def create(self) -> InferResnetParam:
        """Create parameters with their default values."""
        return InferResnetParam()
