"""Imports point down: reads every import of the library and of both plugins, and fails on a wrong arrow."""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
LIBRARY = "resnetkit"
PLUGINS = ("infer_resnet", "train_resnet")

#: The rooms of the library, from the ground up: a room imports only from itself and from those before it.
ROOMS = (
    "machine",
    "parameters",
    "forms",
    "decoding",
    "images",
    "formats",
    "weights",
    "runtimes",
    "answers",
    "folders",
    "jobs",
    "sources",
    "data",
    "results",
    "evaluation",
    "exports",
    "probing",
    "learners",
    "training",
    "commands",
)

#: Which modules may import a library at all, by the library's top-level name.
RESERVED = {
    "ikomia": ("infer_resnet.*", "train_resnet.*"),
    "PyQt5": (),
    "PySide6": (),
    "PyQt6": ("resnetkit.forms.*",),
}

#: Work without torch, wherever in them it would be imported.
TORCH_FREE = ("*_resnet.*_resnet", "*_widget", "resnetkit.parameters.*", "resnetkit.forms.*")

#: Take seconds to import, or a display: not at module level in anything that loading a plugin, or help, imports.
HEAVY = {"torch", "torchvision", "openvino", "nncf", "onnx", "onnxscript", "matplotlib", "mlflow", "sklearn", "scipy"}
LOADED_WITH_PLUGIN = (
    "*_resnet.*_resnet",
    "*_process",
    "*_widget",
    "resnetkit.parameters.*",
    "resnetkit.forms.*",
    "resnetkit.machine.*",
    "resnetkit.commands.*",
    "resnetkit.__main__",
)


@dataclass(frozen=True)
class Import:
    """One import statement (or `import_module` call) of a module.

    Attributes:
        module: Dotted name of the importing module.
        line: Where it stands.
        target: Dotted name of what is imported; of `from a.b import c`, a.b.
        names: c of `from a.b import c`; empty for `import a.b`.
        is_deferred: Whether it stands in a function.
    """

    module: str
    line: int
    target: str
    names: tuple[str, ...]
    is_deferred: bool

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module} line {self.line}: imports {self.target or '.'}"


def read_imports(path: Path, module: str) -> list[Import]:
    """Return the imports of a source file, without those that only type checkers see."""
    return list(_walk(ast.parse(path.read_text(encoding="utf-8")), module, is_deferred=False))


def _walk(node: ast.AST, module: str, is_deferred: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, child.lineno, alias.name, (), is_deferred)
        elif isinstance(child, ast.ImportFrom):
            target = "." * child.level + (child.module or "")
            yield Import(module, child.lineno, target, tuple(alias.name for alias in child.names), is_deferred)
        elif (name := _get_dynamic_import(child)) is not None:
            yield Import(module, child.lineno, name, (), is_deferred)
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _walk(child, module, is_deferred or is_function)


def _get_dynamic_import(node: ast.AST) -> str | None:
    """Return the name in `import_module("name")`."""
    if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(("import_module", "__import__")):
        return None
    return str(node.args[0].value) if node.args and isinstance(node.args[0], ast.Constant) else None


def find_modules(root: Path) -> dict[str, Path]:
    """Return the source files of library and plugins below `root` by their dotted names."""
    paths = [path for name in (LIBRARY, *PLUGINS) for path in sorted((root / name).rglob("*.py"))]
    paths = [path for path in paths if "vendor" not in path.parts]  # where `make link` shows the library
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def find_violations(root: Path) -> list[str]:
    """Return one sentence for each import (or folder) below `root` that breaks a rule."""
    modules = find_modules(root)
    imports = {module: read_imports(path, module) for module, path in modules.items()}
    violations = list(_find_sub_packages(root))
    for module, its_imports in imports.items():
        for found in its_imports:
            violations += [f"{found}: {reason}" for reason in _judge(found, set(modules))]
        violations += [f"{found}: {reason}" for found, reason in _find_late_weight(module, imports)]
    return violations + _find_cycles(imports)


