"""The repository agrees with itself: versions, requirements, links, make targets, tables; and holds nothing stray."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from resnetkit import __version__
from resnetkit.about import fill_shared_info
from resnetkit.runtimes.cache import DEFAULT_LIMIT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parent.parent
PLUGINS = ("infer_resnet", "train_resnet")
PACKAGES_OF_OURS = ("resnetkit", *PLUGINS)

#: The rooms that classification needs, with the plugin on top of them.
LIGHT = ("machine", "parameters", "decoding", "images", "weights", "runtimes", "answers", "folders")
DOCUMENTS = sorted(
    path
    for pattern in (
        "*.md",
        ".github/**/*.md",
        "docs/*.md",
        "*_resnet/*.md",
        "compat/**/*.md",
        "benchmarks/*.md",
        "examples/*.md",
    )
    for path in REPOSITORY.glob(pattern)
)

MAX_FILE_BYTES = 500_000
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60

#: Where the name of an import is not that of the package.
PACKAGES = {
    "PIL": "pillow",
    "annotated_types": "annotated-types",
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
}

#: Needed, though no line of ours imports them.
INDIRECT = {
    "onnx": "torch.onnx writes its files with it",
    "onnxscript": "torch.onnx is written in it",
    "tensorboard": "torch.utils.tensorboard writes its files with it",
}

#: Imported where they are there, and said to be missing where they are not.
OPTIONAL = {
    "PyQt6",
    "fsspec",
    "gcsfs",
    "huggingface-hub",
    "nncf",
    "pandas",
    "pillow-heif",
    "pyarrow",
    "pydicom",
    "s3fs",
}

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


def read_project() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))


def test_the_changelog_starts_with_the_version():
    found = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert found
    assert found[1] == __version__


def test_the_citation_names_the_version_and_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == __version__
    assert citation["license"] == read_project()["project"]["license"]
    info = SimpleNamespace(hardware_config=SimpleNamespace())
    fill_shared_info(info)
    (paper,) = citation["references"]
    assert paper["title"] == info.article
    assert paper["url"] == info.article_url
    assert paper["year"] == info.year
    authors = ", ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"])
    assert authors == info.authors


def test_the_workflow_runs_the_commands_of_contributing_with_the_oldest_and_newest_python():
    job = yaml.safe_load(read(".github/workflows/test.yml"))["jobs"]["test"]
    oldest, following = map(int, re.findall(r"3\.(\d+)", read_project()["project"]["requires-python"]))
    assert job["strategy"]["matrix"]["python"] == [f"3.{oldest}", f"3.{following - 1}"]
    commands = [step["run"].split()[:2] for step in job["steps"] if "run" in step]
    assert ["make", "lint"] in commands
    assert ["make", "test"] in commands


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_tells_the_version_and_address_of_the_repository(plugin):
    from ikomia.dataprocess.registry import ik_registry

    assert ik_registry.create_algorithm(plugin, public_hub=False) is not None
    info = ik_registry.get_algorithm_info(plugin)
    assert info.version == __version__
    assert info.repository == read_project()["tool"]["resnet-for-ikomia"]["repository"]
    assert info.license == read_project()["project"]["license"]


def test_the_readme_names_every_folder_that_is_kept():
    sources = [path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "resnetkit").rglob("*.py"))]
    used = {
        "/".join(re.findall(r'"(\w+)"', match))
        for source in sources
        for match in re.findall(r'get_ikomia_root\(\)((?: / "\w+")+)', source)
    }
    assert len(used) >= 5
    named = re.findall(r"^\| `~/Ikomia/([\w/]+)`", read("README.md"), re.MULTILINE)
    without_home = {"Models/torch/checkpoints"}
    assert {path for path in used - without_home if not path.startswith(tuple(named))} == set()
    assert "at most 2 GB" in read("README.md")
    assert DEFAULT_LIMIT == 2 << 30


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


@pytest.mark.parametrize("package", PACKAGES_OF_OURS)
def test_modules_and_functions_fit_a_reader(package):
    long = []
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if (lines := source.count("\n")) > MAX_MODULE_LINES:
            long.append(f"{path.name}: {lines} lines")
        functions = measure_functions(source)
        long += [
            f"{path.name}: {name}: {lines} lines" for name, lines in functions.items() if lines > MAX_FUNCTION_LINES
        ]
    assert not long, "\n".join(long)


def find_imports(*folders: Path) -> set[str]:
    """Return the packages of third-party imports, those that only type checkers see included."""
    names: set[str] = set()
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").partition(".")[0])
    ours = set(PACKAGES_OF_OURS) | {"ikomia"} | OPTIONAL
    return {PACKAGES.get(name, name) for name in names - set(sys.stdlib_module_names) - ours}


def read_names(requirements: list[str]) -> set[str]:
    """Return the package names of requirements such as `torch>=2.7`."""
    return {re.split(r"[<>=!~ ]", line, maxsplit=1)[0] for line in requirements}


def read_requirements(name: str) -> list[str]:
    """Return the requirements of a file without comments, blanks and references to other files."""
    lines = [line.partition("#")[0].strip() for line in read(name).splitlines()]
    return [line for line in lines if line and not line.startswith("-r ")]


def test_classification_imports_what_it_requires():
    imported = find_imports(*(REPOSITORY / "resnetkit" / room for room in LIGHT), REPOSITORY / "infer_resnet")
    project = read_project()["project"]
    of_gpus = read_names(project["optional-dependencies"]["torch"])
    assert imported - read_names(project["dependencies"]) - of_gpus == set(), "imported, but not required"
    assert not of_gpus & read_names(project["dependencies"])


def test_the_project_requires_what_is_imported_and_nothing_else():
    project = read_project()["project"]
    required = read_names(project["dependencies"]).union(*map(read_names, project["optional-dependencies"].values()))
    imported = find_imports(*(REPOSITORY / name for name in PACKAGES_OF_OURS))
    assert imported - required == set(), "imported, but not required"
    assert required - imported - set(INDIRECT) - OPTIONAL == set(), "required, but not imported"


@pytest.mark.parametrize(
    ("plugin", "extras"), [("infer_resnet", ()), ("train_resnet", ("train", "tracking"))], ids=PLUGINS
)
def test_a_plugin_requires_what_the_project_does(plugin, extras):
    project = read_project()["project"]
    expected = [*project["dependencies"], *(line for name in extras for line in project["optional-dependencies"][name])]
    assert sorted(read_requirements(f"{plugin}/requirements.txt")) == sorted(expected)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_and_make_targets_of_a_document_exist(document):
    text = document.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert named <= targets
    links = [link for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
