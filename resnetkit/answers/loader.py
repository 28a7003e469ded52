"""From parameters to a model, keeping what has not changed since the last time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetkit.answers.model import Model
from resnetkit.images.pixels import EACH_IMAGE, ValueRange
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.images.ranges import parse_value_range
from resnetkit.machine.files import resolve_path
from resnetkit.machine.imports import pause_garbage_collection
from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import to_printable
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.inference import InferParameters
from resnetkit.runtimes.choice import open_runtime
from resnetkit.runtimes.known_files import KnownFiles, get_cache_folder
from resnetkit.runtimes.network import NetworkSource, Runtime, RuntimeOptions
from resnetkit.weights.architectures import ARCHITECTURES, get_imagenet_classes
from resnetkit.weights.checkpoint import BEST_CHECKPOINT, WeightsFile, open_weights
from resnetkit.weights.class_names import CLASSES_NAME, find_class_names
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import PREPROCESSING_NAME
from resnetkit.weights.state_dict import Identity

if TYPE_CHECKING:
    import numpy as np

logger = get_logger()

_DEFAULT_MODEL = InferParameters.model_fields["model_name"].default
_DEFAULT_SIZE = InferParameters.model_fields["input_size"].default


@dataclass(frozen=True)
class Weights:
    """Weights that have been found, and all that is known of them before they are read.

    Attributes:
        file: Where they are.
        identity: Architecture, number of outputs and kind of stem.
        classes: Class names; empty where they are still to be found.
    """

    file: WeightsFile
    identity: Identity
    classes: tuple[str, ...]

    @property
    def is_self_describing(self) -> bool:
        """Whether the file itself says what it is and how images become its input."""
        return self.file.metadata is not None

    @property
    def own_preprocessing(self) -> Preprocessing | None:
        """How images become its input, by the file or one beside it; None for ImageNet's, and where none says it."""
        return None if self.classes and not self.is_self_describing else self.file.preprocessing

    def get_preprocessing(self, weights_name: str) -> Preprocessing:
        """Return its own preprocessing; without, a state dict is taken to need that of the published weights."""
        if self.own_preprocessing is not None:
            return self.own_preprocessing
        return ARCHITECTURES[self.identity.model_name].get_weights(weights_name).preprocessing


class Loader:
    """Makes models for one task; two tasks have two loaders and share nothing.

    Attributes:
        weights: What the last model was made from.
    """

    weights: Weights

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._side_stamps: tuple[Any, ...] = ()

    def find(
        self, values: InferParameters, stamps: tuple[Any, ...] | None = None
    ) -> tuple[Weights, tuple[str, ...], Preprocessing]:
        """Return weights, class names and preprocessing for the parameters, without loading the network.

        Args:
            values: What to look for.
            stamps: What `load` has seen of the weights file already.

        Raises:
            ParameterError: A parameter contradicts the weights file.
            WeightsError: Weights or class names are missing, or do not fit.
        """
        stamps = _get_stamps(values) if stamps is None else stamps
        weights_name = "" if values.model_weight_file else values.pretrained_weights
        sources = (values.model_name, weights_name, values.settings_from, stamps)
        if "weights" in self._kept and _get_side_stamps(self._kept["weights"][1]) != self._side_stamps:
            self._kept.clear()
        weights = self._keep("weights", sources, lambda: _find_weights(values))
        self._side_stamps = _get_side_stamps(weights)
        classes = self._keep(
            "classes",
            (weights.file.path, stamps, _get_class_stamps(weights, values)),
            lambda: _name_classes(weights, values),
        )
        return weights, classes, _choose_preprocessing(weights, values)

    def load(self, values: InferParameters, is_for_batches: bool = False) -> Model:
        """Return the model for the parameters, reloading only what they, or the files, changed.

        Args:
            values: What to load.
            is_for_batches: Whether many images are to be classified in the least time, instead of each as soon as may
                be; one model of each kind is kept.

        Raises:
            ParameterError: A parameter contradicts the weights file.
            WeightsError: Weights or class names are missing, damaged or do not fit.
            RuntimeOptionError: The machine lacks the device, precision or runtime.
        """
        stamps = _get_stamps(values)
        weights, classes, preprocessing = self.find(values, stamps)
        options = RuntimeOptions(values.runtime, values.device, values.precision, values.threads, is_for_batches)
        network = (weights.file.path, stamps, preprocessing.input_size, preprocessing.mean, preprocessing.std)
        kind = " for batches" if is_for_batches else ""
        runtime = self._keep(
            f"runtime{kind}", (network, options), lambda: _open_runtime(weights, preprocessing, options)
        )
        self.weights = weights
        return self._keep(
            f"model{kind}",
            (preprocessing, classes, values.threads),
            lambda: Model(runtime, preprocessing, classes, values.threads),
        )

    def _keep(self, part: str, key: Any, make: Callable[[], Any]) -> Any:
        """Return the part made for this key, made anew where the last one was for another key."""
        if part not in self._kept or self._kept[part][0] != key:
            self._kept.pop(part, None)
            if part.startswith("runtime"):
                self._kept.pop(part.replace("runtime", "model"), None)  # It holds the old network.
            with pause_garbage_collection():
                self._kept[part] = (key, make())
        return self._kept[part][1]


