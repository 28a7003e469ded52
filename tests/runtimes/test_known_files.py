"""What is known of files: nothing of one that may have been changed since, wherever it lies, whatever its times say."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from resnetkit.machine.files import hash_files
from resnetkit.runtimes import known_files
from resnetkit.runtimes.known_files import KnownFiles

CONTENT, OTHER = b"some weights", b"other weight"


@pytest.fixture
def is_settled(monkeypatch):
    """Let every file seem to be on a local file system of Linux, and to have been changed long ago."""
    monkeypatch.setattr(known_files, "_find_file_system", lambda _: "ext4")
    monkeypatch.setattr(known_files, "_SETTLED_S", 0)


@pytest.fixture
def paths(tmp_path):
    """Two files that belong together."""
    made = (tmp_path / "model.xml", tmp_path / "model.bin")
    for path in made:
        path.write_bytes(CONTENT)
    time.sleep(0.02)  # more than a tick of the file system's clock
    return made


@pytest.fixture
def find_hash(tmp_path, paths):
    """`find_hash()`: what a new process finds the hash of both files to be, and whether it had to read them."""

    def find(what: str = "SHA-256") -> tuple[str, bool]:
        reads = []

        def read() -> str:
            reads.append(1)
            return hash_files(paths)

        return KnownFiles(tmp_path / "cache").recall(what, paths, read), bool(reads)

    return find


def rewrite(path: Path) -> None:
    """Change the content of a file in place, and neither its size nor its time of modification."""
    times = path.stat()
    path.write_bytes(OTHER)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(path: Path) -> None:
    """Put another file in the place of one, as a program does that writes whole files or none."""
    new, times = path.with_name("new"), path.stat()
    new.write_bytes(OTHER)
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.replace(path)


def retarget(path: Path) -> None:
    """Let a link of this name lead to another file of the same size and time."""
    shutil.copy2(path, path.with_name("target"))
    rewrite(path.with_name("target"))
    path.unlink()
    path.symlink_to("target")


def test_what_did_not_change_is_not_read_again(is_settled, find_hash, paths):
    expected = hash_files(paths)
    assert find_hash() == (expected, True)
    assert find_hash() == (expected, False)
    assert find_hash("another fact") == (expected, True)


@pytest.mark.parametrize("change", [rewrite, replace, retarget, lambda path: path.write_bytes(OTHER * 2)])
@pytest.mark.parametrize("number", [0, 1], ids=["the file", "the one beside it"])
def test_any_change_is_seen(is_settled, find_hash, paths, change, number):
    before, _ = find_hash()
    change(paths[number])
    time.sleep(0.02)
    found, was_read = find_hash()
    assert was_read
    assert found == hash_files(paths) != before
    assert find_hash() == (found, False)


def test_a_file_that_is_gone_is_no_known_one(is_settled, find_hash, paths):
    find_hash()
    paths[1].unlink()
    with pytest.raises(FileNotFoundError):
        find_hash()


def test_what_is_changed_while_it_is_read_is_not_kept(is_settled, tmp_path, paths):
    def read_and_change():
        found = hash_files(paths)
        rewrite(paths[1])
        return found

    known = KnownFiles(tmp_path / "cache")
    known.recall("SHA-256", paths, read_and_change)
    assert known.recall("SHA-256", paths, lambda: "read anew") == "read anew"


def test_what_was_changed_a_moment_ago_is_not_kept(monkeypatch, find_hash, paths):
    """A further change in the same tick of the clock would not show."""
    monkeypatch.setattr(known_files, "_find_file_system", lambda _: "ext4")
    now = time.time_ns()
    for seconds, was_read in ((0, True), (30, True), (70, True), (70, False), (-3600, True), (3600, False)):
        monkeypatch.setattr(time, "time_ns", lambda seconds=seconds: now + seconds * 10**9)
        assert find_hash()[1] == was_read, f"{seconds} s later"


def say_nothing(_descriptor: int) -> str:
    raise FileNotFoundError("/proc")


@pytest.mark.parametrize(
    "find_file_system",
    [say_nothing, *(lambda _, kind=kind: kind for kind in ("vfat", "exfat", "fuse.sshfs", "9p", "nfs4", "tmpfs", ""))],
    ids=["Windows", "vfat", "exfat", "sshfs", "9p", "nfs4", "tmpfs", "unknown"],
)
def test_elsewhere_than_on_linux_own_file_systems_all_is_read_each_time(
    is_settled, monkeypatch, find_hash, tmp_path, find_file_system
):
    monkeypatch.setattr(known_files, "_find_file_system", find_file_system)
    for _ in range(2):
        assert find_hash()[1]
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif("sys.platform != 'linux'")
def test_the_kind_of_file_system_is_what_df_says(tmp_path):
    for path in (tmp_path / "file", Path("/proc/self/status"), Path("/dev/shm/resnetkit-test")):
        if not path.exists():
            path.touch()
        command = ["df", "--output=fstype", path]
        kind = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[-1]
        with path.open("rb") as stream:
            assert known_files._find_file_system(stream.fileno()) == kind
        if path.parent == Path("/dev/shm"):
            path.unlink()


DAMAGES = {
    "empty": lambda content: content[:0],
    "cut off": lambda content: content[: len(content) // 2],
    "one byte": lambda content: content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "no hash": lambda content: content.partition(b"\n")[2],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_knowledge_is_none_and_is_replaced(is_settled, find_hash, tmp_path, damage):
    expected, _ = find_hash()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert find_hash() == (expected, True)
    assert find_hash() == (expected, False)


def test_another_version_has_a_file_of_its_own(is_settled, monkeypatch, find_hash, tmp_path):
    find_hash()
    monkeypatch.setattr(known_files, "_NAME", "files-2.json")
    assert find_hash()[1]
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("kind", ["a file as folder", "a folder as file", "a pipe"])
def test_where_nothing_can_be_kept_all_is_read_each_time(is_settled, find_hash, tmp_path, caplog, kind):
    folder = tmp_path / "cache"
    if kind == "a file as folder":
        folder.write_text("in the way")
    elif kind == "a folder as file":
        (folder / known_files._NAME).mkdir(parents=True)
    else:
        folder.mkdir()
        os.mkfifo(folder / known_files._NAME)
    assert find_hash()[1]
    assert find_hash()[1] == (kind != "a pipe")  # which is replaced
    assert not caplog.records  # the networks, kept in the same folder, have their line


def test_what_was_found_out_first_is_forgotten_first(is_settled, monkeypatch, tmp_path, paths):
    monkeypatch.setattr(known_files, "_MAX_FILES", 3)
    known = KnownFiles(tmp_path / "cache")
    for what in "abcd":
        known.recall(what, paths, lambda: "found")
    assert [known.recall(what, paths, lambda: "anew") for what in "bcd"] == ["found"] * 3
    assert known.recall("a", paths, lambda: "anew") == "anew"
