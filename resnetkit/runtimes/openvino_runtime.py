"""OpenVINO on the CPU: one compiled network, read from the cache where it was compiled before."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resnetkit.machine.forks import add_survivor, keep_forever, run_apart
from resnetkit.machine.imports import lean_openvino
from resnetkit.machine.threads import read_cpu_quota
from resnetkit.runtimes.cache import CompiledCache, make_key
from resnetkit.runtimes.network import NetworkOutput, NetworkSource, RuntimeOptions, choose_precision
from resnetkit.runtimes.openvino_graph import GRAPH_VERSION, OUTPUT_NAMES, build_graph, is_quantized, read_head_weights

with lean_openvino():
    import openvino as ov

_DEVICE = "CPU"
#: Our names of OpenVINO's types, with the capability that says the CPU has them; fastest first.
_PRECISIONS = {"bf16": ("bf16", "BF16"), "fp16": ("f16", "FP16"), "fp32": ("f32", "FP32")}


class _Network(NamedTuple):
    """A compiled network, the memory that it reads from and that must outlive it, and what runs it."""

    compiled: ov.CompiledModel
    blob: np.ndarray | None
    requests: list[ov.InferRequest]


class OpenVinoRuntime:
    """A network in OpenVINO; see `Runtime`.

    One compiled network serves single images and batches, with and without features: on a CPU neither a dynamic
    batch dimension nor the two additional outputs take time that can be measured. In a forked child the network is
    opened anew at its first run.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, source: NetworkSource, options: RuntimeOptions, cache_folder: Path | None) -> None:
        """Compile the network, or read it compiled.

        Raises:
            RuntimeOptionError: The CPU does not run the precision natively.
            WeightsError: The weights or the graph cannot be read.
            RuntimeError: OpenVINO refuses the network.
        """
        self._source, self._options, self._cache_folder = source, options, cache_folder
        self._lock = threading.Lock()
        self._network: _Network | None
        self._network, self.precision = run_apart(self._open)
        add_survivor(self)

    def _open(self) -> tuple[_Network, str]:
        core = ov.Core()
        precision = choose_precision(self._options.precision, list_precisions(core), "OpenVINO on this CPU")
        properties = _get_properties(precision, self._options)
        compiled, blob = _load(core, self._source, properties, self._cache_folder)
        num_streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        graph = self._source.graph_path
        return (
            _Network(compiled, blob, [compiled.create_infer_request() for _ in range(num_streams)]),
            "int8" if graph is not None and is_quantized(graph) else precision,
        )

    def survive_fork(self) -> None:
        """Forget the parent's network, whose threads are not here, without deleting it, which would wait for them."""
        self._lock = threading.Lock()
        if self._network is not None:
            keep_forever(self._network, *self._network, *self._network.requests)
        self._network = None

    def run(self, images: np.ndarray, with_features: bool = False) -> NetworkOutput:
        """Run the network on images, (N, 3, input_size, input_size) uint8, N at least 1."""
        return run_apart(self._run, images, with_features)

    def _run(self, images: np.ndarray, with_features: bool) -> NetworkOutput:
        images = np.ascontiguousarray(images)
        wanted = OUTPUT_NAMES if with_features else OUTPUT_NAMES[:1]
        with self._lock:
            if self._network is None:
                self._network, self.precision = self._open()
            requests = self._network.requests
            # What is left out for a single image takes long after a network, which leaves nothing in the caches.
            parts = [images] if len(images) == 1 else np.array_split(images, min(len(images), len(requests)))
            requests = requests[: len(parts)]
            with ExitStack() as running:  # waits for all that read the images, also where one fails
                for request, part in zip(requests, parts, strict=True):
                    request.set_input_tensor(ov.Tensor(part, shared_memory=True))
                    request.start_async()
                    running.callback(request.wait)
            # The memory of the requests is overwritten by the next run.
            outputs = ([request.get_tensor(name).data for request in requests] for name in wanted)
            return NetworkOutput(*(np.concatenate(arrays, dtype=np.float32) for arrays in outputs))

    def read_head_weights(self) -> np.ndarray:
        """Return the weights of the last layer, (num_classes, channels) float32."""
        return read_head_weights(self._source)


def list_precisions(core: ov.Core) -> list[str]:
    """Return the precisions that the CPU runs natively, fastest first."""
    capabilities = core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    return [name for name, (_, capability) in _PRECISIONS.items() if capability in capabilities]


def _get_properties(precision: str, options: RuntimeOptions) -> dict[str, str | int]:
    properties: dict[str, str | int] = {
        # Without the hint OpenVINO takes bf16 by itself where the CPU has it.
        "INFERENCE_PRECISION_HINT": _PRECISIONS[precision][0],
        # For latency, all threads run each layer together, and wait for the one that shares its core with others.
        # For throughput, streams of few threads run parts of a batch, each at its own pace.
        "PERFORMANCE_HINT": "THROUGHPUT" if options.is_for_batches else "LATENCY",
    }
    if threads := options.threads or read_cpu_quota():
        properties["INFERENCE_NUM_THREADS"] = threads
    return properties


def _load(
    core: ov.Core, source: NetworkSource, properties: dict[str, str | int], cache_folder: Path | None
) -> tuple[ov.CompiledModel, np.ndarray | None]:
    """Return the compiled network, and the memory that it reads from and that must outlive it."""
    if cache_folder is None or not source.content_hash:
        return core.compile_model(build_graph(source), _DEVICE, properties), None
    cache = CompiledCache(cache_folder)
    key = make_key(_list_facts(core, source, properties))
    blob = cache.read(key)
    if blob is not None:
        try:
            return core.import_model(ov.Tensor(blob, shared_memory=True), _DEVICE, properties), blob
        except RuntimeError:
            cache.report_damage(key)
    compiled = core.compile_model(build_graph(source), _DEVICE, properties)
    if source.check_unchanged is not None:  # else what replaced a graph file would be kept under the old one's key
        source.check_unchanged()
    cache.write(key, compiled.export_model().getbuffer())
    return compiled, None


def _list_facts(core: ov.Core, source: NetworkSource, properties: dict[str, str | int]) -> dict[str, object]:
    """Return all that decides what the compiled network is; it is the same for any number of threads."""
    return {
        "content": source.content_hash,
        "network": [source.model_name, source.num_classes, source.small_input_stem, source.input_size],
        "normalization": [list(source.mean), list(source.std)],
        "is_graph": source.graph_path is not None,
        "precision": properties["INFERENCE_PRECISION_HINT"],
        "performance_hint": properties["PERFORMANCE_HINT"],
        "graph_version": GRAPH_VERSION,
        "openvino": ov.get_version(),
        "cpu": [
            core.get_property(_DEVICE, "FULL_DEVICE_NAME"),
            *core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"),
        ],
    }
