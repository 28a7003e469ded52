"""`resnetkit classify` and `resnetkit similar`: a table or a contact sheet, one line of answer, one line of error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from resnetkit.__main__ import main


@pytest.fixture(scope="module")
def photos(photographs, tmp_path_factory):
    """Five photographs, one of them also reduced, and a file that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("china", "flower", "portrait", "astronaut"):
        Image.fromarray(photographs[name]).save(folder / f"{name}.jpg")
    Image.fromarray(photographs["china"]).resize((320, 214)).save(folder / "china small.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_a_folder_becomes_a_table(checkpoint_path, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["classify", str(checkpoint_path), str(photos), "--probabilities", "--annotate", "drawn", "--top-k", "2"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.startswith("5 images classified, 1 file that cannot be read (")
    assert first.endswith(": answers.csv")
    assert second.startswith(f"'{photos / 'broken.jpg'}': no image of a known format")
    assert err == ""
    frame = pd.read_csv("answers.csv")
    assert len(frame) == 6
    assert "probability of fish" in frame
    assert len(list((tmp_path / "drawn").iterdir())) == 5
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["num_rows"], answer["num_there"], answer["output"]) == (0, 6, "answers.csv")


@pytest.mark.parametrize("output", ["answers.csv", "parts/"])
def test_it_is_a_failure_where_no_file_can_be_read(checkpoint_path, photos, tmp_path, capsys, output):
    words = ["classify", str(checkpoint_path), "--output", f"{tmp_path}/{output}", str(photos / "broken.jpg")]
    assert main(words) == 1
    assert "cannot be read" in capsys.readouterr().out
    words[3] = f"{tmp_path}/both-{output}"
    assert main([words[0], words[1], str(photos / "china.jpg"), *words[2:]]) == 0


def test_a_list_on_standard_input(checkpoint_path, photos, tmp_path):
    paths = "\n".join(str(path) for path in sorted(photos.glob("*.jpg")))
    command = [sys.executable, "-m", "resnetkit", "classify", str(checkpoint_path), "-", "--output", "a.jsonl"]
    result = subprocess.run(command, input=paths, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=True)
    assert result.stderr == ""
    assert result.stdout.startswith("4 images classified, 1 file that cannot be read (")
    assert len((tmp_path / "a.jsonl").read_text("utf-8").splitlines()) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL"], "the following arguments are required: PATH"),
        (["MODEL", "empty"], "no images in 'empty'"),
        (["MODEL", "empty", "--output", "a.xlsx"], "the table 'a.xlsx' must end in one of .csv, .jsonl, .parquet"),
        (["MODEL", "empty", "--output", "other.csv"], "'other.csv' exists and cannot be gone on with: it has other"),
        (["MODEL", "empty", "--conf", "0.5"], "no option '--conf'; did you mean '--confidence-threshold'?"),
        (["none.pth", "empty"], "weights file '"),
        (["MODEL", "empty", "--part-size=9"], "'--part-size' is for a folder of parts; expected --output FOLDER/, got"),
        (["MODEL", "empty", "--output=a/", "--workers=2"], "'--workers' are those of Ray; expected --engine ray, got"),
    ],
    ids=["no path", "no images", "ending", "other table", "word", "no model", "no parts", "no workers"],
)
def test_wrong_use_is_one_line(checkpoint_path, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.csv").write_text("a,b\r\n1,2\r\n")
    assert main(["classify", *(str(checkpoint_path) if word == "MODEL" else word for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"resnetkit classify: {message}")
    assert err.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
def test_ctrl_c_keeps_the_rows_and_the_same_command_goes_on(checkpoint_path, photos, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03}.jpg").symlink_to(photos / "china.jpg")
    command = [sys.executable, "-m", "resnetkit", "classify", str(checkpoint_path), str(folder)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    output = tmp_path / "answers.csv"
    while process.poll() is None and not (output.exists() and output.stat().st_size > 2000):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "resnetkit classify: stopped on request after " in err
    rows = len(pd.read_csv(output))
    assert f"after {rows} images classified" in err
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.startswith(f"{300 - rows} images classified, {rows} that were there already")
    assert pd.read_csv(output)["path"].nunique() == len(pd.read_csv(output)) == 300


def test_similar_images_are_found_and_drawn(checkpoint_path, photos, tmp_path, capsys):
    sheet = tmp_path / "sheet.jpg"
    query = photos / "china.jpg"
    words = [
        "similar",
        str(checkpoint_path),
        str(photos),
        "--query",
        str(query),
        "--count",
        "3",
        "--output",
        str(sheet),
    ]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith(str(photos / "china small.png"))
    similarities = [float(line.split()[0]) for line in lines]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] > 0.99
    assert not any(line.endswith("china.jpg") for line in lines)
    picture = np.asarray(Image.open(sheet))
    assert picture.shape == (300, 976, 3)
    frame = np.abs(picture.astype(int) - (0, 110, 200)).max(axis=2) < 30
    assert frame[:, :250].sum() > 1000 > 10 * frame[:, 250:].sum()
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["found"]
    assert Path(found[0]["path"]).name == "china small.png"


def test_cosines_are_those_of_the_embeddings(checkpoint_path, photos, capsys):
    from resnetkit import load_model

    model = load_model(checkpoint_path, embedding=True)
    query, other = (model.predict(photos / name).embedding for name in ("china.jpg", "flower.jpg"))
    expected = query @ other / np.linalg.norm(query) / np.linalg.norm(other)
    words = ["similar", str(checkpoint_path), str(photos / "flower.jpg"), "--query", str(photos / "china.jpg")]
    assert main(words) == 0
    assert float(capsys.readouterr().out.split()[0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--query", "none.jpg"], "'none.jpg': no such file"),
        (["--query", "PHOTO", "--count", "0"], "'count' must be an integer from 1 to 1000, got '0'"),
        (["--query", "PHOTO", "--output", "a.gif"], "'output' must end in .jpg, got 'a.gif'"),
        ([], "the following arguments are required: --query"),
        (["--query", "PHOTO"], "there is no other image that can be read"),
    ],
    ids=["no query file", "count", "ending", "no query", "nothing"],
)
def test_wrong_use_of_similar_is_one_line(checkpoint_path, photos, capsys, words, message):
    words = [str(photos / "china.jpg") if word == "PHOTO" else word for word in words]
    assert main(["similar", str(checkpoint_path), str(photos / "china.jpg"), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"resnetkit similar: {message}")
    assert err.count("\n") == 1
