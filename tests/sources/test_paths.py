"""Paths as text in one piece: they come back as they went in, whatever the names and whatever kind of path."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from resnetkit.machine.files import Address
from resnetkit.sources.paths import PathList

NAMES = (
    "cat/17.jpg",
    "17.jpg",
    "cat/a b\n\tc.png",
    "Köln/Ärger 日本.png",
    "no text \udcff\udc80.png",
    "half a sign \ud83d.png",
    "shards/train-0001.tar/cat/17.jpg",
    "photos.parquet/17",
    "../beside/1.png",
    "a/../b/2.png",
    "C:/x.png",
    "long/" + 50 * "deep/" + 250 * "x" + ".jpg",
)


@pytest.mark.parametrize(
    "folder",
    [Path("/data set/fruit"), Path("relative/fruit"), Path(), Path("/"), Address("s3://bucket/fruit")],
    ids=str,
)
def test_paths_come_back_as_they_went_in(folder: Path) -> None:
    paths = [folder / name for name in NAMES]
    kept = PathList(folder, paths)
    assert list(kept) == paths
    assert [kept[index] for index in range(len(paths))] == paths
    assert [type(path) for path in kept] == [type(path) for path in paths]
    assert [str(path) for path in kept] == list(kept.write()) == [str(path) for path in paths]
    assert kept == paths
    assert kept != paths[1:]
    assert kept[-1] == paths[-1]
    assert kept[1:-1:2] == paths[1:-1:2]
    assert kept.select([3, 0, 3]) == [paths[3], paths[0], paths[3]]
    assert paths[4] in kept
    assert kept.absolute() == [path.absolute() for path in paths]
    assert pickle.loads(pickle.dumps(kept)) == paths
    with pytest.raises(IndexError):
        kept[len(paths)]


def test_paths_elsewhere_are_kept_whole() -> None:
    paths = [Path("/data/1.png"), Path("/elsewhere/1.png"), Path("/data set/1.png"), Path("/data")]
    assert list(PathList(Path("/data"), paths)) == paths
    assert list(PathList(Path("here"), paths)) == paths
    with pytest.raises(ValueError, match=r"'there/1\.png' is not below 'here'"):
        PathList(Path("here"), [Path("there/1.png")])


def test_lists_of_other_folders_are_joined() -> None:
    kept = PathList(Path("/data"), [Path("/data/1.png")])
    kept.extend(PathList.of_names(Path("/data/cat"), ["a.png", "no text \udcff.png"]))
    kept.extend(PathList(Path("/elsewhere"), [Path("/elsewhere/b.png"), Path("/data/2.png")]))
    kept.append(Path("/data/cat/3.png"))
    names = ["1.png", "cat/a.png", "cat/no text \udcff.png", "/elsewhere/b.png", "2.png", "cat/3.png"]
    assert list(kept.write_below()) == names
    assert kept == [Path("/data") / name for name in names]


def test_a_path_takes_little_more_than_its_text() -> None:
    kept = PathList.of_names(Path("/data"), (f"class {number % 10}/{number:08}.png" for number in range(10_000)))
    texts = kept._texts
    size = sys.getsizeof(texts._content) + sys.getsizeof(texts._bounds)
    assert size < 1.2 * 10_000 * (len("class 1/00000000.png") + 8)
    assert len(pickle.dumps(kept)) < 10_000 * 40
