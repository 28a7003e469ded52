"""The forms of both plugins in the engine's own panel, offscreen: typed into, applied, read back from the task."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ikomia.dataprocess.registry import ik_registry
from ikomia.dataprocess.workflow import Workflow
from PIL import Image
from PyQt6.QtCore import QPoint, QPointF, Qt
from PyQt6.QtGui import QWheelEvent
from PyQt6.QtTest import QTest
from PyQt6.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGroupBox,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QToolButton,
    QWidget,
)

from infer_resnet.infer_resnet import IkomiaPlugin as InferPlugin
from infer_resnet.infer_resnet_widget import HINTS, UNUSED, WARNINGS
from resnetkit.parameters.declaration import Parameters, describe_constraint, get_bounds, get_choices, get_form
from resnetkit.parameters.inference import InferParameters
from resnetkit.parameters.training import TrainParameters
from train_resnet.train_resnet import IkomiaPlugin as TrainPlugin
from train_resnet.train_resnet_widget import UNUSED as TRAIN_UNUSED
from train_resnet.train_resnet_widget import WARNINGS as TRAIN_WARNINGS

REPOSITORY = Path(__file__).resolve().parents[2]

PLUGINS = {"infer_resnet": InferPlugin, "train_resnet": TrainPlugin}
DECLARATIONS: dict[str, type[Parameters]] = {"infer_resnet": InferParameters, "train_resnet": TrainParameters}
EVERY_PARAMETER = [(plugin, name) for plugin, cls in DECLARATIONS.items() for name in cls.model_fields]
EVERY_NUMBER = [
    (plugin, name)
    for plugin, name in EVERY_PARAMETER
    if DECLARATIONS[plugin].model_fields[name].annotation in (int, float)
]

#: What must be set first, so that a field applies and Apply is not refused.
FIRST = {
    ("infer_resnet", "class_file"): {"model_weight_file": "model.pth"},
    ("train_resnet", "augmentation"): {"cached_views": "1"},
    ("train_resnet", "evaluate_only"): {"model_weight_file": "model.pth"},
    **{
        ("train_resnet", name): {"optimizer": "sgd"}
        for name in (
            *("epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "scheduler"),
            *("early_stopping_patience", "time_limit_minutes"),
        )
    },
    ("train_resnet", "use_pretrained"): {"feature_extract": "False"},
    ("train_resnet", "small_input_stem"): {"feature_extract": "False", "use_pretrained": "False"},
}


#: With these, every number of a form can be entered.
OPEN = {"infer_resnet": {}, "train_resnet": {"optimizer": "sgd"}}


@pytest.fixture(scope="module")
def form_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both forms as `make pictures` photographs them."""
    folder = tmp_path_factory.mktemp("pictures")
    command = [sys.executable, str(REPOSITORY / "scripts" / "make_form_pictures.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return folder


@dataclass
class Panel:
    """An open form: the engine's widget, its window, and the task whose parameters it shows."""

    task: Any
    widget: Any

    @property
    def form(self) -> Any:
        return self.widget.form

    @property
    def window(self) -> QWidget:
        return self.widget.form.window()

    def get(self, name: str) -> QWidget:
        return self.form.get_field(name).widget

    def enter(self, name: str, text: str) -> None:
        """Put a value into a field as a user does, with the keyboard or the mouse."""
        widget = self.get(name)
        assert widget.isEnabled(), f"{name} is disabled"
        if isinstance(widget, QCheckBox):
            if widget.isChecked() != (text == "True"):
                QTest.mouseClick(widget, Qt.MouseButton.LeftButton, pos=QPoint(8, widget.height() // 2))
        elif isinstance(widget, QComboBox) and not widget.isEditable():
            assert widget.findText(text) >= 0
            widget.setCurrentText(text)
        else:
            edit = widget if isinstance(widget, QLineEdit) else widget.findChild(QLineEdit)
            edit.selectAll()
            QTest.keyClick(edit, Qt.Key.Key_Delete)
            # Qt's test library types ASCII only, and ends the process at anything else.
            QTest.keyClicks(edit, text) if text.isascii() else edit.insert(text)

    def apply(self) -> None:
        buttons = [button for button in self.window.findChildren(QPushButton) if button.text() == "Apply"]
        QTest.mouseClick(buttons[0], Qt.MouseButton.LeftButton)

    def close(self) -> None:
        self.window.close()
        self.widget = None


@pytest.fixture(scope="module", autouse=True)
def application() -> Iterator[QApplication]:
    yield QApplication.instance() or QApplication([])
    gc.collect()  # while the application lives, and in its thread


@pytest.fixture
def open_panel(application: QApplication) -> Iterator[Callable[..., Panel]]:
    """Open the form of a new task, or of one that is given."""
    panels = []

    def open_it(plugin: str, task: Any = None, **values: Any) -> Panel:
        if task is None:
            task = ik_registry.create_algorithm(plugin)
            task.set_parameters(values)
        panel = Panel(task, PLUGINS[plugin]().get_widget_factory().create(task.get_param_object()))
        panel.window.resize(500, 1800)
        panel.window.show()
        application.processEvents()
        panels.append(panel)
        return panel

    yield open_it
    for panel in panels:
        panel.close()


def choose_other(plugin: str, name: str) -> str:
    """Return the string of a valid value that is not the default."""
    declaration = DECLARATIONS[plugin].model_fields[name]
    choices = get_choices(declaration) or tuple(declaration.examples or ())
    if choices:
        return next(choice for choice in choices if choice != declaration.default)
    if declaration.annotation is bool:
        return str(not declaration.default)
    if declaration.annotation in (int, float):
        return str(declaration.annotation(declaration.default + (get_form(declaration)["step"] or 1)))
    return f"some folder/{name} é"


# --- Every parameter ---


@pytest.mark.parametrize(("plugin", "name"), EVERY_PARAMETER)
def test_a_value_entered_reaches_the_task_and_is_shown_again(
    plugin: str, name: str, open_panel: Callable[..., Panel]
) -> None:
    panel = open_panel(plugin)
    for first, text in FIRST.get((plugin, name), {}).items():
        panel.enter(first, text)
    text = choose_other(plugin, name)
    panel.enter(name, text)
    panel.apply()

    expected = DECLARATIONS[plugin]().to_strings() | FIRST.get((plugin, name), {}) | {name: text}
    assert panel.task.get_parameters() == expected
    reopened = open_panel(plugin, panel.task)
    assert {name: reopened.form.get_field(name).read() for name in expected} == expected
    assert reopened.get(name).isVisible(), "a rare parameter that is in use is unfolded"


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_form_that_nobody_touched_changes_nothing(plugin: str, open_panel: Callable[..., Panel]) -> None:
    panel = open_panel(plugin)
    before = panel.task.get_parameters()
    panel.apply()
    assert panel.task.get_parameters() == before
    assert panel.form.get_errors() == []


@pytest.mark.parametrize(("plugin", "name"), EVERY_PARAMETER)
def test_the_field_suits_the_declaration(plugin: str, name: str, open_panel: Callable[..., Panel]) -> None:
    declaration = DECLARATIONS[plugin].model_fields[name]
    panel = open_panel(plugin)
    widget = panel.get(name)
    if get_choices(declaration):
        assert isinstance(widget, QComboBox)
        assert not widget.isEditable()
        assert tuple(widget.itemText(index) for index in range(widget.count())) == get_choices(declaration)
    elif declaration.annotation is bool:
        assert isinstance(widget, QCheckBox)
    elif declaration.annotation in (int, float):
        assert isinstance(widget, QAbstractSpinBox)
        assert (widget.minimum(), widget.maximum()) == get_bounds(declaration)
        assert widget.singleStep() == (get_form(declaration)["step"] or 1)
    elif declaration.examples:
        assert isinstance(widget, QComboBox)
        assert widget.isEditable()
        assert [widget.itemText(index) for index in range(widget.count())] == declaration.examples
    else:
        names = {button.objectName() for button in widget.findChildren(QToolButton)} - {""}
        assert names == {f"choose_{kind}" for kind in get_form(declaration)["path"].split(" or ") if kind}
    description = re.sub(r"<[^>]+>", "", widget.toolTip()).replace("&#x27;", "'").replace("&amp;", "&")
    assert str(declaration.description) in description
    assert describe_constraint(declaration) in description
    assert widget.accessibleName() == declaration.title


@pytest.mark.parametrize("plugin", PLUGINS)
def test_groups_come_from_the_declarations_and_rare_parameters_are_folded_away(
    plugin: str, open_panel: Callable[..., Panel]
) -> None:
    panel = open_panel(plugin)
    fields = DECLARATIONS[plugin].model_fields
    shown = [box.title() for box in panel.window.findChildren(QGroupBox)]
    assert shown == list(dict.fromkeys(get_form(declaration)["group"] for declaration in fields.values()))
    for name, declaration in fields.items():
        assert panel.get(name).isVisible() != get_form(declaration)["is_advanced"], name
    for button in panel.window.findChildren(QToolButton):
        if button.text() == "More":
            button.click()
    assert all(panel.get(name).isVisible() for name in fields)


# --- Numbers ---


@pytest.mark.parametrize("text", ["0.0001", "1e-05", "0.30000000000000004", "2.5e-17", "10.0"])
def test_small_and_odd_numbers_stay_exact(text: str, open_panel: Callable[..., Panel]) -> None:
    panel = open_panel("train_resnet", optimizer="sgd")
    panel.enter("learning_rate", text)
    panel.apply()
    assert panel.task.get_parameters()["learning_rate"] == text
    assert panel.task.get_param_object().values.learning_rate == float(text)


@pytest.mark.parametrize(("plugin", "name"), EVERY_NUMBER)
def test_steps_stay_within_the_bounds(plugin: str, name: str, open_panel: Callable[..., Panel]) -> None:
    panel = open_panel(plugin, **OPEN[plugin])
    box = panel.get(name)
    step = get_form(DECLARATIONS[plugin].model_fields[name])["step"] or 1
    before = float(box.text())
    box.stepBy(1)
    assert float(box.text()) == pytest.approx(before + step)
    for direction in (1, -1):
        for _ in range(60):
            box.stepBy(direction * 10**9)
            box.stepBy(direction)
        assert panel.form.get_errors() == []


@pytest.mark.parametrize(
    ("plugin", "name", "start", "steps", "end"),
    [
        ("train_resnet", "momentum", "0.95", 1, "0.95"),  # below 1, not 1
        ("train_resnet", "momentum", "0.05", -1, "0.0"),
        ("train_resnet", "momentum", "0.1", 2, "0.2"),  # not 0.20000000000000004
        ("train_resnet", "learning_rate", "0.0001", -1, "0.0"),
        ("train_resnet", "learning_rate", "0.001", -1, "0.0009"),
        ("infer_resnet", "input_size", "1000", 1, "1024"),
        ("infer_resnet", "input_size", "9000", -1, "1024"),
        ("infer_resnet", "top_k", "1", -1, "1"),
        ("infer_resnet", "top_k", "many", 1, "many"),
        ("infer_resnet", "box_margin", "nan", 1, "nan"),
    ],
)
def test_a_step(plugin: str, name: str, start: str, steps: int, end: str, open_panel: Callable[..., Panel]) -> None:
    panel = open_panel(plugin, **OPEN[plugin])
    panel.form.get_field(name).write(start)
    panel.get(name).stepBy(steps)
    assert panel.get(name).text() == end


# --- Wrong values ---


def list_wrong_values() -> Iterator[tuple[str, str, str]]:
    for plugin, name in EVERY_PARAMETER:
        declaration = DECLARATIONS[plugin].model_fields[name]
        low, high = get_bounds(declaration)
        if declaration.annotation in (int, float):
            yield from ((plugin, name, text) for text in ("", "much", "nan", "inf", "-inf"))
            yield from ((plugin, name, str(bound)) for bound in (low - 1, high + 1) if bound is not None)
            if declaration.annotation is int:
                yield plugin, name, str(low + 0.5)
        elif declaration.examples:
            yield from ((plugin, name, text) for text in ("", "toaster"))
    yield "train_resnet", "momentum", "1"
    yield "train_resnet", "learning_rate", "-0.1"


@pytest.mark.parametrize(("plugin", "name", "text"), [*list_wrong_values()])
def test_a_wrong_value_is_marked_explained_and_refused(
    plugin: str, name: str, text: str, open_panel: Callable[..., Panel], caplog: pytest.LogCaptureFixture
) -> None:
    panel = open_panel(plugin, **OPEN[plugin])
    before = panel.task.get_parameters()
    sentence = DECLARATIONS[plugin].describe_violation(name, text)
    panel.enter(name, text) if panel.get(name).isVisible() else panel.form.get_field(name).write(text)

    assert panel.form.get_note(name) == sentence
    assert panel.form.get_errors() == [sentence]
    panel.apply()
    assert panel.task.get_parameters() == before
    assert caplog.messages == [sentence]
    assert panel.get(name).isVisible(), "a wrong field is unfolded"
    assert is_red(panel.get(name))
    assert panel.get(name).text() if text and not isinstance(panel.get(name), QComboBox) else True
    panel.form.get_field(name).write(before[name])
    assert panel.form.get_note(name) != sentence
    assert not is_red(panel.get(name))


def is_red(widget: QWidget) -> bool:
    """Look at the picture of a field: whether its background is reddish rather than gray."""
    image = widget.grab().toImage()
    color = image.pixelColor(image.width() // 2, image.height() // 2 - 7)
    return color.red() > color.green() + 5


def test_one_wrong_value_keeps_all_others_from_being_applied(open_panel: Callable[..., Panel]) -> None:
    panel = open_panel("infer_resnet")
    before = panel.task.get_parameters()
    panel.enter("top_k", "3")
    panel.enter("input_size", "9000")
    panel.apply()
    assert panel.task.get_parameters() == before
    panel.enter("input_size", "96")
    panel.apply()
    assert panel.task.get_parameters() == before | {"top_k": "3", "input_size": "96"}


def test_a_contradiction_is_shown_at_once_and_refused(open_panel: Callable[..., Panel]) -> None:
    panel = open_panel("train_resnet")
    before = panel.task.get_parameters()
    panel.enter("use_pretrained", "False")
    with pytest.raises(ValueError, match="backbone") as caught:
        TrainParameters(use_pretrained=False).check_consistency()
    assert panel.form.get_errors() == [str(caught.value)]
    assert is_red(panel.get("feature_extract"))
    panel.apply()
    assert panel.task.get_parameters() == before
    panel.enter("feature_extract", "False")
    assert panel.form.get_errors() == []
    panel.apply()
    assert panel.task.get_parameters() == before | {"use_pretrained": "False", "feature_extract": "False"}


# --- Fields that do not apply ---


def test_every_rule_names_a_parameter() -> None:
    assert set(UNUSED) | set(WARNINGS) | set(HINTS) <= set(InferParameters.model_fields)
    assert set(TRAIN_UNUSED) | set(TRAIN_WARNINGS) <= set(TrainParameters.model_fields)


def test_a_weights_file_that_carries_its_names_says_so(open_panel: Callable[..., Panel], checkpoint_path: Path) -> None:
    panel = open_panel("infer_resnet")
    assert not panel.get("class_file").isEnabled()
    assert panel.get("pretrained_weights").isEnabled()
    panel.enter("model_weight_file", str(checkpoint_path))

    assert not panel.get("class_file").isEnabled()
    assert panel.form.get_note("class_file") == "Not used: the weights file carries its names (3: cat, dog, fish)."
    assert not panel.get("model_name").isEnabled()
    assert panel.form.get_note("model_name") == "Not used: the weights file says resnet18."
    assert panel.form.get_note("input_size") == "The weights file's own size: 64."
    assert not panel.get("pretrained_weights").isEnabled()
    panel.enter("model_weight_file", str(checkpoint_path.parent))
    assert "cat, dog, fish" in panel.form.get_note("class_file"), "a run folder is read like its best file"


def test_a_weights_file_without_names_wants_a_class_file(open_panel: Callable[..., Panel], tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"whatever: only its metadata would be read")
    panel = open_panel("infer_resnet", model_weight_file=str(tmp_path / "model.pth"))
    assert panel.get("class_file").isEnabled()
    assert panel.get("model_name").isEnabled()
    panel.enter("class_file", str(tmp_path / "names.txt"))
    assert "There is no file" in panel.form.get_note("class_file")


def test_a_model_that_contradicts_the_file_can_be_changed(
    open_panel: Callable[..., Panel], checkpoint_path: Path
) -> None:
    panel = open_panel("infer_resnet", model_name="resnet50", model_weight_file=str(checkpoint_path))
    assert panel.get("model_name").isEnabled()


@pytest.mark.parametrize("name", ["missing.safetensors", "broken.safetensors", "notes.doc"])
def test_a_bad_weights_file_is_a_warning_and_can_be_applied(
    name: str, open_panel: Callable[..., Panel], tmp_path: Path
) -> None:
    path = tmp_path / name
    if not name.startswith("missing"):
        path.write_bytes(b"\xff" * 100)
    panel = open_panel("infer_resnet")
    panel.enter("model_weight_file", str(path))
    assert str(path) in panel.form.get_note("model_weight_file")
    panel.apply()
    assert panel.task.get_parameters()["model_weight_file"] == str(path)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_path_longer_than_a_path_may_be_is_refused_with_a_note(plugin: str, open_panel: Callable[..., Panel]) -> None:
    panel = open_panel(plugin)
    panel.enter("model_weight_file", "x" * 5000)
    panel.apply()
    assert panel.task.get_parameters()["model_weight_file"] == ""
    assert "longer than a path may be" in panel.form.get_note("model_weight_file")


@pytest.mark.parametrize("text", ["~nobody-of-this-name/x.pth", "file://", "//", "/proc/self/mem"])
@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_path_that_cannot_be_looked_up_does_no_harm(plugin: str, text: str, open_panel: Callable[..., Panel]) -> None:
    panel = open_panel(plugin)
    for name in ("model_weight_file", "class_file" if plugin == "infer_resnet" else "dataset_folder"):
        panel.enter(name, text[:500])
        panel.form.get_field(name).write(text)
    panel.apply()
    assert panel.task.get_parameters()["model_weight_file"] == text


def test_the_form_of_train_disables_what_has_no_effect(open_panel: Callable[..., Panel], tmp_path: Path) -> None:
    panel = open_panel("train_resnet", cached_views=0)
    assert not panel.get("augmentation").isEnabled()  # the head sees plain views
    assert panel.get("cached_views").isEnabled()
    assert not panel.get("small_input_stem").isEnabled()
    panel.enter("cached_views", "1")
    assert panel.get("augmentation").isEnabled()
    panel.enter("augmentation", "none")
    assert not panel.get("cached_views").isEnabled()
    panel.enter("augmentation", "strong")
    assert panel.get("cached_views").isEnabled()
    panel.enter("cached_views", "0")
    panel.enter("feature_extract", "False")
    assert panel.get("augmentation").isEnabled()
    assert not panel.get("cached_views").isEnabled()
    panel.enter("use_pretrained", "False")
    assert panel.get("small_input_stem").isEnabled()
    panel.enter("model_weight_file", str(tmp_path / "missing.pth"))
    assert not panel.get("use_pretrained").isEnabled()
    assert "on this machine" in panel.form.get_note("model_weight_file")


def test_the_form_reads_a_weights_file_without_torch(run_script: Any, checkpoint_path: Path) -> None:
    result = run_script(
        "import gc, sys\n"
        "from PyQt6.QtWidgets import QApplication\n"
        "application = QApplication([])\n"
        "from ikomia.dataprocess.registry import ik_registry\n"
        "task = ik_registry.create_algorithm('infer_resnet')\n"
        f"task.set_parameters({{'model_weight_file': {str(checkpoint_path)!r}}})\n"
        "from infer_resnet.infer_resnet import IkomiaPlugin\n"
        "widget = IkomiaPlugin().get_widget_factory().create(task.get_param_object())\n"
        "print(widget.form.get_note('class_file'))\n"
        "print('torch imported:', 'torch' in sys.modules)\n"
        "del widget\n"
        "gc.collect()\n"
    )
    assert "3: cat, dog, fish" in result.output
    assert "torch imported: False" in result.output


# --- Handling ---


@pytest.mark.parametrize(
    ("plugin", "name", "kind"),
    [
        ("infer_resnet", "model_weight_file", "file"),
        ("infer_resnet", "model_weight_file", "folder"),
        ("train_resnet", "dataset_folder", "file"),
        ("train_resnet", "dataset_folder", "folder"),
        ("train_resnet", "output_folder", "folder"),
    ],
)
def test_a_path_can_be_picked(
    plugin: str, name: str, kind: str, open_panel: Callable[..., Panel], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers = [], [f"/data/{kind}", ""]
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *args: (asked.append(args), (answers.pop(0), ""))[1])
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args: (asked.append(args), answers.pop(0))[1])
    panel = open_panel(plugin)
    button = panel.get(name).findChild(QToolButton, f"choose_{kind}")
    button.click()
    button.click()  # cancelled: what was there stays
    assert panel.form.get_field(name).read() == f"/data/{kind}"
    declaration = DECLARATIONS[plugin].model_fields[name]
    assert [args[1] for args in asked] == [declaration.title] * 2
    assert asked[1][2] == f"/data/{kind}", "the dialog opens where the last choice was"
    if kind == "file":
        assert all(f"*{suffix}" in asked[0][3] for suffix in get_form(declaration)["suffixes"])
        assert asked[0][3].endswith(";;All files (*)")


def test_defaults_can_be_restored(open_panel: Callable[..., Panel]) -> None:
    panel = open_panel("infer_resnet", top_k=9, runtime="torch")
    next(button for button in panel.window.findChildren(QPushButton) if button.text() == "Restore defaults").click()
    assert panel.task.get_parameters()["top_k"] == "9", "nothing changes before Apply"
    panel.apply()
    assert panel.task.get_parameters() == InferParameters().to_strings()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_small_window_scrolls_down_but_not_sideways(plugin: str, open_panel: Callable[..., Panel]) -> None:
    panel = open_panel(plugin)
    panel.window.resize(360, 300)
    QApplication.processEvents()
    area = panel.window.findChild(QScrollArea)
    assert area.verticalScrollBar().maximum() > 100
    assert area.horizontalScrollBar().maximum() == 0


def test_the_wheel_scrolls_and_does_not_change_a_value(open_panel: Callable[..., Panel]) -> None:
    panel = open_panel("infer_resnet")
    panel.get("resize_mode").setFocus()
    for name in ("model_name", "input_size", "top_k"):
        widget = panel.get(name)
        center = QPointF(widget.rect().center())
        event = QWheelEvent(
            center,
            widget.mapToGlobal(center),
            QPoint(0, -120),
            QPoint(0, -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(widget, event)
    panel.apply()
    assert panel.task.get_parameters() == InferParameters().to_strings()


def test_values_that_the_task_changes_are_shown(open_panel: Callable[..., Panel]) -> None:
    panel = open_panel("infer_resnet")
    panel.task.set_parameters({"top_k": 7, "threads": 2})
    panel.widget.on_parameters_changed()
    assert panel.get("top_k").text() == "7"
    assert panel.get("threads").isVisible()


# --- Old workflows, missing parts ---


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_form_opens_on_a_workflow_of_an_older_version(
    plugin: str, open_panel: Callable[..., Panel], tmp_path: Path
) -> None:
    path = tmp_path / "old.json"
    workflow = Workflow()
    workflow.add_task(name=plugin)
    workflow.save(str(path))
    content = json.loads(path.read_text(encoding="utf-8"))
    (parameters,) = (
        task["task_data"]["parameters"] for task in content["tasks"] if task["task_data"]["name"] == plugin
    )
    parameters[:] = [entry for entry in parameters if entry["name"] == "input_size"] + [
        {"name": "dataset", "value": "ImageNet"},
        {"name": "patience", "value": "lots"},
    ]
    parameters[0]["value"] = "96"
    path.write_text(json.dumps(content), encoding="utf-8")

    loaded = Workflow()
    loaded.load(str(path))
    task = loaded.find_task(plugin)[0]
    panel = open_panel(plugin, task)
    assert panel.get("input_size").text() == "96"
    panel.enter("model_name", "resnet34")
    panel.apply()
    expected = DECLARATIONS[plugin]().to_strings() | {"input_size": "96", "model_name": "resnet34"}
    assert task.get_parameters() == expected


def test_without_pyqt6_the_form_says_what_to_install_and_the_rest_works(run_script: Any) -> None:
    result = run_script(
        "import sys\n"
        "sys.modules['PyQt6'] = sys.modules['PyQt6.QtCore'] = None\n"
        "from ikomia.dataprocess.registry import ik_registry\n"
        "for name in ('infer_resnet', 'train_resnet'):\n"
        "    task = ik_registry.create_algorithm(name)\n"
        "    task.set_parameters({'input_size': 96})\n"
        "    assert task.get_parameters()['input_size'] == '96'\n"
        "    plugin = __import__(f'{name}.{name}', fromlist=['IkomiaPlugin']).IkomiaPlugin()\n"
        "    factory = plugin.get_widget_factory()\n"
        "    try:\n"
        "        factory.create(task.get_param_object())\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    pins = re.findall(r"^PyQt6\S+", (REPOSITORY / "requirements-dev.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert result.output.count(f"pip install {' '.join(pins)}") == 2
    assert len(pins) == 2


def test_without_a_qt_application_the_form_is_refused_and_the_process_lives(run_script: Any) -> None:
    result = run_script(
        "import os\n"
        "os.environ.pop('QT_QPA_PLATFORM')\n"
        "os.environ.pop('DISPLAY', None)\n"
        "from ikomia.dataprocess.registry import ik_registry\n"
        "for name in ('infer_resnet', 'train_resnet'):\n"
        "    task = ik_registry.create_algorithm(name)\n"
        "    plugin = __import__(f'{name}.{name}', fromlist=['IkomiaPlugin']).IkomiaPlugin()\n"
        "    try:\n"
        "        plugin.get_widget_factory().create(task.get_param_object())\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
        "print('alive')\n"
    )
    assert "infer_resnet: a form needs a running Qt application" in result.output
    assert "train_resnet: a form needs a running Qt application" in result.output
    assert "alive" in result.output


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_stored_pictures_show_the_forms_of_today(plugin: str, form_pictures: Path) -> None:
    name = f"form_{plugin.partition('_')[0]}.png"
    made, stored = (
        np.asarray(Image.open(folder / name).convert("L"), np.int16)
        for folder in (form_pictures, REPOSITORY / "docs" / "images")
    )
    assert made.shape == stored.shape, "run `make pictures`"
    # Letters may be smoothed in another way elsewhere; a word that changed has hundreds of other pixels.
    assert (abs(made - stored) > 100).sum() < 100, "run `make pictures`"
