"""Nothing happens behind the user's back: no process, no name looked up, no file outside the Ikomia folder."""

from __future__ import annotations

import pytest

ANSWER = """
from resnetkit.answers.loader import Loader
from resnetkit.parameters.inference import InferParameters

model = Loader().load(InferParameters().updated({"model_weight_file": sys.argv[1], "runtime": "openvino"}))
assert model.runtime.name == "openvino"
"""
QUANTIZE = """
import numpy as np
from resnetkit.exports.quantization import quantize_graph
from resnetkit.runtimes.network import NetworkSource
from resnetkit.runtimes.openvino_graph import build_graph
from resnetkit.weights.checkpoint import open_weights

read = open_weights(Path(sys.argv[1])).read_state_dict
graph = build_graph(NetworkSource("resnet18", 3, False, (0.5,) * 3, (0.2,) * 3, "", 64, read))
quantize_graph(graph, [np.zeros((3, 64, 64), np.uint8)] * 2)
"""
AFTER_OPENVINO = (
    """
import openvino  # by the user's script, with whatever that reports

time.sleep(3)
seen.clear()
before = list_files()
"""
    + QUANTIZE
    + ANSWER
)
TRAIN = """
from resnetkit.parameters.training import TrainParameters
from resnetkit.training.loop import train

values = dict(model_weight_file=sys.argv[1], input_size=32, export_onnx=True, export_openvino=True, tracking="local")
result = train(TrainParameters().updated(values), Path(sys.argv[2]))
assert result.report.is_file()
assert {"mlflow", "matplotlib", "sklearn", "onnx"} <= sys.modules.keys()
before = {path for path in list_files() if path.parts[:2] in ((".cache", "matplotlib"), (".config", "matplotlib"))}
"""
WATCH = """
import os, sys, time
from pathlib import Path

os.environ.pop("CI", None)  # in which telemetry hides
WATCHED = ("os.fork", "os.forkpty", "os.posix_spawn", "socket.getaddrinfo", "socket.gethostbyname", "socket.connect")
seen = []
sys.addaudithook(lambda event, args: seen.append((event, str(args)[:200])) if event in WATCHED else None)
home = Path(os.environ["HOME"])


def list_files():
    return {path.relative_to(home) for path in home.rglob("*") if path.is_file() and not path.is_symlink()}


before = set()
{work}
time.sleep(0.5)
assert not seen, seen
left = list_files() - before
assert all(path.parts[0] == "Ikomia" for path in left), left
"""


@pytest.mark.parametrize(
    "work", [ANSWER, AFTER_OPENVINO, TRAIN], ids=["answer", "quantization after openvino", "training"]
)
def test_no_telemetry_runs(work, checkpoint_path, three_digits, run_script):
    run_script(WATCH.replace("{work}", work), [str(checkpoint_path), str(three_digits)], timeout_s=300)


def test_the_package_for_telemetry_stays_importable(run_script):
    run_script(
        """
import sys
from resnetkit.machine.imports import without_telemetry

with without_telemetry():
    try:
        import openvino_telemetry
    except ImportError:
        pass
    else:
        raise AssertionError("it was imported")
assert "openvino_telemetry" not in sys.modules
import resnetkit.runtimes.openvino_runtime
import openvino_telemetry
"""
    )


def test_the_converter_of_openvino_is_imported_when_it_is_called(run_script, tmp_path):
    run_script(
        """
import sys
import onnx
import resnetkit.runtimes.openvino_runtime
import openvino

assert "openvino.tools.ovc" not in sys.modules
values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in "xy"]
graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), sys.argv[1])
for _ in range(2):
    model = openvino.convert_model(sys.argv[1])
    assert {op.get_type_name() for op in model.get_ops()} == {"Parameter", "Relu", "Result"}
assert sys.modules["openvino.tools.ovc"].convert_model is openvino.convert_model
""",
        [str(tmp_path / "relu.onnx")],
    )
