"""Imports point down: reads every import of both plugins and fails on a wrong arrow."""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PLUGINS = ("infer_resnet", "train_resnet")

#: The modules that speak with the engine, those that speak Qt, and those that everybody imports before torch is needed.
ENGINE_MODULES = ("infer_resnet", "train_resnet", "*_process", "*_widget", "*_test", "forms", "inputs", "outputs")
QT_MODULES = ("*_widget", "form*")
TORCH_FREE_MODULES = ("infer_resnet", "train_resnet", "*_widget", "parameters", "schema", "form*")

#: Which modules may import a library at all, by the library's top-level name.
RESERVED = {
    "ikomia": ENGINE_MODULES,
    "PyQt5": (),
    "PySide6": (),
    "PyQt6": QT_MODULES,
}

#: Take seconds to import, or a display: not at module level in anything that loading a plugin imports.
HEAVY = {"torch", "torchvision", "openvino", "nncf", "onnx", "onnxscript", "matplotlib", "mlflow", "sklearn", "scipy"}
LOADED_WITH_PLUGIN = (
    "infer_resnet",
    "train_resnet",
    "*_process",
    "*_widget",
    "parameters",
    "schema",
    "form*",
    "adapter",
)

#: What train_resnet may use of infer_resnet.
SHARED = {
    *(
        "schema",
        "adapter",
        "forms",
        "files",
        "images",
        "pixels",
        "architectures",
        "model",
        "checkpoint",
        "preprocessing",
    ),
    *("network", "runtimes", "torch_runtime", "openvino_runtime", "openvino_graph", "cache", "explain", "drawing"),
    *("openmp", "garbage", "plugin_info"),
}

#: Modules with no more than these imports from the two plugins.
LIMITED = {
    "infer_resnet.architectures": set(),
    "infer_resnet.schema": set(),
    "infer_resnet.parameters": {"infer_resnet.schema"},
    "train_resnet.parameters": {"infer_resnet.schema"},
    "infer_resnet.files": set(),
    "infer_resnet.adapter": {"infer_resnet.schema"},
}


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


def find_violations(root: Path) -> list[str]:
    """Return one sentence for each import (or folder) of the plugins below `root` that breaks a rule."""
    modules = {f"{plugin}.{path.stem}": path for plugin in PLUGINS for path in sorted((root / plugin).glob("*.py"))}
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
            if "__pycache__" not in path.parts:
                yield f"{path.relative_to(root)}: plugin folders are flat, the engine breaks sub-packages on reload"


def _judge(found: Import, modules: set[str]) -> Iterator[str]:
    """Say what is wrong with one import by itself."""
    plugin, _, name = found.module.partition(".")
    if found.target.startswith("."):
        yield "relative; write the whole name"
    if not _matches(name, RESERVED.get(found.library, (name,))):
        yield f"{found.library} is for {', '.join(RESERVED[found.library]) or 'nobody'}"
    if found.library in {"torch", "torchvision"} and _matches(name, TORCH_FREE_MODULES):
        yield "this module works without torch"
    if found.module == "infer_resnet.preprocessing" and found.library == "torchvision":
        yield "preprocessing stands on torch alone"
    if found.library in PLUGINS:
        yield from _judge_own(found, plugin, modules)


def _judge_own(found: Import, plugin: str, modules: set[str]) -> Iterator[str]:
    """Say what is wrong with an import from one of the two plugins."""
    other = found.target.partition(".")[2]
    if found.target in PLUGINS or not found.names:
        yield "keeps a stale module after a reload; write from plugin.module import name"
    elif found.target not in modules:
        yield "there is no such module"
    if plugin == "infer_resnet" and found.library == "train_resnet":
        yield "infer_resnet works without train_resnet"
    if plugin == "train_resnet" and found.library == "infer_resnet" and other and other not in SHARED:
        yield "not one of the modules that train_resnet may share"
    if found.target not in LIMITED.get(found.module, {found.target}):
        yield f"may import no more than {', '.join(LIMITED[found.module]) or 'libraries'}"
    if any(name.startswith("_") for name in found.names):
        yield "private names stay in their module"
    if other in PLUGINS or re.fullmatch(r".*_(process|widget|test)", other):
        module = found.module.partition(".")[2]
        if module not in {*PLUGINS, other} and not module.endswith("_test"):
            yield "the engine's side is on top; nothing below imports it"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _find_late_weight(module: str, imports: Mapping[str, list[Import]]) -> Iterator[tuple[Import, str]]:
    """Find heavy libraries that loading the plugin would import, directly or through other modules."""
    if not _matches(module.partition(".")[2], LOADED_WITH_PLUGIN):
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
    graph = {module: {found.target for found in its} & set(imports) for module, its in imports.items()}
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


