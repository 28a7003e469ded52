"""`run_on(path=)` for the files that the engine itself does not take, in workflows with an infer_resnet.

The engine goes by the ending: it refuses `.gif`, `.heic`, `.jfif`, `.MP4` and files without one by "unsupported input
type", before any task is asked; its decoder fails on TIFF files that are to be turned, and makes another picture of
those of 16 bits that hold one channel after the other. What training reads is then read as training reads it, and given
to the workflow as an array; all other calls go to the engine as they are.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from ikomia import core, dataprocess
from ikomia.dataio import CDataImageIO, CDataVideoIO

from resnetkit.images.pixels import ImageError
from resnetkit.images.reading import (
    IMAGE_SUFFIXES,
    MISSING_PACKAGES,
    is_deep_planar_tiff,
    needs_turning_tiff,
    read_image,
)

#: The attribute by which a wrapped method is known, however often the plugin is loaded.
_ORIGINAL = "_infer_resnet_original"


def extend_run_on() -> None:
    """Have `Workflow.run_on(path=)` take what training takes; called for each task, and done once.

    Where no Python program has imported the engine's workflows, as in Studio, there is nothing to do.
    """
    module = sys.modules.get("ikomia.dataprocess.workflow")
    engine_class = getattr(module, "Workflow", None)
    if engine_class is None:
        return
    original = getattr(engine_class.run_on, _ORIGINAL, engine_class.run_on)

    @functools.wraps(original)
    def run_on(workflow: Any, array: Any = None, path: str = "", url: str = "", folder: str = "") -> None:
        ours = [task for task in workflow.get_tasks() if hasattr(task, "clear_answers")]
        for task in ours:  # which the engine does not run where it finds no file
            task.clear_answers()
        is_file = bool(path) and array is None and not folder
        if not (ours and is_file and _run_on_file(workflow, Path(path))):
            original(workflow, array=array, path=path, url=url, folder=folder)

    setattr(run_on, _ORIGINAL, original)
    engine_class.run_on = run_on


def _run_on_file(workflow: Any, path: Path) -> bool:
    """Run on a file, by the engine's reading or by ours; False where there is no such file.

    Raises:
        RuntimeError: It can be read by nobody; the message names it.
    """
    if not path.is_file():
        return False
    is_engines_image = CDataImageIO.is_image_format(path.suffix)
    if not is_engines_image and CDataVideoIO.is_video_format(path.suffix.lower(), True):
        workflow.set_video_input(path=str(path), index=0)
        workflow.set_cfg_entry("WholeVideo", "1")
    else:
        if not (is_engines_image and _set_by_engine(workflow, path)):
            _set_by_us(workflow, path)
        workflow.set_cfg_entry("WholeVideo", "0")
    workflow.run()
    return True


def _set_by_engine(workflow: Any, path: Path) -> bool:
    """Have the engine read a file; False where it cannot, or would make another picture of it."""
    if needs_turning_tiff(path) or is_deep_planar_tiff(path):
        return False
    try:
        workflow.set_image_input(path=str(path), index=0)
    except RuntimeError:  # Its message names no file.
        return False
    return True


def _set_by_us(workflow: Any, path: Path) -> None:
    try:
        pixels = read_image(path)
    except ImageError as error:
        raise RuntimeError(f"infer_resnet: {error}{_name_kinds(path)}") from error
    # The name leads `inputs` to the file.
    image = dataprocess.CImageIO(core.IODataType.IMAGE, pixels, str(path))
    if workflow.get_input_count() == 0:
        workflow.add_input(image)
    else:
        workflow.set_input(image, 0, True)


def _name_kinds(path: Path) -> str:
    if path.suffix.lower() in (*IMAGE_SUFFIXES, *MISSING_PACKAGES):
        return ""
    return f"; expected an image ({', '.join(IMAGE_SUFFIXES)}) or a video (.mp4, .avi, .mkv, .webm, .ts)"
