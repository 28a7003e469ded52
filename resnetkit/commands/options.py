"""Options of a command from the declarations of its parameters.

The parser is argparse: the declarations check values and word the errors, so a library that brings types and
messages of its own (Typer, cyclopts, pydantic-settings) would have to be talked out of both; and argparse is imported
in a hundredth of a second.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from pydantic.fields import FieldInfo

from resnetkit.parameters.declaration import (
    ParameterError,
    Parameters,
    describe_constraint,
    get_choices,
    get_form,
    suggest,
)

AnyParameters = TypeVar("AnyParameters", bound=Parameters)


class CommandParser(argparse.ArgumentParser):
    """A parser that speaks in `ParameterError` and knows what other programs call our options.

    Args:
        name: The command.
        description: What it does, for its help.
        usage: How its positional arguments are written.
    """

    def __init__(self, name: str, description: str, usage: str) -> None:
        super().__init__(
            prog=f"resnetkit {name}",
            usage=f"resnetkit {name} {usage} [options]",
            description=description,
            allow_abbrev=False,
            add_help=False,
        )
        self._parameters: type[Parameters] = Parameters
        self._elsewhere: Mapping[str, str] = {}
        self._names: dict[str, str] = {}  # of parameters, by option

    def add_parameters(self, parameters: type[Parameters], elsewhere: Mapping[str, str]) -> None:
        """Add an option per parameter, in the groups of the form, those that are rarely set last in their group.

        Args:
            parameters: The declarations.
            elsewhere: Parameters without an option: name to how this command writes it, empty where it does not.
        """
        self._parameters, self._elsewhere = parameters, elsewhere
        groups: dict[str, list[str]] = {}
        for name, field in parameters.model_fields.items():
            if name not in elsewhere:
                groups.setdefault(get_form(field)["group"], []).append(name)
        for title, names in groups.items():
            group = self.add_argument_group(title)
            for name in sorted(names, key=lambda name: get_form(parameters.model_fields[name])["is_advanced"]):
                self._add_parameter(group, name)

    def add_common(self) -> None:
        """Add the options of every command."""
        group = self.add_argument_group("Messages")
        group.add_argument("--json", action="store_true", help="Print the result as one JSON object.")
        group.add_argument("--quiet", action="store_true", help="Show nothing but warnings and errors.")
        group.add_argument("-h", "--help", action="help", help="Show this list.")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words after the command's name, which are options and paths in any order.

        `words` of the result says them again, without ambiguity.

        Raises:
            ParameterError: An option is unknown or has no value, or an argument is missing.
        """
        completed = list(self._complete(words))
        return self.parse_intermixed_args(completed, argparse.Namespace(words=tuple(completed)))

    def error(self, message: str) -> NoReturn:
        """Raise instead of ending the process."""
        raise ParameterError(message)

    def _add_parameter(self, group: argparse._ArgumentGroup, name: str) -> None:
        field = self._parameters.model_fields[name]
        option = "--" + name.replace("_", "-")
        constraint = describe_constraint(field)
        default = "empty" if field.default == "" else field.default
        text = f"{field.description} {constraint[0].upper()}{constraint[1:]}; default {default}."
        settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if field.annotation is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, **settings)
        else:
            group.add_argument(option, metavar=_choose_metavar(field), **settings)
        self._names[option] = name

    def _complete(self, words: Sequence[str]) -> Iterator[str]:
        """Yield the words with each option of a parameter as one word, which argparse cannot misread.

        `--learning_rate -1e-3` becomes `--learning-rate=-1e-3`, and `--export-pth false` becomes `--no-export-pth`.
        """
        waiting = deque(words)
        while waiting:
            word = waiting.popleft()
            if word == "--":
                yield word
                yield from waiting
                return
            if not word.startswith("-") or word == "-":
                yield word
                continue
            option, sign, value = word.partition("=")
            option = option.replace("_", "-")
            if option not in self._option_string_actions:
                raise ParameterError(f"no option '{option}'{self._suggest(option)}")
            name = self._names.get(option)
            if name is None:
                yield option + sign + value
            elif self._parameters.model_fields[name].annotation is bool:
                yield self._complete_flag(option, value if sign else None, waiting)
            else:
                yield f"{option}={value if sign else self._take_value(name, waiting)}"

    def _complete_flag(self, option: str, value: str | None, waiting: deque[str]) -> str:
        if value is None and waiting and waiting[0].lower() in ("true", "false"):
            value = waiting.popleft()
        name = self._names[option]
        is_on = value is None or getattr(self._parameters().updated({name: value}), name)
        return option if is_on else f"--no-{option[2:]}"

    def _take_value(self, name: str, waiting: deque[str]) -> str:
        if not waiting or waiting[0].partition("=")[0].replace("_", "-") in self._option_string_actions:
            constraint = describe_constraint(self._parameters.model_fields[name])
            raise ParameterError(f"'{name}' must be {constraint}, got nothing")
        return waiting.popleft()

    def _suggest(self, option: str) -> str:
        """Say what an unknown option may have meant: our word for that of another program, or one that is like it."""
        word = option.lstrip("-")
        name = self._parameters.find_name(word)
        if name is not None and name in self._elsewhere:
            place = self._elsewhere[name]
            return f"; did you mean {place}, which is given without an option?" if place else ""
        if name is not None:
            return f"; did you mean '--{name.replace('_', '-')}'?"
        return suggest(f"--{word}", self._option_string_actions)


def _choose_metavar(field: FieldInfo) -> str:
    if get_choices(field):
        return "NAME"
    if get_form(field)["path"]:
        return "PATH"
    return "N" if field.annotation is int else "X" if field.annotation is float else "TEXT"


def read_parameters(arguments: argparse.Namespace, parameters: type[AnyParameters]) -> AnyParameters:
    """Return the parameters that were given, the others at their defaults.

    Raises:
        ParameterError: A value is wrong, or two contradict each other.
    """
    given = {name: value for name, value in vars(arguments).items() if name in parameters.model_fields}
    values = parameters().updated(given)
    values.check_consistency()
    return values
