"""How plugins and library are installed: links, second names, the archives that the hub unpacks, and pip."""

from __future__ import annotations

import filecmp
import inspect
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ikomia.dataprocess.registry import ik_registry

from resnetkit import __version__
from tests.conftest import link_plugins

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGINS = ("infer_resnet", "train_resnet")

#: Where the name of a module is not that of the package.
PACKAGES = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "annotated_types": "annotated-types",
}

#: Makes the library of this environment and of this checkout unknown; the archives bring their own.
HIDE_LIBRARY = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(getattr(finder, "__module__", ""))]
from importlib.util import find_spec
assert find_spec("resnetkit") is None
"""

#: Trains for an epoch; prints the folder of the library.
TRAIN = (
    HIDE_LIBRARY
    + """
from ikomia.dataprocess.workflow import Workflow

training = Workflow()
train = training.add_task(name="train_resnet", auto_connect=True)
train.set_parameters({
    "dataset_folder": sys.argv[1], "input_size": 32, "use_pretrained": False, "feature_extract": False,
    "epochs": 1, "batch_size": 40, "tracking": "off",
})
training.run()
import resnetkit
print("library:", resnetkit.__file__)
"""
)

#: Classifies an image; prints the label.
CLASSIFY = (
    HIDE_LIBRARY
    + """
from ikomia.dataprocess.workflow import Workflow

classification = Workflow()
classify = classification.add_task(name="infer_resnet", auto_connect=True)
classify.set_parameters({"model_weight_file": sys.argv[1]})
classification.run_on(path=sys.argv[2])
print("read:", classify.get_predictions()[0].label)
"""
)

#: Adds a task; prints what the user then reads.
ADD_TASK = """
from ikomia.dataprocess.workflow import Workflow

for _ in range(2):
    try:
        Workflow().add_task(name=sys.argv[1])
    except RuntimeError as error:
        print("error:", error)
"""


def run_link_script(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(REPOSITORY / "scripts" / "link_plugins.py"), "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def plugin_folder(tmp_path):
    """The folder of plugins in an Ikomia folder that does not exist yet."""
    return tmp_path / "Ikomia" / "Plugins" / "Python"


def test_link_and_unlink(tmp_path, plugin_folder):
    for _ in range(2):
        assert run_link_script(tmp_path).returncode == 0
        assert {path.resolve() for path in plugin_folder.iterdir()} == {REPOSITORY / name for name in PLUGINS}
        for path in plugin_folder.iterdir():
            assert (path / "vendor" / "resnetkit").resolve() == REPOSITORY / "resnetkit"
    for _ in range(2):
        assert run_link_script(tmp_path, "--remove").returncode == 0
        assert list(plugin_folder.iterdir()) == []


@pytest.mark.parametrize("arguments", [(), ("--remove",)], ids=["link", "unlink"])
def test_another_plugin_of_the_same_name_is_left_alone(tmp_path, plugin_folder, arguments):
    other = plugin_folder / "infer_resnet"
    other.mkdir(parents=True)
    (other / "infer_resnet.py").write_text("other = True\n", encoding="utf-8")
    result = run_link_script(tmp_path, *arguments)
    assert result.returncode == 1
    assert "left alone" in result.stderr
    assert (other / "infer_resnet.py").read_text(encoding="utf-8") == "other = True\n"
    assert (plugin_folder / "train_resnet").exists() == (arguments == ())


def test_a_link_to_another_checkout_is_left_alone_and_a_broken_one_is_not(tmp_path, plugin_folder):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    plugin_folder.mkdir(parents=True)
    (plugin_folder / "infer_resnet").symlink_to(elsewhere)
    assert run_link_script(tmp_path).returncode == 1
    assert (plugin_folder / "infer_resnet").resolve() == elsewhere
    elsewhere.rmdir()
    assert run_link_script(tmp_path).returncode == 0
    assert (plugin_folder / "infer_resnet").resolve() == REPOSITORY / "infer_resnet"


def test_a_copy_where_links_cannot_be_made(tmp_path, plugin_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import link_plugins

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links on this file system")

    source, target = REPOSITORY / "infer_resnet", plugin_folder / "infer_resnet"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", refuse)
        for _ in range(2):
            assert "copied" in link_plugins.link_plugin(source, target)
            assert filecmp.cmp(source / "session.py", target / "session.py", shallow=False)
    assert link_plugins.link_plugin(source, target) == "linked" or target.is_symlink()
    assert link_plugins.remove_plugin(target, source) == "removed"
    assert (source / "session.py").is_file()


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The zip of each plugin, by its name."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-I", str(REPOSITORY / "scripts" / "make_dist.py"), "--output", str(folder)]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    return {name: next(folder.glob(f"{name}-*.zip")) for name in PLUGINS}


def unpack(archive_path: Path, home: Path, name: str) -> Path:
    """Install an archive as the hub does; return the plugin's folder."""
    folder = home / "Ikomia" / "Plugins" / "Python" / name
    with zipfile.ZipFile(archive_path) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", PLUGINS)
