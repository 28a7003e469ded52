"""Parameters declared once: strings to values and back, one sentence an error, the README table."""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import Self

from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import hide_password

logger = get_logger()

#: What `device` parameters accept.
DEVICE_PATTERN = r"^(auto|cpu|cuda(:\d{1,3})?|mps)$"
DEVICE_EXAMPLES = ["auto", "cpu", "cuda", "cuda:0", "mps"]

_TYPE_NAMES = {int: "an integer", float: "a number", str: "a text", bool: "True or False"}


class ParameterError(ValueError):
    """A parameter has a wrong name, type or value, or contradicts another one."""


#: Characters of a wrong value that a message shows.
_MAX_SHOWN = 200
#: What Linux and macOS allow of a path and of each name in it.
_MAX_PATH_BYTES, _MAX_NAME_BYTES = 4096, 255


def parameter(
    default: Any,
    title: str,
    description: str,
    *,
    group: str = "Model",
    is_advanced: bool = False,
    path: str = "",
    suffixes: tuple[str, ...] = (),
    expected: str = "",
    also_called: tuple[str, ...] = (),
    step: float | None = None,
    **constraints: Any,
) -> Any:
    """Declare one parameter: default, texts, bounds and what a form needs to show it.

    Args:
        default: The value where none is given; its string must hold no quote and no newline
            (the engine writes it into generated Python source).
        title: Label in forms.
        description: One or two sentences, for tooltips and the README table.
        group: Box of the form in which it stands.
        is_advanced: Folded away until asked for.
        path: "file", "folder", or "file or folder" where the value is a path, else empty.
        suffixes: File name endings that a file picker offers.
        expected: What a valid value is, where the type and bounds do not say it.
        also_called: What other programs call it: such a word gets "did you mean" with our name.
        step: Increment of a spin box.
        **constraints: pydantic's own: ge, gt, le, lt, pattern, examples.
    """
    form: dict[str, Any] = {
        "group": group,
        "is_advanced": is_advanced,
        "path": path,
        "suffixes": suffixes,
        "expected": expected,
        "also_called": also_called,
        "step": step,
    }
    return Field(default, title=title, description=description, json_schema_extra={"form": form}, **constraints)


#: What `value_range` of both plugins may be: bits, or black and white.
VALUE_RANGE_PATTERN = r"^(auto|8|10|12|14|16|-?\d{1,12}(\.\d{1,9})?\.\.-?\d{1,12}(\.\d{1,9})?)$"
VALUE_RANGE_EXPECTED = "auto, the bits that are used (8, 10, 12, 14 or 16), or black..white, such as 0..1"
VALUE_RANGE_EXAMPLES = ["auto", "8", "10", "12", "14", "16", "0..1", "-1024..3071"]


class Parameters(BaseModel):
    """Base of a plugin's parameters: immutable, no unknown names, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), validate_default=True
    )

    plugin: ClassVar[str]
    #: Names of older plugins' parameters that are accepted and have no effect.
    retired: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> Self:
        """Parse the engine's string map; a missing key or an empty string means the default.

        Raises:
            ParameterError: A value is wrong; unknown names are the engine's to drop.
        """
        values = cls().updated({name: text for name, text in strings.items() if text != ""})
        # The engine hands over all parameters, whichever of them its user gave.
        defaults = cls()
        given = {name for name in cls.model_fields if getattr(values, name) != getattr(defaults, name)}
        object.__setattr__(values, "__pydantic_fields_set__", given)
        return values

    def to_strings(self) -> dict[str, str]:
        """Return every parameter as the engine wants it: a string that parses back to an equal value."""
        return {name: str(getattr(self, name)) for name in type(self).model_fields}

    def updated(self, values: Mapping[str, Any]) -> Self:
        """Return a copy with some values replaced; native Python values and strings are both taken.

        `model_fields_set` of the copy has the names that were ever given.

        Raises:
            ParameterError: A name is unknown, or a value is of the wrong type or out of range.
        """
        values = {name: _to_plain(value) for name, value in values.items()}
        for name in self.retired:
            if name in values and values.pop(name) != "":
                logger.warning("parameter '%s' is no longer used and has no effect", name)
        for name, value in values.items():
            if name not in type(self).model_fields:
                meant = self.find_name(str(name)) or name
                raise ParameterError(f"no parameter {name!r}{suggest(meant, type(self).model_fields)}")
            if _is_lossy(type(self).model_fields[name], value):
                raise ParameterError(self.describe_violation(name, value))
            if get_form(type(self).model_fields[name])["path"] and _is_overlong(value):
                raise ParameterError(f"{self.describe_violation(name, value)}; it is longer than a path may be")
        try:
            copy = type(self).model_validate({**self.model_dump(), **values})
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            raise ParameterError(self.describe_violation(name, values[name])) from error
        object.__setattr__(copy, "__pydantic_fields_set__", self.model_fields_set | values.keys())
        return copy

    def check_consistency(self) -> None:
        """Raise ParameterError where values that are fine alone contradict each other."""

    @classmethod
    def find_name(cls, word: str) -> str | None:
        """Return the parameter of that name, or the one that other programs call so; None where there is neither."""
        word = word.lower().replace("-", "_")
        names = (name for name, field in cls.model_fields.items() if word in (name, *get_form(field)["also_called"]))
        return next(names, None)

    @classmethod
    def describe_violation(cls, name: str, value: Any) -> str:
        """Return the one sentence that says what a parameter must be and what it got."""
        field = cls.model_fields[name]
        choices = get_choices(field)
        return f"'{name}' must be {describe_constraint(field)}, got {_show(value)}{suggest(value, choices)}"


def get_choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the allowed values of a choice parameter, in order; empty for any other type."""
    if typing.get_origin(field.annotation) is typing.Literal:
        return tuple(str(choice) for choice in typing.get_args(field.annotation))
    return ()


