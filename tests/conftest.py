"""Fixtures for all tests: a home folder of its own for the engine, photographs, data sets, small models.

The environment is set up while pytest starts, before any test module imports ikomia: the engine reads HOME at import.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import json
import os
import pickle
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest_plugins = ["tests.fixtures_networks", "tests.fixtures_training", "tests.fixtures_old_files"]

REPOSITORY = Path(__file__).resolve().parent.parent
PLUGINS = ("infer_resnet", "train_resnet")

#: Where mlflow and tensorboard would listen if the engine started them.
SERVER_PORTS = (5000, 6006)

#: Would lead downloads, tracking and caches out of the temporary home folder.
STRAY_VARIABLES = ("TORCH_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MLFLOW_TRACKING_URI")


def pytest_configure(config: pytest.Config) -> None:
    """Give this process, and all that it starts, an empty home folder with both plugins linked."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # The threads of two processes would wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    home = Path(tempfile.mkdtemp(prefix="ikomia-home-"))
    config.add_cleanup(functools.partial(shutil.rmtree, home, ignore_errors=True))
    link_plugins(home)
    for name in STRAY_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(make_environment(home))


def link_plugins(home: Path, names: Sequence[str] = PLUGINS) -> None:
    """Link plugins of this repository into `home`, as `make link` does."""
    folder = home / "Ikomia" / "Plugins" / "Python"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).symlink_to(REPOSITORY / name, target_is_directory=True)


def make_environment(home: Path) -> dict[str, str]:
    """Return the variables that keep the engine, Qt and matplotlib away from the real home folder and screen."""
    return {
        "HOME": str(home),
        # The library of this checkout, wherever the environment got its own from.
        "PYTHONPATH": str(REPOSITORY),
        "USERPROFILE": str(home),
        "IKOMIA_AUTO_COMPLETION": "0",
        "QT_QPA_PLATFORM": "offscreen",
        "MPLBACKEND": "Agg",
    }


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """Files of tests need not survive a loss of power: waiting for the disk took a tenth of the time of trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


# --- Nothing is left behind ---


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """Fail the session if a test leaves a process or one of the engine's servers running."""
    open_before = find_open_ports()
    yield
    left = wait_for_children(timeout_s=10)
    assert not left, f"tests left processes behind: {left}"
    assert find_open_ports() <= open_before, "tests left an mlflow or tensorboard server listening"


def find_open_ports() -> set[int]:
    """Return those of SERVER_PORTS on which something listens on this machine."""
    open_ports = set()
    for port in SERVER_PORTS:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                open_ports.add(port)
    return open_ports


