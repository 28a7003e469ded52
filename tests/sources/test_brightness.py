"""One brightness range for a data set, measured once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetkit.machine.progress import Progress
from resnetkit.sources.brightness import find_value_range
from resnetkit.sources.paths import PathList


def write(path: Path, values: np.ndarray, time_s: int = 1_700_000_000) -> None:
    Image.fromarray(values).save(path)
    os.utime(path, (time_s, time_s))


def test_what_was_measured_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "images"
    folder.mkdir()
    paths = PathList(folder, [folder / f"{number}.png" for number in range(4)])
    for path in paths[:3]:
        write(path, np.full((8, 8), 3000, np.uint16))
    write(paths[3], np.zeros((8, 8), np.uint8))
    assert find_value_range(folder, paths, 500, Progress()) == (0, 4095)
    for path in paths:  # not looked into again: it would be no image
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert find_value_range(folder, paths, 500, Progress()) == (0, 4095)
    write(paths[0], np.full((8, 8), 60000, np.uint16), 1_700_000_001)
    write(paths[1], np.full((8, 8), 60000, np.uint16), 1_700_000_001)
    write(paths[2], np.full((8, 8), 60000, np.uint16), 1_700_000_001)
    assert find_value_range(folder, paths, 500, Progress()) == (0, 65535)
