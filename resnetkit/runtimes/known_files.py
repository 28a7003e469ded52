"""What was found out about files, kept for the next process as long as nothing shows that they were changed.

To know that a weights file is the one whose network was compiled takes its SHA-256, and that takes as long as starting
the network. A file's stamp takes a hundredth of it: device, inode, size, and the times of its last change. Whoever
writes into a file may set back its time of modification, but not that of its change (ctime), where the file system is
one of Linux's own. On others, networks and Windows among them, nothing is kept and all is found out anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resnetkit.machine.files import atomic_path, get_ikomia_root, open_regular, read_file
from resnetkit.machine.speaking import get_logger

logger = get_logger()

#: The number is raised when what is kept, or what it means, changes.
_NAME = "files-1.json"
#: Their inodes are lasting, and every change of content is one of ctime, by the clock of this machine. On FAT or
#: exFAT, squashfs and most that FUSE mounts, ctime is made from the time of modification; on tmpfs, what is written by
#: way of mapped memory leaves no trace; an overlay may lie over any of them; a server has a clock of its own.
_FILE_SYSTEMS = frozenset({"ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs"})
#: A change in the same tick of the clock shows in no stamp, and one by way of mapped memory shows when Linux next
#: writes the page to the disk, which is after 35 seconds at most. What was changed before that is known for certain.
_SETTLED_S = 60
_MAX_BYTES = 16 << 20
_MAX_FILES = 200


class KnownFiles:
    """What is known of files: in one small file, which any number of processes may share.

    Args:
        folder: Where it is kept; that it cannot be read or written costs time alone.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME

    def recall(self, what: str, paths: Sequence[Path], find_out: Callable[[], Any]) -> Any:
        """Return a fact about the content of files, found out only if they may have changed since it was.

        Args:
            what: Names the fact.
            paths: The files, absolute.
            find_out: Reads them, and returns a JSON-able value.
        """
        stamps = [_read_stamp(path) for path in paths]
        is_settled = None not in stamps
        key = json.dumps([what, *map(str, paths)])
        if is_settled:
            kept_stamps, fact = self._read().get(key, (None, None))
            if kept_stamps == stamps:
                return fact
        fact = find_out()
        if is_settled and [_read_stamp(path) for path in paths] == stamps:
            self._write(key, [stamps, fact])
        return fact

    def _read(self) -> dict[str, Any]:
        """Return stamps and fact by key; nothing where they cannot be read, or are damaged."""
        try:
            content = read_file(self._path, _MAX_BYTES)
        except OSError:
            return {}
        digest, _, text = content.partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != digest:
            return {}
        return dict(json.loads(text))

    def _write(self, key: str, entry: Any) -> None:
        """Add an entry, as the last one. Of two processes that write at once, one finds its fact out again."""
        entries = self._read()
        entries.pop(key, None)
        entries = dict([*entries.items(), (key, entry)][-_MAX_FILES:])
        text = json.dumps(entries).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        except OSError as error:  # The cache of networks, in the same folder, says it in the log.
            logger.debug("'%s' cannot be written (%s)", self._path, error)


def get_cache_folder() -> Path:
    """Return where compiled networks, and what is known of weights files, are kept between processes."""
    return get_ikomia_root() / "Cache" / "infer_resnet"


def _read_stamp(path: Path) -> list[int] | None:
    """Return what changes with every change of a file; None where it might not, or not yet."""
    try:
        with open_regular(path) as stream:
            status = os.fstat(stream.fileno())
            is_kept = _find_file_system(stream.fileno()) in _FILE_SYSTEMS
    except OSError:
        return None
    if not is_kept or time.time_ns() - status.st_ctime_ns < _SETTLED_S * 10**9:
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _find_file_system(descriptor: int) -> str:
    """Return the kind of file system that an open file is on, as Linux names it.

    Raises:
        OSError: This is not Linux, or it does not say.
    """
    mount = re.search(r"^mnt_id:\s*(\d+)$", Path(f"/proc/self/fdinfo/{descriptor}").read_text("utf-8"), re.MULTILINE)
    mounts = Path("/proc/self/mountinfo").read_bytes().decode("utf-8", "replace")
    found = mount and re.search(rf"^{mount[1]} .* - (\S+) ", mounts, re.MULTILINE)
    return found[1] if found else ""
