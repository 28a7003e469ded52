"""Tables of answers: whole rows only, gone on with after a kill, and never written over what is not theirs."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from resnetkit.answers.model import ClassScore, Prediction
from resnetkit.folders.cells import read_path, read_text
from resnetkit.folders.rows import Answer, Columns
from resnetkit.folders.tables import TableError, open_table

COLUMNS = Columns(("cat", "=dog", "cat"), 2, "resnet18-12345678", has_probabilities=True, embedding_size=3)
NAMES = ('a, "b".png', "new\nline.png", "r\r.png", "=cmd|' /C calc'!A0.png", "שלום \u202e.png", "\udcff.png", "é.png")
FORMATS = ("csv", "jsonl", "parquet")


def make_answer(path: str) -> Answer:
    scores = (ClassScore("=dog", 1, 0.75), ClassScore("cat", 0, 0.2))
    probabilities, embedding = np.array([0.2, 0.75, 0.05], np.float32), np.array([-1, 0, 1e-3], np.float32)
    return Answer(Path(path), Prediction("=dog", 1, 0.75, scores, None, probabilities, embedding))


def write(path: Path, names, columns: Columns = COLUMNS, is_complete: bool = True) -> None:
    table = open_table(path, columns)
    table.append([columns.make_record(make_answer(name)) for name in names])
    table.close(is_complete)


def read_names(path: Path) -> list[Path]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [read_path(row["path"]) for row in csv.DictReader(file)]
    if path.suffix == ".jsonl":
        return [read_path(json.loads(line)["path"]) for line in path.read_text("utf-8").splitlines()]
    return [read_path(text) for text in pd.read_parquet(path)["path"]]


@pytest.mark.parametrize("ending", FORMATS)
def test_hard_names_are_read_back(tmp_path, ending):
    path = tmp_path / "new" / f"answers.{ending}"
    write(path, NAMES)
    assert [os.path.abspath(name) for name in read_names(path)] == [os.path.abspath(name) for name in NAMES]
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_csv_file_is_what_spreadsheets_and_pandas_read(tmp_path):
    path = tmp_path / "answers.csv"
    write(path, NAMES)
    table = open_table(path, COLUMNS)
    table.append([COLUMNS.make_record(Answer(Path("x.png"), None, "=no such file"))])
    table.close(True)
    assert path.read_bytes().startswith(b"\xef\xbb\xbfpath,label,confidence,label_1,confidence_1,label_2,confidence_2,")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    numbers = [index for index, name in enumerate(rows[0]) if name.startswith(("confidence", "embedding", "prob"))]
    for row in rows:
        for index, cell in enumerate(row):
            assert not cell.startswith(("=", "+", "-", "@")) or (index in numbers and float(cell) < 0)
    frame = pd.read_csv(path)
    assert list(frame.columns) == COLUMNS.make_header()
    assert frame["probability of cat #0"][0] == 0.2
    assert frame["probability of =dog"][0] == 0.75
    assert frame[["embedding_0", "embedding_1", "embedding_2"]].to_numpy(np.float32)[0].tolist() == [
        -1,
        0,
        np.float32(0.001),
    ]
    assert [read_text(frame["label"][0]), read_text(frame["error"][len(NAMES)])] == ["=dog", "=no such file"]
    assert np.isnan(frame["confidence"][len(NAMES)])


def test_json_lines_and_parquet_hold_the_names_as_they_are(tmp_path):
    write(tmp_path / "answers.jsonl", ["a.png"])
    record = json.loads((tmp_path / "answers.jsonl").read_text("utf-8"))
    assert tuple(record) == COLUMNS.names
    assert (record["label"], record["embedding"][0]) == ("=dog", -1)
    write(tmp_path / "answers.parquet", ["a.png"])
    (row,) = pd.read_parquet(tmp_path / "answers.parquet").to_dict("records")
    assert {**record, "embedding": None} == pytest.approx({**row, "embedding": None})
    assert row["embedding"].tolist() == pytest.approx(record["embedding"])


@pytest.mark.parametrize("ending", FORMATS)
def test_a_table_is_gone_on_with_wherever_it_was_cut_off(tmp_path, ending):
    path = tmp_path / f"answers.{ending}"
    write(path, NAMES, is_complete=False)
    written = path if ending != "parquet" else tmp_path / "answers.parquet.partial.jsonl"
    content = written.read_bytes()
    for length in range(0, len(content) + 1, 7):
        path.unlink(missing_ok=True)
        written.write_bytes(content[:length])
        table = open_table(path, COLUMNS)
        left = [name for name in NAMES if table.paths.add(COLUMNS.make_record(make_answer(name))["path"])]
        assert list(NAMES[len(NAMES) - len(left) :]) == left
        table.append([COLUMNS.make_record(make_answer(name)) for name in left])
        table.close(True)
        found = [os.path.abspath(name) for name in read_names(path)]
        assert found == [os.path.abspath(name) for name in NAMES]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_whole_table_takes_more_rows(tmp_path, ending):
    path = tmp_path / f"answers.{ending}"
    write(path, ["a.png"])
    write(path, ["b.png", "c.png"])
    write(path, [])
    assert [str(name) for name in read_names(path)] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (replace(COLUMNS, top_k=1), "it has other columns"),
        (replace(COLUMNS, model="resnet18-87654321"), "its answers are of another model or other settings"),
    ],
    ids=["columns", "model"],
)
def test_a_table_of_other_answers_is_left_alone(tmp_path, ending, columns, reason):
    path = tmp_path / f"answers.{ending}"
    write(path, ["a.png"])
    before = path.read_bytes()
    with pytest.raises(TableError, match=reason):
        open_table(path, columns)
    assert path.read_bytes() == before


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    "content",
    [b"path,label\r\na.png,cat\r\n", b'{"path": "a"}\n', b"[1]\n", b"a photograph\n", b"\xff\xd8\xff\n\x00", b'"x'],
    ids=["csv", "json", "list", "text", "binary", "no line"],
)
def test_a_file_that_is_no_table_of_ours_is_left_alone(tmp_path, ending, content):
    path = tmp_path / f"answers.{ending}"
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"exists and cannot be gone on with: .*; give another name, or delete it"):
        open_table(path, COLUMNS)
    assert path.read_bytes() == content


def test_other_endings_and_folders_are_refused(tmp_path):
    with pytest.raises(TableError, match=r"must end in one of \.csv, \.jsonl, \.parquet"):
        open_table(tmp_path / "answers.xlsx", COLUMNS)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TableError, match="is no file"):
        open_table(tmp_path / "folder.csv", COLUMNS)
    with pytest.raises(TableError, match=r"cannot be written"):
        open_table(Path("/proc/answers.csv"), COLUMNS)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("ending", FORMATS)
def test_a_full_disk_keeps_what_was_written(tmp_path, ending):
    """A limit of 8 kB a file stands for it: the row that does not fit fails half-written, as on a full disk."""
    path = tmp_path / f"answers.{ending}"
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tables import *
table = open_table(Path({str(path)!r}), COLUMNS)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
try:
    for number in range(200):
        table.append([COLUMNS.make_record(make_answer(f"{{number}}.png"))])
except TableError as error:
    print(error)
    table.close(False)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
table = open_table(Path({str(path)!r}), COLUMNS)
kept = len(table.paths)
for number in range(kept, 200):
    table.append([COLUMNS.make_record(make_answer(f"{{number}}.png"))])
table.close(True)
print(kept)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    message, kept = result.stdout.splitlines()
    assert "cannot be written (File too large); the rows so far are kept, and the same call goes on" in message
    assert 10 < int(kept) < 200
    assert [str(name) for name in read_names(path)] == [f"{number}.png" for number in range(200)]
