"""The engine's parameter panel; Qt is imported when one is opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resnetkit.forms.rules import FieldRules
from resnetkit.machine.speaking import speak_as
from resnetkit.parameters.adapter import ParametersAdapter


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
        with speak_as(param.parameters_class.plugin):
            from resnetkit.forms.form import ParametersForm, check_application, make_layout

            check_application()
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