def choose_threshold(values: InferParameters, weights: Weights) -> float:
    """Return the confidence below which an answer is `unknown`: the parameter's, or the one for `wanted_accuracy`.

    Raises:
        ParameterError: The weights file has no thresholds or cannot be as accurate, or both parameters are set.
    """
    wanted = values.wanted_accuracy
    if wanted == 0:
        return values.confidence_threshold
    if values.confidence_threshold > 0:
        raise ParameterError(
            f"'wanted_accuracy' chooses the threshold itself; expected a 'confidence_threshold' of 0 beside it, got "
            f"{values.confidence_threshold:g}; set one of the two to 0"
        )
    thresholds = weights.file.metadata.thresholds if weights.file.metadata else ()
    if not thresholds:
        raise ParameterError(
            f"'wanted_accuracy' needs a weights file with thresholds, as train_resnet writes them; "
            f"'{weights.file.path}' has none; set 'confidence_threshold' instead"
        )
    for accuracy, threshold, _ in thresholds:
        if accuracy >= wanted:
            return threshold
    raise ParameterError(
        f"'wanted_accuracy' of {wanted:g} cannot be promised by '{weights.file.path}'; its validation images show "
        f"{thresholds[-1][0]:g} at most; set it to that or less, or train with more validation images"
    )


def summarize(weights: Weights, model: Model) -> str:
    """Say in one line what is loaded, and what decided it."""
    runtime, preprocessing = model.runtime, model.preprocessing
    return (
        f"{weights.identity.model_name}, {weights.identity.num_classes} classes, from '{weights.file.path}'"
        f"{' (which describes itself)' if weights.is_self_describing else ''}; {preprocessing.resize_mode} to "
        f"{preprocessing.input_size} pixels, {_explain_input_size(weights, model)}; "
        f"{runtime.name} on {runtime.device} in {runtime.precision}"
    )


def describe(weights: Weights, model: Model) -> dict[str, Any]:
    """Return what is loaded, as JSON-able values: for `get_model_info()`."""
    metadata, preprocessing, runtime = weights.file.metadata, model.preprocessing, model.runtime
    return {
        "model_name": weights.identity.model_name,
        "weights": str(weights.file.path),
        "is_self_describing": weights.is_self_describing,
        "num_classes": weights.identity.num_classes,
        "classes": list(model.classes),
        "input_size": preprocessing.input_size,
        "resize_mode": preprocessing.resize_mode,
        "resize_size": preprocessing.resize_size,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "value_range": _describe_range(preprocessing.value_range),
        "small_input_stem": weights.identity.small_input_stem,
        "metrics": dict(metadata.metrics) if metadata else {},
        "training": dict(metadata.training) if metadata else {},
        "versions": dict(metadata.versions) if metadata else {},
        "runtime": runtime.name,
        "device": runtime.device,
        "precision": runtime.precision,
    }


def _describe_range(value_range: ValueRange | None) -> list[float] | str | None:
    if value_range == EACH_IMAGE:
        return "each image's own"
    return None if value_range is None else list(value_range)


def _explain_input_size(weights: Weights, model: Model) -> str:
    if weights.own_preprocessing is None:
        return "by the parameters"
    is_own = model.preprocessing.input_size == weights.own_preprocessing.input_size
    where = "weights file" if weights.is_self_describing else PREPROCESSING_NAME
    return f"as the {where} says" if is_own else f"by 'input_size' instead of the {where}'s own"