def wait_for_children(timeout_s: float) -> list[str]:
    """Return the command lines of child processes that are still there after a while."""
    deadline = time.monotonic() + timeout_s
    while (left := _list_children()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _list_children() -> list[str]:
    commands = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(child.cmdline())
            # Python's own, one a process that ever used `multiprocessing`; it ends when that process does.
            is_pythons_own = "multiprocessing.resource_tracker" in command or "multiprocessing.forkserver" in command
            if child.status() != psutil.STATUS_ZOMBIE and not is_pythons_own:
                commands.append(command)
    return commands


# --- The engine ---


@pytest.fixture(scope="session")
def ikomia_root() -> Path:
    """The Ikomia folder of this test session."""
    return Path(os.environ["HOME"]) / "Ikomia"


@pytest.fixture
def workflow() -> Any:
    """A new, empty workflow of the real engine."""
    from ikomia.dataprocess.workflow import Workflow

    return Workflow()


@pytest.fixture
def classifier(workflow: Any, checkpoint_path: Path) -> Any:
    """The infer_resnet task of the workflow, with the seeded checkpoint of three classes."""
    task = workflow.add_task(name="infer_resnet", auto_connect=True)
    task.set_parameters({"model_weight_file": str(checkpoint_path)})
    return task


@pytest.fixture(scope="session")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`ikomia.utils.ik` with both plugins, generated by the engine, but into a temporary folder.

    The engine writes that module beside its own code, where other processes would read it half-written.
    """
    from ikomia import utils
    from ikomia.utils import autocomplete

    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autocomplete, "__file__", str(folder / "autocomplete.py"))
        autocomplete.ik_autocomplete.make_local_plugins(force=True)
        spec = importlib.util.spec_from_file_location("ikomia.utils.ik", folder / "ik.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        patch.setitem(sys.modules, "ikomia.utils.ik", module)
        patch.setattr(utils, "ik", module, raising=False)
        yield module


@dataclass(frozen=True)
class ScriptResult:
    """What a script did: its exit code and everything it printed, both streams together."""

    exit_code: int
    output: str


RunScript = Callable[..., ScriptResult]


#: In front of a script: makes torch as unknown to its process as where it is not installed.
def hide_packages(*names: str) -> str:
    """Return the beginning of a script in whose process packages look as if they were not installed."""
    return f"""
import sys
from importlib.machinery import PathFinder

class PathFinderWithout(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        is_hidden = name.partition(".")[0] in {names}
        return None if is_hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [PathFinderWithout if finder is PathFinder else finder for finder in sys.meta_path]
"""


HIDE_TORCH = hide_packages("torch", "torchvision")

CLASSIFY_WITHOUT_TORCH = (
    HIDE_TORCH
    + """
import json, pathlib
from resnetkit import load_model
from resnetkit.images.reading import read_image

image = pathlib.Path(sys.argv[1])
answers = {}
for file in sys.argv[2:]:
    for cache in ("empty", "full"):
        prediction = load_model(file, heatmap=True, embedding=True).predict(read_image(image))
        assert prediction.embedding.shape == (512,) and prediction.activation is not None
        (answer,) = load_model(file).classify(image)
        assert answer.prediction.label == prediction.label, answer
        answers[f"{pathlib.Path(file).name}, {cache} cache"] = prediction.probabilities.tolist()
slow = ("torch", "torchvision", "matplotlib", "requests", "sklearn", "scipy", "mlflow", "onnx", "openvino.tools.ovc")
print(json.dumps({"answers": answers, "loaded": [name for name in slow if name in sys.modules]}))
"""
)


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Run Python code or a Python file in a process of its own.

    `run_script(code_or_path, arguments=(), home=None, timeout_s=120, is_failure_expected=False, **environment)`:
    the process starts in an empty folder with an own home folder (both plugins linked) unless `home` is given. It is
    ended after `timeout_s`; whatever it leaves running fails the test.
    """
    count = 0

    def run(
        source: str | Path,
        arguments: Sequence[str] = (),
        home: Path | None = None,
        timeout_s: float = 120,
        is_failure_expected: bool = False,
        **environment: str,
    ) -> ScriptResult:
        nonlocal count
        count += 1
        folder = tmp_path / f"script-{count}"
        (folder / "work").mkdir(parents=True)
        if home is None:
            home = folder / "home"
            link_plugins(home)
        if isinstance(source, str):
            (folder / "script.py").write_text(source, encoding="utf-8")
            source = folder / "script.py"
        command = [sys.executable, str(source), *arguments]
        result = run_process(command, folder, {**make_environment(home), **environment}, timeout_s)
        assert is_failure_expected or result.exit_code == 0, result.output
        return result

    return run


@pytest.fixture
def classify_without_torch(run_script: RunScript) -> Callable[..., dict[str, list[float]]]:
    """`classify_without_torch(image_path, weights_files)`: classify in a process that knows no torch.

    Twice with each file, with an empty and with a full cache; returns the probabilities. Nothing that takes long to
    import, and that no answer needs, may have been imported.
    """

    def classify(image_path: Path, weights_files: Sequence[Path]) -> dict[str, list[float]]:
        arguments = [str(image_path), *map(str, weights_files)]
        result = run_script(CLASSIFY_WITHOUT_TORCH, arguments, PYTHONPATH=str(REPOSITORY))
        found = json.loads(result.output.splitlines()[-1])
        assert found["loaded"] == []
        assert len(found["answers"]) == 2 * len(weights_files)
        return dict(found["answers"])

    return classify


def run_process(command: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float) -> ScriptResult:
    """Run a command in `folder`/work with its output in a file; end it, and all it started, when the time is up."""
    output_path = folder / "output.txt"
    with output_path.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder / "work",
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            exit_code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            is_leaving_processes = _end_group(process)
    text = output_path.read_text(encoding="utf-8", errors="replace")
    assert exit_code is not None, f"{command} did not end within {timeout_s} s:\n{text}"
    assert not is_leaving_processes, f"{command} left processes behind:\n{text}"
    return ScriptResult(exit_code, text)


def _end_group(process: subprocess.Popen[bytes]) -> bool:
    """End every process of the session that `process` started; tell whether there was any beside itself."""
    if process.poll() is not None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and _is_group_alive(process.pid):
            time.sleep(0.05)  # helpers such as the resource tracker end a moment after their parent
    if not _is_group_alive(process.pid):
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    return True


def _is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


DETECTOR_PLUGIN = '''
"""{name}: a detector that finds boxes where its parameter says."""

from ikomia import core, dataprocess


class IkomiaPlugin(dataprocess.CPluginProcessInterface):
    def get_process_factory(self):
        from {name}.{name}_process import DetectorFactory

        return DetectorFactory()
'''

DETECTOR_PROCESS = '''
"""Reports boxes given as shares of the image: `left top width height; ...`."""

from ikomia import core, dataprocess


class DetectorParam(core.CWorkflowTaskParam):
    def __init__(self):
        super().__init__()
        self.boxes = "0.1 0.1 0.3 0.6; 0.5 0.2 0.4 0.7"

    def get_values(self):
        return {{"boxes": self.boxes}}

    def set_values(self, values):
        self.boxes = values["boxes"]


class Detector(dataprocess.CObjectDetectionTask):
    def __init__(self, name, param=None):
        dataprocess.CObjectDetectionTask.__init__(self, name)
        self.set_param_object(param or DetectorParam())

    def run(self):
        self.begin_task_run()
        height, width = self.get_input(0).get_image().shape[:2]
        self.set_names(["thing"])
        boxes = [box.split() for box in self.get_param_object().boxes.split(";") if box.strip()]
        for number, (left, top, box_width, box_height) in enumerate(boxes):
            box = float(left) * width, float(top) * height, float(box_width) * width, float(box_height) * height
            self.add_object(number, 0, 0.9, *box)
        self.emit_step_progress()
        self.end_task_run()


class DetectorFactory(dataprocess.CTaskFactory):
    def __init__(self):
        dataprocess.CTaskFactory.__init__(self)
        info = self.info
        info.name = "{name}"
        info.short_description = info.description = "Finds boxes where its parameter says"
        info.authors = "ResNet for Ikomia contributors"
        info.path = "Plugins/Python/Detection"
        info.version = "1.0.0"
        info.min_ikomia_version = "0.15.0"
        info.license = "Apache-2.0"
        info.keywords = "test"
        info.algo_type = core.AlgoType.INFER
        info.algo_tasks = "OBJECT_DETECTION"

    def create(self, param=None):
        return Detector(self.info.name, param)
'''


def write_detector(home: Path, name: str = "detect_boxes") -> None:
    """Install a detector plugin of that name; its parameter `boxes` says what it finds (default: two boxes)."""
    folder = home / "Ikomia" / "Plugins" / "Python" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(DETECTOR_PLUGIN.format(name=name), encoding="utf-8")
    (folder / f"{name}_process.py").write_text(DETECTOR_PROCESS.format(name=name), encoding="utf-8")


@pytest.fixture(scope="session")
def detector(ikomia_root: Path) -> str:
    """The name of an installed detector plugin, see `write_detector`."""
    write_detector(ikomia_root.parent)
    return "detect_boxes"


@pytest.fixture
def make_task() -> Callable[[type, Callable[[Any], None]], Any]:
    """`make_task(base, fill)`: a task of the engine's kind `base` whose results `fill(task)` sets."""
    from ikomia import core

    def make(base: type, fill: Callable[[Any], None]) -> Any:
        class Filler(base):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__("filler")
                self.set_param_object(core.CWorkflowTaskParam())

            def run(self) -> None:
                self.begin_task_run()
                self.set_names(["animal", "vehicle"])
                fill(self)
                self.end_task_run()

        return Filler()

    return make


# --- A server ---


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the base class's name)
        """Keep requests out of the test output."""


@dataclass(frozen=True)
class LocalServer:
    """A web server on 127.0.0.1 that hands out the files of a folder, whatever query follows their names."""

    folder: Path
    url: str


@pytest.fixture(scope="session")
def local_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """Serve a folder over HTTP; put files into `local_server.folder`."""
    folder = tmp_path_factory.mktemp("server")
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield LocalServer(folder, f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join(10)


# --- Images and data sets ---


@pytest.fixture(scope="session")
def photographs() -> Mapping[str, np.ndarray]:
    """Real photographs by name, each (height, width, 3) uint8 RGB and read-only.

    china 427x640 and flower 427x640 (landscape), portrait 512x300, astronaut 512x512, small 100x150 (smaller than the
    usual crop of 224), tiny 20x31.
    """
    import cv2
    from skimage import data
    from sklearn.datasets import load_sample_image

    china, astronaut = load_sample_image("china.jpg"), data.astronaut()
    images = {
        "china": china,
        "flower": load_sample_image("flower.jpg"),
        "portrait": astronaut[:, 100:400],
        "astronaut": astronaut,
        "small": cv2.resize(china, (150, 100), interpolation=cv2.INTER_AREA),
        "tiny": cv2.resize(china, (31, 20), interpolation=cv2.INTER_AREA),
    }
    images = {name: np.ascontiguousarray(image) for name, image in images.items()}
    for image in images.values():
        image.flags.writeable = False
    return images


@pytest.fixture(scope="session")
def photograph_folder(photographs: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs as `<name>.png`, without loss."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs")
    for name, image in photographs.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def write_video(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Write frames, each (height, width, 3) uint8 RGB of one size, as a video: .avi, or .mp4."""
    import cv2

    height, width = frames[0].shape[:2]
    code = cv2.VideoWriter_fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), code, 5, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


@pytest.fixture(scope="session")
def video_path(photographs: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of five frames, three of china and two of flower."""
    path = tmp_path_factory.mktemp("video") / "china.avi"
    write_video(path, [photographs["china"]] * 3 + [photographs["flower"]] * 2)
    return path


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 of scikit-learn's handwritten digits, enlarged to 32x32, as `{train,val,test}/<digit>/<index>.png`.

    40 a class to train on, 10 to validate, 10 held out. Do not write into it: copy what you change.
    """
    import cv2
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    for label in range(10):
        for position, index in enumerate(np.flatnonzero(digits.target == label)[:60]):
            part = "train" if position < 40 else "val" if position < 50 else "test"
            path = folder / part / str(label) / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[index] * 15.9375).astype(np.uint8)  # 0..16 to 0..255
            Image.fromarray(cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_CUBIC)).save(path)
    return folder


@pytest.fixture(scope="session")
def three_digits(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits 0, 1 and 2 in folders of those names: 11 images each to train on, 5 to validate, 3 to test.

    33 training images in batches of 8 leave a last batch of one. Do not write into it: copy what you change.
    """
    folder = tmp_path_factory.mktemp("three-digits")
    for part, count in (("train", 11), ("val", 5), ("test", 3)):
        for digit in "012":
            (folder / part / digit).mkdir(parents=True)
            for path in sorted((digits_folder / part / digit).iterdir())[:count]:
                shutil.copy(path, folder / part / digit)
    return folder


# --- Models ---


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of `checkpoint_path` and `weights_files` are made, or were made where PyTorch is installed."""
    kept = os.environ.get("RESNETKIT_TEST_WEIGHTS")
    return Path(kept) if kept else tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="session")
def checkpoint_path(weights_folder: Path) -> Path:
    """A self-describing resnet18 checkpoint with seeded weights and the classes cat, dog and fish, input size 64."""
    path = weights_folder / "run" / "best.safetensors"
    if path.exists():
        return path
    from resnetkit.images.preprocessing import Preprocessing
    from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD
    from resnetkit.weights.checkpoint import write_checkpoint
    from resnetkit.weights.metadata import ModelMetadata
    from resnetkit.weights.models import initialize_model

    preprocessing = Preprocessing(64, 73, "crop", IMAGENET_MEAN, IMAGENET_STD)
    metadata = ModelMetadata("resnet18", ("cat", "dog", "fish"), preprocessing)
    path.parent.mkdir()
    write_checkpoint(path, initialize_model("resnet18", 3, seed=0).state_dict(), metadata)
    return path


def write_imagenet_weights(home: Path, model_name: str) -> Path:
    """Put seeded weights where torch keeps its downloads, under the name of torchvision's newest ones."""
    import torch

    from resnetkit.weights.architectures import ARCHITECTURES
    from resnetkit.weights.models import initialize_model

    path = home / ".cache" / "torch" / "hub" / "checkpoints" / ARCHITECTURES[model_name].get_weights().file_name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(initialize_model(model_name, 1000, seed=0).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def imagenet_weights() -> Callable[[str], Path]:
    """`imagenet_weights("resnet18")` makes the engine of this process find (seeded) ImageNet weights."""
    return functools.partial(write_imagenet_weights, Path(os.environ["HOME"]))


@pytest.fixture(scope="session")
def digit_reader(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Any:
    """What a training on all of scikit-learn's 1,797 digits gives, with the settings and the split of `make demo`.

    The processes that test side by side train it once.
    """
    from filelock import FileLock

    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "digit-reader"
    kept = folder / "result.pickle"
    with FileLock(folder.with_suffix(".lock")):
        if not kept.is_file():
            kept.write_bytes(pickle.dumps(train_digit_reader(folder)))
        return pickle.loads(kept.read_bytes())


def train_digit_reader(folder: Path) -> Any:
    """Train as `make demo` does."""
    from resnetkit.parameters.training import TrainParameters
    from resnetkit.training.loop import train

    demo = runpy.run_path(str(REPOSITORY / "examples" / "demo.py"))
    demo["write_digits"](folder / "digits")
    settings = {**demo["TRAINING"], "output_folder": str(folder / "runs"), "tracking": "off"}
    return train(TrainParameters().updated(settings), folder / "digits")


@pytest.fixture(scope="session")
def trained_run(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder, exports included, of a resnet18 trained on `digits_folder`; it tells most digits apart."""
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow()
    train = workflow.add_task(name="train_resnet", auto_connect=True)
    train.set_parameters(
        {
            "dataset_folder": str(digits_folder),
            "output_folder": str(tmp_path_factory.mktemp("runs")),
            "input_size": 32,
            "use_pretrained": False,
            "feature_extract": False,
            "optimizer": "sgd",
            "augmentation": "none",
            "epochs": 6,
            "batch_size": 40,
            "learning_rate": 0.05,
            "tracking": "off",
            "export_onnx": True,
            "export_openvino": True,
        }
    )
    workflow.run()
    return Path(train.get_checkpoint()).parent
