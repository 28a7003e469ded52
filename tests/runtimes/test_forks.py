"""Forked children of a process that has loaded models: they answer as it does, train, and end."""

from __future__ import annotations

import hashlib
import threading

import pytest

from resnetkit.machine import forks

SCRIPT = """
import faulthandler, multiprocessing, os, sys, time
import numpy as np
from pathlib import Path
from resnetkit import load_model

weights, runtime, dataset = sys.argv[1:4]
context = multiprocessing.get_context("fork")
image = np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8)
model, untouched = (load_model(weights, runtime=runtime) for _ in range(2))
expected = model.predict(image)
assert model.info["runtime"] == untouched.info["runtime"] == runtime


def answer(number=0):
    faulthandler.dump_traceback_later(100, exit=True)  # seconds on a quiet machine: one or two
    for each in (model, untouched, load_model(weights, runtime=runtime)):
        prediction = each.predict(image)
        assert prediction.label == expected.label
        np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=1e-5)
    faulthandler.cancel_dump_traceback_later()
    return os.getpid()


def fork(work):
    if pid := os.fork():
        return pid
    work()
    sys.exit(7)  # as a worker of gunicorn ends, with all that Python and C do at an end


def wait(pid):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, 9)
    raise AssertionError(f"{pid} did not end")


def answer_in_a_grandchild():
    answer()
    assert wait(fork(answer)) == 7


assert [wait(pid) for pid in [fork(answer), fork(answer_in_a_grandchild), fork(lambda: None)]] == [7, 7, 7]
with context.Pool(3) as pool:
    assert os.getpid() not in pool.map(answer, range(6), chunksize=1)
answer()
"""

TRAIN = """
def train_one():
    import resnetkit.training.outcome

    resnetkit.training.outcome._write_report = lambda *_: None
    from resnetkit.parameters.training import TrainParameters
    from resnetkit.training.loop import train

    values = dict(model_weight_file=weights, input_size=32, num_workers=1, tracking="off", export_pth=False)
    values |= dict(output_folder=str(Path.cwd() / "runs"))
    assert train(TrainParameters().updated(values), Path(dataset)).checkpoint.is_file()


assert wait(fork(train_one)) == 7
"""


@pytest.mark.skipif("not hasattr(__import__('os'), 'fork')", reason="there are no forks here")
@pytest.mark.parametrize(
    ("runtime", "more"), [("openvino", ""), ("torch", TRAIN)], ids=["openvino", "torch and training"]
)
def test_forked_children_answer_as_their_parent(runtime, more, checkpoint_path, three_digits, run_script):
    run_script(SCRIPT + more, [str(checkpoint_path), runtime, str(three_digits)], timeout_s=300, OMP_NUM_THREADS="2")


@pytest.mark.skipif("not sys.platform.startswith('linux')", reason="only Linux tells what threads do")
def test_a_fork_waits_until_other_threads_rest(monkeypatch):
    """At work they may hold a lock of their library, which nobody would open in the child."""
    monkeypatch.setattr(forks, "_REST_S", 60)
    arguments = ("sha256", b"", b"", 500_000)  # 0.2 seconds or more, in C alone
    thread = threading.Thread(target=hashlib.pbkdf2_hmac, args=arguments)
    thread.start()
    assert forks._is_another_thread_running()
    forks._wait_for_rest()
    assert not thread.is_alive()
