"""Between `Parameters` and the engine: the two mixins that both plugins put on the engine's classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from resnetkit.machine.speaking import speak_as
from resnetkit.parameters.declaration import Parameters


class ParametersAdapter:
    """Mixin for `CWorkflowTaskParam`: holds a `Parameters` object and speaks the engine's strings.

    Attributes:
        parameters_class: What the strings are parsed into.
        values: The parameters in force.
    """

    parameters_class: ClassVar[type[Parameters]]

    def __init__(self) -> None:
        super().__init__()
        self.values: Parameters = self.parameters_class()

    @property
    def cfg(self) -> dict[str, str]:
        """The parameters as strings, under the name by which the engine logs them."""
        return self.values.to_strings()

    def get_values(self) -> dict[str, str]:
        """Return all parameters as strings (called by the engine)."""
        return self.values.to_strings()

    def set_values(self, strings: Mapping[str, str]) -> None:
        """Take the engine's full set of strings: all of them, or none if one is wrong.

        Raises:
            ParameterError: A value is wrong; the old ones stay in force.
        """
        with speak_as(self.parameters_class.plugin):
            self.values = self.parameters_class.from_strings(strings)

    def update(self, values: Mapping[str, Any]) -> None:
        """Change some parameters, all of them or none; native Python values and strings are both taken.

        Raises:
            ParameterError: A name is unknown, or a value is wrong; the old ones stay in force.
        """
        with speak_as(self.parameters_class.plugin):
            self.values = self.values.updated(values)


class SetParametersMixin:
    """Mixin for tasks: `set_parameters` with native values; the engine's own takes strings and drops typos."""

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Change some parameters, all of them or none.

        Raises:
            ParameterError: A name is unknown, or a value is of the wrong type or out of range.
        """
        self.get_param_object().update(values)  # type: ignore[attr-defined]
