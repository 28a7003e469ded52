"""What a task of infer_resnet works with: the loaded model, its names and colours, the frames before this one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from ikomia import dataprocess

from infer_resnet.inputs import read_image_input, select_shapes
from infer_resnet.outputs import draw_heatmaps, fill_embeddings, fill_graphics, fill_table
from infer_resnet.saving import ResultFiles
from resnetkit.answers.drawing import Color, annotate, make_colors
from resnetkit.answers.loader import Loader, choose_threshold, describe, summarize
from resnetkit.answers.model import UNKNOWN, AnswerOptions, Model, Prediction
from resnetkit.answers.probabilities import ProbabilitySmoother
from resnetkit.images.boxes import Box, crop_box
from resnetkit.images.pixels import ValueRange
from resnetkit.machine.files import resolve_path
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.inference import InferParameters

if TYPE_CHECKING:
    from resnetkit.folders.classification import Summary
    from resnetkit.folders.classifier import Answers

logger = get_logger()


class Session:
    """Classifies the inputs of a task and fills its outputs.

    Args:
        task: The engine's task, a CClassificationTask with the outputs of `InferResnet`.

    Attributes:
        smoother: The moving average over the frames of a video.
        files: What saves results while the engine saves.
    """

    def __init__(self, task: Any) -> None:
        self.smoother = ProbabilitySmoother()
        self.files = ResultFiles(task)
        self._task = task
        self._loader = Loader()
        self._names: tuple[str, ...] = ()
        self._colors: list[Color] = []
        self._logged = ""
        self._threshold = 0.0
        self._value_range: ValueRange | None = None
        self._is_whole = True
        self._position = 0

    def load(self, values: InferParameters) -> Model:
        """Return the model of the parameters; what was loaded is logged once, and its names are the task's."""
        model = self._loader.load(values)
        text = summarize(self._loader.weights, model)
        if text != self._logged:
            logger.info("%s", text)
            self._logged = text
        self._threshold = choose_threshold(values, self._loader.weights)
        self._set_names((*model.classes, UNKNOWN) if self._threshold > 0 else model.classes)
        return model

    def describe(self, values: InferParameters) -> dict[str, Any]:
        """Return what is loaded, JSON-able."""
        model = self.load(values)
        return describe(self._loader.weights, model)

    def classify_files(
        self, values: InferParameters, sources: Any, output: str | os.PathLike[str] | None
    ) -> Answers | Summary:
        """Classify files, outside the workflow: into answers as they come, or into a table."""
        from resnetkit.folders.classification import classify_into_table
        from resnetkit.folders.classifier import Classifier

        classifier = Classifier(values, self._loader)
        if output is None:
            return classifier.classify(sources)
        return classify_into_table(classifier, sources, resolve_path(os.fspath(output)))

    def annotate(self, source: Any, predictions: Sequence[Prediction]) -> np.ndarray:
        """Return the image of an input with answers drawn on it, (height, width, 3) uint8 RGB."""
        image = read_image_input(source, self._value_range, self._is_whole)
        return annotate(image, predictions, [self._get_color(each) for each in predictions])

    def classify(self, values: InferParameters, has_boxes: bool) -> list[Prediction]:
        """Classify the image of input 0, or the boxes of input 1, and fill the outputs."""
        task, model = self._task, self.load(values)
        self._value_range, self._is_whole = model.preprocessing.value_range, not has_boxes
        image = read_image_input(task.get_input(0), self._value_range, self._is_whole)
        predictions = (
            self._classify_boxes(model, image, values) if has_boxes else [self._classify_image(model, image, values)]
        )
        # The engine's own texts do not fit the image, and its table says less. What a connected task sees of the
        # detections is filled as well: texts alone tell a second infer_resnet that there are no boxes.
        graphics = (task.get_output(2), task.get_output(1).get_graphics_io())
        fill_graphics(graphics, predictions, self._get_color, image.shape[:2])
        fill_table(task.get_output(3), predictions)
        if values.heatmap:
            task.get_output(4).set_image(draw_heatmaps(image, predictions, model.preprocessing, values.box_margin))
        if values.embedding:
            fill_embeddings(task.get_output(5), predictions)
        return predictions

    def _set_names(self, names: tuple[str, ...]) -> None:
        """Tell the engine the names and as many colours: it reads past a table that is too short."""
        if names != self._names:
            self._task.set_names(list(names))
            self._colors = make_colors(len(names))
            self._task.set_colors([list(color) for color in self._colors])
            self._names = names

    def _classify_image(self, model: Model, image: np.ndarray, values: InferParameters) -> Prediction:
        adjust = None
        if values.smoothing > 0:
            source = self._task.get_input(0)
            # `run_on` makes the input of a video anew; a further run over the same input begins with its first frame.
            video = source if isinstance(source, dataprocess.CVideoIO) else None
            position = 0 if video is None else video.get_current_pos()
            if position < self._position:
                self.smoother.reset()
            self._position = position
            stream = (video, source.source_file_path, image.shape, model)
            adjust = partial(self.smoother.update, share=values.smoothing, stream=stream)
        else:
            self.smoother.reset()
        prediction = model.predict([image], AnswerOptions.from_parameters(values, self._threshold), adjust)[0]
        # For the engine's own accessors, such as `get_whole_image_results`.
        scores = prediction.top_k
        self._task.set_whole_image_results([each.label for each in scores], [str(each.confidence) for each in scores])
        return prediction

    def _classify_boxes(self, model: Model, image: np.ndarray, values: InferParameters) -> list[Prediction]:
        items, boxes, crops = [], [], []
        for item in select_shapes(self._task.get_input_objects()):
            box: Box = tuple(item.get_bounding_rect())  # type: ignore[assignment]
            crop = crop_box(image, box, values.box_margin)
            if crop is not None:
                items.append(item)
                boxes.append(box)
                crops.append(crop)
        predictions = model.predict(crops, AnswerOptions.from_parameters(values, self._threshold))
        for item, prediction in zip(items, predictions, strict=True):
            # The name after the last class is `unknown`.
            self._task.add_object(item, prediction.index % len(self._names), prediction.confidence)
        return [replace(prediction, box=box) for prediction, box in zip(predictions, boxes, strict=True)]

    def _get_color(self, prediction: Prediction) -> Color:
        return self._colors[prediction.index % len(self._colors)]
