"""Installations: which packages some requirements need, which files these have here, and what they take.

Nothing is installed for it: the lists of the wheels that are installed here say it. Imported by the benchmark of the
reach and by the trial without PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def read_requirements(path: Path) -> list[str]:
    """Return the requirements of a file, and of those that it names."""
    requirements = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if text.startswith("-r "):
            requirements += read_requirements(path.parent / text.removeprefix("-r "))
        elif text:
            requirements.append(text)
    return requirements


def find_distributions(requirements: Iterable[str]) -> Mapping[str, Distribution]:
    """Return by name the installed packages that some requirements need, and those that these need.

    Raises:
        PackageNotFoundError: One is not installed.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found[name] = distribution(name)
            needed = (Requirement(text) for text in found[name].requires or ())
            waiting += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]
    return found


def list_files(distributions: Mapping[str, Distribution]) -> Iterator[tuple[Path, Path]]:
    """Yield the files of packages that lie where Python imports from: relative to there, and absolute."""
    for package in distributions.values():
        for file in package.files or ():
            path = Path(str(package.locate_file(file)))
            if ".." not in file.parts and path.is_file():
                yield Path(file), path


def measure_installation(requirements: Iterable[str]) -> int:
    """Return the bytes of all files of the packages that some requirements need."""
    files = dict(list_files(find_distributions(requirements)))
    return sum(path.stat().st_size for path in files.values())
