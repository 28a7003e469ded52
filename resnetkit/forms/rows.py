"""What stands in a line of a form: a label, a field, a note below it; and the button that unfolds rare lines."""

from __future__ import annotations

import html

from PyQt6.QtCore import Qt
from PyQt6.QtWidgets import QGridLayout, QLabel, QToolButton, QVBoxLayout, QWidget

from resnetkit.forms.fields import Field, connect
from resnetkit.parameters.declaration import Parameters, describe_constraint

#: Readable on light and on dark themes.
_NOTE_STYLES = {"hint": "color: #808080;", "warning": "color: #b26a00;", "error": "color: #d32f2f;"}
_WRONG_FIELD_STYLE = "QLineEdit, QComboBox, QAbstractSpinBox, QCheckBox { background-color: #fdecea; color: #b71c1c; }"


class Note(QLabel):
    """A sentence that is there only while there is something to say."""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.hide()

    def say(self, kind: str, sentence: str) -> None:
        """Show a hint, a warning or an error; nothing if the sentence is empty."""
        if sentence == self.text():
            return
        self.setStyleSheet(_NOTE_STYLES[kind])
        self.setText(sentence)
        self.setVisible(bool(sentence))


class Row:
    """A label, a field, and a note below the field that is there only while it says something."""

    def __init__(self, name: str, field: Field, parameters: type[Parameters]) -> None:
        declaration = parameters.model_fields[name]
        title = declaration.title or name
        self.field = field
        self.is_wrong = False
        self.note = Note()
        self.label = QLabel(title)
        self.label.setBuddy(field.widget)
        self.label.setMinimumHeight(field.widget.sizeHint().height())
        self._cell = QWidget()
        column = QVBoxLayout(self._cell)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(field.widget)
        column.addWidget(self.note)
        description, constraint = (
            html.escape(declaration.description or ""),
            html.escape(describe_constraint(declaration)),
        )
        tooltip = f"<p>{description}</p><p><code>{name}</code>: {constraint}</p>"
        for widget in (self.label, field.widget):
            widget.setToolTip(tooltip)
        field.widget.setObjectName(name)
        field.widget.setAccessibleName(title)

    def add_to(self, grid: QGridLayout) -> None:
        """Append the line to a group."""
        row = grid.rowCount()
        grid.addWidget(self.label, row, 0, Qt.AlignmentFlag.AlignTop)
        grid.addWidget(self._cell, row, 1)

    def set_shown(self, is_shown: bool) -> None:
        """Fold the line away, or show it."""
        self.label.setVisible(is_shown)
        self._cell.setVisible(is_shown)

    def show_state(self, kind: str, sentence: str, is_contradicted: bool = False) -> None:
        """Show a note of a kind; a field that is wrong or part of a contradiction is red and never disabled."""
        is_wrong = kind == "error" or is_contradicted
        if is_wrong != self.is_wrong:
            self.is_wrong = is_wrong
            self.field.widget.setStyleSheet(_WRONG_FIELD_STYLE if is_wrong else "")
        is_enabled = kind != "unused" or self.is_wrong
        self.field.widget.setEnabled(is_enabled)
        self.label.setEnabled(is_enabled)
        self.note.say("hint" if kind == "unused" else kind, sentence)


def make_fold(titles: list[str]) -> QToolButton:
    """Make the button that unfolds a group's rare lines; their titles are its tooltip."""
    button = QToolButton()
    button.setText("More")
    button.setToolTip(", ".join(titles))
    button.setCheckable(True)
    button.setAutoRaise(True)
    button.setArrowType(Qt.ArrowType.RightArrow)
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
    connect(
        button.toggled,
        lambda is_open: button.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow),
    )
    return button
