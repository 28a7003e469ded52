"""Tables of answers on disk: CSV, JSON Lines and Parquet, written as they grow, and gone on with after a kill.

CSV files begin with the byte order mark by which spreadsheets know UTF-8, and end their lines as RFC 4180 says. A
Parquet file cannot grow: its rows wait in a JSON Lines file beside it, `<name>.partial.jsonl`, until the last one.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from resnetkit.folders.cells import PathSet
from resnetkit.folders.rows import Columns
from resnetkit.machine.files import atomic_path

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")

_BATCH_ROWS = 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TableError(ValueError):
    """A table cannot be written, or is none of ours."""


class Table(Protocol):
    """A table that grows.

    Attributes:
        path: The file.
        columns: What its rows hold.
        paths: The cells of its column `path`.
    """

    path: Path
    columns: Columns
    paths: PathSet

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Write rows, all of them or none; a kill loses no row that is written."""

    def close(self, is_complete: bool) -> None:
        """End the file; one that is not complete can be gone on with."""


def open_table(path: Path, columns: Columns) -> Table:
    """Begin a table, or go on with one: what a killed run left half-written is cut off.

    Raises:
        TableError: The ending is unknown, the file exists and is no such table, or it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise TableError(f"the table '{path}' must end in one of {', '.join(TABLE_SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise TableError(f"'{path}' is no file; give the name of a table that is to be written")
        return ParquetTable(path, columns) if suffix == ".parquet" else LineTable(path, columns)
    except OSError as error:
        raise _explain(path, error) from error


class LineTable:
    """A CSV or JSON Lines file; see `Table`."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self.paths = PathSet()
        self.columns = columns
        self._is_csv = path.suffix.lower() == ".csv"
        # What each such file begins with, also one whose first line was cut off.
        self._start = _BYTE_ORDER_MARK + _to_csv([columns.make_header()]) if self._is_csv else b'{"path": "'
        end = self._read() if path.exists() else 0
        self._file = path.open("r+b" if path.exists() else "xb", buffering=0)
        try:
            self._file.truncate(end)
            self._file.seek(end)
            if end == 0 and self._is_csv:
                self._write(self._start)
        except BaseException:
            self._file.close()
            raise

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Write rows, all of them or none; a kill loses no row that is written."""
        if self._is_csv:
            data = _to_csv([self.columns.to_cells(record) for record in records])
        else:
            data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        try:
            self._write(data)
        except OSError as error:
            raise _explain(self.path, error) from error

    def close(self, is_complete: bool = True) -> None:  # noqa: ARG002 - it is a table at any time
        """Close the file."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        start = self._file.tell()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError:
            self._file.truncate(start)
            raise

    def _read(self) -> int:
        """Take in the paths of the rows that are whole; return the offset of their end."""
        with self.path.open("rb") as file:
            lines = _CompleteLines(file)
            end = 0
            try:
                for path, model in self._read_rows(lines):
                    if path:
                        self._check_model(model)
                        self.paths.add(path)
                    end = lines.offset
            except _IncompleteError:
                pass
            except (ValueError, csv.Error, KeyError) as error:
                if isinstance(error, TableError):
                    raise
                raise self._refuse("it holds something else") from error
            file.seek(end)
            rest = file.read(len(self._start))
            if not end and not self._start.startswith(rest):
                raise self._refuse("it holds something else")
            return end

    def _read_rows(self, lines: _CompleteLines) -> Iterator[tuple[str, str]]:
        """Yield path and model of each row, and two empty texts for the header of a CSV file."""
        if not self._is_csv:
            for line in lines:
                record = json.loads(line)
                if not isinstance(record, dict) or tuple(record) != self.columns.names:
                    raise self._refuse("it has other columns")
                yield record["path"], record["model"]
            return
        rows = csv.reader(lines, strict=True)
        header = next(rows, None)
        if header is None:
            return
        if header != self.columns.make_header():
            raise self._refuse("it has other columns")
        yield "", ""
        model = header.index("model")
        for row in rows:
            if len(row) != len(header):
                raise self._refuse("its rows have other lengths")
            yield row[0], row[model]

    def _check_model(self, model: str) -> None:
        if model != self.columns.model:
            raise self._refuse(f"its answers are of another model or other settings ({model})")

    def _refuse(self, reason: str) -> TableError:
        return TableError(
            f"'{self.path}' exists and cannot be gone on with: {reason}; give another name, or delete it first"
        )