def test_the_modules_named_in_the_rules_exist():
    names = {f"infer_resnet.{name}" for name in SHARED} | set(LIMITED)
    missing = {name for name in names if not (REPOSITORY / f"{name.replace('.', '/')}.py").is_file()}
    assert not missing


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("infer_resnet/model.py", "from ikomia import core", "ikomia is for"),
        ("infer_resnet/model.py", "import PyQt6.QtWidgets", "PyQt6 is for"),
        ("infer_resnet/infer_resnet_widget.py", "from PyQt5 import QtCore", "PyQt5 is for nobody"),
        ("infer_resnet/forms.py", "def f():\n    import torch", "works without torch"),
        ("train_resnet/parameters.py", "from torchvision import models", "works without torch"),
        ("infer_resnet/preprocessing.py", "import torchvision", "torch alone"),
        ("infer_resnet/infer_resnet_process.py", "import torch", "heavy"),
        ("infer_resnet/infer_resnet_process.py", "from infer_resnet.model import a", "heavy"),
        ("infer_resnet/infer_resnet_process.py", "try:\n    import mlflow\nexcept ImportError: ...", "heavy"),
        ("infer_resnet/predictor.py", "from train_resnet.data import Dataset", "works without train_resnet"),
        ("train_resnet/data.py", "from infer_resnet.predictor import Predictor", "may share"),
        ("train_resnet/data.py", "from infer_resnet.infer_resnet_process import x", "may share"),
        ("infer_resnet/predictor.py", "from infer_resnet import model", "stale"),
        ("infer_resnet/predictor.py", "import infer_resnet.model as model", "stale"),
        ("infer_resnet/predictor.py", "from .model import a", "relative"),
        ("infer_resnet/predictor.py", "from infer_resnet.model import _a", "private"),
        ("infer_resnet/predictor.py", "from infer_resnet.nowhere import a", "no such module"),
        ("infer_resnet/predictor.py", "from infer_resnet.infer_resnet_process import a", "on top"),
        ("infer_resnet/predictor.py", "import importlib\nimportlib.import_module('ikomia')", "ikomia is for"),
        ("infer_resnet/architectures.py", "from infer_resnet.model import a", "no more than libraries"),
        ("infer_resnet/layers/block.py", "", "flat"),
        ("infer_resnet/model.py", "def f():\n    from infer_resnet.predictor import a", "imports itself"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path, path, source, reason):
    _write_plugins(tmp_path)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source, encoding="utf-8")
    assert any(reason in violation for violation in find_violations(tmp_path)), find_violations(tmp_path)


def test_right_arrows_pass(tmp_path):
    _write_plugins(tmp_path)
    (tmp_path / "infer_resnet" / "forms.py").write_text("from PyQt6 import QtWidgets", encoding="utf-8")
    (tmp_path / "infer_resnet" / "infer_resnet_process.py").write_text(
        "from ikomia import core\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    import torch\n    from infer_resnet.model import a\n",
        encoding="utf-8",
    )
    assert find_violations(tmp_path) == []


def _write_plugins(root: Path) -> None:
    sources = {
        "infer_resnet/model.py": "import torch\na = 1\n",
        "infer_resnet/predictor.py": "from infer_resnet.model import a\n",
        "infer_resnet/infer_resnet.py": "def f():\n    from infer_resnet.infer_resnet_process import x\n",
        "infer_resnet/infer_resnet_process.py": "def f():\n    from infer_resnet.predictor import a\n",
        "train_resnet/data.py": "from infer_resnet.model import a\n",
    }
    for path, source in sources.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(source, encoding="utf-8")
