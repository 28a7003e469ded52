"""Folders into tables: no row twice, kills survived, pictures drawn, memory bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from resnetkit import load_model
from resnetkit.folders.classification import NoImagesError, TableOptions, classify_into_table
from resnetkit.folders.tables import TableError


@pytest.fixture(scope="module")
def model(checkpoint_path):
    return load_model(checkpoint_path, top_k=1)


def link_photographs(folder: Path, source: Path, count: int) -> None:
    """Make `count` names of few files, in folders of 1,000."""
    paths = sorted(source.glob("*.png"))
    for number in range(count):
        link = folder / f"{number // 1000:03}" / f"{number:06}.png"
        if number % 1000 == 0:
            link.parent.mkdir(parents=True)
        link.symlink_to(paths[number % len(paths)])


def test_files_become_rows_and_bad_files_too(model, photograph_folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    output = tmp_path / "answers.csv"
    sources = [photograph_folder, photograph_folder / "china.png", tmp_path, "none.png"]
    summary = classify_into_table(model, sources, output)
    assert (summary.num_rows, summary.num_errors, summary.num_repeated, summary.num_there) == (8, 2, 1, 0)
    assert summary.errors == [
        f"'{tmp_path / 'broken.png'}': no image of a known format (JPEG, PNG, WebP, TIFF, ...)",
        "'none.png': no such file",
    ]
    assert str(summary).startswith("6 images classified, 2 files that cannot be read, 1 named twice (")
    frame = pd.read_csv(output)
    expected = {str(answer.path): answer.label for answer in model.classify(photograph_folder)}
    found = frame[frame["error"].isna()]
    assert dict(zip(found["path"], found["label"], strict=True)) == expected
    assert list(frame["error"].dropna()) == ["no image of a known format (JPEG, PNG, WebP, TIFF, ...)", "no such file"]

    again = classify_into_table(model, sources, output)
    assert (again.num_rows, again.num_there, again.num_repeated) == (0, 8, 1)
    assert len(pd.read_csv(output)) == 8


def test_the_table_of_another_model_is_left_alone(model, checkpoint_path, photograph_folder, tmp_path):
    output = tmp_path / "answers.csv"
    classify_into_table(model, photograph_folder, output)
    other = load_model(checkpoint_path, top_k=1, confidence_threshold=0.9)
    with pytest.raises(TableError, match="another model or other settings"):
        classify_into_table(other, photograph_folder, output)


def test_a_table_can_be_the_list_of_the_next_one(model, photograph_folder, tmp_path):
    classify_into_table(model, photograph_folder, tmp_path / "first.csv")
    summary = classify_into_table(
        model, tmp_path / "first.csv", tmp_path / "second.parquet", TableOptions(has_probabilities=True)
    )
    first, second = pd.read_csv(tmp_path / "first.csv"), pd.read_parquet(tmp_path / "second.parquet")
    assert summary.num_rows == len(first) == 6
    assert list(first["path"]) == list(second["path"])
    assert "probability of fish" in second


def test_no_images_are_said(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImagesError, match=f"no images in '{tmp_path / 'empty'}'"):
        classify_into_table(model, tmp_path / "empty", tmp_path / "answers.csv")
    with pytest.raises(NoImagesError, match="an empty list"):
        classify_into_table(model, [], tmp_path / "answers.csv")


def test_pictures_are_drawn_under_names_of_their_own(checkpoint_path, photographs, tmp_path):
    folder = tmp_path / "photos"
    for name in ("a.png", "a.jpg", "sub/a.jpg", "a.png.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photographs["small"]).save(folder / name)
    Image.new("RGB", (8, 9), (0, 0, 255)).save(folder / "dot.png")
    model = load_model(checkpoint_path, heatmap=True)
    pictures = tmp_path / "drawn"
    classify_into_table(model, [folder, "none.jpg"], tmp_path / "answers.csv", TableOptions(pictures=pictures))
    drawn = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*") if path.is_file())
    assert drawn == ["a.jpg", "a.png.jpg", "a.png~2.jpg", "dot.png.jpg", "sub/a.jpg"]
    picture = np.asarray(Image.open(pictures / "a.jpg"))
    assert picture.shape == (320, 480, 3)
    plain = np.asarray(Image.open(folder / "a.jpg").resize((480, 320)))
    changed = np.abs(picture.astype(int) - plain).max(axis=2) > 60
    assert changed[:100, :200].mean() > 0.05  # the text
    assert np.asarray(Image.open(pictures / "dot.png.jpg")).shape == (144, 128, 3)
    classify_into_table(model, folder, tmp_path / "again.csv", TableOptions(pictures=pictures))  # replaces its own


@pytest.mark.parametrize("place", ["photos", "others"])
def test_no_picture_of_the_users_is_drawn_over(checkpoint_path, photographs, tmp_path, place):
    for folder in ("photos", "others"):
        (tmp_path / folder).mkdir()
        Image.fromarray(photographs["small"]).save(tmp_path / folder / "a.jpg", comment=b"mine")
    before = (tmp_path / place / "a.jpg").read_bytes()
    options = TableOptions(pictures=tmp_path / place)
    with pytest.raises(FileExistsError, match=r"was not drawn here, and stays.*a\.jpg"):
        classify_into_table(load_model(checkpoint_path), tmp_path / "photos", tmp_path / "answers.csv", options)
    assert (tmp_path / place / "a.jpg").read_bytes() == before


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_killed_run_goes_on_where_its_output_ends(checkpoint_path, photograph_folder, tmp_path, ending):
    link_photographs(tmp_path / "many", photograph_folder, 200)
    output = tmp_path / f"answers.{ending}"
    written = output if ending == "csv" else tmp_path / "answers.parquet.partial.jsonl"
    program = (
        "import sys; from pathlib import Path; from resnetkit import load_model\n"
        "from resnetkit.folders.classification import classify_into_table\n"
        "print(classify_into_table(load_model(sys.argv[1], top_k=1), sys.argv[2], Path(sys.argv[3])))\n"
    )
    command = [sys.executable, "-c", program, str(checkpoint_path), str(tmp_path / "many"), str(output)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 120
        while not (written.exists() and written.stat().st_size > 2000) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert process.returncode == -signal.SIGKILL
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "that were there already" in result.stdout
    frame = pd.read_csv(output) if ending == "csv" else pd.read_parquet(output)
    assert len(frame) == frame["path"].nunique() == 200
    assert frame["label"].isin(["cat", "dog", "fish"]).all()


def test_memory_does_not_grow_with_the_number_of_files(model, photograph_folder, tmp_path):
    """A few thousand here; benchmarks/classify_many.py does it with 100,000."""
    link_photographs(tmp_path / "many", photograph_folder, 1200)
    for path in (tmp_path / "many").rglob("*.png"):
        path.unlink()
        path.symlink_to(photograph_folder / "tiny.png")
    process = psutil.Process(os.getpid())
    classify_into_table(model, photograph_folder, tmp_path / "warm.csv")
    before = process.memory_info().rss
    summary = classify_into_table(model, tmp_path / "many", tmp_path / "answers.jsonl")
    assert summary.num_rows == 1200
    assert process.memory_info().rss - before < 30e6
