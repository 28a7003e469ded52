"""Files in, a table and annotated pictures out: written as it goes, and gone on with where a killed run ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from resnetkit.folders.cells import PathSet, write_path
from resnetkit.folders.classifier import Classifier
from resnetkit.folders.listing import STANDARD_INPUT, ListedFile, Source, list_files
from resnetkit.folders.pictures import draw_answer, save_jpeg
from resnetkit.folders.rows import Answer
from resnetkit.folders.tables import Table, open_table
from resnetkit.machine.progress import Progress, ProgressBar, Stopped
from resnetkit.machine.text import to_printable

#: Rows that are written at a time; as many as a batch of the network has.
_ROWS = 32
_MAX_WAITING_PICTURES = 16
_KEPT_ERRORS = 5


@dataclass
class Summary:
    """What came of classifying many files.

    Attributes:
        output: The table.
        num_rows: Rows written now, errors included.
        num_errors: How many of them say why a file could not be read.
        num_there: Files that the table had already.
        num_repeated: Files that were named more than once; they have one row.
        seconds: How long it took.
        errors: The first errors, each with its path, fit for a terminal.
    """

    output: Path
    num_rows: int = 0
    num_errors: int = 0
    num_there: int = 0
    num_repeated: int = 0
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Say it in a line, and the first errors in one each."""
        parts = [f"{self.num_rows - self.num_errors:,} images classified"]
        if self.num_errors:
            parts.append(f"{self.num_errors:,} file{'s' * (self.num_errors > 1)} that cannot be read")
        if self.num_there:
            parts.append(f"{self.num_there:,} that were there already")
        if self.num_repeated:
            parts.append(f"{self.num_repeated:,} named twice")
        speed = f" ({self.num_rows / self.seconds:.0f} images/s)" if self.num_rows and self.seconds else ""
        lines = [f"{', '.join(parts)}{speed}: {to_printable(str(self.output))}", *self.errors]
        if self.num_errors > len(self.errors):
            lines.append(f"... and {self.num_errors - len(self.errors):,} more; see the column 'error'")
        return "\n".join(lines)


@dataclass(frozen=True)
class TableOptions:
    """What is written besides the columns that every table has.

    Attributes:
        has_probabilities: Whether the table has a column a class.
        pictures: Folder into which each image is drawn with its answer, and with its heat map where the parameter
            `heatmap` is set; None draws nothing.
    """

    has_probabilities: bool = False
    pictures: Path | None = None


class NoImagesError(ValueError):
    """There is nothing to classify."""


def classify_into_table(
    classifier: Classifier,
    sources: Source | Iterable[Source],
    output: Path,
    options: TableOptions | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Classify files into a table; a table that is there already is gone on with.

    Args:
        classifier: The model, and what its answers hold.
        sources: Files, folders, patterns, lists, `-`; see `list_files`.
        output: The table: .csv, .jsonl or .parquet.
        options: What is written besides.
        progress: Shows a bar, and may stop after any row.

    Raises:
        NoImagesError: The sources name no image.
        ListingError: A list of paths or a folder cannot be read.
        TableError: The table cannot be written, or is none of this model's.
        Stopped: The user asked for it; the rows so far are written.
    """
    options, progress = options or TableOptions(), progress or Progress()
    sources = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    began = time.perf_counter()
    summary = Summary(output)
    table = open_table(output, classifier.make_columns(options.has_probabilities))
    is_complete = False
    try:
        with _Pictures(options.pictures) as drawing, _show_bar(sources, progress) as bar:
            listed = _leave_out_known(list_files(sources), table, summary, bar)
            rows: list[Answer] = []
            for file, answer in classifier.answer(listed):
                drawing.add(file, answer, classifier)
                rows.append(answer)
                is_stopped = progress.is_stop_requested()
                if len(rows) == _ROWS or is_stopped:
                    _write(table, rows, summary, bar)
                if is_stopped:
                    raise Stopped(f"stopped on request after {summary}")
            _write(table, rows, summary, bar)
        is_complete = True
    finally:
        table.close(is_complete)
        summary.seconds = time.perf_counter() - began
    if not summary.num_rows and not summary.num_there:
        raise NoImagesError(f"no images in {', '.join(repr(str(source)) for source in sources) or 'an empty list'}")
    return summary


def _show_bar(sources: list[Source], progress: Progress) -> ProgressBar:
    """Return a bar; files are counted ahead where somebody sees it, so that it can tell how long it will take."""
    bar = progress.show("classifying", None, "image")
    if not bar.disable and STANDARD_INPUT not in map(str, sources):
        bar.total = sum(1 for _ in list_files(sources))
    return bar


def _leave_out_known(
    files: Iterable[ListedFile], table: Table, summary: Summary, bar: ProgressBar
) -> Iterator[ListedFile]:
    earlier = len(table.paths)
    now = PathSet() if earlier else table.paths
    for file in files:
        text = write_path(file.path)
        if table.paths.add(text):
            if now is not table.paths:
                now.add(text)
            yield file
        else:
            bar.update()
            if earlier and now.add(text):
                summary.num_there += 1
            else:
                summary.num_repeated += 1


def _write(table: Table, rows: list[Answer], summary: Summary, bar: ProgressBar) -> None:
    """Write rows, count them, and empty the list."""
    if not rows:
        return
    columns = table.columns
    table.append([columns.make_record(answer) for answer in rows])
    failed = [answer for answer in rows if answer.prediction is None]
    summary.num_rows += len(rows)
    summary.num_errors += len(failed)
    for answer in failed[: _KEPT_ERRORS - len(summary.errors)]:
        summary.errors.append(to_printable(f"'{answer.path}': {answer.error}"))
    bar.update(len(rows))
    rows.clear()


class _Pictures:
    """Draws and saves pictures in a thread, a few of them waiting at most; does nothing without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._names = PathSet()
        self._pool = ThreadPoolExecutor(1, "drawing")
        self._waiting: list[Future[None]] = []

    def __enter__(self) -> _Pictures:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self._wait(0)

    def add(self, file: ListedFile, answer: Answer, classifier: Classifier) -> None:
        """Save the picture of an answer as `<folder>/<name of the file>`, as a JPEG."""
        if self._folder is None or answer.prediction is None:
            return
        target = self._folder / file.name
        if target.suffix.lower() not in (".jpg", ".jpeg"):
            target = target.with_name(f"{target.name}.jpg")
        number = 1
        while not self._names.add(str(target)):
            number += 1
            target = target.with_name(f"{target.stem.rpartition('~')[0] or target.stem}~{number}{target.suffix}")
        self._wait(_MAX_WAITING_PICTURES)
        self._waiting.append(self._pool.submit(_save_picture, target, answer, classifier))

    def _wait(self, count: int) -> None:
        while len(self._waiting) > count:
            self._waiting.pop(0).result()


def _save_picture(path: Path, answer: Answer, classifier: Classifier) -> None:
    from resnetkit.images.reading import read_image

    assert answer.prediction is not None
    image = read_image(answer.path, value_range=classifier.preprocessing.value_range)
    picture = draw_answer(image, answer.prediction, classifier.preprocessing)
    save_jpeg(path, picture)
