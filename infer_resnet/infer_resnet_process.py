"""infer_resnet in the engine: its inputs and outputs on one side, numpy arrays and the predictor on the other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ikomia import core, dataprocess

from infer_resnet.adapter import ParametersAdapter, SetParametersMixin
from infer_resnet.parameters import InferParameters

if TYPE_CHECKING:
    import numpy as np

    from infer_resnet.boxes import Box
    from infer_resnet.drawing import Color, TextLine
    from infer_resnet.predictor import AnswerOptions, Prediction, Predictor

logger = logging.getLogger(__name__)

VERSION = "0.1.0"

_IMAGE, _DETECTIONS, _GRAPHICS, _TABLE, _HEATMAP, _EMBEDDING = range(6)


class InferResnetParam(ParametersAdapter, core.CWorkflowTaskParam):
    """Parameters of the task, as the engine holds them."""

    parameters_class = InferParameters


class InferResnet(SetParametersMixin, dataprocess.CClassificationTask):
    """Classify the whole image, or every box of a connected detector.

    Outputs: 0 image, 1 object detection, 2 graphics, 3 table, 4 heat map image, 5 embedding. Outputs 4 and 5 are empty
    unless asked for.
    """

    def __init__(self, name: str, param: InferResnetParam | None = None) -> None:
        dataprocess.CClassificationTask.__init__(self, name)
        self.add_output(dataprocess.CImageIO())
        self.add_output(dataprocess.CNumericIO())
        self.get_output(_HEATMAP).name = "Heat map"
        self.get_output(_EMBEDDING).name = "Embedding"
        # A task without a parameter object crashes the engine when the workflow is saved.
        self.set_param_object(param or InferResnetParam())
        # The engine copies the name of a connected graphics output onto the input; that is the only trace that a
        # detector which found nothing leaves.
        self._unconnected_name = self.get_input(1).name
        self._loader: Any = None
        self._smoother: Any = None
        self._names: tuple[str, ...] = ()
        self._colors: list[Color] = []
        self._is_logged = ""
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
        from infer_resnet.loader import describe

        predictor = self._load(self._get_values())
        return describe(self._loader.model, predictor)

    def get_image_with_graphics(self) -> np.ndarray:
        """Return the last image with the answers drawn on it, (height, width, 3) uint8 RGB.

        The engine's own version draws strokes of one pixel whatever the size of the image, and no letters beyond ASCII.

        Raises:
            ValueError: There is no image.
        """
        from infer_resnet.drawing import annotate
        from infer_resnet.images import to_rgb

        colors = [self._get_color(prediction) for prediction in self._predictions]
        return annotate(to_rgb(self._get_image()), self._predictions, colors)

    def reset_smoothing(self) -> None:
        """Forget the frames that `smoothing` has averaged so far."""
        if self._smoother is not None:
            self._smoother.reset()

    def run(self) -> None:
        """Classify the connected image (called by the engine).

        Raises:
            ValueError: There is no image, or one of a shape or type that is no picture; or weights or class names do
                not fit.
            RuntimeError: The machine lacks the device, precision or runtime.
        """
        from infer_resnet.images import to_rgb

        self.begin_task_run()
        self._clear_outputs()
        values = self._get_values()
        image = to_rgb(self._get_image())
        predictor = self._load(values)
        options = _get_answer_options(values)
        if self._has_detector():
            self._predictions = self._classify_boxes(predictor, options, image, values)
        else:
            self._predictions = [self._classify_image(predictor, options, image, values)]
        self._show_predictions(image.shape[:2])
        if values.heatmap:
            self._show_heatmap(predictor, image, values)
        if values.embedding:
            self._show_embeddings()
        self.emit_step_progress()
        self.end_task_run()

    def _get_values(self) -> InferParameters:
        return self.get_param_object().values

    def _get_image(self) -> np.ndarray:
        source = self.get_input(0)
        image = None if source is None else source.get_image()
        if image is None:
            path = getattr(source, "source_file_path", "")
            origin = f"'{path}' could not be decoded" if path else "nothing is connected to input 0"
            raise ValueError(f"infer_resnet: no image: {origin}")
        return image

    def _load(self, values: InferParameters) -> Predictor:
        if self._loader is None:
            from infer_resnet.loader import Loader
            from infer_resnet.smoothing import ProbabilitySmoother

            self._loader, self._smoother = Loader(), ProbabilitySmoother()
        predictor: Predictor = self._loader.load(values)
        self._log_once(predictor)
        self._set_names(predictor, has_unknown=values.confidence_threshold > 0)
        return predictor

    def _log_once(self, predictor: Predictor) -> None:
        model, runtime, preprocessing = self._loader.model, predictor.runtime, predictor.preprocessing
        text = (
            f"{model.metadata.model_name}, {model.num_classes} classes, from '{model.file.path}'"
            f"{' (which describes itself)' if model.is_self_describing else ''}; {preprocessing.resize_mode} to "
            f"{preprocessing.input_size} pixels; {runtime.name} on {runtime.device} in {runtime.precision}"
        )
        if text != self._is_logged:
            logger.info("infer_resnet: %s", text)
            self._is_logged = text

    def _set_names(self, predictor: Predictor, has_unknown: bool) -> None:
        """Tell the engine the names and as many colours: it reads past a table that is too short."""
        from infer_resnet.drawing import make_colors
        from infer_resnet.predictor import UNKNOWN

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

    def _has_detector(self) -> bool:
        return self.get_input(1).name != self._unconnected_name or self.get_input(1).is_data_available()

    def _classify_image(
        self, predictor: Predictor, options: AnswerOptions, image: np.ndarray, values: InferParameters
    ) -> Prediction:
        prediction = predictor.predict([image], options)[0]
        if values.smoothing > 0:
            stream = (self.get_input(0).source_file_path, image.shape, self._names)
            smoothed = self._smoother.update(prediction.probabilities, values.smoothing, stream)
            answer = predictor.answer(smoothed, options)
            prediction = replace(answer, embedding=prediction.embedding, activation=prediction.activation)
        else:
            self._smoother.reset()
        names = [score.label for score in prediction.top_k]
        confidences = [str(score.confidence) for score in prediction.top_k]
        self.set_whole_image_results(names, confidences)
        return prediction

    def _classify_boxes(
        self, predictor: Predictor, options: AnswerOptions, image: np.ndarray, values: InferParameters
    ) -> list[Prediction]:
        from infer_resnet.boxes import crop_box

        found = []
        for item in self._get_items():
            box: Box = tuple(item.get_bounding_rect())  # type: ignore[assignment]
            crop = crop_box(image, box, values.box_margin)
            if crop is not None:
                found.append((item, box, crop))
        predictions = [
            replace(prediction, box=box)
            for prediction, (_, box, _) in zip(
                predictor.predict([crop for *_, crop in found], options), found, strict=True
            )
        ]
        for (item, _, _), prediction in zip(found, predictions, strict=True):
            # The name after the last class is `unknown`.
            self.add_object(item, prediction.index % len(self._names), prediction.confidence)
        return predictions

    def _get_items(self) -> list[Any]:
        """Return the detector's shapes in its order: rectangles, and polygons that have no rectangle of their own."""
        items = [item for item in self.get_input_objects() if not item.is_text_item()]
        rectangles = [item for item in items if isinstance(item, core.CGraphicsRectangle)]
        known = {item.get_id() for item in rectangles}
        return [
            item
            for item in items
            if isinstance(item, core.CGraphicsRectangle)
            or (isinstance(item, core.CGraphicsPolygon) and item.get_id() not in known)
        ]

    def _show_predictions(self, size: tuple[int, int]) -> None:
        """Replace the engine's texts by ones that fit the image, and its table by one that says more."""
        from infer_resnet.drawing import lay_out_box_label, lay_out_top_k

        is_whole = bool(self._predictions) and self._predictions[0].box is None
        for graphics in (self.get_output(_GRAPHICS), self.get_output(_DETECTIONS).get_graphics_io()):
            graphics.clear_data()
            if is_whole:
                lines = lay_out_top_k(self._predictions[0], *size)
            else:
                lines = [lay_out_box_label(prediction, *size) for prediction in self._predictions]
                for prediction in self._predictions:
                    _add_box(graphics, prediction, self._get_color(prediction), size)
            for line in lines:
                _add_text(graphics, line)
        self._fill_table()

    def _get_color(self, prediction: Prediction) -> Color:
        return self._colors[prediction.index % len(self._colors)]

    def _fill_table(self) -> None:
        table = self.get_output(_TABLE)
        table.clear_data()
        whole = self._predictions[0] if self._predictions and self._predictions[0].box is None else None
        rows = list(whole.top_k) if whole else self._predictions
        if not rows:
            return
        labels = [row.label for row in rows]
        table.add_value_list([str(row.index) for row in rows], "Index", labels)
        table.add_value_list([f"{row.confidence:.4f}" for row in rows], "Confidence", labels)

    def _show_heatmap(self, predictor: Predictor, image: np.ndarray, values: InferParameters) -> None:
        from infer_resnet.boxes import crop_box
        from infer_resnet.explain import overlay_heatmap

        picture = image.copy()
        for prediction in self._predictions:
            margin = values.box_margin
            region = picture if prediction.box is None else crop_box(picture, prediction.box, margin)
            source = image if prediction.box is None else crop_box(image, prediction.box, margin)
            assert region is not None and source is not None and prediction.activation is not None
            region[:] = overlay_heatmap(source, prediction.activation, predictor.preprocessing)
        self.get_output(_HEATMAP).set_image(picture)

    def _show_embeddings(self) -> None:
        output = self.get_output(_EMBEDDING)
        for number, prediction in enumerate(self._predictions):
            assert prediction.embedding is not None
            output.add_value_list([float(value) for value in prediction.embedding], f"{number}: {prediction.label}")


