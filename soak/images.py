"""Arrays of every kind, and image files with damage of every kind, through the engine and the training reader."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soak.children import Child, link_plugins
from soak.material import read_photographs, write_model
from soak.record import Finding

if TYPE_CHECKING:
    import numpy as np

TITLE = "No image ends a process"
CLAIM = """
Image files were damaged (bits flipped, bytes cut out or repeated, ends cut off, headers swapped with those of other
formats) and given to `run_on(path=)` in the real engine and to the reader of training. Each must give an answer or an
error that names the file, within 10 seconds; the engine decodes a file before it calls any task, and where its own
decoder fails then, its error names no file. Arrays of every shape, type and memory layout were given to
`run_on(array=)`; each must give an answer or an error, and be unchanged afterwards.
"""

SUFFIXES = (".jpg", ".png", ".bmp", ".tif", ".webp", ".gif")
MAX_SECONDS = 10.0
_CHUNK = 400


def run(folder: Path) -> Iterator[Finding]:
    """Try 2,400 damaged files and 2,000 arrays."""
    home, model = link_plugins(folder / "home"), write_model(folder / "best.safetensors", input_size=32)
    yield from try_files(folder, home, model, 2400)
    yield try_arrays(folder, home, model, 2000)


def try_files(folder: Path, home: Path, model: Path, count: int) -> Iterator[Finding]:
    """Damage `count` files and read them in both ways."""
    paths = [str(path) for path in write_damaged(folder / "damaged", count)]
    names = f"damaged {', '.join(suffix[1:] for suffix in SUFFIXES)}"
    for what, function, arguments in (
        ("`run_on(path=)` in the engine", classify_files, {"model": str(model)}),
        ("the reader of training", read_files, {}),
    ):
        answers: list[dict[str, Any]] = []
        failures = []
        for start in range(0, count, _CHUNK):
            chunk = paths[start : start + _CHUNK]
            child = Child(function, {"paths": chunk, **arguments}, folder / "child", home)
            ended = child.wait(60 + len(chunk))
            answers += ended.answer or []
            if ended.exit_code != 0:
                failures.append(f"exit code {ended.exit_code} in files {start} to {start + len(chunk)}")
        failures += _judge(answers)
        yield Finding(f"{names} files: {what}", len(answers), _describe(answers), failures)


def try_arrays(folder: Path, home: Path, model: Path, count: int) -> Finding:
    """Give `count` arrays that hypothesis makes up to the engine."""
    ended = Child(classify_arrays, {"model": str(model), "count": count}, folder / "child", home).wait(60 + count)
    answer = ended.answer or {
        "failures": [f"exit code {ended.exit_code}: {ended.output[-300:]}"],
        "answered": 0,
        "refused": 0,
    }
    return Finding(
        "arrays of 1 to 4 dimensions, 7 types, any strides, also read-only: `run_on(array=)` in the engine",
        answer["answered"] + answer["refused"],
        f"{answer['answered']:,} answers, {answer['refused']:,} errors; no crash, no array changed",
        answer["failures"],
    )


def write_damaged(folder: Path, count: int) -> list[Path]:
    """Write `count` image files, each damaged in a way of its own; return their paths."""
    import io

    from PIL import Image

    folder.mkdir(parents=True)
    chance = random.Random(0)
    pictures = [
        Image.fromarray(image) for name, image in read_photographs().items() if name.endswith(("tiny", "small"))
    ]
    pictures += [picture.convert(mode) for picture in pictures[:2] for mode in ("L", "P", "RGBA")]
    whole: list[tuple[str, bytes]] = []
    for suffix in SUFFIXES:
        for picture in pictures:
            stream = io.BytesIO()
            is_possible = suffix != ".jpg" or picture.mode in ("RGB", "L")
            if is_possible:
                picture.save(stream, Image.registered_extensions()[suffix])
                whole.append((suffix, stream.getvalue()))
    paths = []
    for number in range(count):
        suffix, content = whole[number % len(whole)]
        paths.append(folder / f"{number:05}{suffix}")
        paths[-1].write_bytes(_damage(content, chance.choice(whole)[1], chance))
    return paths


def _damage(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """Flip bits, cut out, repeat, cut off, or swap the head with that of another file."""
    # Headers decide most: half of the damage is done there.
    place = chance.randrange(min(64, len(content)) if chance.random() < 0.5 else len(content))
    kind = chance.choice(["flip", "cut out", "repeat", "cut off", "swap"])
    if kind == "cut out":
        return content[:place] + content[place + chance.randint(1, 64) :]
    if kind == "repeat":
        return content[:place] + content[max(0, place - 64) :]
    if kind == "cut off":
        return content[:place]
    if kind == "swap":
        length = chance.randint(4, 64)
        return other[:length] + content[length:]
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        damaged[place] ^= 1 << chance.randrange(8)
        place = chance.randrange(len(content))
    return bytes(damaged)


def open_classifier(model: str, **parameters: Any) -> tuple[Any, Any]:
    """Return a workflow of the engine with an infer_resnet, and the task."""
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow()
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": model, **parameters})
    return workflow, task


def classify_files(paths: list[str], model: str) -> list[dict[str, Any]]:
    """Give files to the engine in this process (a child)."""
    workflow, task = open_classifier(model)

    def classify(path: str) -> None:
        workflow.run_on(path=path)
        assert len(task.get_predictions()) == 1, "no prediction"

    return _try_all(paths, classify)


def read_files(paths: list[str]) -> list[dict[str, Any]]:
    """Give files to the reader of training in this process (a child)."""
    from resnetkit.images.reading import read_image

    return _try_all(paths, lambda path: read_image(Path(path)))


def _judge(answers: list[dict[str, Any]]) -> Iterator[str]:
    for answer in answers:
        error = answer["error"]
        if error and answer["path"] not in error and not answer["is_engines"]:
            yield f"not named: {error[:200]}"
        if answer["seconds"] > MAX_SECONDS:
            yield f"{answer['path']} took {answer['seconds']:.1f} s"


def _describe(answers: list[dict[str, Any]]) -> str:
    refused = [answer for answer in answers if answer["error"]]
    named = [answer for answer in refused if answer["path"] in answer["error"]]
    text = f"{len(answers) - len(refused):,} answers, {len(named):,} errors that name the file"
    if len(named) < len(refused):
        text += f", {len(refused) - len(named):,} errors of the engine's own decoder, which name no file"
    return f"{text}; no crash; the slowest took {max(answer['seconds'] for answer in answers):.2f} s"


def _try_all(paths: list[str], read: Any) -> list[dict[str, Any]]:
    import time
    import traceback

    answers = []
    for path in paths:
        began, error, is_engines = time.monotonic(), "", False
        try:
            read(path)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
            # The engine decodes files before it calls any task, and says nothing of them in some errors.
            is_engines = traceback.extract_tb(raised.__traceback__)[-1].name in ("set_image_input", "run_on")
        seconds = time.monotonic() - began
        answers.append({"path": path, "error": error, "is_engines": is_engines, "seconds": seconds})
    return answers


def classify_arrays(model: str, count: int) -> dict[str, Any]:
    """Give arrays of every kind to the engine in this process (a child)."""
    import numpy as np
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp

    workflow, task = open_classifier(model)
    tally: dict[str, Any] = {"answered": 0, "refused": 0, "failures": []}
    arrays = hnp.arrays(
        st.sampled_from(
            [np.uint8, np.uint8, np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64, np.bool_]
        ),
        st.one_of(
            hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9),
            st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5)),
        ),
        elements={"allow_subnormal": False},
    )

    @settings(
        max_examples=count, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(arrays, st.tuples(*[st.sampled_from([1, 2, -1])] * 2), st.booleans(), st.booleans())
    def classify(array: np.ndarray, steps: tuple[int, int], is_transposed: bool, is_read_only: bool) -> None:
        array = array[tuple(slice(None, None, step) for step in steps[: array.ndim])]
        array = array.T if is_transposed else array
        array.flags.writeable = not is_read_only
        before = array.copy()
        try:
            workflow.run_on(array=array)
        except Exception:
            tally["refused"] += 1
        else:
            tally["answered"] += 1
            (prediction,) = task.get_predictions()
            if abs(float(prediction.probabilities.sum()) - 1) > 1e-4:
                tally["failures"].append(f"{array.shape} {array.dtype}: probabilities sum to another number than 1")
        if not np.array_equal(array, before, equal_nan=array.dtype.kind == "f"):
            tally["failures"].append(f"{array.shape} {array.dtype} was changed")

    classify()
    return tally
