"""Run folders: new ones, full ones, and what `latest` means."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resnetkit.parameters.declaration import ParameterError
from resnetkit.training.run_folder import (
    OutputError,
    RunFolderLock,
    create_run_folder,
    prepare_output_folder,
    publish_latest,
    refresh_latest,
    remove_temporary_files,
)


def fill(folder: Path) -> None:
    (folder / "state.pt").write_bytes(b"state")


def make_run(output: Path, text: str) -> Path:
    folder = create_run_folder(output, "resnet18", fill)
    (folder / "best.safetensors").write_text(text, encoding="utf-8")
    return folder


def test_the_default_is_in_the_ikomia_folder(ikomia_root):
    assert prepare_output_folder("") == ikomia_root / "Models" / "train_resnet"


def test_a_run_folder_is_filled_before_it_is_seen(tmp_path):
    def check(folder: Path) -> None:
        assert folder.name.startswith(".")
        fill(folder)

    folder = create_run_folder(tmp_path, "resnet18", check)
    assert folder.name.endswith("_resnet18")
    assert [path.name for path in folder.iterdir()] == ["state.pt"]
    assert list(tmp_path.iterdir()) == [folder]


def test_nothing_is_left_where_filling_fails(tmp_path):
    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        create_run_folder(tmp_path, "resnet18", fail)
    assert list(tmp_path.iterdir()) == []


def test_folders_made_at_once_are_all_different(tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(create_run_folder(tmp_path, "resnet18", fill))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == len(made) == 8
    assert all((folder / "state.pt").is_file() for folder in made)


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"output folder '.*file/runs' cannot be written to .*'output_folder'"):
        prepare_output_folder(str(tmp_path / "file" / "runs"))


def refuse_links(*arguments: object, **settings: object) -> None:
    raise OSError("links are not to be had")


@pytest.mark.parametrize("has_links", [True, False], ids=["link", "copy"])
def test_latest_moves(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(Path, "symlink_to", refuse_links)
    for text in ("first", "second"):
        publish_latest(make_run(tmp_path, text))
        assert (tmp_path / "latest" / "best.safetensors").read_text(encoding="utf-8") == text
        assert (tmp_path / "latest").is_symlink() == has_links
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_a_copy_is_brought_up_to_date(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "symlink_to", refuse_links)
    folder = make_run(tmp_path, "first")
    publish_latest(folder)
    (folder / "report.html").write_text("page", encoding="utf-8")
    refresh_latest(folder)
    assert (tmp_path / "latest" / "report.html").is_file()


def test_links_and_copies_replace_each_other(tmp_path):
    publish_latest(make_run(tmp_path, "link"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "symlink_to", refuse_links)
        publish_latest(make_run(tmp_path, "copy"))
    assert (tmp_path / "latest" / "best.safetensors").read_text(encoding="utf-8") == "copy"
    publish_latest(make_run(tmp_path, "link again"))
    assert (tmp_path / "latest").is_symlink()


def test_something_else_of_that_name_is_not_touched(tmp_path):
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(OutputError, match="is no run folder"):
        prepare_output_folder(str(tmp_path))
    assert (tmp_path / "latest" / "thesis.txt").is_file()


def fill_like_a_run(folder: Path) -> None:
    for name in ("best.safetensors", "state.pt", "thesis.txt"):
        (folder / name).write_text("years of work", encoding="utf-8")


@pytest.mark.parametrize("has_links", [True, False], ids=["link", "copy"])
def test_a_users_folder_called_latest_is_never_removed(tmp_path, monkeypatch, caplog, has_links):
    if not has_links:
        monkeypatch.setattr(Path, "symlink_to", refuse_links)
    latest = tmp_path / "latest"
    latest.mkdir()
    fill_like_a_run(latest)
    with pytest.raises(OutputError, match=r"'.*latest' is no run folder of train_resnet, .*; rename it"):
        prepare_output_folder(str(tmp_path))
    folder = make_run(tmp_path, "new")
    publish_latest(folder)
    refresh_latest(folder)
    assert (latest / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    assert "is no run folder of train_resnet" in caplog.text


def test_a_users_link_called_latest_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "latest").symlink_to("mine")
    with pytest.raises(OutputError, match="is a link to 'mine'"):
        prepare_output_folder(str(tmp_path))
    publish_latest(make_run(tmp_path, "new"))
    assert (tmp_path / "latest").readlink() == Path("mine")


def test_what_a_user_puts_into_our_copy_is_not_removed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Path, "symlink_to", refuse_links)
    publish_latest(make_run(tmp_path, "first"))
    (tmp_path / "latest" / "notes.txt").write_text("mine", encoding="utf-8")
    publish_latest(make_run(tmp_path, "second"))
    assert (tmp_path / "latest" / "notes.txt").is_file()
    assert "holds 'notes.txt', too" in caplog.text


def test_a_run_folder_is_trained_in_by_one_process(tmp_path):
    folder = make_run(tmp_path, "run")
    lock = RunFolderLock(folder)
    code = """
import sys
from pathlib import Path
from resnetkit.training.run_folder import RunFolderLock
RunFolderLock(Path(sys.argv[1]))
print("got it", flush=True)
if sys.argv[2] == "die":
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with pytest.raises(ParameterError, match=rf"run folder '.*' is in use by process {os.getpid()} on .*; wait"):
        RunFolderLock(folder)
    lock.close()
    assert sorted(path.name for path in folder.iterdir()) == ["best.safetensors", "state.pt"]
    command = [sys.executable, "-c", code, str(folder), "die"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.split() == ["got", "it"], ended.stderr
    RunFolderLock(folder).close()  # that of a dead process does not hold


def test_what_a_killed_run_was_writing_is_removed_and_nothing_else(tmp_path):
    kept = [".log", ".mine.tmp.txt", ".tmp-mine", "state.pt"]
    for name in [
        *kept,
        ".state.0123abcd.tmp.pt",
        ".best.89abcdef.tmp.safetensors",
        ".classes.4567cdef.tmp",
        ".tmpAYV0EI",
    ]:
        (tmp_path / name).write_bytes(b"half")
    remove_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