def test_an_archive_holds_plugin_and_library(archives, name):
    with zipfile.ZipFile(archives[name]) as archive:
        names = set(archive.namelist())
    assert {f"{name}.py", f"{name}_process.py", "requirements.txt", "icons/icon.png", "LICENSE"} <= names
    assert {"vendor/resnetkit/__init__.py", "vendor/resnetkit/weights/imagenet_classes.txt"} <= names
    assert "vendor/resnetkit/results/report_template.html" in names
    assert not [entry for entry in names if "__pycache__" in entry or entry.endswith((".safetensors", ".pth"))]
    # A direct sub-folder with this file makes the engine forget modules at a reload.
    assert not [entry for entry in names if entry.count("/") == 1 and entry.endswith("__init__.py")]
    assert archives[name].stat().st_size < 500_000


@pytest.mark.slow
def test_each_archive_works_alone_in_an_empty_ikomia_folder(archives, tmp_path, digits_folder, run_script):
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    home = tmp_path / "training"
    folder = unpack(archives["train_resnet"], home, "train_resnet")
    result = run_script(TRAIN, [str(digits_folder)], home=home, **settings)
    assert f"library: {folder / 'vendor' / 'resnetkit'}" in result.output
    run = home / "Ikomia" / "Models" / "train_resnet" / "latest"
    assert (run / "best.safetensors").is_file()

    home = tmp_path / "classification"
    unpack(archives["infer_resnet"], home, "infer_resnet")
    digit = next((digits_folder / "test" / "3").iterdir())
    result = run_script(CLASSIFY, [str(run), str(digit)], home=home, **settings)
    assert "read: " in result.output


def test_archives_of_two_versions_end_in_one_sentence(archives, tmp_path, run_script):
    home = tmp_path / "home"
    unpack(archives["infer_resnet"], home, "infer_resnet")
    folder = unpack(archives["train_resnet"], home, "train_resnet")
    for path in (folder / "library.py", folder / "vendor" / "resnetkit" / "__init__.py"):
        path.write_text(path.read_text(encoding="utf-8").replace(f'"{__version__}"', '"0.2.0"'), encoding="utf-8")
    code = HIDE_LIBRARY + "import infer_resnet.library\n" + ADD_TASK
    plugins = str(home / "Ikomia" / "Plugins" / "Python")
    result = run_script(code, ["train_resnet"], home=home, PYTHONPATH=plugins)
    assert result.output.count(f"train_resnet: version 0.2.0 needs resnetkit 0.2.0, found {__version__} in") == 2
    assert "restart Python" in result.output


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_without_the_library_says_what_to_install(name, tmp_path, run_script):
    home = tmp_path / "home"
    folder = home / "Ikomia" / "Plugins" / "Python" / name
    shutil.copytree(REPOSITORY / name, folder, ignore=shutil.ignore_patterns("vendor", "__pycache__"))
    result = run_script(HIDE_LIBRARY + ADD_TASK, [name], home=home, PYTHONPATH="")
    assert result.output.count(f"{name}: needs the library resnetkit {__version__}, which is not installed in") == 2
    assert "python -m pip install ." in result.output


