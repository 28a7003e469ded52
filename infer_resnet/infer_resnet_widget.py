"""The form of infer_resnet in Ikomia Studio."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ikomia import core, dataprocess
from ikomia.utils import qtconversion

from resnetkit.forms.panel import ParametersPanel
from resnetkit.forms.rules import FieldRules
from resnetkit.machine.files import resolve_path
from resnetkit.parameters.inference import InferParameters
from resnetkit.weights.checkpoint import read_metadata
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import PREPROCESSING_NAME, ModelMetadata, find_preprocessing

if TYPE_CHECKING:
    from resnetkit.parameters.adapter import ParametersAdapter

#: As many class names as fit two lines under a field.
_SHOWN_NAMES = 6


class InferResnetWidget(ParametersPanel, core.CWorkflowTaskWidget):
    """The parameter panel."""


class InferResnetWidgetFactory(dataprocess.CWidgetFactory):
    """Makes the form; the engine finds it by the task's name."""

    def __init__(self) -> None:
        dataprocess.CWidgetFactory.__init__(self)
        self.name = "infer_resnet"

    def create(self, param: ParametersAdapter) -> core.CWorkflowTaskWidget:
        """Make the form of a task (called by the engine).

        Raises:
            ImportError: PyQt6 is missing.
            RuntimeError: No Qt application is running.
        """
        return InferResnetWidget(param, FieldRules(UNUSED, WARNINGS, HINTS), qtconversion.PyQtToQt)


def explain_model_name(values: InferParameters) -> str:
    """Say that the weights file decides the architecture; not where the two contradict each other."""
    metadata = _read_weights(values)[0]
    default = type(values)().model_name
    if metadata is None or values.model_name not in (default, metadata.model_name):
        return ""
    return f"Not used: the weights file says {metadata.model_name}."


def explain_pretrained_weights(values: InferParameters) -> str:
    """Say that ImageNet weights are not used beside a file."""
    return "Not used: a weights file is given." if values.model_weight_file else ""


def explain_class_file(values: InferParameters) -> str:
    """Say where the class names come from, if not from a class file."""
    if not values.model_weight_file:
        return "Not used: the ImageNet weights carry their 1000 names."
    metadata = _read_weights(values)[0]
    if metadata is None or not metadata.classes:
        return ""
    return f"Not used: the weights file carries its names ({_list_names(metadata.classes)})."


def explain_threads(values: InferParameters) -> str:
    """Say that threads are a matter of the CPU."""
    return f"Not used: the network runs on {values.device}." if values.device.startswith(("cuda", "mps")) else ""


def warn_of_weights(values: InferParameters) -> str:
    """Say what is wrong with the weights file on this machine."""
    return _read_weights(values)[1]


def warn_of_class_file(values: InferParameters) -> str:
    """Say that the class file is not there."""
    if not values.class_file or resolve_path(values.class_file).is_file():
        return ""
    return f"There is no file '{resolve_path(values.class_file)}' on this machine."


def describe_weights(values: InferParameters) -> str:
    """Say what the weights file holds."""
    metadata = _read_weights(values)[0]
    if metadata is None:
        return ""
    accuracy = metadata.metrics.get("accuracy")
    figure = f", validation accuracy {accuracy:.1%}" if isinstance(accuracy, float) else ""
    return f"{metadata.model_name}, {len(metadata.classes)} classes{figure}."


def describe_input_size(values: InferParameters) -> str:
    """Say which size the weights file brings."""
    metadata, problem = _read_weights(values)
    if not values.model_weight_file or problem or values.input_size != type(values)().input_size:
        return ""
    if metadata is not None:
        return f"The weights file's own size: {metadata.preprocessing.input_size}."
    try:
        beside = find_preprocessing(resolve_path(values.model_weight_file))
    except (WeightsError, OSError):
        return ""
    if beside is None:
        return "A guess: the weights file does not say how an image becomes its input."
    return f"As {PREPROCESSING_NAME} beside the weights file says: {beside.input_size}."


UNUSED = {
    "model_name": explain_model_name,
    "pretrained_weights": explain_pretrained_weights,
    "class_file": explain_class_file,
    "threads": explain_threads,
}
WARNINGS = {"model_weight_file": warn_of_weights, "class_file": warn_of_class_file}
HINTS = {"model_weight_file": describe_weights, "input_size": describe_input_size}


def _read_weights(values: InferParameters) -> tuple[ModelMetadata | None, str]:
    """Return what the weights file says about itself, and what is wrong with it."""
    if not values.model_weight_file:
        return None, ""
    path = resolve_path(values.model_weight_file)
    try:
        modified_ns = path.stat().st_mtime_ns
    except (OSError, ValueError):
        modified_ns = 0
    return _read_file(str(path), modified_ns)


@lru_cache(maxsize=8)
def _read_file(path: str, _modified_ns: int) -> tuple[ModelMetadata | None, str]:
    """Read a header once, not at every key stroke; a file that changed is read again."""
    try:
        return read_metadata(resolve_path(path)), ""
    except (WeightsError, OSError) as error:
        return None, str(error)


def _list_names(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES])
    return f"{len(names)}: {shown}" + (", …" if len(names) > _SHOWN_NAMES else "")