def _get_stamps(values: InferParameters) -> tuple[Any, ...]:
    """Identify the content of the weights file, so that one that was replaced since is seen; () for ImageNet's."""
    if not values.model_weight_file:
        return ()
    # No look at the disk that is not needed: after the network's run each takes a hundredth of a quick network's time.
    path = resolve_path(values.model_weight_file)
    status = _look_at(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        return path, _get_stamp(_look_at(path / BEST_CHECKPOINT))
    if path.suffix.lower() == ".xml":
        return path, _get_stamp(status), _get_stamp(_look_at(path.with_suffix(".bin")))
    return path, _get_stamp(status)


def _get_side_stamps(weights: Weights) -> tuple[Any, ...]:
    """Identify what else the weights depend on: an ONNX model's external data, and what is said of a state dict."""
    paths = weights.file.side_files if weights.file.format == "onnx" else ()
    if not weights.classes:
        paths = (weights.file.path.with_name(PREPROCESSING_NAME),)
    return tuple(_get_stamp(_look_at(path)) for path in paths)


def _get_class_stamps(weights: Weights, values: InferParameters) -> tuple[Any, ...]:
    path = _get_class_file(values)
    listed = _get_stamp(_look_at(path)) if path else None
    return path, listed, _get_stamp(_look_at(weights.file.path.with_name(CLASSES_NAME)))


def _get_class_file(values: InferParameters) -> Path | None:
    """Return the class file of the parameters; none is read while ImageNet weights are used."""
    return resolve_path(values.class_file) if values.class_file and values.model_weight_file else None


def _look_at(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _get_stamp(status: os.stat_result | None) -> tuple[int, ...] | None:
    # Whoever overwrites a file may keep its time of modification, but not that of its change.
    return None if status is None else (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def _find_weights(values: InferParameters) -> Weights:
    if not values.model_weight_file:
        return _find_imagenet_weights(values)
    file = open_weights(resolve_path(values.model_weight_file), KnownFiles(get_cache_folder()).recall)
    if file.metadata is not None:
        metadata = file.metadata
        _check_model_name(values, metadata.model_name, file)
        identity = Identity(metadata.model_name, len(metadata.classes), metadata.small_input_stem)
        return Weights(file, identity, metadata.classes)
    if file.is_graph:
        raise WeightsError(f"weights file '{file.path}' does not say what it is; expected one that train_resnet wrote")
    identity = file.identify()
    _check_model_name(values, identity.model_name, file)
    if file.preprocessing is None:
        logger.info(
            "'%s' does not say how an image becomes its input, which is guessed to be ImageNet's way; set "
            "'input_size' and 'resize_mode', or put train_resnet's %s beside it",
            file.path,
            PREPROCESSING_NAME,
        )
    return Weights(file, identity, ())


def _check_model_name(values: InferParameters, model_name: str, file: WeightsFile) -> None:
    """Refuse a file of another architecture than the parameters say, unless the file decides."""
    is_given = {
        "parameters": True,
        "weights_file": False,
        "auto": values.model_name != _DEFAULT_MODEL or file.metadata is None,
    }[values.settings_from]
    if is_given and values.model_name != model_name:
        raise ParameterError(
            f"weights file '{file.path}' holds a {model_name}, but 'model_name' is {values.model_name}; "
            f"set 'model_name' to {model_name}, or 'settings_from' to weights_file"
        )


def _find_imagenet_weights(values: InferParameters) -> Weights:
    from resnetkit.weights.published import fetch_imagenet_weights

    path = fetch_imagenet_weights(values.model_name, values.pretrained_weights)
    classes = get_imagenet_classes()
    file = WeightsFile(path, "torch", None, recall=KnownFiles(get_cache_folder()).recall)
    return Weights(file, Identity(values.model_name, len(classes), False), classes)


def _choose_preprocessing(weights: Weights, values: InferParameters) -> Preprocessing:
    """Take the weights' own preprocessing, but for what the parameters decide."""
    preprocessing = weights.get_preprocessing(values.pretrained_weights)
    is_given = {
        "parameters": True,
        "weights_file": weights.own_preprocessing is None,
        "auto": values.input_size != _DEFAULT_SIZE,
    }[values.settings_from]
    if is_given:
        preprocessing = preprocessing.at_size(values.input_size)
    if values.resize_mode != "auto":
        preprocessing = replace(preprocessing, resize_mode=values.resize_mode)
    if (declared := parse_value_range(values.value_range)) is not None:
        preprocessing = replace(preprocessing, value_range=declared)
    return preprocessing


def _name_classes(weights: Weights, values: InferParameters) -> tuple[str, ...]:
    names = weights.classes
    if not names:
        names = find_class_names(weights.identity.num_classes, _get_class_file(values), weights.file.path)
    elif values.class_file:
        logger.warning("'class_file' is not used: '%s' names its classes", weights.file.path)
    return tuple(to_printable(name) for name in names)


def _open_runtime(weights: Weights, preprocessing: Preprocessing, options: RuntimeOptions) -> Runtime:
    source = NetworkSource(
        **weights.identity._asdict(),
        mean=preprocessing.mean,
        std=preprocessing.std,
        content_hash=weights.file.content_hash,
        input_size=preprocessing.input_size,
        read_state_dict=partial(_read_arrays, weights),
        graph_path=weights.file.path if weights.file.is_graph else None,
        check_unchanged=weights.file.check_unchanged if weights.file.is_graph else None,
    )
    return open_runtime(source, options, get_cache_folder())


def _read_arrays(weights: Weights) -> dict[str, np.ndarray]:
    arrays = weights.file.read_arrays()
    found = len(arrays["fc.weight"])
    if found != weights.identity.num_classes:
        raise WeightsError(
            f"weights file '{weights.file.path}' has {found} outputs; expected {weights.identity.num_classes}"
        )
    return arrays
