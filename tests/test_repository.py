"""The repository agrees with itself: versions, requirements, links, make targets, tables; and holds nothing stray."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PLUGINS = ("infer_resnet", "train_resnet")
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "*_resnet/*.md", "compat/**/*.md", "benchmarks/*.md", "examples/*.md")
    for path in REPOSITORY.glob(pattern)
)

MAX_FILE_BYTES = 500_000
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60

#: Where the name of an import is not that of the package.
PACKAGES = {
    "PIL": "pillow",
    "annotated_types": "annotated-types",
    "cv2": "opencv-python",
    "sklearn": "scikit-learn",
}

#: Needed, though no line of the plugins imports them.
INDIRECT = {
    "onnx": "torch.onnx writes its files with it",
    "onnxscript": "torch.onnx is written in it",
    "tensorboard": "torch.utils.tensorboard writes its files with it",
    "torchvision": "train_resnet builds its networks with it, through infer_resnet",
}

#: Imported where they are there, and said to be missing where they are not.
OPTIONAL = {"PyQt6", "nncf"}

#: Left-overs, paths of one machine, and package sources that a user may not reach.
FORBIDDEN = {
    "a note to oneself": re.compile(r"\b(TOD[O]|FIXM[E]|XX[X])\b"),
    "a path of one machine": re.compile(r"(?<![\w.~:/-])/(root|wor[k])/\w+"),
    "a package source": re.compile(r"--(extra-)?index-ur[l]|--find-link[s]|--trusted-hos[t]"),
}


def get_tracked_files() -> list[Path]:
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if result.returncode:
        pytest.skip("not a git repository")
    return [path for name in result.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def read(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def get_setting(name: str) -> str:
    found = re.search(rf'^{name} = "(.*)"$', read("pyproject.toml"), re.MULTILINE)
    assert found
    return found[1]


def test_the_changelog_starts_with_the_version():
    found = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert found
    assert found[1] == get_setting("version")


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_tells_the_version_and_address_of_the_repository(plugin):
    from ikomia.dataprocess.registry import ik_registry

    assert ik_registry.create_algorithm(plugin, public_hub=False) is not None
    info = ik_registry.get_algorithm_info(plugin)
    assert info.version == get_setting("version")
    assert info.repository == get_setting("repository")
    assert info.license == get_setting("license")


def test_no_file_is_large():
    large = {str(path): path.stat().st_size for path in get_tracked_files() if path.stat().st_size > MAX_FILE_BYTES}
    assert not large


def test_no_text_has_left_overs():
    found = [
        f"{path.relative_to(REPOSITORY)}: {what}: {match[0]}"
        for path in get_tracked_files()
        if path.suffix in {".py", ".md", ".txt", ".toml", ".html", ".js", ".json", ".ipynb", ".sh", ""}
        for what, pattern in FORBIDDEN.items()
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def measure_functions(source: str) -> dict[str, int]:
    """Return the number of lines of each function."""
    return {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None
    }


@pytest.mark.parametrize("plugin", PLUGINS)
def test_modules_and_functions_fit_a_reader(plugin):
    long = []
    for path in sorted((REPOSITORY / plugin).glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if (lines := source.count("\n")) > MAX_MODULE_LINES:
            long.append(f"{path.name}: {lines} lines")
        functions = measure_functions(source)
        long += [
            f"{path.name}: {name}: {lines} lines" for name, lines in functions.items() if lines > MAX_FUNCTION_LINES
        ]
    assert not long, "\n".join(long)


def find_imports(folder: Path) -> set[str]:
    """Return the top-level names of third-party imports, those that only type checkers see included."""
    names: set[str] = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - set(PLUGINS)


def read_requirements(path: Path) -> Iterator[str]:
    """Yield the package names of a requirements file and of those that it includes."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from read_requirements(path.parent / line[3:].strip())
        elif found := re.match(r"[A-Za-z0-9_-]+", line):
            yield found[0]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_requirements_name_what_is_imported_and_nothing_else(plugin):
    required = set(read_requirements(REPOSITORY / plugin / "requirements.txt"))
    imported = {PACKAGES.get(name, name) for name in find_imports(REPOSITORY / plugin) - OPTIONAL - {"ikomia"}}
    assert imported - required == set(), "imported, but not required"
    assert required - imported - set(INDIRECT) == set(), "required, but not imported"


def test_the_two_plugins_agree_on_the_ranges_of_their_requirements():
    ranges: dict[str, set[str]] = {}
    for plugin in PLUGINS:
        for line in read(f"{plugin}/requirements.txt").splitlines():
            if found := re.match(r"([A-Za-z0-9_-]+)([^#]*)", line):
                ranges.setdefault(found[1], set()).add(found[2].strip())
    assert {name: both for name, both in ranges.items() if len(both) > 1} == {}


def test_the_root_requirements_are_those_of_the_plugins_and_the_engine():
    required = set(read_requirements(REPOSITORY / "requirements.txt"))
    expected = {"ikomia"}.union(*(read_requirements(REPOSITORY / plugin / "requirements.txt") for plugin in PLUGINS))
    assert required == expected


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_and_make_targets_of_a_document_exist(document):
    text = document.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert named <= targets
    links = [link for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_readme_has_the_table_of_parameters(plugin):
    from importlib import import_module

    from resnetkit.parameters.declaration import Parameters, format_markdown_table

    module = import_module(f"{plugin}.parameters")
    (parameters,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Parameters) and value is not Parameters
    ]
    found = re.search(rf"<!-- parameters:{plugin} -->\n(.*?)<!-- end -->", read("README.md"), re.DOTALL)
    assert found
    assert found[1].strip() == format_markdown_table(parameters).strip()
