"""A loaded model for Python programs, as `resnetkit.load_model` gives it: images in, answers out."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, overload

from resnetkit.answers.loader import Loader, choose_threshold, describe
from resnetkit.answers.model import AnswerOptions, Prediction, find_class
from resnetkit.folders.listing import ListedFile, Source, list_files
from resnetkit.folders.rows import Answer, Columns
from resnetkit.images.kinds import is_one_image, read_any
from resnetkit.images.pixels import ImageError
from resnetkit.parameters.inference import InferParameters
from resnetkit.weights.architectures import ARCHITECTURES


class Classifier:
    """A model that is loaded: single images are answered soon, folders in the least time.

    Args:
        values: The parameters of infer_resnet.
        loader: What may have parts of the model already.

    Attributes:
        values: The parameters of infer_resnet.
        classes: Names in the order of the network's outputs.
        preprocessing: How images become its input.
    """

    def __init__(self, values: InferParameters, loader: Loader | None = None) -> None:
        self.values = values
        self._loader = loader or Loader()
        self._weights, self.classes, self.preprocessing = self._loader.find(values)
        if values.heatmap_class:
            find_class(self.classes, values.heatmap_class)

    @property
    def info(self) -> dict[str, Any]:
        """What is loaded: architecture, weights, classes, preprocessing, runtime; JSON-able."""
        model = self._loader.load(self.values)
        return describe(self._weights, model)

    @overload
    def predict(self, images: Iterable[Any]) -> list[Prediction]: ...
    @overload
    def predict(self, images: Any) -> Prediction: ...
    def predict(self, images: Any) -> Any:
        """Classify an image, or several.

        Args:
            images: A path, a numpy array of (height, width, 3) in RGB, a Pillow image, a torch tensor; or a list of
                these, or an array or tensor of four dimensions.

        Returns:
            A prediction for one image, a list of predictions for several.

        Raises:
            ImageError: An image cannot be read, or is none.
        """
        model = self._loader.load(self.values)
        options = AnswerOptions.from_parameters(self.values, choose_threshold(self.values, self._loader.weights))
        read = partial(read_any, value_range=self.preprocessing.value_range)
        if is_one_image(images):
            return model.predict([read(images)], options)[0]
        remaining, predictions = iter(images), []
        while batch := [read(image) for image in islice(remaining, 32)]:
            predictions += model.predict(batch, options)
        return predictions

    def classify(self, sources: Source | Iterable[Source]) -> Answers:
        """Classify image files, many at a time: decoding runs beside the network.

        Args:
            sources: Files, folders (with what is below them), patterns, lists of paths (.txt, .csv), `-` for a list on
                standard input; one, or several.

        Returns:
            An iterator of answers in the order of the files; one that cannot be read is an answer with an `error`.
        """
        listed = list_files(sources)
        return Answers(self.make_columns(), (answer for _, answer in self.answer(listed)))

    def answer(self, listed: Iterable[ListedFile]) -> Iterator[tuple[ListedFile, Answer]]:
        """Classify listed files, in their order."""
        model = self._loader.load(self.values, is_for_batches=True)
        options = AnswerOptions.from_parameters(self.values, choose_threshold(self.values, self._loader.weights))
        waiting: deque[ListedFile] = deque()

        def hand_out() -> Iterator[Path]:
            for file in listed:
                waiting.append(file)
                yield file.path

        for path, found in model.predict_files(hand_out(), options):
            if isinstance(found, ImageError):
                # The path stands beside it.
                yield waiting.popleft(), Answer(path, None, str(found).removeprefix(f"'{path}': "))
            else:
                yield waiting.popleft(), Answer(path, found)

    def make_columns(self, has_probabilities: bool = False) -> Columns:
        """Return the columns of a table of this model's answers."""
        is_deep = ARCHITECTURES[self._weights.identity.model_name].block == "bottleneck"
        return Columns(
            classes=self.classes,
            top_k=self.values.top_k,
            model=self._identify(),
            has_probabilities=has_probabilities,
            embedding_size=(2048 if is_deep else 512) if self.values.embedding else 0,
        )

    def _identify(self) -> str:
        """Return a name for weights and settings: other ones may give other answers."""
        facts = (self._weights.file.content_hash, self.classes, self.preprocessing, self.values.confidence_threshold)
        return f"{self._weights.identity.model_name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"


class Answers(Iterator[Answer]):
    """Answers as they come; or all of them in a table.

    Attributes:
        columns: What such a table holds.
    """

    def __init__(self, columns: Columns, answers: Iterator[Answer]) -> None:
        self.columns = columns
        self._answers = answers

    def __next__(self) -> Answer:
        return next(self._answers)

    def to_dataframe(self, probabilities: bool = False) -> Any:
        """Return what is left as a pandas DataFrame, a row a file.

        Args:
            probabilities: Whether there is a column a class.

        Returns:
            Columns as in a table that `resnetkit classify` writes; the embedding, if asked for, is an array a cell.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                f"a DataFrame needs pandas, which cannot be imported ({error}); pip install pandas"
            ) from error
        from dataclasses import replace

        columns = replace(self.columns, has_probabilities=probabilities)
        records = [{**columns.make_record(answer), "path": str(answer.path)} for answer in self]
        frame = pd.DataFrame(records, columns=list(columns.names))
        numbers = [name for name in columns.names if name not in columns.texts and name != "embedding"]
        return frame.astype(dict.fromkeys(numbers, "float64"))
