"""Which parameters of a training have no effect beside the others, and why: for the form and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from resnetkit.parameters.training import TrainParameters


def find_unused(values: TrainParameters) -> dict[str, str]:
    """Return the parameters that have no effect beside the others, each with the reason."""
    reasons = {name: explain(values) for name, explain in REASONS_UNUSED.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def describe_unused(values: TrainParameters) -> list[str]:
    """Say of each parameter that was given another value than its default in vain why it has no effect."""
    defaults = TrainParameters()
    return [
        f"'{name}' has no effect: {reason}"
        for name, reason in find_unused(values).items()
        if getattr(values, name) != getattr(defaults, name)
    ]


def _explain_use_pretrained(values: TrainParameters) -> str:
    return "training starts from the weights file" if values.model_weight_file else ""


def _explain_augmentation(values: TrainParameters) -> str:
    may_have_views = values.cached_views > 0 or (values.cached_views < 0 and values.optimizer == "auto")
    if values.feature_extract and not may_have_views:
        return "the head is trained on plain views, unless 'Cached views' is above 0"
    return ""


def _explain_change(values: TrainParameters) -> str:
    return "there is no augmentation" if values.augmentation == "none" else _explain_augmentation(values)


def _explain_cached_views(values: TrainParameters) -> str:
    if not values.feature_extract:
        return "the whole network is trained"
    # At 0, either field of a form must stay open: each would wait for the other.
    return "there is no augmentation" if values.augmentation == "none" and values.cached_views else ""


def _explain_step(values: TrainParameters) -> str:
    is_solved = values.optimizer == "auto" and values.feature_extract
    return "the head is solved at once, without epochs" if is_solved else ""


def _explain_folds(values: TrainParameters) -> str:
    return "" if _explain_step(values) else "only a head that is solved at once is cross-validated"


def _explain_optimizer_setting(values: TrainParameters) -> str:
    return "the optimizer auto chooses by itself" if values.optimizer == "auto" else ""


#: What says why a parameter has no effect, by its name; empty where it has one.
REASONS_UNUSED: Mapping[str, Callable[[TrainParameters], str]] = MappingProxyType(
    {
        "use_pretrained": _explain_use_pretrained,
        "augmentation": _explain_augmentation,
        **dict.fromkeys(("horizontal_flip", "vertical_flip", "rotation"), _explain_change),
        "cached_views": _explain_cached_views,
        **dict.fromkeys(
            ("epochs", "batch_size", "learning_rate", "early_stopping_patience", "time_limit_minutes"), _explain_step
        ),
        "folds": _explain_folds,
        **dict.fromkeys(("momentum", "weight_decay", "scheduler"), _explain_optimizer_setting),
    }
)
