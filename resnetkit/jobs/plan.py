"""The plan of a job: which files, by which model with which settings, in which parts; fixed at the first start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from resnetkit.folders.cells import PathSet, write_path
from resnetkit.folders.listing import list_files
from resnetkit.machine.files import atomic_path, hash_files, write_json

PLAN_FILE = "_plan.json"
#: The paths, a JSON text a line: a path may hold anything, a line end included.
PATHS_FILE = "_paths.jsonl"


class JobError(ValueError):
    """A job cannot be begun or gone on with."""


@dataclass(frozen=True)
class Plan:
    """What a job does.

    Attributes:
        sources: What the user named.
        model: Identifies weights and settings, see `Columns`.
        settings: Parameters that have an influence on the rows, and what columns there are.
        part_size: Files of a part.
        num_files: Files of the job, each once.
        paths_hash: SHA-256 of the list of paths.
    """

    sources: tuple[str, ...]
    model: str
    settings: dict[str, Any]
    part_size: int
    num_files: int = 0
    paths_hash: str = ""

    @property
    def num_parts(self) -> int:
        """Number of parts; the last one may be smaller."""
        return -(-self.num_files // self.part_size)

    def count_rows(self, number: int) -> int:
        """Return the number of files of a part."""
        return min(self.part_size, self.num_files - number * self.part_size)


def open_plan(folder: Path, wanted: Plan) -> Plan:
    """Make the plan of a job, or take up the one that is there: its list of files stays, whatever is added later.

    Args:
        folder: The output folder.
        wanted: What the user asks for; its files are not listed yet.

    Raises:
        JobError: The folder holds another plan or something else, or there are no files.
        ListingError: A list of paths or a folder cannot be read.
        OSError: The folder cannot be written to.
    """
    path = folder / PLAN_FILE
    if path.exists():
        plan = _check(_read(path), wanted, folder)
        paths = folder / PATHS_FILE
        if not paths.is_file() or hash_files([paths]) != plan.paths_hash:
            raise JobError(f"'{paths}' is not the list that the plan was made with; give a new folder")
        return plan
    if folder.exists() and not _is_new(folder):
        raise JobError(f"'{folder}' holds something else than parts of a job; give an empty or a new folder")
    is_made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        plan = _list(folder, wanted)
    except BaseException:
        if is_made:
            with suppress(OSError):
                folder.rmdir()
        raise
    write_json(path, {**asdict(plan), "sources": list(plan.sources)})
    return plan


def read_parts(folder: Path, plan: Plan, numbers: Collection[int]) -> Iterator[tuple[int, list[str]]]:
    """Yield number and paths (as cells of a table) of some parts, in order."""
    with (folder / PATHS_FILE).open("rb") as file:
        for number in range(plan.num_parts):
            lines = list(islice(file, plan.count_rows(number)))
            if number in numbers:
                yield number, [json.loads(line) for line in lines]


def _list(folder: Path, wanted: Plan) -> Plan:
    seen, digest = PathSet(), hashlib.sha256()
    with atomic_path(folder / PATHS_FILE) as temporary, temporary.open("wb") as file:
        for cell in _name_all(wanted.sources):
            if seen.add(cell):
                line = json.dumps(cell).encode() + b"\n"
                digest.update(line)
                file.write(line)
        if not len(seen):
            raise JobError(f"no images in {', '.join(map(repr, wanted.sources)) or 'an empty list'}")
    return Plan(wanted.sources, wanted.model, wanted.settings, wanted.part_size, len(seen), digest.hexdigest())


def _is_new(folder: Path) -> bool:
    """Tell whether a folder is empty, or as a start left it that was killed while it listed the files."""
    return folder.is_dir() and all(each.name == PATHS_FILE or each.name[0] == "." for each in folder.iterdir())


def _name_all(sources: Iterable[str]) -> Iterator[str]:
    return (write_path(file.path) for file in list_files(sources))


def _read(path: Path) -> Plan:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        plan = Plan(**{**content, "sources": tuple(content["sources"])})
        if type(plan.num_files) is not int or type(plan.part_size) is not int or plan.part_size < 1:
            raise ValueError("numbers")
    except (ValueError, TypeError, KeyError) as error:
        raise JobError(f"'{path}' is no plan of this program; give another folder") from error
    return plan


def _check(found: Plan, wanted: Plan, folder: Path) -> Plan:
    pairs = {
        "sources": (list(found.sources), list(wanted.sources)),
        "model": (found.model, wanted.model),
        "part size": (found.part_size, wanted.part_size),
        **{f"'{name}'": (found.settings.get(name), value) for name, value in wanted.settings.items()},
    }
    for name, (before, now) in pairs.items():
        if before != now:
            raise JobError(
                f"'{folder}' holds the parts of another job: its {name} was {before}, this one's is {now}; give "
                "another folder, or the same command"
            )
    return found