def _get_answer_options(values: InferParameters) -> AnswerOptions:
    from infer_resnet.predictor import AnswerOptions

    return AnswerOptions(
        top_k=values.top_k,
        confidence_threshold=values.confidence_threshold,
        heatmap=values.heatmap,
        embedding=values.embedding,
    )


def _add_text(graphics: Any, line: TextLine) -> None:
    from infer_resnet.drawing import TEXT_COLOR

    style = core.GraphicsTextProperty()
    style.font_size = line.font_size
    style.color = list(TEXT_COLOR)
    style.bold = line.is_bold
    graphics.add_text(line.text, line.left, line.baseline, style)


def _add_box(graphics: Any, prediction: Prediction, color: Color, size: tuple[int, int]) -> None:
    from infer_resnet.drawing import get_line_width

    assert prediction.box is not None
    style = core.GraphicsRectProperty()
    style.pen_color = [*color, 255]
    style.line_size = get_line_width(*size)
    graphics.add_rectangle(*(float(value) for value in prediction.box), style)


class InferResnetFactory(dataprocess.CTaskFactory):
    """Creates the task, and says what it is."""

    def __init__(self) -> None:
        dataprocess.CTaskFactory.__init__(self)
        info = self.info
        info.name = "infer_resnet"
        info.short_description = "Classify images, boxes and video frames with ResNet"
        info.description = (
            "ResNet image classification with ImageNet weights or your own, on the whole image or on every box of a "
            "detector. Preprocessing is that of the weights; OpenVINO makes it fast on a CPU; heat maps show why."
        )
        info.authors = "ResNet for Ikomia contributors"
        info.article = "Deep Residual Learning for Image Recognition"
        info.article_url = "https://arxiv.org/abs/1512.03385"
        info.journal = "CVPR"
        info.year = 2016
        info.path = "Plugins/Python/Classification"
        info.version = VERSION
        info.min_ikomia_version = "0.16.1"
        info.license = "Apache-2.0"
        info.documentation_link = ""
        info.repository = ""
        info.original_repository = ""
        info.icon_path = "icons/icon.png"
        info.keywords = "resnet,classification,imagenet,openvino,heatmap,embedding"
        info.algo_type = core.AlgoType.INFER
        info.algo_tasks = "CLASSIFICATION"
        info.hardware_config.min_cpu = 1
        info.hardware_config.min_ram = 2
        info.hardware_config.gpu_required = False
        info.hardware_config.min_vram = 0

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
