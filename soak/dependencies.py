"""The lowest releases that the requirements allow, and those that are installed here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from soak.children import REPOSITORY, Child, link_plugins
from soak.images import open_classifier
from soak.material import FULL_TRAINING, write_digits
from soak.record import Finding

TITLE = "Both ends of the ranges of the requirements work"
CLAIM = """
An environment of its own got the lowest release of each requirement (its last correction, where the requirement names
no correction). In it, and in the environment that these results come from, the real engine trained a resnet18 with the
whole network and with the head alone, exported it, and classified the images of its data set with every file that was
written; and `pip check` found nothing wrong.
"""

_INSTALL_TIMEOUT_S = 3600
_SHOWN = (
    "torch",
    "torchvision",
    "openvino",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pydantic",
    "onnx",
    "mlflow",
    "ikomia",
)


def run(folder: Path) -> Iterator[Finding]:
    """Try the lowest and the installed releases."""
    yield try_environment("the installed releases", Path(sys.executable), folder / "installed")
    pins = list_lowest()
    try:
        python = install(pins, folder / "lowest")
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("the lowest releases", 0, f"not tried: they cannot be installed here ({error})")
        return
    yield try_environment("the lowest releases", python, folder / "lowest-run")


def list_lowest() -> list[str]:
    """Return a pin to the lowest release for each line of the requirements."""
    lines = [
        line
        for name in ("requirements.txt", "infer_resnet/requirements.txt", "train_resnet/requirements.txt")
        for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    ]
    pins = {}
    for line in lines:
        if found := re.match(r"([A-Za-z0-9_-]+)>=([0-9.]+)", line):
            name, version = found[1], found[2]
            pins[name] = f"{name}=={version}" if version.count(".") > 1 else f"{name}=={version}.*"
    return sorted(pins.values())


def install(pins: list[str], folder: Path) -> Path:
    """Make an environment with these releases, unless it is there; return its interpreter."""
    python = folder / "bin" / "python"
    mark = folder / "installed.txt"
    if mark.is_file() and mark.read_text(encoding="utf-8").split() == pins:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=120)
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check", *pins]
    subprocess.run(command, check=True, timeout=_INSTALL_TIMEOUT_S)
    mark.write_text("\n".join(pins), encoding="utf-8")
    return python


def try_environment(what: str, python: Path, folder: Path) -> Finding:
    """Train, export and classify with an interpreter, and let pip check its packages."""
    home, source = link_plugins(folder / "home"), write_digits(folder / "digits")
    arguments = {"source": str(source), "output": str(folder / "runs")}
    ended = Child(train_and_classify, arguments, folder / "child", home, PYTHON=str(python)).wait(400)
    failures = [] if ended.answer else [f"exit code {ended.exit_code}: {ended.output.strip()[-400:]}"]
    answer: Mapping[str, Any] = ended.answer or {"files": 0, "failures": [], "versions": {}}
    failures += answer["failures"]
    command = [str(python), "-m", "pip", "check", "--disable-pip-version-check"]
    check = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    failures += [f"pip check: {line}" for line in check.stdout.splitlines() if check.returncode]
    versions = ", ".join(f"{name} {version}" for name, version in answer["versions"].items())
    outcome = (
        f"3 trainings, {answer['files']} files classified with; pip check: {check.stdout.strip()[:200]} ({versions})"
    )
    return Finding(what, 1, outcome, failures)


def train_and_classify(source: str, output: str) -> dict[str, Any]:
    """Train, export and classify in this process (a child); return how many files answered, and the versions."""
    from ikomia.dataprocess.workflow import Workflow

    checkpoint = ""
    files: list[Path] = []
    failures = []
    for changes in (
        {"export_openvino": True},
        {"feature_extract": True},
        {"feature_extract": True, "export_onnx": True},
    ):
        workflow = Workflow()
        task = workflow.add_task(name="train_resnet", auto_connect=True)
        parameters = {**FULL_TRAINING, "epochs": 2, "dataset_folder": source, "output_folder": output, **changes}
        task.set_parameters({**parameters, "model_weight_file": checkpoint, "tracking": "local"})
        try:
            workflow.run()
        except RuntimeError as error:
            failures.append(f"{', '.join(changes)}: {str(error)[:200]}")
            continue
        checkpoint = task.get_checkpoint()
        folder = Path(checkpoint).parent
        files += [path for path in folder.iterdir() if path.suffix in (".safetensors", ".pth", ".onnx", ".xml")]
    images = sorted(Path(source).glob("val/*/*.png"))
    for path in files:
        for runtime in ("torch", "openvino"):
            if path.suffix in (".onnx", ".xml") and runtime == "torch":
                continue
            workflow, task = open_classifier(str(path), runtime=runtime, class_file=str(path.with_name("classes.txt")))
            for image in images:
                workflow.run_on(path=str(image))
                assert task.get_predictions()[0].label in ("0", "1", "2")
    return {"files": len(files), "failures": failures, "versions": {name: metadata.version(name) for name in _SHOWN}}
