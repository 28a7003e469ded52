"""A service that runs for long, workflows side by side, and processes that start at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soak.children import Child, link_plugins
from soak.images import open_classifier
from soak.material import read_photographs, write_model
from soak.record import Finding

TITLE = "A service may run for weeks"
CLAIM = """
One workflow of the real engine classified 10,000 images whose sizes change from run to run, while parameters (top k,
heat map, embedding, threshold, input size, runtime, weights file) changed every 100 runs. After the first 2,000 runs
its memory may grow by at most 20 MB, its open files and threads not at all, and the last answers must be the first
ones. Two workflows in two threads, and four processes that start at once, with empty and with full caches, must give
equal answers.
"""

MAX_GROWTH_MB = 20.0
_SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"top_k": 1, "heatmap": True},
    {"embedding": True, "confidence_threshold": 0.9},
    {"input_size": 64},
    {"runtime": "torch"},
    {"runtime": "torch", "heatmap": True, "embedding": True},
)


def run(folder: Path) -> Iterator[Finding]:
    """Run for long, side by side, and at once."""
    home = link_plugins(folder / "home")
    models = [str(write_model(folder / f"model-{seed}" / "best.safetensors", seed, 32)) for seed in (0, 1)]
    yield run_long(folder, home, models, 10_000)
    yield run_side_by_side(folder, home, models, 500)
    yield from start_at_once(folder, home, models[0], 5)


def run_long(folder: Path, home: Path, models: list[str], count: int) -> Finding:
    """Classify `count` images in one process and look at what it holds."""
    ended = Child(classify_long, {"models": models, "count": count}, folder / "child", home).wait(120 + count)
    assert ended.answer is not None, ended.output
    warm, end = ended.answer["warm"], ended.answer["end"]
    growth = end["memory_mb"] - warm["memory_mb"]
    failures = [
        f"{name} grew from {warm[name]} to {end[name]}" for name in ("files", "threads") if end[name] > warm[name]
    ]
    failures += [f"memory grew by {growth:.1f} MB"] * (growth > MAX_GROWTH_MB)
    failures += ["the last answers are not the first ones"] * (not ended.answer["is_same"])
    outcome = (
        f"memory {growth:+.1f} MB from run {count // 5:,} on ({end['memory_mb']:.0f} MB at the end), open files "
        f"{end['files'] - warm['files']:+d}, threads {end['threads'] - warm['threads']:+d}; "
        f"the last answers are the first ones; {1000 * ended.seconds / count:.0f} ms a run"
    )
    return Finding("runs of one workflow in one process", count, outcome, failures)


def run_side_by_side(folder: Path, home: Path, models: list[str], count: int) -> Finding:
    """Run two workflows in two threads, `count` images each."""
    ended = Child(classify_in_threads, {"models": models, "count": count}, folder / "child", home).wait(120 + count)
    assert ended.answer is not None, ended.output
    failures = [f"{ended.answer} answers differ"] * bool(ended.answer)
    return Finding("two workflows in two threads, other weights in each", 2 * count, "all answers as alone", failures)


def start_at_once(folder: Path, home: Path, model: str, count: int) -> Iterator[Finding]:
    """Start four processes at once, `count` times with an empty cache and as often with a full one."""
    cache = home / "Ikomia" / "Cache"
    for state in ("an empty", "a full"):
        answers: list[Any] = []
        failures = []
        for number in range(count):
            if state == "an empty":
                cache.rename(folder / f"old-cache-{number}") if cache.exists() else None
            children = [Child(classify_once, {"model": model}, folder / f"child-{place}", home) for place in range(4)]
            for child in children:
                ended = child.wait(120)
                answers.append(ended.answer)
                failures += [f"exit code {ended.exit_code}: {ended.output[-200:]}"] * (ended.exit_code != 0)
        failures += ["the answers differ"] * (any(answer != answers[0] for answer in answers))
        yield Finding(f"four processes at once, with {state} cache", 4 * count, "all gave the same answer", failures)


def classify_long(models: list[str], count: int) -> dict[str, Any]:
    """Classify images in this process (a child)."""
    import random

    import cv2

    workflow, task = open_classifier(models[0])
    defaults = task.get_param_object().values
    images = list(read_photographs().values())
    chance = random.Random(0)
    first = warm = None
    for number in range(count):
        if number % 100 == 0:
            settings = {name: getattr(defaults, name) for other in _SETTINGS for name in other}
            settings |= _SETTINGS[(number // 100) % len(_SETTINGS)]
            task.set_parameters({**settings, "model_weight_file": models[(number // 600) % 2]})
        size = (chance.randint(20, 400), chance.randint(20, 400))
        workflow.run_on(array=cv2.resize(chance.choice(images), size))
        if number == min(300, count // 5):
            first = _answer_all(workflow, task, models)
        if number == count // 5:
            warm = _measure()
    return {"warm": warm, "end": _measure(), "is_same": first == _answer_all(workflow, task, models)}


def classify_in_threads(models: list[str], count: int) -> int:
    """Run two workflows in two threads of this process (a child); return how many answers differ from those alone."""
    import threading

    images = list(read_photographs().values())
    pairs = [open_classifier(model, threads=1) for model in models]

    def classify(place: int, number: int) -> list[float]:
        workflow, task = pairs[place]
        workflow.run_on(array=images[number % len(images)])
        return [float(value) for value in task.get_predictions()[0].probabilities]

    alone = [[classify(place, number) for number in range(len(images))] for place in range(2)]
    together: list[list[list[float]]] = [[], []]

    def classify_all(place: int) -> None:
        together[place] = [classify(place, number) for number in range(count)]

    threads = [threading.Thread(target=classify_all, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(
        len(together[place]) != count or answer != alone[place][number % len(images)]
        for place in range(2)
        for number, answer in enumerate(together[place] or [[]])
    )


def classify_once(model: str) -> list[float]:
    """Classify one image in this process (a child)."""
    workflow, task = open_classifier(model)
    workflow.run_on(array=read_photographs()["china whole"])
    return [float(value) for value in task.get_predictions()[0].probabilities]


def _answer_all(workflow: Any, task: Any, models: list[str]) -> list[list[float]]:
    """Return the answers of both models for all photographs, under the default settings."""
    before = task.get_param_object().values
    defaults = type(before)()
    answers = []
    for model in models:
        settings = {name: getattr(defaults, name) for other in _SETTINGS for name in other}
        task.set_parameters({**settings, "model_weight_file": model})
        for image in read_photographs().values():
            workflow.run_on(array=image)
            answers.append([float(value) for value in task.get_predictions()[0].probabilities])
    task.get_param_object().values = before
    return answers


def _measure() -> dict[str, Any]:
    import gc

    import psutil

    gc.collect()
    process = psutil.Process()
    memory_mb = process.memory_info().rss / 2**20
    return {"memory_mb": memory_mb, "files": process.num_fds(), "threads": process.num_threads()}
