"""The notebooks of examples/ run from top to bottom, offline, and are stored as they then look."""

from __future__ import annotations

import json
import re
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "examples"
NAMES = ("classify", "speed", "train")

#: The largest notebook that still opens at once in a browser.
MAX_BYTES = 450_000


def read(path: Path) -> list[dict[str, Any]]:
    """Return the code cells of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def describe_outputs(cell: Mapping[str, Any]) -> set[str]:
    """Return what kinds of output a cell has; a photograph and a drawing are both pictures."""
    kinds = set()
    for output in cell["outputs"]:
        found = output.get("data", {output.get("name", output["output_type"]): ""})
        kinds |= {re.sub("image/.*", "picture", kind) for kind in found} - {"text/plain"}
    return kinds


def read_text(cells: list[dict[str, Any]]) -> str:
    """Return all that the cells printed."""
    return "".join("".join(output.get("text", "")) for cell in cells for output in cell["outputs"])


@pytest.fixture
def run_all(run_script: Any, tmp_path: Path) -> Mapping[str, list[dict[str, Any]]]:
    """The code cells of every notebook as they are after a run, each in a kernel of its own, without a network."""
    script = REPOSITORY / "scripts" / "run_notebooks.py"
    unreachable = dict.fromkeys(("http_proxy", "https_proxy", "PIP_INDEX_URL"), "http://127.0.0.1:9")
    arguments = ["--output", str(tmp_path), "--jobs", str(len(NAMES))]
    run_script(script, arguments, timeout_s=220, OMP_NUM_THREADS="1", no_proxy="127.0.0.1", **unreachable)
    return {name: read(tmp_path / f"{name}.ipynb") for name in NAMES}


@pytest.mark.notebook
@pytest.mark.slow
def test_the_notebooks_run_offline_and_are_stored_as_they_look(run_all: Mapping[str, list[dict[str, Any]]]) -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(run_all)
    for name, cells in run_all.items():
        stored = read(FOLDER / f"{name}.ipynb")
        for each in (cells, stored):
            assert [cell["execution_count"] for cell in each] == list(range(1, len(cells) + 1)), name
        assert [describe_outputs(cell) for cell in stored] == [describe_outputs(cell) for cell in cells], name
        assert "picture" in set().union(*map(describe_outputs, stored)), name
    classify, train, speed = (read_text(run_all[name]) for name in ("classify", "train", "speed"))
    assert int(re.findall(r"(\d+)% of the held-out parts", classify)[0]) >= 80
    assert len(re.findall(r"160 x 160 at \(\d+, \d+\): \w+ \d+%", classify)) == 6
    assert int(re.findall(r"(\d+) of 200 right", train)[0]) >= 190
    assert "text/html" in set().union(*map(describe_outputs, run_all["train"])), "the report is shown"
    differences = re.findall(r"(torch|openvino) fp32 .* differ by at most (\S+)", speed)
    assert [runtime for runtime, _ in differences] == ["torch", "openvino"]
    assert all(float(difference) < 1e-4 for _, difference in differences)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_is_small_and_shows_no_error_nor_a_path_of_one_machine(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < MAX_BYTES
    assert not re.search(r'"output_type": "error"|Traceback|Warning:|(?<!~)/tmp/|site-packages', text)


def test_a_bare_kernel_without_a_network_says_what_to_do(run_script: Any, tmp_path: Path) -> None:
    """An empty environment whose pip cannot reach anything."""
    venv.create(tmp_path / "bare", with_pip=False)
    folder = "Scripts" if sys.platform == "win32" else "bin"
    code = (
        "import subprocess, sys\n"
        f"script = {str(FOLDER / 'prepare_notebook.py')!r}\n"
        f"bare = {str(tmp_path / 'bare' / folder / 'python')!r}\n"
        "sys.exit(subprocess.run([bare, script], timeout=60).returncode)\n"
    )
    result = run_script(code, is_failure_expected=True)
    assert result.exit_code == 1
    message = result.output.strip().splitlines()[-1]
    assert re.search(r"need ikomia, torch, .* could not be installed \(.+\); connect to the network once", message)
    assert "make setup" in message
