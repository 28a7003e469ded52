"""What parameters hold in workflow files that older ResNet plugins for Ikomia saved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from resnetkit.machine.speaking import get_logger

logger = get_logger()

#: What an old form wrote into the paths that it did not use.
_NOT_USED = "Not used"


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
