"""`resnetkit evaluate` and `resnetkit compare`, in this process: what they print, what they leave, what they refuse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetkit.__main__ import main


@pytest.fixture(scope="module")
def images(photographs: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cats, a dog and an unknown lynx, by their folders."""
    folder = tmp_path_factory.mktemp("images")
    for name, photograph in (("cat/1", "china"), ("cat/2", "flower"), ("dog/1", "astronaut"), ("lynx/1", "small")):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(photographs[photograph]).save(folder / f"{name}.png")
    return folder


def test_a_model_is_evaluated_and_compared_with_itself(
    images: Path, checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(checkpoint_path)
    output = tmp_path / "first"
    assert main(["evaluate", model, str(images), "--output", str(output), "--runtime=torch"]) == 0
    printed = capsys.readouterr()
    lines = dict(line.split(": ", 1) for line in printed.out.splitlines())
    assert {name: Path(path) for name, path in lines.items()} == {
        "evaluation_folder": output,
        "report": output / "report.html",
        "predictions": output / "predictions.csv",
    }
    assert all(Path(path).exists() for path in lines.values())
    assert "resnetkit evaluate: The model does not know 'lynx': 1 image" in printed.err
    assert "on 3 images" in printed.err

    # What is there may be replaced, since it is an evaluation.
    words = [
        "evaluate",
        model,
        str(images),
        "--output",
        str(output),
        "--runtime=torch",
        "--resize-mode=squash",
        "--predictions=parquet",
        "--json",
    ]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["predictions"] == str(output / "predictions.parquet")
    assert [path.name for path in output.glob("predictions.*")] == ["predictions.parquet"]
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert answer["accuracy"] == metrics["evaluation"]["accuracy"]
    assert metrics["model"]["resize_mode"] == "squash"

    assert main(["compare", str(output), str(output), "--json"]) == 0
    (duel,) = json.loads(capsys.readouterr().out)["mcnemar"]
    assert (duel["num_shared"], duel["p_value"]) == (3, 1)
    assert main(["compare", str(output), str(output)]) == 0
    assert "95 % interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["evaluate", "MODEL", "nowhere"],
            "must be a folder, a CSV/TSV file or shards (.tar, .parquet); found nothing",
        ),
        (["evaluate", "", "IMAGES"], "no model; expected a path of a weights file or run folder, or imagenet"),
        (["evaluate", "MODEL", "IMAGES", "--split", "val"], "has no val split; expected one of train, auto or all"),
        (["evaluate", "MODEL", "IMAGES", "--output", "IMAGES"], "'--output' must be a new or empty folder"),
        (["evaluate", "MODEL", "IMAGES", "--predictions", "xlsx"], "must be one of csv, parquet, got 'xlsx'"),
        (["evaluate", "MODEL", "IMAGES", "--top-k=3"], "no option '--top-k'"),
        (["compare", "IMAGES"], "at least two run folders to compare, got 1"),
        (["compare", "IMAGES", "IMAGES"], "cannot be compared"),
    ],
    ids=[
        "no data",
        "no model",
        "no such split",
        "a folder of something else",
        "no such format",
        "no effect",
        "one run",
        "no run",
    ],
)
def test_wrong_use_is_one_line(
    images: Path, checkpoint_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    places = {"MODEL": str(checkpoint_path), "IMAGES": str(images)}
    assert main([places.get(word, word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith(f"resnetkit {words[0]}: ")
    assert printed.err.count("\n") == 1


def test_help_lists_what_has_an_influence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    printed = capsys.readouterr().out
    assert "--resize-mode" in printed
    assert "--confidence-threshold" not in printed
