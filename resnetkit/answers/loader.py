"""From parameters to a predictor, keeping what has not changed since the last time."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetkit.answers.predictor import Predictor
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.machine.files import get_ikomia_root, resolve_path
from resnetkit.machine.imports import pause_garbage_collection
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.inference import InferParameters
from resnetkit.runtimes.choice import open_runtime
from resnetkit.runtimes.network import NetworkSource, Runtime, RuntimeOptionError, RuntimeOptions
from resnetkit.weights.architectures import (
    ARCHITECTURES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    get_imagenet_classes,
)
from resnetkit.weights.checkpoint import BEST_CHECKPOINT, ModelMetadata, WeightsError, WeightsFile, open_weights
from resnetkit.weights.class_names import CLASSES_NAME, find_class_names

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_DEFAULT_MODEL = InferParameters.model_fields["model_name"].default
_DEFAULT_SIZE = InferParameters.model_fields["input_size"].default


@dataclass(frozen=True)
class Model:
    """Weights that have been found, and all that is known of them before they are read.

    Attributes:
        file: Where the weights are.
        metadata: Architecture, class names (empty: still to be found) and preprocessing.
        num_classes: Number of outputs.
        is_self_describing: Whether the metadata came from the file itself.
    """

    file: WeightsFile
    metadata: ModelMetadata
    num_classes: int
    is_self_describing: bool


class Loader:
    """Makes predictors for one task; two tasks have two loaders and share nothing."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Any]] = {}

    def load(self, values: InferParameters) -> tuple[Model, Predictor]:
        """Return weights and predictor for the parameters, reloading only what they, or the files, changed.

        Raises:
            ParameterError: A parameter contradicts the weights file.
            WeightsError: Weights or class names are missing, damaged or do not fit.
            ValueError: The machine lacks the device, precision or runtime.
        """
        try:
            stamps = _get_stamps(values)
            weights_name = "" if values.model_weight_file else values.pretrained_weights
            model = self._keep("model", (values.model_name, weights_name, stamps), lambda: _find_model(values))
            classes = self._keep(
                "classes",
                (model.file.path, stamps, _get_class_stamps(model, values)),
                lambda: _name_classes(model, values),
            )
            preprocessing = _choose_preprocessing(model, values)
            options = RuntimeOptions(values.runtime, values.device, values.precision, values.threads)
            network = (model.file.path, stamps, preprocessing.input_size, preprocessing.mean, preprocessing.std)
            runtime = self._keep("runtime", (network, options), lambda: _open_runtime(model, preprocessing, options))
        except WeightsError as error:
            raise WeightsError(f"{values.plugin}: {error}") from error
        except RuntimeOptionError as error:
            raise RuntimeOptionError(f"{values.plugin}: {error}") from error
        predictor = self._keep(
            "predictor", (preprocessing, classes), lambda: Predictor(runtime, preprocessing, classes)
        )
        return model, predictor

    def _keep(self, part: str, key: Any, make: Callable[[], Any]) -> Any:
        """Return the part made for this key, made anew where the last one was for another key."""
        if part not in self._kept or self._kept[part][0] != key:
            self._kept.pop(part, None)
            if part == "runtime":
                self._kept.pop("predictor", None)  # It holds the old network.
            with pause_garbage_collection():
                self._kept[part] = (key, make())
        return self._kept[part][1]


def summarize(model: Model, predictor: Predictor) -> str:
    """Say in one line what is loaded."""
    runtime, preprocessing = predictor.runtime, predictor.preprocessing
    return (
        f"{model.metadata.model_name}, {model.num_classes} classes, from '{model.file.path}'"
        f"{' (which describes itself)' if model.is_self_describing else ''}; {preprocessing.resize_mode} to "
        f"{preprocessing.input_size} pixels; {runtime.name} on {runtime.device} in {runtime.precision}"
    )


def describe(model: Model, predictor: Predictor) -> dict[str, Any]:
    """Return what is loaded, as JSON-able values: for `get_model_info()`."""
    preprocessing = predictor.preprocessing
    return {
        "model_name": model.metadata.model_name,
        "weights": str(model.file.path),
        "is_self_describing": model.is_self_describing,
        "num_classes": model.num_classes,
        "classes": list(predictor.classes),
        "input_size": preprocessing.input_size,
        "resize_mode": preprocessing.resize_mode,
        "resize_size": preprocessing.resize_size,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "small_input_stem": model.metadata.small_input_stem,
        "metrics": dict(model.metadata.metrics),
        "versions": dict(model.metadata.versions),
        "runtime": predictor.runtime.name,
        "device": predictor.runtime.device,
        "precision": predictor.runtime.precision,
    }


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