def _find_sub_packages(root: Path) -> Iterator[str]:
    for plugin in PLUGINS:
        for path in (root / plugin).rglob("*/*.py"):
            if not {"__pycache__", "vendor"} & set(path.parts):
                yield f"{path.relative_to(root)}: plugin folders are flat, the engine breaks sub-packages on reload"


def _judge(found: Import, modules: set[str]) -> Iterator[str]:
    """Say what is wrong with one import by itself."""
    if found.target.startswith("."):
        yield "relative; write the whole name"
    reserved = RESERVED.get(found.library, ("*",))
    if not _matches(found.module, reserved):
        yield f"{found.library} is for {', '.join(reserved) or 'nobody'}"
    if found.library in {"torch", "torchvision"} and _matches(found.module, TORCH_FREE):
        yield "this module works without torch"
    if found.library in (LIBRARY, *PLUGINS):
        yield from _judge_own(found, modules)


def _judge_own(found: Import, modules: set[str]) -> Iterator[str]:
    """Say what is wrong with an import from the library or from a plugin."""
    package = found.module.partition(".")[0]
    if found.target not in modules:
        yield "there is no such module"
    if any(name.startswith("_") and not name.startswith("__") for name in found.names):
        yield "private names stay in their module"
    if found.library in PLUGINS and found.library != package:
        yield "the library and the other plugin work without it"
    if found.library == package == LIBRARY:
        yield from _judge_room(found)
    is_on_top = re.fullmatch(r".*_(process|widget|test)", found.target) is not None
    if is_on_top and not _matches(found.module, ("*_resnet.*_resnet", "*_test", found.target)):
        yield "the engine's side is on top; nothing below imports it"


def _judge_room(found: Import) -> Iterator[str]:
    here, there = (name.split(".")[1:2] for name in (found.module, found.target))
    if not there or not here or here == ["__main__"]:
        return  # the package itself: its version
    if here[0] in ROOMS and there[0] in ROOMS and ROOMS.index(there[0]) > ROOMS.index(here[0]):
        yield f"{there[0]} is above {here[0]}"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _find_late_weight(module: str, imports: Mapping[str, list[Import]]) -> Iterator[tuple[Import, str]]:
    """Find heavy libraries that loading the plugin would import, directly or through other modules."""
    if not _matches(module, LOADED_WITH_PLUGIN):
        return
    todo, seen = [module], {module}
    while todo:
        for found in imports.get(todo.pop(), []):
            if found.is_deferred:
                continue
            if found.library in HEAVY:
                yield found, f"heavy, and imported with {module}; import it in the function that needs it"
            elif found.target in imports and found.target not in seen:
                seen.add(found.target)
                todo.append(found.target)


def _find_cycles(imports: Mapping[str, list[Import]]) -> list[str]:
    """Return every module that can be reached from itself, deferred imports included, with the way round."""
    graph = {module: {found.target for found in its} & set(imports) - {LIBRARY} for module, its in imports.items()}
    return [
        f"{module}: imports itself, by {' -> '.join(way)}"
        for module in graph
        if (way := _find_way(graph, module, module)) is not None
    ]


def _find_way(graph: Mapping[str, set[str]], start: str, goal: str) -> list[str] | None:
    ways, seen = [[start]], set()
    while ways:
        way = ways.pop(0)
        for following in sorted(graph[way[-1]]):
            if following == goal:
                return [*way, following]
            if following not in seen:
                seen.add(following)
                ways.append([*way, following])
    return None


def test_imports_point_down():
    violations = find_violations(REPOSITORY)
    assert not violations, "\n" + "\n".join(sorted(set(violations)))


def test_every_room_is_in_the_table_and_says_what_it_is_for():
    rooms = {path.parent.name for path in (REPOSITORY / LIBRARY).glob("*/__init__.py")}
    assert rooms == set(ROOMS)
    contributing = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for room in ROOMS:
        tree = ast.parse((REPOSITORY / LIBRARY / room / "__init__.py").read_text(encoding="utf-8"))
        sentence = ast.get_docstring(tree)
        assert sentence is not None
        assert f"| `{room}/` | {sentence} |" in contributing


