"""A loaded model: images to predictions, by preprocessing, one run of the network, names and explanations."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnetkit.answers.heatmaps import class_activation_map
from resnetkit.answers.probabilities import softmax
from resnetkit.images.pixels import ImageError
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.images.reading import hold_image
from resnetkit.machine.threads import count_cores, share_work
from resnetkit.parameters.declaration import ParameterError

if TYPE_CHECKING:
    from resnetkit.parameters.inference import InferParameters
    from resnetkit.runtimes.network import NetworkOutput, Runtime

#: The label of an answer below the confidence threshold.
UNKNOWN = "unknown"
#: Images in one run of the network: larger batches gain nothing on a CPU and cost memory.
_MAX_BATCH = 32
_MAX_DECODERS = 16


@dataclass(frozen=True)
class ClassScore:
    """One entry of a top-k list."""

    label: str
    index: int
    confidence: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image or box.

    Attributes:
        label: Name of the most probable class, or `unknown` below the confidence threshold.
        index: Its index, or -1 for `unknown`.
        confidence: Probability of the most probable class, 0..1.
        top_k: The most probable classes, best first; real classes also where the label is `unknown`.
        box: (left, top, width, height) in pixels of the image as the detector gave it; None for a whole image.
        probabilities: (num_classes,) float32, sums to 1.
        embedding: Pooled feature vector, (512,) or (2048,) float32, if asked for.
        activation: Class activation map of the most probable class, or of the one that was asked for, (h, w) float32.
    """

    label: str
    index: int
    confidence: float
    top_k: tuple[ClassScore, ...]
    box: tuple[float, float, float, float] | None = None
    probabilities: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), repr=False, compare=False)
    embedding: np.ndarray | None = field(default=None, repr=False, compare=False)
    activation: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON-able values; probabilities and activation are left out."""
        return {
            "label": self.label,
            "index": self.index,
            "confidence": self.confidence,
            "top_k": [asdict(score) for score in self.top_k],
            "box": None if self.box is None else list(self.box),
            "embedding": None if self.embedding is None else self.embedding.tolist(),
        }


@dataclass(frozen=True)
class AnswerOptions:
    """What an answer holds: see the parameters of the same names."""

    top_k: int = 5
    confidence_threshold: float = 0.0
    heatmap: bool = False
    embedding: bool = False
    heatmap_class: str = ""

    @classmethod
    def from_parameters(cls, values: InferParameters, threshold: float) -> AnswerOptions:
        """Return what the parameters ask for, with the confidence threshold that they come to."""
        named = {name: getattr(values, name) for name in cls.__dataclass_fields__}
        return cls(**{**named, "confidence_threshold": threshold})


class Model:
    """A network with its preprocessing and the names of its classes.

    Args:
        max_threads: Threads that may prepare images beside each other; 0 means as many as there are cores.

    Attributes:
        runtime: The network, loaded.
        preprocessing: How images become its input.
        classes: Names in the order of its outputs.
    """

    def __init__(
        self, runtime: Runtime, preprocessing: Preprocessing, classes: Sequence[str], max_threads: int = 0
    ) -> None:
        self.runtime = runtime
        self.preprocessing = preprocessing
        self.classes = tuple(classes)
        self._max_threads = max_threads or count_cores()

    @cached_property
    def _head_weights(self) -> np.ndarray:
        return self.runtime.read_head_weights()

    def predict(
        self,
        images: Sequence[np.ndarray],
        options: AnswerOptions | None = None,
        adjust: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> list[Prediction]:
        """Classify images, in batches.

        Args:
            images: RGB, each (height, width, 3) uint8; sizes may differ.
            options: What the answers hold.
            adjust: Takes the probabilities of one image, (num_classes,), and returns those to answer from.

        Returns:
            One prediction an image, in order.

        Raises:
            ValueError: An image has another shape or dtype.
        """
        options = options or AnswerOptions()
        predictions: list[Prediction] = []
        for start in range(0, len(images), _MAX_BATCH):
            prepared = self._prepare(images[start : start + _MAX_BATCH])
            predictions += self._predict_batch(prepared, options, adjust)
        return predictions

    def _prepare(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Prepare images in several threads: each by one where there are many, else all share each."""
        prepare = self.preprocessing.prepare
        if len(images) > 1:
            return share_work(prepare, images, self._max_threads)
        return [prepare(image, self._max_threads) for image in images]

    def predict_files(
        self, paths: Iterable[Path], options: AnswerOptions | None = None, max_megapixels: float = 500
    ) -> Iterator[tuple[Path, Prediction | ImageError]]:
        """Classify image files: threads decode and resize them while the network runs, one batch behind them.

        Args:
            paths: Files, in the order of the answers; taken as they are needed.
            options: What the answers hold.
            max_megapixels: Larger images are refused before they are decoded.

        Yields:
            Each path with its prediction, or with the error that says why it could not be read.
        """
        options = options or AnswerOptions()
        decoders = ThreadPoolExecutor(_count_decoders(), "decoding")
        network = ThreadPoolExecutor(1, "network")
        remaining = iter(paths)
        decoding: deque[tuple[Path, Future[Any]]] = deque()
        running: deque[Future[list[tuple[Path, Prediction | ImageError]]]] = deque()
        try:
            while True:
                while len(decoding) < 2 * _MAX_BATCH and (path := next(remaining, None)) is not None:
                    decoding.append((path, decoders.submit(self._prepare_file, path, max_megapixels)))
                if decoding:
                    batch = [decoding.popleft() for _ in range(min(_MAX_BATCH, len(decoding)))]
                    contents = [(path, future.result()) for path, future in batch]
                    running.append(network.submit(self._answer_files, contents, options))
                # While the answers of one batch are taken away, the network has the next one.
                if len(running) > 1 or (running and not decoding):
                    yield from running.popleft().result()
                if not running and not decoding:
                    return
        finally:
            decoders.shutdown(cancel_futures=True)
            network.shutdown(cancel_futures=True)

    def _predict_batch(
        self,
        images: Sequence[np.ndarray],
        options: AnswerOptions,
        adjust: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> list[Prediction]:
        """Classify prepared images, (3, S, S) uint8, in one run of the network."""
        batch = images[0][None] if len(images) == 1 else np.stack(images)
        output = self.runtime.run(batch, with_features=options.heatmap or options.embedding)
        if not np.isfinite(output.logits).all():
            raise RuntimeError(
                f"the network's answer is not finite in precision {self.runtime.precision}; set 'precision' to fp32"
            )
        predictions = []
        for index, probabilities in enumerate(softmax(output.logits).astype(np.float32)):
            prediction = self._name(probabilities if adjust is None else adjust(probabilities), options)
            predictions.append(self._add_features(prediction, output, index, options))
        return predictions

    def _name(self, probabilities: np.ndarray, options: AnswerOptions) -> Prediction:
        """Turn one row of probabilities into the names of the most probable classes."""
        order = _find_largest(probabilities, min(options.top_k, len(probabilities)))
        top_k = tuple(ClassScore(self.classes[i], int(i), float(probabilities[i])) for i in order)
        best = top_k[0]
        if best.confidence < options.confidence_threshold:
            return Prediction(UNKNOWN, -1, best.confidence, top_k, probabilities=probabilities)
        return Prediction(best.label, best.index, best.confidence, top_k, probabilities=probabilities)

    def _add_features(
        self, prediction: Prediction, output: NetworkOutput, index: int, options: AnswerOptions
    ) -> Prediction:
        if options.embedding and output.pooled is not None:
            prediction = replace(prediction, embedding=output.pooled[index].copy())
        if options.heatmap and output.feature_map is not None:
            chosen = find_class(self.classes, options.heatmap_class) if options.heatmap_class else None
            class_weights = self._head_weights[prediction.top_k[0].index if chosen is None else chosen]
            prediction = replace(prediction, activation=class_activation_map(output.feature_map[index], class_weights))
        return prediction

    def _prepare_file(self, path: Path, max_megapixels: float) -> Any:
        try:
            with hold_image(path, max_megapixels, self.preprocessing.value_range) as image:
                return self.preprocessing.prepare(image)
        except ImageError as error:
            return error

    def _answer_files(
        self, batch: list[tuple[Path, Any]], options: AnswerOptions
    ) -> list[tuple[Path, Prediction | ImageError]]:
        readable = [content for _, content in batch if not isinstance(content, ImageError)]
        predictions = iter(self._predict_batch(readable, options) if readable else [])
        return [(path, content if isinstance(content, ImageError) else next(predictions)) for path, content in batch]


def find_class(classes: Sequence[str], name: str) -> int:
    """Return the index of a class.

    Raises:
        ParameterError: The model has no such class.
    """
    if name in classes:
        return list(classes).index(name)
    similar = difflib.get_close_matches(name, classes, n=1)
    hint = f"; did you mean {similar[0]!r}?" if similar else ""
    raise ParameterError(f"'heatmap_class' must be one of the model's {len(classes)} classes, got {name!r}{hint}")


def _count_decoders() -> int:
    """Return how many threads decode: two keep up with a network on a few cores, half of many with a fast one."""
    return min(_MAX_DECODERS, max(2, count_cores() // 2))


def _find_largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` largest values, largest first; ties in the order of the indices."""
    return np.argsort(-values, kind="stable")[:count]
