"""The form of train_resnet in Ikomia Studio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ikomia import core, dataprocess
from ikomia.utils import qtconversion

from resnetkit.forms.panel import ParametersPanel
from resnetkit.forms.rules import FieldRules
from resnetkit.machine.files import resolve_path
from resnetkit.parameters.training import TrainParameters

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


def explain_use_pretrained(values: TrainParameters) -> str:
    """Say that a file takes the place of ImageNet's weights."""
    return "Not used: training starts from the file below." if values.model_weight_file else ""


def explain_augmentation(values: TrainParameters) -> str:
    """Say when the head sees only plain views."""
    if values.feature_extract and not _may_have_views(values):
        return "Not used: the head is trained on plain views, unless 'Cached views' is above 0."
    return ""


def explain_changes(values: TrainParameters) -> str:
    """Say when training images are not changed at all."""
    if values.augmentation == "none":
        return "Not used: there is no augmentation."
    return explain_augmentation(values)


def explain_cached_views(values: TrainParameters) -> str:
    """Say when there are no features to cache, or only one view of each image."""
    if not values.feature_extract:
        return "Not used: the whole network is trained."
    # At 0, either field must stay open: each would wait for the other.
    return "Not used: there is no augmentation." if values.augmentation == "none" and values.cached_views else ""


def explain_step(values: TrainParameters) -> str:
    """Say that a solved head takes no steps."""
    if values.feature_extract and values.optimizer == "auto":
        return "Not used: the head is solved at once, without steps."
    return ""


def explain_optimizer_setting(values: TrainParameters) -> str:
    """Say that a recipe brings its own."""
    return "Not used: chosen by the optimizer auto." if values.optimizer == "auto" else ""


def _may_have_views(values: TrainParameters) -> bool:
    return values.cached_views > 0 or (values.cached_views < 0 and values.optimizer == "auto")


def explain_small_input_stem(values: TrainParameters) -> str:
    """Say that ImageNet weights do not have this stem."""
    if values.use_pretrained and not values.model_weight_file and not values.small_input_stem:
        return "Not with ImageNet weights."
    return ""


def warn_of_missing(name: str, values: TrainParameters) -> str:
    """Say that a path to read from is not there."""
    text = getattr(values, name)
    return f"There is no '{resolve_path(text)}' on this machine." if text and not resolve_path(text).exists() else ""


UNUSED = {
    "use_pretrained": explain_use_pretrained,
    "small_input_stem": explain_small_input_stem,
    "augmentation": explain_augmentation,
    "horizontal_flip": explain_changes,
    "vertical_flip": explain_changes,
    "rotation": explain_changes,
    "cached_views": explain_cached_views,
    "epochs": explain_step,
    "batch_size": explain_step,
    "learning_rate": explain_step,
    "early_stopping_patience": explain_step,
    "time_limit_minutes": explain_step,
    "momentum": explain_optimizer_setting,
    "weight_decay": explain_optimizer_setting,
    "scheduler": explain_optimizer_setting,
}
WARNINGS = {
    "dataset_folder": lambda values: warn_of_missing("dataset_folder", values),
    "model_weight_file": lambda values: warn_of_missing("model_weight_file", values),
    "resume_from": lambda values: warn_of_missing("resume_from", values),
}
