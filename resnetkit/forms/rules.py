"""What a plugin's form says about its fields besides their declarations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
