"""The memory of images in flight is bounded over all threads of the process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnetkit.decoding import memory
from resnetkit.decoding.memory import Allowance
from resnetkit.images.pixels import ImageError
from resnetkit.images.reading import hold_image, read_image

MB = 1_000_000


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of 4 MB."""
    monkeypatch.setattr(memory, "_budget", memory._Budget(4 * MB))


def test_threads_hold_no_more_together_than_the_budget(budget: None) -> None:
    held, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> None:
        nonlocal held, most
        amount = 1500 if number % 4 else 9000  # the latter is more than there is, and goes alone
        with Allowance(100) as allowance:
            allowance.admit(1000, 1, amount)
            with lock:
                held += min(amount * 1000, 4 * MB)
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= min(amount * 1000, 4 * MB)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert 1.5 * MB < most <= 4 * MB


def test_a_decoded_image_holds_what_it_takes_until_its_end(budget: None, tmp_path: Path) -> None:
    Image.new("RGB", (600, 500)).save(tmp_path / "image.png")  # 3 MB to decode, 0.9 MB as RGB
    entered = threading.Event()

    def read() -> None:
        with hold_image(tmp_path / "image.png"):
            entered.set()

    with ExitStack() as first:
        for _ in range(2):
            first.enter_context(hold_image(tmp_path / "image.png"))
        thread = threading.Thread(target=read)
        thread.start()
        assert not entered.wait(0.1)
    thread.join(10)
    assert entered.is_set()


def test_an_error_gives_memory_back(budget: None, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 600, 3)).astype(np.uint8))
    picture.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    for _ in range(5):
        with pytest.raises(ImageError):
            read_image(tmp_path / "cut.png")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_waits_for_no_thread_of_its_parent(budget: None) -> None:
    with Allowance(100) as allowance:
        allowance.admit(1000, 1, 4000)
        child = os.fork()
        if child == 0:
            with Allowance(100) as own:
                own.admit(1000, 1, 4000)
            os._exit(7)
        deadline = time.monotonic() + 10
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        if ended == (0, 0):
            os.kill(child, 9)
            os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended[1]) == 7


@pytest.mark.parametrize("place", ["behind", "inside"])
def test_a_sparse_jpeg_is_not_read_as_a_whole(tmp_path: Path, place: str) -> None:
    path = tmp_path / "sparse.jpg"
    Image.new("RGB", (64, 48), "red").save(path)
    expected = read_image(path)
    data = path.read_bytes()
    with path.open("wb") as file:
        file.write(data if place == "behind" else data[:20])
        file.truncate(3_000_000_000)
    began = time.monotonic()
    with pytest.raises(ImageError, match="3000 MB are more than a JPEG file may have"):
        read_image(path)
    with path.open("r+b") as file:
        file.truncate(300_000_000)
    if place == "behind":
        np.testing.assert_array_equal(read_image(path), expected)
    assert time.monotonic() - began < 30


def test_palettes_in_threads_take_the_memory_of_one(tmp_path: Path, run_script: Callable[..., Any]) -> None:
    Image.fromarray(np.arange(3000 * 2000, dtype=np.uint32).astype(np.uint8).reshape(2000, 3000)).convert("P").save(
        tmp_path / "palette.png"
    )
    code = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from PIL import Image
from resnetkit.decoding import memory
from resnetkit.images.reading import read_image

def measure_peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

path = Path(sys.argv[1])
memory._budget = memory._Budget(90_000_000)  # an image of 6 megapixels is decoded alone
read_image(path)
alone = measure_peak()
with ThreadPoolExecutor(8) as pool:
    assert set(pool.map(lambda _: read_image(path).mean(), range(16))) == {read_image(path).mean()}
assert measure_peak() < alone + 100, (alone, measure_peak())  # MB; what is read is given back as it comes
"""
    run_script(code, [str(tmp_path / "palette.png")])
