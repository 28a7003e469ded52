"""How the plugins get into an Ikomia folder: links, second names, and the archives that the hub unpacks."""

from __future__ import annotations

import filecmp
import inspect
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ikomia.dataprocess.registry import ik_registry

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGINS = ("infer_resnet", "train_resnet")

#: Trains for an epoch, then classifies with the result; prints the label.
TRAIN_AND_CLASSIFY = """
import sys
from ikomia.dataprocess.workflow import Workflow

training = Workflow()
train = training.add_task(name="train_resnet", auto_connect=True)
train.set_parameters({
    "dataset_folder": sys.argv[1], "input_size": 32, "use_pretrained": False, "feature_extract": False,
    "epochs": 1, "batch_size": 40, "tracking": "off",
})
training.run()

classification = Workflow()
classify = classification.add_task(name="infer_resnet", auto_connect=True)
classify.set_parameters({"model_weight_file": train.get_checkpoint()})
classification.run_on(path=sys.argv[2])
print("read:", classify.get_predictions()[0].label)
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
            assert filecmp.cmp(source / "schema.py", target / "schema.py", shallow=False)
    assert link_plugins.link_plugin(source, target) == "linked" or target.is_symlink()
    assert link_plugins.remove_plugin(target, source) == "removed"
    assert (source / "schema.py").is_file()


@pytest.mark.slow
def test_the_archives_work_in_an_empty_ikomia_folder(tmp_path, digits_folder, run_script):
    command = [sys.executable, "-I", str(REPOSITORY / "scripts" / "make_dist.py"), "--output", str(tmp_path / "dist")]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    home = tmp_path / "home"
    for name in PLUGINS:
        (archive_path,) = (tmp_path / "dist").glob(f"{name}-*.zip")
        with zipfile.ZipFile(archive_path) as archive:
            names = set(archive.namelist())
            archive.extractall(home / "Ikomia" / "Plugins" / "Python" / name)
        assert {f"{name}.py", f"{name}_process.py", "requirements.txt", "icons/icon.png", "LICENSE"} <= names
        assert not [entry for entry in names if "__pycache__" in entry or entry.endswith((".safetensors", ".pth"))]
        assert archive_path.stat().st_size < 300_000
    digit = next((digits_folder / "test" / "3").iterdir())
    result = run_script(TRAIN_AND_CLASSIFY, [str(digits_folder), str(digit)], home=home, OMP_NUM_THREADS="1")
    assert "read: " in result.output
    runs = home / "Ikomia" / "Models" / "train_resnet"
    assert (runs / "latest" / "best.safetensors").is_file()


def test_archives_are_the_same_bytes_each_time(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import make_dist

    plugin = tmp_path / "infer_resnet"
    shutil.copytree(REPOSITORY / "infer_resnet", plugin)
    (plugin / "__pycache__").mkdir(exist_ok=True)
    (plugin / "__pycache__" / "schema.cpython-311.pyc").write_bytes(b"cache")
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


def test_train_without_infer_says_what_to_do(tmp_path, run_script):
    home = tmp_path / "home"
    folder = home / "Ikomia" / "Plugins" / "Python"
    folder.mkdir(parents=True)
    (folder / "train_resnet").symlink_to(REPOSITORY / "train_resnet")
    code = "from ikomia.dataprocess.workflow import Workflow\nWorkflow().add_task(name='train_resnet')\n"
    result = run_script(code, home=home, is_failure_expected=True)
    assert result.exit_code != 0
    assert "infer_resnet" in result.output
    assert "install" in result.output.lower()