def test_a_room_has_three_to_eight_modules():
    counts = {room: len(list((REPOSITORY / LIBRARY / room).glob("*.py"))) - 1 for room in ROOMS}
    assert {room: count for room, count in counts.items() if not 3 <= count <= 8} == {}


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("resnetkit/weights/models.py", "from ikomia import core", "ikomia is for"),
        ("resnetkit/weights/models.py", "import PyQt6.QtWidgets", "PyQt6 is for"),
        ("infer_resnet/infer_resnet_widget.py", "from PyQt5 import QtCore", "PyQt5 is for nobody"),
        ("resnetkit/forms/form.py", "def f():\n    import torch", "works without torch"),
        ("resnetkit/parameters/training.py", "from torchvision import models", "works without torch"),
        ("infer_resnet/infer_resnet_process.py", "import torch", "heavy"),
        ("infer_resnet/infer_resnet_process.py", "from resnetkit.weights.models import a", "heavy"),
        ("infer_resnet/infer_resnet_process.py", "try:\n    import mlflow\nexcept ImportError: ...", "heavy"),
        ("infer_resnet/session.py", "from train_resnet.train_resnet_process import a", "work without it"),
        ("resnetkit/answers/model.py", "from infer_resnet.infer_resnet_process import a", "work without it"),
        ("resnetkit/weights/models.py", "from resnetkit.answers.model import a", "answers is above weights"),
        ("resnetkit/answers/model.py", "def f():\n    from resnetkit.data.dataset import a", "data is above answers"),
        ("resnetkit/answers/model.py", "from .loader import a", "relative"),
        ("resnetkit/answers/model.py", "from resnetkit.weights.models import _a", "private"),
        ("resnetkit/answers/model.py", "from resnetkit.nowhere import a", "no such module"),
        ("infer_resnet/session.py", "from infer_resnet.infer_resnet_process import a", "on top"),
        ("resnetkit/answers/model.py", "import importlib\nimportlib.import_module('ikomia')", "ikomia is for"),
        ("infer_resnet/layers/block.py", "", "flat"),
        ("resnetkit/answers/loader.py", "def f():\n    from resnetkit.answers.model import a", "imports itself"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path, path, source, reason):
    _write_packages(tmp_path)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source, encoding="utf-8")
    assert any(reason in violation for violation in find_violations(tmp_path)), find_violations(tmp_path)


def test_right_arrows_pass(tmp_path):
    _write_packages(tmp_path)
    (tmp_path / "resnetkit" / "forms" / "form.py").write_text("from PyQt6 import QtWidgets", encoding="utf-8")
    (tmp_path / "infer_resnet" / "infer_resnet_process.py").write_text(
        "from ikomia import core\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    import torch\n    from resnetkit.weights.models import a\n",
        encoding="utf-8",
    )
    assert find_violations(tmp_path) == []


def _write_packages(root: Path) -> None:
    sources = {
        "resnetkit/__init__.py": "",
        "resnetkit/parameters/training.py": "",
        "resnetkit/forms/form.py": "from resnetkit.parameters.training import a\n",
        "resnetkit/weights/models.py": "import torch\na = 1\n",
        "resnetkit/answers/loader.py": "from resnetkit.weights.models import a\n",
        "resnetkit/answers/model.py": "from resnetkit.answers.loader import a\n",
        "resnetkit/data/dataset.py": "from resnetkit.answers.model import a\n",
        "infer_resnet/infer_resnet.py": "def f():\n    from infer_resnet.infer_resnet_process import x\n",
        "infer_resnet/infer_resnet_process.py": "def f():\n    from infer_resnet.session import a\n",
        "infer_resnet/session.py": "from resnetkit.answers.model import a\n",
        "train_resnet/train_resnet_process.py": "from ikomia import core\n",
    }
    for path, source in sources.items():
        (root / path).parent.mkdir(exist_ok=True, parents=True)
        (root / path).write_text(source, encoding="utf-8")