def _get_class_stamps(model: Model, values: InferParameters) -> tuple[Any, ...]:
    path = _get_class_file(values)
    listed = _get_stamp(_look_at(path)) if path else None
    return path, listed, _get_stamp(_look_at(model.file.path.with_name(CLASSES_NAME)))


def _get_class_file(values: InferParameters) -> Path | None:
    """Return the class file of the parameters; none is read while ImageNet weights are used."""
    return resolve_path(values.class_file) if values.class_file and values.model_weight_file else None


def _look_at(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _get_stamp(status: os.stat_result | None) -> tuple[int, int, int] | None:
    return None if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)


def _find_model(values: InferParameters) -> Model:
    if not values.model_weight_file:
        return _find_imagenet_model(values)
    file = open_weights(resolve_path(values.model_weight_file))
    if file.metadata is not None:
        _refuse_other_model(values, file.metadata.model_name, file, may_be_default=True)
        return Model(file, file.metadata, len(file.metadata.classes), is_self_describing=True)
    if file.is_graph:
        raise WeightsError(f"weights file '{file.path}' does not say what it is; expected one that train_resnet wrote")
    model_name, num_classes, small_input_stem = file.identify()
    _refuse_other_model(values, model_name, file, may_be_default=False)
    preprocessing = _get_published_preprocessing(model_name, values)
    return Model(file, ModelMetadata(model_name, (), preprocessing, small_input_stem), num_classes, False)


def _refuse_other_model(values: InferParameters, model_name: str, file: WeightsFile, may_be_default: bool) -> None:
    is_untouched = may_be_default and values.model_name == _DEFAULT_MODEL
    if values.model_name != model_name and not is_untouched:
        raise ParameterError(
            f"{values.plugin}: weights file '{file.path}' holds a {model_name}, but 'model_name' is "
            f"{values.model_name}; set 'model_name' to {model_name}"
        )


def _find_imagenet_model(values: InferParameters) -> Model:
    from resnetkit.weights.models import fetch_imagenet_weights

    path = fetch_imagenet_weights(values.model_name, values.pretrained_weights)
    classes = get_imagenet_classes()
    metadata = ModelMetadata(values.model_name, classes, _get_published_preprocessing(values.model_name, values))
    return Model(WeightsFile(path, "torch", None), metadata, len(classes), is_self_describing=False)


def _get_published_preprocessing(model_name: str, values: InferParameters) -> Preprocessing:
    try:
        weights = ARCHITECTURES[model_name].get_weights(values.pretrained_weights)
    except ValueError as error:
        raise WeightsError(str(error)) from error
    return Preprocessing(weights.crop_size, weights.resize_size, "crop", IMAGENET_MEAN, IMAGENET_STD)


def _choose_preprocessing(model: Model, values: InferParameters) -> Preprocessing:
    """Take the weights' own preprocessing, but for what the user changed from the defaults.

    A bare state dict is taken to need that of the published weights, which is also what train_resnet starts from.
    """
    preprocessing = model.metadata.preprocessing
    if not model.is_self_describing:
        preprocessing = _get_published_preprocessing(model.metadata.model_name, values)
    if values.input_size != _DEFAULT_SIZE:
        preprocessing = preprocessing.at_size(values.input_size)
    if values.resize_mode != "auto":
        preprocessing = replace(preprocessing, resize_mode=values.resize_mode)
    return preprocessing


def _name_classes(model: Model, values: InferParameters) -> tuple[str, ...]:
    class_file = _get_class_file(values)
    if not model.metadata.classes:
        return find_class_names(model.num_classes, class_file, model.file.path)
    if class_file is not None:
        logger.warning("%s: 'class_file' is not used: '%s' names its classes", values.plugin, model.file.path)
    return model.metadata.classes


def _open_runtime(model: Model, preprocessing: Preprocessing, options: RuntimeOptions) -> Runtime:
    source = NetworkSource(
        model_name=model.metadata.model_name,
        num_classes=model.num_classes,
        small_input_stem=model.metadata.small_input_stem,
        mean=preprocessing.mean,
        std=preprocessing.std,
        content_hash=model.file.content_hash,
        input_size=preprocessing.input_size,
        read_state_dict=partial(_read_state_dict, model),
        graph_path=model.file.path if model.file.is_graph else None,
    )
    return open_runtime(source, options, get_ikomia_root() / "Cache" / "infer_resnet")


def _read_state_dict(model: Model) -> dict[str, torch.Tensor]:
    state_dict = model.file.read_state_dict()
    found = state_dict["fc.weight"].shape[0]
    if found != model.num_classes:
        raise WeightsError(f"weights file '{model.file.path}' has {found} outputs; expected {model.num_classes}")
    return state_dict
