"""Processes, ports and temporary files after every kind of life and death of a task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soak.children import Child, link_plugins
from soak.images import open_classifier
from soak.material import FULL_TRAINING, read_photographs, write_digits, write_model
from soak.record import Finding

TITLE = "Nothing is left running, and no port is opened"
CLAIM = """
Each task was constructed, run, stopped in the middle, made to fail, and killed with SIGKILL in the middle, in the real
engine in a process of its own, training also with two processes that read images and with tracking on. While it ran,
its process and all below it must listen on no port; after its end none of them may be there, and, unless it was
killed, no temporary file.
"""

LIVES = ("construct", "run", "stop", "fail", "kill")
_LONG = 10_000


def run(folder: Path) -> Iterator[Finding]:
    """Live every life five times."""
    yield from try_lives(folder, 5)


def try_lives(folder: Path, count: int, lives: tuple[str, ...] = LIVES) -> Iterator[Finding]:
    """Live some lives of both tasks `count` times."""
    home, source = link_plugins(folder / "home"), write_digits(folder / "digits")
    model = write_model(folder / "model" / "best.safetensors")
    for plugin in ("infer_resnet", "train_resnet"):
        for life in lives:
            failures: list[str] = []
            for number in range(count):
                arguments: dict[str, Any] = {"plugin": plugin, "life": life, "source": str(source), "model": str(model)}
                arguments |= {"output": str(folder / "runs"), "num_workers": 2 * (number % 2)}
                failures += _live(arguments, folder / "child", home)
            outcome = "no process left, no port opened"
            outcome += ", no temporary file left" if life != "kill" else ""
            yield Finding(f"{plugin}: {life}", count, outcome, failures)


def _live(arguments: dict[str, Any], folder: Path, home: Path) -> Iterator[str]:
    life = arguments["life"]
    for path in folder.glob("tmp/*"):
        path.unlink()
    ready = folder / "work" / "ready"
    ready.unlink(missing_ok=True)
    child = Child(live, arguments, folder, home)
    listening: set[int] = set()
    deadline = time.monotonic() + 120
    while child.process.poll() is None and time.monotonic() < deadline:
        listening |= find_listening(child.process.pid)
        if life == "kill" and ready.exists():
            time.sleep(0.3)
            child.process.kill()
        time.sleep(0.05)
    ended = child.wait(1)
    if listening:
        yield f"listened on ports {sorted(listening)}"
    if ended.left:
        yield "left processes behind"
    if ended.exit_code != (-9 if life == "kill" else 0):
        yield f"exit code {ended.exit_code}: {ended.output[-300:]}"
    if life != "kill":
        left = [path.name for path in (*child.temporary.iterdir(), *Path(arguments["output"]).rglob(".*.tmp*"))]
        yield from (f"{name} was left" for name in left)


def find_listening(pid: int) -> set[int]:
    """Return the ports on which a process, or any below it, listens."""
    import psutil

    ports: set[int] = set()
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                found = process.net_connections(kind="inet")
                ports |= {item.laddr.port for item in found if item.status == psutil.CONN_LISTEN}
    return ports


def live(plugin: str, life: str, model: str, **training: Any) -> None:
    """Live one life of a task in this process (a child)."""
    if plugin == "infer_resnet":
        _live_infer(life, model)
    else:
        _live_train(life, **training)


def _live_infer(life: str, model: str) -> None:
    from ikomia.dataprocess.workflow import Workflow

    if life == "construct":
        Workflow().add_task(name="infer_resnet")
        return
    workflow, task = open_classifier("nothing.safetensors" if life == "fail" else model)
    image = read_photographs()["china small"]
    if life == "fail":
        _fail(lambda: workflow.run_on(array=image))
        return
    workflow.run_on(array=image)
    assert task.get_predictions()
    if life in ("stop", "kill"):
        _run_and_stop(
            workflow, life, lambda: [workflow.run_on(array=image) for _ in range(_LONG if life == "kill" else 50)]
        )


def _live_train(life: str, source: str, output: str, num_workers: int) -> None:
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow()
    task = workflow.add_task(name="train_resnet", auto_connect=True)
    if life == "construct":
        return
    task.set_parameters({
        **FULL_TRAINING, "epochs": 1 if life == "run" else _LONG, "num_workers": num_workers, "output_folder": output,
        "dataset_folder": "nothing" if life == "fail" else source, "tracking": "local" if life == "run" else "off",
    })  # fmt: skip
    if life == "fail":
        _fail(workflow.run)
    elif life == "run":
        workflow.run()
        assert Path(task.get_checkpoint()).is_file()
    else:
        _run_and_stop(workflow, life, workflow.run)


def _fail(run: Any) -> None:
    try:
        run()
    except RuntimeError:
        return
    raise AssertionError("it did not fail")


def _run_and_stop(workflow: Any, life: str, run: Any) -> None:
    """Run in a thread; stop after a moment, or tell that this process may be killed."""
    import threading

    def run_until_stopped() -> None:
        with contextlib.suppress(RuntimeError):
            run()

    thread = threading.Thread(target=run_until_stopped)
    thread.start()
    Path("ready").touch()
    if life == "stop":
        time.sleep(1.5)
        workflow.stop()
    thread.join(60)
    assert not thread.is_alive()
