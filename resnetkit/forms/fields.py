"""One input field a kind of parameter: choices, numbers, switches, paths and texts, all read as strings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from PyQt6.QtCore import Qt
from PyQt6.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QStyle,
    QToolButton,
    QWidget,
)

from resnetkit.machine.files import resolve_path
from resnetkit.parameters.declaration import describe_constraint, get_bounds, get_choices, get_form


@dataclass(frozen=True)
class Field:
    """A widget whose content is one parameter, as the string that the engine would get.

    Attributes:
        widget: What is shown.
        read: Returns the string.
        write: Takes a string.
        changed: Signal at each change, also by typing.
    """

    widget: QWidget
    read: Callable[[], str]
    write: Callable[[str], None]
    changed: Any


def connect(signal: Any, slot: Callable[..., Any]) -> None:
    """Call `slot` at each `signal`; PyQt6's own annotations declare signals as methods without `connect`."""
    signal.connect(slot)


def make_field(declaration: FieldInfo) -> Field:
    """Make the field that suits a declaration."""
    form = get_form(declaration)
    choices = get_choices(declaration)
    if choices:
        return _make_choice(choices)
    if declaration.annotation is bool:
        return _make_switch()
    if declaration.annotation in (int, float):
        return _make_number(declaration)
    if form["path"]:
        return _make_path(declaration)
    if declaration.examples:
        return _make_choice(tuple(declaration.examples), is_editable=True)
    edit = QLineEdit()
    return Field(edit, edit.text, edit.setText, edit.textChanged)


class NumberBox(QAbstractSpinBox):
    """A spin box that keeps what is typed, right or wrong, and steps only to valid numbers.

    Qt's own boxes round to a number of decimals and turn a wrong entry into another number without a word;
    here the text is the value, so 1e-05 stays 1e-05 and 9000 stays to be complained of.
    """

    def __init__(self, declaration: FieldInfo) -> None:
        super().__init__()
        self._low, self._high = get_bounds(declaration)
        self._step = get_form(declaration)["step"] or 1
        self._number: Any = declaration.annotation
        self._adapter: TypeAdapter[Any] = TypeAdapter(Annotated[self._number, declaration])  # type: ignore[arg-type]
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def minimum(self) -> float | None:
        """Return the lower bound; None where there is none."""
        return self._low

    def maximum(self) -> float | None:
        """Return the upper bound; None where there is none."""
        return self._high

    def singleStep(self) -> float:
        """Return by how much an arrow changes the number."""
        return self._step

    def stepBy(self, steps: int) -> None:
        """Change the number by some steps, as far as its bounds allow."""
        text = self._get_stepped(steps)
        if text is not None:
            self.lineEdit().setText(text)
            self.selectAll()

    def stepEnabled(self) -> QAbstractSpinBox.StepEnabledFlag:
        """Tell in which directions there is a valid number."""
        flags = QAbstractSpinBox.StepEnabledFlag.StepNone
        if self._get_stepped(1) is not None:
            flags |= QAbstractSpinBox.StepEnabledFlag.StepUpEnabled
        if self._get_stepped(-1) is not None:
            flags |= QAbstractSpinBox.StepEnabledFlag.StepDownEnabled
        return flags

    def _get_stepped(self, steps: int) -> str | None:
        """Return the text some steps further, clipped to the bounds; None where that is no other valid number."""
        try:
            now = Decimal(self.text())
            target = now + steps * Decimal(str(self._step))
            if self._low is not None:
                target = max(target, Decimal(str(self._low)))
            if self._high is not None:
                target = min(target, Decimal(str(self._high)))
            number = self._number(target)
            self._adapter.validate_python(number)
        except (InvalidOperation, ValueError, OverflowError):
            return None
        return str(number) if target != now else None


def _make_choice(choices: tuple[str, ...], is_editable: bool = False) -> Field:
    box = QComboBox()
    box.addItems(choices)
    box.setEditable(is_editable)
    box.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
    box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    return Field(box, box.currentText, box.setCurrentText, box.currentTextChanged)


def _make_switch() -> Field:
    box = QCheckBox()
    return Field(box, lambda: str(box.isChecked()), lambda text: box.setChecked(text == "True"), box.toggled)


def _make_number(declaration: FieldInfo) -> Field:
    box = NumberBox(declaration)
    edit = box.lineEdit()
    return Field(box, edit.text, edit.setText, edit.textChanged)


def _make_path(declaration: FieldInfo) -> Field:
    """Make a text field with a button for each kind of path (file, folder) that the parameter takes."""
    widget, edit = QWidget(), QLineEdit()
    edit.setClearButtonEnabled(True)
    edit.setPlaceholderText(describe_constraint(declaration).removeprefix("a path of ").replace(" of a ", " a "))
    row = QHBoxLayout(widget)
    row.setContentsMargins(0, 0, 0, 0)
    row.addWidget(edit)
    title, suffixes = declaration.title or "", get_form(declaration)["suffixes"]
    choosers = {"file": partial(choose_file, widget, title, suffixes), "folder": partial(choose_folder, widget, title)}
    icons = {"file": QStyle.StandardPixmap.SP_FileIcon, "folder": QStyle.StandardPixmap.SP_DirIcon}
    for kind in get_form(declaration)["path"].split(" or "):
        button = QToolButton()
        button.setObjectName(f"choose_{kind}")
        button.setIcon(widget.style().standardIcon(icons[kind]))
        button.setToolTip(f"Choose a {kind}")
        connect(button.clicked, partial(_fill_in_choice, edit, choosers[kind]))
        row.addWidget(button)
    widget.setFocusProxy(edit)
    return Field(widget, edit.text, partial(_write_path, edit), edit.textChanged)


def choose_file(parent: QWidget, title: str, suffixes: tuple[str, ...], start: str) -> str:
    """Ask for a file; empty if the dialog is cancelled."""
    patterns = " ".join(f"*{suffix}" for suffix in suffixes)
    filters = [f"{title} ({patterns})"] if suffixes else []
    return QFileDialog.getOpenFileName(parent, title, start, ";;".join([*filters, "All files (*)"]))[0]


def choose_folder(parent: QWidget, title: str, start: str) -> str:
    """Ask for a folder; empty if the dialog is cancelled."""
    return QFileDialog.getExistingDirectory(parent, title, start)


def _write_path(edit: QLineEdit, path: str) -> None:
    edit.setText(path)
    edit.setCursorPosition(0)


def _fill_in_choice(edit: QLineEdit, choose: Callable[[str], str], _is_checked: bool = False) -> None:
    start = str(resolve_path(edit.text())) if edit.text() else str(Path.home())
    chosen = choose(start)
    if chosen:
        edit.setText(chosen)
