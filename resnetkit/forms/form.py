"""A Qt form from any `Parameters` class, for the parameter panel of Ikomia Studio."""

from __future__ import annotations

from collections.abc import Mapping

from resnetkit.forms.rules import FieldRules
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.declaration import ParameterError, Parameters, get_form

try:
    from PyQt6.QtCore import QEvent, QObject, Qt
    from PyQt6.QtWidgets import (
        QApplication,
        QGridLayout,
        QGroupBox,
        QPushButton,
        QToolButton,
        QVBoxLayout,
        QWidget,
    )

    from resnetkit.forms.fields import Field, connect, make_field
    from resnetkit.forms.rows import Note, Row, make_fold
except ImportError as error:
    raise ImportError(
        f"the forms need PyQt6 ({error}); everything else works without it. "
        "To open them: pip install PyQt6==6.2.3 PyQt6-Qt6==6.2.4 (newer ones clash with the Qt 6.2 inside ikomia)"
    ) from error

logger = get_logger()


def check_application() -> None:
    """Refuse where no Qt application runs: Qt would end the whole process at the first widget.

    Raises:
        RuntimeError: It is so.
    """
    if not isinstance(QApplication.instance(), QApplication):
        raise RuntimeError(
            "a form needs a running Qt application, and there is none; "
            "open it in Ikomia Studio, or use set_parameters instead"
        )


def make_layout(widget: QWidget) -> QVBoxLayout:
    """Return a layout that holds one widget."""
    layout = QVBoxLayout()
    layout.addWidget(widget)
    return layout


def check_texts(texts: Mapping[str, str], parameters: type[Parameters]) -> tuple[Parameters, dict[str, str]]:
    """Parse what stands in the fields.

    Returns:
        The parameters, wrong ones at their defaults, and one sentence for each wrong one.
    """
    values, errors = parameters(), {}
    for name, text in texts.items():
        try:
            values = values.updated({name: text})
        except ParameterError as error:
            errors[name] = str(error)
    return values, errors


class ParametersForm(QWidget):
    """All parameters of a plugin in groups, rare ones folded away, checked at every key stroke."""

    def __init__(self, values: Parameters, rules: FieldRules) -> None:
        super().__init__()
        self._parameters = type(values)
        self._rules = rules
        self._rows: dict[str, Row] = {}
        self._folds: dict[str, QToolButton] = {}
        self._is_filling = False
        self._summary = Note()
        self._build()
        self.show_values(values)

    def get_field(self, name: str) -> Field:
        """Return the field of a parameter."""
        return self._rows[name].field

    def get_note(self, name: str) -> str:
        """Return the sentence shown under a field, empty where there is none."""
        return self._rows[name].note.text()

    def get_errors(self) -> list[str]:
        """Return why Apply would be refused: a sentence for each wrong value, else for a contradiction."""
        values, errors = check_texts(self._read_texts(), self._parameters)
        return list(errors.values()) or [message for message in [_find_contradiction(values)] if message]

    def show_values(self, values: Parameters) -> None:
        """Fill in all fields; groups with a rare parameter that is not at its default are unfolded."""
        self._is_filling = True
        try:
            for name, text in values.to_strings().items():
                self._rows[name].field.write(text)
        finally:
            self._is_filling = False
        defaults = self._parameters().to_strings()
        for name, text in values.to_strings().items():
            if text != defaults[name]:
                self._unfold(name)
        self._refresh()

    def accept(self) -> Parameters | None:
        """Return the parameters in the form, or None after showing what is wrong with them."""
        errors = self.get_errors()
        if errors:
            self._show_wrong_fields()
            self._summary.say("error", "Not applied. " + errors[0])
            logger.error("%s", errors[0])
            return None
        values, _ = check_texts(self._read_texts(), self._parameters)
        self.show_values(values)
        return values

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Keep the wheel for scrolling: it changes a value only where the field has the focus."""
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()
            return True
        return super().eventFilter(watched, event)

    def _build(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        groups: dict[str, list[str]] = {}
        for name, declaration in self._parameters.model_fields.items():
            row = self._rows[name] = Row(name, make_field(declaration), self._parameters)
            connect(row.field.changed, self._refresh)
            row.field.widget.installEventFilter(self)
            groups.setdefault(get_form(declaration)["group"], []).append(name)
        label_width = max(row.label.sizeHint().width() for row in self._rows.values())
        for title, names in groups.items():
            layout.addWidget(self._build_group(title, names, label_width))
        layout.addWidget(self._summary)
        defaults_button = QPushButton("Restore defaults")
        defaults_button.setToolTip("Fill in every field with its default; nothing changes until Apply.")
        connect(defaults_button.clicked, lambda: self.show_values(self._parameters()))
        layout.addWidget(defaults_button, alignment=Qt.AlignmentFlag.AlignRight)
        layout.addStretch(1)

    def _build_group(self, title: str, names: list[str], label_width: int) -> QGroupBox:
        """Lay out the frequent parameters, a button, and below it the rare ones that it unfolds."""
        box = QGroupBox(title)
        grid = QGridLayout(box)
        grid.setColumnMinimumWidth(0, label_width)
        grid.setColumnStretch(1, 1)
        is_rare = {name: get_form(self._parameters.model_fields[name])["is_advanced"] for name in names}
        for name in (name for name in names if not is_rare[name]):
            self._rows[name].add_to(grid)
        rare = [name for name in names if is_rare[name]]
        if rare:
            fold = make_fold([self._parameters.model_fields[name].title or name for name in rare])
            grid.addWidget(fold, grid.rowCount(), 0, 1, 2)
            for name in rare:
                self._folds[name] = fold
                self._rows[name].add_to(grid)
                self._rows[name].set_shown(False)
                connect(fold.toggled, self._rows[name].set_shown)
        return box

    def _unfold(self, name: str) -> None:
        if name in self._folds:
            self._folds[name].setChecked(True)

    def _show_wrong_fields(self) -> None:
        wrong = [name for name, row in self._rows.items() if row.is_wrong]
        for name in wrong:
            self._unfold(name)
        if wrong:
            self._rows[wrong[0]].field.widget.setFocus()

    def _read_texts(self) -> dict[str, str]:
        return {name: row.field.read() for name, row in self._rows.items()}

    def _refresh(self) -> None:
        """Show beside each field what is to be said about it now."""
        if self._is_filling:
            return
        values, errors = check_texts(self._read_texts(), self._parameters)
        contradiction = "" if errors else _find_contradiction(values)
        for name, row in self._rows.items():
            if name in errors:
                row.show_state("error", errors[name])
            else:
                row.show_state(*self._describe(name, values), is_contradicted=f"'{name}'" in contradiction)
        self._summary.say("error", contradiction)

    def _describe(self, name: str, values: Parameters) -> tuple[str, str]:
        rules = {"unused": self._rules.unused, "warning": self._rules.warnings, "hint": self._rules.hints}
        for kind, remarks in rules.items():
            try:
                sentence = remarks[name](values) if name in remarks else ""
            except Exception as error:
                # Such as a path that the system cannot look up. PyQt ends the whole program, and that is Studio, if
                # an error leaves a slot.
                return "warning", f"'{name}' cannot be looked into: {error}"
            if sentence:
                return kind, sentence
        return "hint", ""


def _find_contradiction(values: Parameters) -> str:
    try:
        values.check_consistency()
    except ParameterError as error:
        return str(error)
    return ""
