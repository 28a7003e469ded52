"""`resnetkit evaluate` and `resnetkit compare`, in this process: what they print, what they leave, what they refuse."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnetkit.__main__ import main
from tests.conftest import hide_packages


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


@pytest.mark.parametrize(("command", "missing"), [("evaluate", "sklearn"), ("compare", "scipy")])
def test_what_is_not_installed_is_named_before_any_work(
    images: Path, checkpoint_path: Path, run_script: Callable[..., Any], command: str, missing: str
) -> None:
    script = hide_packages(missing) + "\nfrom resnetkit.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    result = run_script(script, [command, str(checkpoint_path), str(images)], is_failure_expected=True)
    assert result.exit_code == 1
    expected = f"{command}: it needs {missing}, not installed here; pip install 'resnet-for-ikomia[evaluate]'"
    assert result.output == f"resnetkit {expected}\n"


def test_a_place_where_nothing_can_be_written_is_named_before_any_work(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = ["evaluate", str(checkpoint_path), str(tmp_path / "no data set"), f"--output={tmp_path / 'file' / 'new'}"]
    assert main(words) == 1
    assert capsys.readouterr().err.startswith(f"resnetkit evaluate: Not a directory: '{tmp_path / 'file'}")


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(
    images: Path, checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Limits to the size of files stand for it: at the first file, and at the last, which is the largest."""
    import resource

    def run(output: str, limit: int) -> int:
        words = [str(checkpoint_path), str(images), f"--output={tmp_path / output}", "--runtime=torch", "--quiet"]
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            return main(["evaluate", *words])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def read() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    assert run("old", resource.RLIM_INFINITY) == 0
    capsys.readouterr()
    old = read()
    largest = (tmp_path / "old" / "report.html").stat().st_size
    for output, limit in (("new", 100), ("new", largest - 100), ("old", largest - 100)):
        assert run(output, limit) == 1
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith(f"resnetkit evaluate: no space left to write into '{tmp_path}' (File too large)")
        assert read() == old
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_help_lists_what_has_an_influence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    printed = capsys.readouterr().out
    assert "--resize-mode" in printed
    assert "--confidence-threshold" not in printed
