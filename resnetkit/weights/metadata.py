"""What a weights file says about itself, as JSON under one key of its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resnetkit.images.pixels import EACH_IMAGE
from resnetkit.images.preprocessing import RESIZE_MODES, Preprocessing
from resnetkit.machine.files import read_file, write_text
from resnetkit.weights.architectures import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD
from resnetkit.weights.errors import WeightsError

#: The key of our JSON in the metadata of safetensors, ONNX and OpenVINO files.
METADATA_KEY = "resnet_for_ikomia"

#: The file beside weights without metadata that says how an image becomes their input.
PREPROCESSING_NAME = "preprocessing.json"

#: The largest `input_size` of the parameters, and twice of it before the crop: an image costs its square in memory.
_MAX_INPUT_SIZE = 1024
_MAX_RESIZE_SIZE = 2048
#: Means and deviations are of values scaled to 0..1; those of other scales (1/255, 127.5) are in it, too.
_MIN_STD, _MAX_VALUE = 1e-4, 1e4
_MAX_NAME_LENGTH = 1000
#: Values of an image: floats of any instrument, and integers of 32 bits.
_MAX_SAMPLE = 1e12
_MAX_PREPROCESSING_BYTES = 100_000


@dataclass(frozen=True)
class ModelMetadata:
    """What a weights file says about itself.

    Attributes:
        model_name: Architecture.
        classes: Class names in the order of the outputs.
        preprocessing: How an image becomes the network's input.
        small_input_stem: Whether the first convolution is 3x3 and there is no max pooling.
        metrics: Figures measured at training, such as accuracy.
        versions: Versions of the libraries that wrote the file.
        training: Parameters of the training and other facts for a reader; JSON values only.
        thresholds: For accuracies that a user may want of the answers kept, the confidence from which on validation
            images reached them, see `resnetkit.evaluation.decisions.choose_thresholds`: wanted accuracy, threshold,
            share kept; in order. Empty where nobody measured.
        temperature: What the logits were divided by after training, so that probabilities agree with how often the
            answers are right; it is part of the last layer's weights already.
    """

    model_name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    small_input_stem: bool = False
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    thresholds: tuple[tuple[float, float, float], ...] = ()

    def to_strings(self) -> dict[str, str]:
        """Return the map of strings that is stored in a file's header."""
        return {METADATA_KEY: json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)}

    def to_plain_strings(self) -> dict[str, str]:
        """Return what any other program needs to run the exported network right, a fact a key; lists are JSON."""
        preprocessing = self.preprocessing
        return {
            "classes": json.dumps(self.classes, ensure_ascii=False),
            "color_order": "RGB",
            "layout": "NCHW",
            "value_range": "0..255",
            "input_size": str(preprocessing.input_size),
            "resize_mode": preprocessing.resize_mode,
            "resize_size": str(preprocessing.resize_size),
            "resize_filter": "bilinear, antialiased",
            "pad_color": json.dumps([round(255 * value) for value in preprocessing.mean]),
            "mean": json.dumps(preprocessing.mean),
            "std": json.dumps(preprocessing.std),
            "temperature": str(self.temperature),
        }

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> ModelMetadata | None:
        """Parse a file's header; None where it is not ours.

        Raises:
            WeightsError: The header is ours but damaged.
        """
        if METADATA_KEY not in strings:
            return None
        try:
            content = json.loads(strings[METADATA_KEY])
            content["preprocessing"] = _parse_preprocessing(content["preprocessing"])
            content["classes"] = _parse_classes(content["classes"])
            content["thresholds"] = tuple(_parse_triple(row) for row in content.get("thresholds", ()))
            metadata = cls(**content)
            _check_types(metadata)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise WeightsError(f"has metadata that cannot be read ({type(error).__name__}: {error})") from error
        return metadata


def find_preprocessing(weights_path: Path) -> Preprocessing | None:
    """Read the file beside weights that says how an image becomes their input; None if there is none.

    Raises:
        WeightsError: The file is damaged.
        OSError: It cannot be read.
    """
    path = weights_path.with_name(PREPROCESSING_NAME)
    if not path.is_file():
        return None
    try:
        return _parse_preprocessing(json.loads(read_file(path, _MAX_PREPROCESSING_BYTES)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise WeightsError(f"has a '{path}' beside it that cannot be read ({type(error).__name__}: {error})") from error


def write_preprocessing(folder: Path, preprocessing: Preprocessing) -> None:
    """Write the file that `find_preprocessing` reads for every weights file in the folder."""
    write_text(folder / PREPROCESSING_NAME, json.dumps(asdict(preprocessing), indent=2) + "\n")


def _parse_preprocessing(content: Mapping[str, Any]) -> Preprocessing:
    preprocessing = Preprocessing(
        input_size=int(content["input_size"]),
        resize_size=int(content["resize_size"]),
        resize_mode=str(content["resize_mode"]),
        mean=_parse_triple(content.get("mean", IMAGENET_MEAN)),
        std=_parse_triple(content.get("std", IMAGENET_STD)),
        value_range=_parse_range(content["value_range"]) if "value_range" in content else EACH_IMAGE,
    )
    is_possible = (
        1 <= preprocessing.input_size <= _MAX_INPUT_SIZE and 1 <= preprocessing.resize_size <= _MAX_RESIZE_SIZE
    )
    if preprocessing.resize_mode not in RESIZE_MODES or not is_possible:
        raise WeightsError(
            f"preprocessing must have an input_size up to {_MAX_INPUT_SIZE}, a resize_size up to {_MAX_RESIZE_SIZE} "
            f"and a resize_mode of {', '.join(RESIZE_MODES)}; got {str(dict(content))[:300]}"
        )
    if min(preprocessing.std) < _MIN_STD:
        raise WeightsError(f"standard deviations must be at least {_MIN_STD}, got {preprocessing.std}")
    return preprocessing


def _parse_range(values: Any) -> tuple[float, float] | None:
    if values is None:
        return None
    black, white = (float(value) for value in values)
    if (black, white) != EACH_IMAGE and not -_MAX_SAMPLE <= black < white <= _MAX_SAMPLE:
        raise WeightsError(f"value_range {values} makes no sense; expected black and white, black the lower one")
    return black, white


def _parse_triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    if not all(-_MAX_VALUE <= value <= _MAX_VALUE for value in (red, green, blue)):
        raise WeightsError(f"mean or deviation {values} makes no sense")
    return red, green, blue


def _parse_classes(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise WeightsError("classes must be a list of names")
    if max(map(len, names)) > _MAX_NAME_LENGTH:
        raise WeightsError(f"a class name may have {_MAX_NAME_LENGTH} letters, got {max(map(len, names))}")
    "".join(names).encode()  # Half a surrogate pair is an error here, rather than in the engine.
    return tuple(names)


def _check_types(metadata: ModelMetadata) -> None:
    if not isinstance(metadata.model_name, str) or metadata.model_name not in ARCHITECTURES:
        raise WeightsError(f"model {metadata.model_name!r} is none of {', '.join(ARCHITECTURES)}")
    if not isinstance(metadata.small_input_stem, bool):
        raise WeightsError("small_input_stem must be true or false")
    if not isinstance(metadata.temperature, (int, float)) or not 0 < metadata.temperature < 1e6:
        raise WeightsError(f"temperature must be a number above 0, got {metadata.temperature!r}")
    if not all(isinstance(part, dict) for part in (metadata.metrics, metadata.versions, metadata.training)):
        raise WeightsError("metrics, versions and training must be objects")
