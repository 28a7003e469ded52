"""The form of train_resnet in Ikomia Studio."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ikomia import core, dataprocess
from ikomia.utils import qtconversion

from resnetkit.forms.panel import ParametersPanel
from resnetkit.forms.rules import FieldRules
from resnetkit.machine.files import Address, resolve_path
from resnetkit.parameters.training import TrainParameters
from resnetkit.parameters.unused import REASONS_UNUSED

if TYPE_CHECKING:
    from resnetkit.parameters.adapter import ParametersAdapter


class TrainResnetWidget(ParametersPanel, core.CWorkflowTaskWidget):
    """The parameter panel."""


class TrainResnetWidgetFactory(dataprocess.CWidgetFactory):
    """Makes the form; the engine finds it by the task's name."""

    def __init__(self) -> None:
        dataprocess.CWidgetFactory.__init__(self)
        self.name = "train_resnet"

    def create(self, param: ParametersAdapter) -> core.CWorkflowTaskWidget:
        """Make the form of a task (called by the engine).

        Raises:
            ImportError: PyQt6 is missing.
            RuntimeError: No Qt application is running.
        """
        return TrainResnetWidget(param, FieldRules(UNUSED, WARNINGS), qtconversion.PyQtToQt)


def explain_unused(name: str, values: TrainParameters) -> str:
    """Say why a parameter has no effect beside the others."""
    reason = REASONS_UNUSED[name](values)
    return f"Not used: {reason}." if reason else ""


def explain_small_input_stem(values: TrainParameters) -> str:
    """Say that ImageNet weights do not have this stem."""
    if values.use_pretrained and not values.model_weight_file and not values.small_input_stem:
        return "Not with ImageNet weights."
    return ""


def warn_of_missing(name: str, values: TrainParameters) -> str:
    """Say that a path to read from is not there; an address leads elsewhere."""
    text = getattr(values, name)
    if not text or isinstance(path := resolve_path(text), Address) or path.exists():
        return ""
    return f"There is no '{path}' on this machine."


UNUSED: dict[str, Callable[[TrainParameters], str]] = {
    **{name: partial(explain_unused, name) for name in REASONS_UNUSED},
    "small_input_stem": explain_small_input_stem,
}
WARNINGS = {
    "dataset_folder": lambda values: warn_of_missing("dataset_folder", values),
    "model_weight_file": lambda values: warn_of_missing("model_weight_file", values),
    "resume_from": lambda values: warn_of_missing("resume_from", values),
}