class _IncompleteError(Exception):
    """A file ends within a line."""


class _CompleteLines:
    """Lines of a file as text, those that a kill cut off refused.

    Attributes:
        offset: Bytes of all lines given out so far.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.offset = 0

    def __iter__(self) -> _CompleteLines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        if not line.endswith(b"\n"):
            raise _IncompleteError
        text = (line.removeprefix(_BYTE_ORDER_MARK) if self.offset == 0 else line).decode()
        self.offset += len(line)
        return text


class ParquetTable:
    """A Parquet file, with its new rows in a JSON Lines file beside it until it is closed; see `Table`."""

    def __init__(self, path: Path, columns: Columns) -> None:
        import_pyarrow()
        self.path = path
        self.columns = columns
        self._old_rows = path.exists()
        partial = path.with_name(f"{path.name}.partial.jsonl")
        old = list(self._check_old()) if self._old_rows else []
        self._rows = LineTable(partial, columns)
        self.paths = self._rows.paths
        for text in old:
            self.paths.add(text)
        self._has_new_rows = partial.stat().st_size > 0

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Write rows beside the file, all of them or none."""
        self._rows.append(records)
        self._has_new_rows = True

    def close(self, is_complete: bool) -> None:
        """Write the file, if it is complete: whole or not at all."""
        self._rows.close()
        if not is_complete:
            return
        try:
            if self._has_new_rows or not self._old_rows:
                self._write()
            self._rows.path.unlink()
        except OSError as error:
            raise _explain(self.path, error) from error

    def _check_old(self) -> Iterator[str]:
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.path) as file:
                if tuple(file.schema_arrow.names) != self.columns.names:
                    raise self._refuse("it has other columns")
                for batch in file.iter_batches(_BATCH_ROWS, columns=["path", "model"]):
                    if set(batch["model"].to_pylist()) - {self.columns.model}:
                        raise self._refuse("its answers are of another model or other settings")
                    yield from batch["path"].to_pylist()
        except pyarrow.ArrowException as error:
            raise self._refuse("it is no Parquet file") from error

    def _write(self) -> None:
        import pyarrow
        from pyarrow import parquet

        schema = make_schema(self.columns)
        with atomic_path(self.path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
            if self._old_rows:
                with parquet.ParquetFile(self.path) as file:
                    for batch in file.iter_batches(_BATCH_ROWS):
                        writer.write_batch(batch)
            with self._rows.path.open(encoding="utf-8", newline="\n") as lines:
                while rows := [json.loads(line) for _, line in zip(range(_BATCH_ROWS), lines, strict=False)]:
                    writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema))

    def _refuse(self, reason: str) -> TableError:
        return TableError(
            f"'{self.path}' exists and cannot be gone on with: {reason}; give another name, or delete it first"
        )


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file that spreadsheets open, whole or not at all; the rows are taken as they are written."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream).writerows(rows)


def make_schema(columns: Columns) -> Any:
    """Return pyarrow's schema of a table: texts, float32 numbers, the embedding as a list."""
    import pyarrow

    def choose(name: str) -> Any:
        if name in columns.texts:
            return pyarrow.string()
        return pyarrow.list_(pyarrow.float32()) if name == "embedding" else pyarrow.float32()

    return pyarrow.schema([(name, choose(name)) for name in columns.names])


def import_pyarrow() -> None:
    """Import pyarrow.

    Raises:
        TableError: It is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise TableError(
            f"Parquet files need pyarrow, which cannot be imported ({error}); pip install pyarrow"
        ) from error


def _to_csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _explain(path: Path, error: OSError) -> TableError:
    return TableError(
        f"'{path}' cannot be written ({error.strerror or error}); the rows so far are kept, and the same call goes on "
        "after them"
    )
