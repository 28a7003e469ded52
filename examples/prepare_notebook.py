"""Prepare a kernel for the notebooks beside this file: install what is missing, link the plugins.

The first cell of each notebook runs it. Where everything is there, it changes nothing and needs no network.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

#: Modules that the notebooks and the plugins import.
NEEDED = (
    "ikomia",
    "torch",
    "torchvision",
    "openvino",
    "safetensors",
    "pydantic",
    "cv2",
    "PIL",
    "numpy",
    "matplotlib",
    "sklearn",
    "skimage",
    "mlflow",
    "onnx",
)

#: What requirements.txt does not hold: photographs for the notebooks.
PHOTOGRAPHS = "scikit-image"


def find_missing() -> list[str]:
    """Return the needed modules that cannot be imported."""
    importlib.invalidate_caches()
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def install() -> None:
    """Install the requirements into this interpreter's environment.

    Raises:
        RuntimeError: Something is still missing.
    """
    requirements = str(REPOSITORY / "requirements.txt")
    print("Installing what is missing; this takes some minutes ...")
    command = [sys.executable, "-m", "pip", "install", "-q", "-r", requirements, PHOTOGRAPHS]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if missing := find_missing():
        reason = (result.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise RuntimeError(
            f"these notebooks need {', '.join(missing)}, which could not be installed ({reason}); connect to the "
            "network once and run this cell again, or run `make setup` where there is one and choose .venv as kernel"
        )


def link_plugins() -> None:
    """Link both plugins into the Ikomia folder; others of these names that are installed there stay and are used."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "link_plugins.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        print(result.stderr.strip())


if __name__ == "__main__":
    if find_missing():
        install()
    link_plugins()
