"""A plugin under its second name: that of an older ResNet plugin, whose workflow files and scripts run as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.declaration import Parameters

logger = get_logger()

#: What an old form wrote into the paths that it did not use.
_NOT_USED = "Not used"


class OldParameters:
    """Mixin for a plugin's parameters: what only the older plugin understood becomes a default.

    Attributes:
        old_name: Name of the older plugin.
        old_defaults: What it did where nothing was said, as far as it differs from today's defaults.
    """

    old_name: ClassVar[str]
    old_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    parameters_class: ClassVar[type[Parameters]]
    values: Parameters

    def __init__(self) -> None:
        super().__init__()
        self.values = self.values.updated(self.old_defaults)

    def get_values(self) -> dict[str, str]:
        """Return all parameters as strings, the retired ones empty: the engine makes `ik.NAME(...)` of these names."""
        values: dict[str, str] = super().get_values()  # type: ignore[misc]
        return {**values, **dict.fromkeys(self.parameters_class.retired, "")}

    def set_values(self, strings: Mapping[str, str]) -> None:
        """Take the engine's strings."""
        super().set_values(forget_plugin_paths(strings, self.old_name))  # type: ignore[misc]

    def update(self, values: Mapping[str, Any]) -> None:
        """Change some parameters."""
        super().update(forget_plugin_paths(values, self.old_name))  # type: ignore[misc]


class OldFactory:
    """Mixin for a task's factory: creates the task under its second name, with the older plugin's parameters.

    Attributes:
        old_parameters: The class with the mixin `OldParameters`.
    """

    old_parameters: ClassVar[type[OldParameters]]

    def __init__(self) -> None:
        super().__init__()
        info: Any = self.info  # type: ignore[attr-defined]
        info.short_description = f"Second name of {info.name}. {info.short_description}"
        info.name = self.old_parameters.old_name

    def create(self, param: Any = None) -> Any:
        """Create a task; its parameters may be ready already."""
        return super().create(param or self.old_parameters())  # type: ignore[misc]


class OldParametersFactory:
    """Mixin for the factory of the parameters.

    Attributes:
        old_parameters: The class with the mixin `OldParameters`.
    """

    old_parameters: ClassVar[type[OldParameters]]

    def __init__(self) -> None:
        super().__init__()
        self.name = self.old_parameters.old_name

    def create(self) -> Any:
        """Create parameters with their default values."""
        return self.old_parameters()


def forget_plugin_paths(values: Mapping[str, Any], plugin: str) -> dict[str, Any]:
    """Return the parameters with paths into the old plugin's own folder replaced by defaults; one log line each.

    The folder held its class names and, until the next update, its results. It is told by
    `Plugins/Python/<plugin>`, on whatever machine and system the file was saved.

    Args:
        values: Parameters, as the engine's strings or as native values.
        plugin: Name of the old plugin.
    """
    kept = dict(values)
    for name, text in values.items():
        if not isinstance(text, str):
            continue
        parts = [part for part in re.split(r"[/\\]+", text) if part]
        places = zip(parts, parts[1:], parts[2:], strict=False)
        if ("Plugins", "Python", plugin) in places:
            logger.warning("%s: '%s' was inside the old plugin's folder (%s); the default is used", plugin, name, text)
            kept[name] = ""
        elif text == _NOT_USED:
            kept[name] = ""
    return kept
