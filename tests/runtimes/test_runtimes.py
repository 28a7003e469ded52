"""Both runtimes against torchvision's own networks, and the choice between them."""

from __future__ import annotations

import builtins
import logging
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from resnetkit.machine import threads as threads_module
from resnetkit.runtimes import choice as runtimes
from resnetkit.runtimes import devices as devices_module
from resnetkit.runtimes import openvino_runtime, torch_runtime
from resnetkit.runtimes.choice import RuntimeOptionError, RuntimeOptions, open_runtime

RUNTIMES = ("openvino", "torch")
#: Model and input size: the deeper, the smaller, so that all five stay quick.
NETWORKS = (("resnet18", 224), ("resnet34", 96), ("resnet50", 96), ("resnet101", 64), ("resnet152", 64))


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference as a share of the largest value."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture(autouse=True)
def _threads_stay_as_they_are():
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("runtime_name", RUNTIMES)
@pytest.mark.parametrize(("model_name", "input_size"), NETWORKS)
def test_fp32_equals_torchvision(make_network, model_name, input_size, runtime_name):
    network = make_network(model_name, input_size)
    logits, feature_map, pooled = network.outputs
    assert 0.1 < np.abs(logits).max() < 50
    assert difference(logits[0], logits[1]) > 0.01  # images have different answers

    runtime = open_runtime(network.source, RuntimeOptions(runtime_name), cache_folder=None)
    output = runtime.run(network.images, with_features=True)

    assert (runtime.name, runtime.device, runtime.precision) == (runtime_name, "cpu", "fp32")
    assert difference(output.logits, logits) <= 1e-4
    assert difference(output.feature_map, feature_map) <= 1e-4
    assert difference(output.pooled, pooled) <= 1e-4
    assert {array.dtype for array in vars(output).values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("runtime_name", RUNTIMES)
@pytest.mark.parametrize("model_name", ["resnet18", "resnet50"])
def test_small_input_stem_equals_torch(make_network, model_name, runtime_name):
    network = make_network(model_name, 32, True)
    logits, feature_map, _ = network.outputs
    output = open_runtime(network.source, RuntimeOptions(runtime_name), None).run(network.images, with_features=True)
    assert feature_map.shape[2:] == (4, 4)
    assert difference(output.logits, logits) <= 1e-4
    assert difference(output.feature_map, feature_map) <= 1e-4


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_batches_of_any_size_give_each_image_its_own_answer(make_network, runtime_name):
    network = make_network()
    runtime = open_runtime(network.source, RuntimeOptions(runtime_name), None)
    whole = runtime.run(network.images).logits
    for sizes in ((1, 5), (2, 1, 3), (4, 2)):
        parts = [runtime.run(part).logits for part in network.images.split(sizes)]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_running_for_batches_changes_no_answer(make_network, runtime_name):
    network = make_network()
    expected = open_runtime(network.source, RuntimeOptions(runtime_name), None).run(network.images, with_features=True)
    runtime = open_runtime(network.source, RuntimeOptions(runtime_name, threads=2, is_for_batches=True), None)
    for count in (6, 1, 5):
        output = runtime.run(network.images[:count], with_features=True)
        for name, array in vars(output).items():
            np.testing.assert_allclose(array, getattr(expected, name)[:count], rtol=1e-4, atol=1e-4)


def test_openvino_runs_batches_in_as_many_streams_as_it_wants(make_network):
    options = RuntimeOptions("openvino", threads=2, is_for_batches=True)
    runtime = open_runtime(make_network().source, options, None)
    num_streams = runtime._network.compiled.get_property("NUM_STREAMS")
    assert len(runtime._network.requests) == num_streams == min(2, threads_module.count_cores())
    assert len(open_runtime(make_network().source, RuntimeOptions("openvino"), None)._network.requests) == 1


def test_a_part_of_a_batch_that_fails_leaves_the_runtime_as_it_was(make_network):
    network = make_network()
    runtime = open_runtime(network.source, RuntimeOptions("openvino", threads=2, is_for_batches=True), None)
    expected = runtime.run(network.images).logits

    class Broken:
        def set_input_tensor(self, _):
            raise RuntimeError("broken")

    whole = runtime._network
    runtime._network = whole._replace(requests=[whole.requests[0], Broken()])
    with pytest.raises(RuntimeError, match="broken"):
        runtime.run(network.images)
    runtime._network = whole
    np.testing.assert_array_equal(runtime.run(network.images).logits, expected)


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_outputs_belong_to_the_caller(make_network, runtime_name):
    network = make_network()
    runtime = open_runtime(network.source, RuntimeOptions(runtime_name), None)
    first = runtime.run(network.images[:1], with_features=True)
    copies = {name: array.copy() for name, array in vars(first).items()}
    runtime.run(network.images[1:2], with_features=True)
    for name, array in vars(first).items():
        np.testing.assert_array_equal(array, copies[name])
        assert array.flags.writeable
        array.fill(0)
    np.testing.assert_allclose(runtime.run(network.images[:1]).logits, copies["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_features_come_only_when_asked_for(make_network, runtime_name):
    network = make_network()
    output = open_runtime(network.source, RuntimeOptions(runtime_name), None).run(network.images[:1])
    assert output.feature_map is None
    assert output.pooled is None


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_images_may_have_any_strides_and_are_not_changed(make_network, runtime_name):
    network = make_network()
    runtime = open_runtime(network.source, RuntimeOptions(runtime_name), None)
    strided = network.images.contiguous(memory_format=torch.channels_last)
    before = strided.clone()
    np.testing.assert_allclose(runtime.run(strided).logits, runtime.run(network.images).logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(strided, before)


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_head_weights_are_those_of_the_last_layer(make_network, runtime_name):
    network = make_network()
    runtime = open_runtime(network.source, RuntimeOptions(runtime_name), None)
    np.testing.assert_array_equal(runtime.read_head_weights(), network.model.fc.weight.detach().numpy())


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_a_runtime_may_be_used_by_several_threads(make_network, runtime_name):
    network = make_network()
    runtime = open_runtime(network.source, RuntimeOptions(runtime_name), None)
    expected = [runtime.run(image[None]).logits for image in network.images]
    answers: dict[int, list[np.ndarray]] = {}

    def run(index: int) -> None:
        answers[index] = [runtime.run(network.images[index][None]).logits for _ in range(20)]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for index, arrays in answers.items():
        for array in arrays:
            np.testing.assert_allclose(array, expected[index], rtol=1e-4, atol=1e-4)
    assert len(answers) == 4


# --- Threads ---


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_torch_runs_with_the_threads_asked_for_and_restores_them(make_network, monkeypatch, threads):
    seen = []
    network = make_network()
    runtime = open_runtime(network.source, RuntimeOptions("torch", threads=threads), None)
    relu = runtime._model.relu
    monkeypatch.setattr(relu, "forward", lambda x: seen.append(torch.get_num_threads()) or torch.relu(x))
    before = torch.get_num_threads()
    runtime.run(network.images[:1])
    assert set(seen) == {threads or threads_module.count_cores()}
    assert torch.get_num_threads() == before


def test_threads_are_restored_after_an_error(make_network):
    network = make_network()
    runtime = open_runtime(network.source, RuntimeOptions("torch", threads=1), None)
    with pytest.raises(RuntimeError):
        runtime.run(torch.zeros((1, 5, 64, 64), dtype=torch.uint8))


def test_overlapping_users_of_threads_leave_the_first_setting():
    before = torch.get_num_threads()
    first, second = threads_module.use_threads(1), threads_module.use_threads(3)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_runs_with_the_threads_asked_for(make_network, threads, tmp_path):
    source = make_network().source
    for _ in range(2):  # compiled, then from the cache
        runtime = open_runtime(source, RuntimeOptions("openvino", threads=threads), tmp_path)
        assert runtime._network.compiled.get_property("INFERENCE_NUM_THREADS") == min(
            threads, threads_module.count_cores()
        )


# --- Precision and device ---


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_fp32_is_exact_also_where_the_cpu_has_faster_types(make_network, runtime_name, tmp_path):
    network = make_network("resnet50", 96)
    logits = network.outputs[0]
    for _ in range(2):
        runtime = open_runtime(network.source, RuntimeOptions(runtime_name, precision="fp32"), tmp_path)
        assert difference(runtime.run(network.images).logits, logits) < 1e-5


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_precision_auto_takes_the_fastest_native_one(make_network, monkeypatch, runtime_name):
    module = openvino_runtime if runtime_name == "openvino" else torch_runtime
    network = make_network()
    runtime = open_runtime(network.source, RuntimeOptions(runtime_name, precision="auto"), None)
    assert runtime.precision in ("fp32", "bf16", "fp16")
    assert difference(runtime.run(network.images).logits, network.outputs[0]) < 0.05

    monkeypatch.setattr(module, "list_precisions", lambda _: ["fp32"])
    assert open_runtime(network.source, RuntimeOptions(runtime_name, precision="auto"), None).precision == "fp32"


@pytest.mark.parametrize("runtime_name", [*RUNTIMES, "auto"])
def test_a_precision_that_is_missing_is_an_error_that_names_what_there_is(make_network, monkeypatch, runtime_name):
    for module in (openvino_runtime, torch_runtime):
        monkeypatch.setattr(module, "list_precisions", lambda _: ["bf16", "fp32"])
    with pytest.raises(RuntimeOptionError, match=r"'precision' fp16 does not run natively .*which has bf16, fp32; set"):
        open_runtime(make_network().source, RuntimeOptions(runtime_name, precision="fp16"), None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
@pytest.mark.parametrize("runtime_name", ["auto", "torch"])
def test_a_device_that_is_missing_is_an_error_that_names_what_there_is(make_network, runtime_name, device):
    with pytest.raises(RuntimeOptionError, match=rf"'device' {device} does not exist .*which has cpu; set"):
        open_runtime(make_network().source, RuntimeOptions(runtime_name, device), None)


def test_openvino_refuses_other_devices(make_network):
    with pytest.raises(RuntimeOptionError, match="'runtime' openvino runs on the CPU, got 'device' cuda:0"):
        open_runtime(make_network().source, RuntimeOptions("openvino", "cuda:0"), None)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(["cpu"], "openvino"), (["cuda:0", "cpu"], "torch"), (["mps", "cpu"], "torch")],
    ids=["cpu", "cuda", "mps"],
)
def test_auto_is_openvino_on_a_cpu_and_torch_on_a_gpu(make_network, monkeypatch, devices, expected):
    monkeypatch.setattr(devices_module, "list_devices", lambda: devices)
    chosen = []
    monkeypatch.setattr(runtimes, "_open_openvino", lambda *_: chosen.append("openvino"))
    monkeypatch.setattr(runtimes, "_open_torch", lambda *_: chosen.append("torch"))
    open_runtime(make_network().source, RuntimeOptions(), None)
    open_runtime(make_network().source, RuntimeOptions(device="cpu"), None)
    assert chosen == [expected, "openvino"]


# --- OpenVINO missing or refusing ---


def hide_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import openvino` fail as if it were not installed."""
    import sys

    real_import = builtins.__import__

    def fail(name: str, *arguments: Any, **named: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "openvino":
            raise ModuleNotFoundError("No module named 'openvino'")
        return real_import(name, *arguments, **named)

    for name in list(sys.modules):
        if name in ("resnetkit.runtimes.openvino_runtime", "resnetkit.runtimes.openvino_graph"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", fail)


def test_auto_falls_back_to_torch_with_one_log_line(make_network, monkeypatch, caplog):
    hide_openvino(monkeypatch)
    network = make_network()
    with caplog.at_level(logging.WARNING):
        runtime = open_runtime(network.source, RuntimeOptions(), None)
    assert runtime.name == "torch"
    assert [record.getMessage() for record in caplog.records] == [
        "OpenVINO cannot be loaded (No module named 'openvino'); PyTorch runs the network, slower"
    ]
    assert difference(runtime.run(network.images).logits, network.outputs[0]) <= 1e-4


def test_openvino_asked_for_and_missing_is_an_error(make_network, monkeypatch):
    hide_openvino(monkeypatch)
    with pytest.raises(RuntimeOptionError, match=r"'runtime' openvino needs OpenVINO.*pip install openvino"):
        open_runtime(make_network().source, RuntimeOptions("openvino"), None)


def test_auto_falls_back_when_openvino_refuses(make_network, monkeypatch, caplog):
    def refuse(*_: Any) -> None:
        raise RuntimeError("Exception from core.cpp:1:\nCheck 'x' failed:\nunsupported operation")

    monkeypatch.setattr(openvino_runtime, "_load", refuse)
    with caplog.at_level(logging.WARNING):
        runtime = open_runtime(make_network().source, RuntimeOptions(), None)
    assert runtime.name == "torch"
    assert [record.getMessage() for record in caplog.records] == [
        "OpenVINO refused the network (unsupported operation); PyTorch runs it, slower"
    ]
    with pytest.raises(RuntimeError, match="unsupported operation"):
        open_runtime(make_network().source, RuntimeOptions("openvino"), None)


def test_a_graph_file_needs_openvino(make_network, monkeypatch, tmp_path):
    source = replace(make_network().source, graph_path=tmp_path / "model.xml")
    with pytest.raises(RuntimeOptionError, match=r"'runtime' torch cannot run .*set 'runtime' to auto"):
        open_runtime(source, RuntimeOptions("torch"), None)
    with pytest.raises(RuntimeOptionError, match="runs on the CPU, got 'device' cuda"):
        open_runtime(source, RuntimeOptions(device="cuda"), None)
    hide_openvino(monkeypatch)
    with pytest.raises(RuntimeOptionError, match=r"model.xml' needs OpenVINO.*pip install openvino"):
        open_runtime(source, RuntimeOptions(), None)