def test_a_plugin_without_its_requirements_says_what_to_install(tmp_path, run_script):
    home = tmp_path / "home"
    link_plugins(home)
    hide = "import sys\nsys.modules['pydantic'] = None\n"
    result = run_script(hide + ADD_TASK, ["infer_resnet"], home=home)
    assert "infer_resnet: needs pydantic, which the Python in" in result.output
    assert (
        f"pip install -r {home / 'Ikomia' / 'Plugins' / 'Python' / 'infer_resnet' / 'requirements.txt'}"
        in result.output
    )


def test_the_library_survives_a_reload_of_its_plugins(archives, tmp_path, run_script):
    home = tmp_path / "home"
    folders = [unpack(archives[name], home, name) for name in PLUGINS]
    code = (
        HIDE_LIBRARY
        + f"""
from ikomia.dataprocess.registry import ik_registry

for name in {PLUGINS}:
    assert ik_registry.create_algorithm(name, public_hub=False) is not None
before = {{name: module for name, module in sys.modules.items() if name.startswith(("resnetkit", "numpy", "torch"))}}
for _ in range(3):
    for folder in {[str(folder) for folder in folders]}:
        ik_registry.load_python_algorithm(folder)
assert all(sys.modules.get(name) is module for name, module in before.items())
print("kept:", len(before))
"""
    )
    assert "kept: " in run_script(code, home=home, PYTHONPATH="").output


def test_the_two_plugins_look_for_the_library_in_the_same_way():
    sources = [(REPOSITORY / name / "library.py").read_text(encoding="utf-8") for name in PLUGINS]
    first, second = (re.sub(r"(?s)REQUIRED_MODULES = \(.*?\)", "", source, count=1) for source in sources)
    assert first == second
    for name, source in zip(PLUGINS, sources, strict=True):
        assert f'VERSION = "{__version__}"' in source
        modules = set(re.findall(r'^    "(\w+)",$', source, re.MULTILINE))
        required = {
            re.split(r"[<>=]", line)[0] for line in (REPOSITORY / name / "requirements.txt").read_text().split()
        }
        assert {PACKAGES.get(module, module) for module in modules} <= required


def test_pip_installs_library_plugins_and_command(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir"]
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "demo", "tests", "docs", "benchmarks", "soak", "vendor")
    shutil.copytree(REPOSITORY, source, ignore=ignored)
    subprocess.run([*command, str(tmp_path), str(source)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for package in ("resnetkit", *PLUGINS):
        kinds = {".py", ".txt", ".html", ".js", ".png"}
        tracked = {path for path in (source / package).rglob("*") if path.suffix in kinds}
        assert {path.relative_to(source).as_posix() for path in tracked} - names == set()
    version = [sys.executable, "-c", "import resnetkit; print(resnetkit.__version__, resnetkit.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(
        version, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.split() == [__version__, str(tmp_path / "site" / "resnetkit" / "__init__.py")]


def test_archives_are_the_same_bytes_each_time(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import make_dist

    plugin = tmp_path / "infer_resnet"
    shutil.copytree(REPOSITORY / "infer_resnet", plugin)
    (plugin / "__pycache__").mkdir(exist_ok=True)
    (plugin / "__pycache__" / "session.cpython-311.pyc").write_bytes(b"cache")
    (plugin / "weights.pth").write_bytes(b"weights")
    first = make_dist.pack(plugin, tmp_path / "first").read_bytes()
    for path in plugin.iterdir():
        path.touch()
    assert make_dist.pack(plugin, tmp_path / "second").read_bytes() == first
    assert b"weights.pth" not in first


@pytest.mark.parametrize("plugin", PLUGINS)
def test_each_plugin_carries_the_license(plugin):
    assert filecmp.cmp(REPOSITORY / "LICENSE", REPOSITORY / plugin / "LICENSE", shallow=False)


def test_the_completion_has_every_parameter_with_its_default(completion):
    for name in PLUGINS:
        task = ik_registry.create_algorithm(name, public_hub=False)
        arguments = inspect.signature(getattr(completion, name)).parameters
        assert {argument: each.default for argument, each in arguments.items()} == task.get_parameters()