def get_form(field: FieldInfo) -> Mapping[str, Any]:
    """Return what `parameter` declared for forms and the command line: group, is_advanced, path and the others."""
    extra = field.json_schema_extra
    return types.MappingProxyType(extra["form"] if isinstance(extra, dict) else {})  # type: ignore[arg-type]


def get_bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    """Return the lowest and highest value, exclusive bounds as they stand; None where unbounded."""
    lows = [item.ge if isinstance(item, Ge) else item.gt for item in field.metadata if isinstance(item, (Ge, Gt))]
    highs = [item.le if isinstance(item, Le) else item.lt for item in field.metadata if isinstance(item, (Le, Lt))]
    return lows[0] if lows else None, highs[0] if highs else None  # type: ignore[return-value]


def describe_constraint(field: FieldInfo) -> str:
    """Say in words what a valid value is: type, range or choices."""
    expected = get_form(field)["expected"]
    if expected:
        return str(expected)
    choices = get_choices(field)
    if choices:
        return "one of " + ", ".join(choices)
    words = _TYPE_NAMES[field.annotation]  # type: ignore[index]
    bounds = {type(item): item for item in field.metadata}
    if Ge in bounds and Le in bounds:
        return f"{words} from {bounds[Ge].ge} to {bounds[Le].le}"
    limits = [
        f"{phrase} {getattr(bounds[kind], kind.__name__.lower())}"
        for kind, phrase in ((Ge, "of at least"), (Gt, "above"), (Lt, "below"), (Le, "at most"))
        if kind in bounds
    ]
    return " ".join([words, " and ".join(limits)]).strip()


def format_markdown_table(parameters: type[Parameters]) -> str:
    """Render the README's table of a plugin's parameters, one row each, in order of declaration."""
    rows = ["| parameter | default | values | what it does |", "|---|---|---|---|"]
    for name, field in parameters.model_fields.items():
        default = f"`{field.default}`" if field.default != "" else "empty"
        constraint = describe_constraint(field).replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {constraint} | {field.description} |")
    return "\n".join(rows)


def suggest(word: Any, candidates: typing.Iterable[str]) -> str:
    """Return the end of an error message that names what a word may have meant; empty where nothing is like it."""
    matches = difflib.get_close_matches(_show(word)[:_MAX_SHOWN].strip("'"), list(candidates), n=1)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def _to_plain(value: Any) -> Any:
    """Return a path object as its text, and a number of numpy or torch as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if getattr(value, "shape", None) == () else value


def _show(value: Any) -> str:
    """Return a value as messages show it: of a long one, the beginning."""
    try:
        text = hide_password(repr(value))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(text):,} characters)"


def _is_overlong(value: Any) -> bool:
    """Tell whether no file system has such a path."""
    if not isinstance(value, str):
        return False
    path = os.fsencode(value)
    return len(path) > _MAX_PATH_BYTES or any(len(name) > _MAX_NAME_BYTES for name in path.split(b"/"))


def _is_lossy(field: FieldInfo, value: Any) -> bool:
    """Tell whether pydantic or the engine would take the value, but as another one.

    Pydantic reads True as 1 and bytes as text; the engine's C strings end at a NUL, and its files are UTF-8.
    """
    if isinstance(value, str):
        return "\0" in value or any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, (bytes, bytearray)) or (isinstance(value, bool) and field.annotation is not bool)
