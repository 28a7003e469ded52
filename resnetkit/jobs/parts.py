"""The parts of a job: Parquet files that take their names once they are whole, so that what is there is done."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from resnetkit.folders.cells import read_path
from resnetkit.folders.classifier import Classifier
from resnetkit.folders.listing import ListedFile
from resnetkit.folders.rows import Answer, Columns
from resnetkit.folders.tables import import_pyarrow, make_schema
from resnetkit.jobs.plan import Plan
from resnetkit.machine.files import atomic_path

Part = tuple[int, list[str]]


def name_part(number: int) -> str:
    """Return the file name of a part."""
    return f"part-{number:06}.parquet"


def find_missing(folder: Path, plan: Plan) -> list[int]:
    """Return the numbers of the parts that are not there."""
    there = {path.name for path in folder.glob("part-*.parquet")}
    return [number for number in range(plan.num_parts) if name_part(number) not in there]


def classify_parts(
    classifier: Classifier, columns: Columns, parts: Iterable[Part], folder: Path
) -> Iterator[list[Answer]]:
    """Classify parts one after the other, decoding ahead across their borders, and write each as it is done.

    Args:
        classifier: The model.
        columns: What the rows hold.
        parts: Number and paths of each.
        folder: Where they are written.

    Yields:
        The answers of each part, once its file is there.

    Raises:
        OSError: A part cannot be written.
    """
    begun: list[tuple[int, int]] = []

    def hand_out() -> Iterator[ListedFile]:
        for number, cells in parts:
            begun.append((number, len(cells)))
            for cell in cells:
                path = read_path(cell)
                yield ListedFile(path, Path(path.name))

    answers = (answer for _, answer in classifier.answer(hand_out()))
    while first := next(answers, None):
        number, count = begun.pop(0)
        done = [first, *islice(answers, count - 1)]
        write_part(folder / name_part(number), columns, done)
        yield done


def write_part(path: Path, columns: Columns, answers: Sequence[Answer]) -> None:
    """Write the rows of a part, whole or not at all."""
    import_pyarrow()
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([columns.make_record(answer) for answer in answers], make_schema(columns))
    try:
        with atomic_path(path) as temporary:
            parquet.write_table(table, temporary)
    except FileNotFoundError:
        if not path.exists():  # else another start of this job has done all parts, and removed what was unfinished
            raise


def remove_unfinished(folder: Path) -> None:
    """Remove what killed workers were writing; nobody may be at work."""
    for path in folder.iterdir():
        if re.fullmatch(r"\.(part-\d+|_plan|_paths)\.[0-9a-f]{8}\.tmp(\.\w+)?", path.name):
            path.unlink(missing_ok=True)
