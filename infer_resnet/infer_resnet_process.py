"""infer_resnet in the engine: its inputs and outputs on one side, numpy arrays and the predictor on the other."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ikomia import core, dataprocess

from resnetkit.about import fill_shared_info
from resnetkit.parameters.adapter import ParametersAdapter, SetParametersMixin
from resnetkit.parameters.inference import InferParameters

if TYPE_CHECKING:
    import numpy as np

    from resnetkit.answers.drawing import Color
    from resnetkit.answers.loader import Model
    from resnetkit.answers.predictor import AnswerOptions, Prediction, Predictor
    from resnetkit.images.boxes import Box

logger = logging.getLogger(__name__)

VERSION = "0.1.0"

_IMAGE, _DETECTIONS, _GRAPHICS, _TABLE, _HEATMAP, _EMBEDDING = range(6)


class InferResnetParam(ParametersAdapter, core.CWorkflowTaskParam):
    """Parameters of the task, as the engine holds them."""

    parameters_class = InferParameters


class InferResnet(SetParametersMixin, dataprocess.CClassificationTask):
    """Classify the whole image, or every box of a connected detector.

    Inputs: 0 image, 1 graphics, 2 the table of a connected classifier, which tells it from a detector.
    Outputs: 0 image, 1 object detection, 2 graphics, 3 table, 4 heat map image, 5 embedding. Outputs 4 and 5 are empty
    unless asked for.
    """

    def __init__(self, name: str, param: InferResnetParam | None = None) -> None:
        dataprocess.CClassificationTask.__init__(self, name)
        self.add_input(dataprocess.CDataStringIO())
        self.get_input(2).name = "Classification"
        self.add_output(dataprocess.CImageIO())
        self.add_output(dataprocess.CNumericIO())
        self.get_output(_HEATMAP).name = "Heat map"
        self.get_output(_EMBEDDING).name = "Embedding"
        # A task without a parameter object crashes the engine when the workflow is saved.
        self.set_param_object(param or InferResnetParam())
        self._unconnected_name = self.get_input(1).name
        self._loader: Any = None
        self._smoother: Any = None
        self._model: Model | None = None
        self._names: tuple[str, ...] = ()
        self._colors: list[Color] = []
        self._logged = ""
        self._predictions: list[Prediction] = []

    def get_progress_steps(self) -> int:
        """Return the number of steps of Studio's progress bar."""
        return 1

    def init_long_process(self) -> None:
        """Load the model ahead of the first image (called by the engine)."""
        dataprocess.CClassificationTask.init_long_process(self)
        self._load(self._get_values())

    def get_predictions(self) -> list[Prediction]:
        """Return the answers of the last run: one for a whole image, or one a box in the detector's order."""
        return list(self._predictions)

    def get_model_info(self) -> dict[str, Any]:
        """Return what is loaded: architecture, weights, classes, preprocessing, runtime; JSON-able."""
        from resnetkit.answers.loader import describe

        predictor = self._load(self._get_values())
        assert self._model is not None
        return describe(self._model, predictor)

    def get_image_with_graphics(self) -> np.ndarray:
        """Return the last image with the answers drawn on it, (height, width, 3) uint8 RGB.

        The engine's own version draws strokes of one pixel whatever the size of the image, and no letters beyond ASCII.

        Raises:
            ValueError: There is no image.
        """
        from infer_resnet.inputs import read_image_input
        from resnetkit.answers.drawing import annotate

        colors = [self._get_color(prediction) for prediction in self._predictions]
        return annotate(read_image_input(self.get_input(0)), self._predictions, colors)

    def reset_smoothing(self) -> None:
        """Forget the frames that `smoothing` has averaged so far."""
        if self._smoother is not None:
            self._smoother.reset()

    def run(self) -> None:
        """Classify the connected image (called by the engine).

        Raises:
            ValueError: There is no image, or one of a shape or type that is no picture; weights or class names do not
                fit; or the machine lacks the device, precision or runtime.
        """
        from infer_resnet.inputs import has_detector, read_image_input
        from infer_resnet.outputs import draw_heatmaps, fill_embeddings

        self.begin_task_run()
        self._clear_outputs()
        values = self._get_values()
        image = read_image_input(self.get_input(0))
        predictor = self._load(values)
        if has_detector(self.get_input(1), self.get_input(2), self._unconnected_name):
            self._predictions = self._classify_boxes(predictor, image, values)
        else:
            self._predictions = [self._classify_image(predictor, image, values)]
        self._show_predictions(image.shape[:2])
        if values.heatmap:
            picture = draw_heatmaps(image, self._predictions, predictor.preprocessing, values.box_margin)
            self.get_output(_HEATMAP).set_image(picture)
        if values.embedding:
            fill_embeddings(self.get_output(_EMBEDDING), self._predictions)
        self.emit_step_progress()
        self.end_task_run()

    def _get_values(self) -> InferParameters:
        return self.get_param_object().values

    def _load(self, values: InferParameters) -> Predictor:
        if self._loader is None:
            from resnetkit.answers.loader import Loader
            from resnetkit.answers.smoothing import ProbabilitySmoother

            self._loader, self._smoother = Loader(), ProbabilitySmoother()
        predictor: Predictor
        self._model, predictor = self._loader.load(values)
        self._log_once(self._model, predictor)
        self._set_names(predictor, has_unknown=values.confidence_threshold > 0)
        return predictor

    def _log_once(self, model: Model, predictor: Predictor) -> None:
        from resnetkit.answers.loader import summarize

        text = summarize(model, predictor)
        if text != self._logged:
            logger.info("infer_resnet: %s", text)
            self._logged = text

    def _set_names(self, predictor: Predictor, has_unknown: bool) -> None:
        """Tell the engine the names and as many colours: it reads past a table that is too short."""
        from resnetkit.answers.drawing import make_colors
        from resnetkit.answers.predictor import UNKNOWN

        names = (*predictor.classes, UNKNOWN) if has_unknown else predictor.classes
        if names != self._names:
            self.set_names(list(names))
            self._colors = make_colors(len(names))
            self.set_colors([list(color) for color in self._colors])
            self._names = names

    def _clear_outputs(self) -> None:
        """Drop the last results, which a direct `task.run()` would otherwise add to."""
        self._predictions = []
        for index in (_DETECTIONS, _GRAPHICS, _TABLE, _HEATMAP, _EMBEDDING):
            self.get_output(index).clear_data()

    def _classify_image(self, predictor: Predictor, image: np.ndarray, values: InferParameters) -> Prediction:
        adjust = None
        if values.smoothing > 0:
            stream = (self.get_input(0).source_file_path, image.shape, predictor)
            adjust = partial(self._smoother.update, share=values.smoothing, stream=stream)
        else:
            self._smoother.reset()
        prediction = predictor.predict([image], _get_answer_options(values), adjust)[0]
        names = [score.label for score in prediction.top_k]
        self.set_whole_image_results(names, [str(score.confidence) for score in prediction.top_k])
        return prediction

    def _classify_boxes(self, predictor: Predictor, image: np.ndarray, values: InferParameters) -> list[Prediction]:
        from infer_resnet.inputs import select_shapes
        from resnetkit.images.boxes import crop_box

        items, boxes, crops = [], [], []
        for item in select_shapes(self.get_input_objects()):
            box: Box = tuple(item.get_bounding_rect())  # type: ignore[assignment]
            crop = crop_box(image, box, values.box_margin)
            if crop is not None:
                items.append(item)
                boxes.append(box)
                crops.append(crop)
        predictions = predictor.predict(crops, _get_answer_options(values))
        for item, prediction in zip(items, predictions, strict=True):
            # The name after the last class is `unknown`.
            self.add_object(item, prediction.index % len(self._names), prediction.confidence)
        return [replace(prediction, box=box) for prediction, box in zip(predictions, boxes, strict=True)]

    def _show_predictions(self, size: tuple[int, int]) -> None:
        """Replace the engine's texts by ones that fit the image, and its table by one that says more."""
        from infer_resnet.outputs import fill_graphics, fill_table

        # What a connected task sees of the detections: texts alone tell a second infer_resnet that there are no boxes.
        outputs = (self.get_output(_GRAPHICS), self.get_output(_DETECTIONS).get_graphics_io())
        fill_graphics(outputs, self._predictions, self._get_color, size)
        fill_table(self.get_output(_TABLE), self._predictions)

    def _get_color(self, prediction: Prediction) -> Color:
        return self._colors[prediction.index % len(self._colors)]


def _get_answer_options(values: InferParameters) -> AnswerOptions:
    from resnetkit.answers.predictor import AnswerOptions

    return AnswerOptions(
        top_k=values.top_k,
        confidence_threshold=values.confidence_threshold,
        heatmap=values.heatmap,
        embedding=values.embedding,
    )


class InferResnetFactory(dataprocess.CTaskFactory):
    """Creates the task, and says what it is."""

    def __init__(self) -> None:
        dataprocess.CTaskFactory.__init__(self)
        info = self.info
        fill_shared_info(info)
        info.name = "infer_resnet"
        info.short_description = "Classify images, boxes and video frames with ResNet"
        info.description = (
            "ResNet image classification with ImageNet weights or your own, on the whole image or on every box of a "
            "detector. Preprocessing is that of the weights; OpenVINO makes it fast on a CPU; heat maps show why."
        )
        info.version = VERSION
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
        self.name = "infer_resnet"

    def create(self) -> InferResnetParam:
        """Create parameters with their default values."""
        return InferResnetParam()
