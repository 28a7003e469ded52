"""OpenMP's thread count stays what torch was told, in the process of the engine."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the engine's OpenCV uses OpenMP on Linux")

#: Imports the engine, classifies or trains, and prints the setting before and after.
SCRIPT = """
import ctypes, sys
from ikomia.dataprocess.workflow import Workflow

openmp = ctypes.CDLL("libgomp.so.1")
before = openmp.omp_get_dynamic()
wf = Workflow()
task = wf.add_task(name=sys.argv[1], auto_connect=True)
if sys.argv[1] == "infer_resnet":
    task.set_parameters({"model_weight_file": sys.argv[2], "runtime": "torch"})
    wf.run_on(path=sys.argv[3])
else:
    values = {"epochs": 1, "input_size": 32, "batch_size": 4, "use_pretrained": False, "feature_extract": False}
    task.set_parameters({**values, "dataset_folder": sys.argv[2], "tracking": "off"})
    wf.run()
print("dynamic before and after:", before, openmp.omp_get_dynamic())
"""


def test_the_engine_lets_openmp_start_fewer_threads_and_inference_forbids_it(
    run_script: Any, checkpoint_path: Path, photograph_folder: Path
) -> None:
    result = run_script(SCRIPT, ["infer_resnet", str(checkpoint_path), str(photograph_folder / "small.png")])
    assert "dynamic before and after: 1 0" in result.output


def test_training_forbids_it_too(run_script: Any, tmp_path: Path, photographs: Any) -> None:
    from PIL import Image

    for label, name in (("a", "china"), ("b", "flower")):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(5):
            crop = photographs[name][number * 20 :, number * 30 :]
            Image.fromarray(crop).resize((48, 32)).save(tmp_path / "data" / label / f"{number}.png")
    result = run_script(SCRIPT, ["train_resnet", str(tmp_path / "data")])
    assert "dynamic before and after: 1 0" in result.output


def test_every_thread_has_the_setting_of_its_own() -> None:
    import ctypes

    import torch  # noqa: F401 (loads OpenMP)

    from resnetkit.machine.threads import fix_thread_count

    library = ctypes.CDLL("libgomp.so.1")

    def fix_in_a_thread() -> tuple[int, int]:
        library.omp_set_dynamic(1)
        before = library.omp_get_dynamic()
        fix_thread_count()
        return before, library.omp_get_dynamic()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(fix_in_a_thread).result(30) == (1, 0)


def test_a_thread_that_computes_alone_leaves_the_others_their_threads() -> None:
    import ctypes

    import torch

    from resnetkit.machine.threads import compute_alone

    library = ctypes.CDLL("libgomp.so.1")
    before = torch.get_num_threads(), library.omp_get_max_threads()
    with ThreadPoolExecutor(1, initializer=compute_alone) as pool:
        # After a kernel, too: torch's first one in a thread sets the number.
        counts = pool.submit(lambda: (torch.ones(512, 512).exp().sum(), library.omp_get_max_threads())).result(30)
    assert counts[1] == 1
    assert (torch.get_num_threads(), library.omp_get_max_threads()) == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result(30) == before[0]
