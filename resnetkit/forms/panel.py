"""The engine's parameter panel and what a plugin's form says about its fields; Qt is imported when one is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resnetkit.parameters.adapter import ParametersAdapter

#: From the parameters in the form to a sentence about one of them; empty where there is nothing to say.
Remark = Callable[[Any], str]


@dataclass(frozen=True)
class FieldRules:
    """What a plugin's form says about its fields besides their declarations, by parameter name.

    Attributes:
        unused: Why a parameter has no effect as things stand; its field is then disabled.
        warnings: What will go wrong on this machine; Apply works all the same.
        hints: What is worth knowing.
    """

    unused: Mapping[str, Remark] = field(default_factory=dict)
    warnings: Mapping[str, Remark] = field(default_factory=dict)
    hints: Mapping[str, Remark] = field(default_factory=dict)


class ParametersPanel:
    """Mixin for the engine's `CWorkflowTaskWidget`: a scrolling area, which holds our form, and an Apply button.

    Args:
        param: The task's parameters, which Apply changes.
        rules: What the form says about its fields.
        to_engine: Turns a PyQt layout into what the engine takes.

    Raises:
        ImportError: PyQt6 is missing.
        RuntimeError: No Qt application is running.
    """

    def __init__(self, param: ParametersAdapter, rules: FieldRules, to_engine: Callable[[Any], Any]) -> None:
        from resnetkit.forms.form import ParametersForm, has_application, make_layout

        if not has_application():
            # Qt would end the whole process at the first widget.
            raise RuntimeError(
                f"{param.values.plugin}: a form needs a running Qt application, and there is none; "
                "open it in Ikomia Studio, or use set_parameters instead"
            )
        super().__init__(None)  # type: ignore[call-arg]
        self.param = param
        self.form = ParametersForm(param.values, rules)
        self.layout = make_layout(self.form)  # Kept: the engine takes an address, not a reference.
        self.set_layout(to_engine(self.layout))  # type: ignore[attr-defined]

    def on_apply(self) -> None:
        """Put the form's values in force (called by the engine); nothing changes while one is wrong."""
        values = self.form.accept()
        if values is not None:
            self.param.values = values
            self.emit_apply(self.param)  # type: ignore[attr-defined]

    def on_parameters_changed(self) -> None:
        """Show values that the task changed by itself (called by the engine)."""
        self.form.show_values(self.param.values)
