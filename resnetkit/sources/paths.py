"""Paths of image files by the million: as text, and as objects only when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from resnetkit.machine.text import Texts


class PathList(Sequence[Path]):
    """Paths in or below a folder, in a few dozen bytes each; a `Path` is made whenever one is asked for.

    Args:
        folder: What they are below. Of a path that lies elsewhere, which must be absolute, all is kept.
        paths: To begin with.
    """

    def __init__(self, folder: Path, paths: Iterable[Path] = ()) -> None:
        self.folder = folder
        self._start = str(folder / "x")[:-1]  # of all paths below it; nothing where it is the current one
        self._texts = Texts()
        self.extend(paths)

    @classmethod
    def of_names(cls, folder: Path, names: Iterable[str]) -> PathList:
        """Return the paths of files in a folder."""
        paths = cls(folder)
        paths._texts.extend(names)
        return paths

    def append(self, path: Path) -> None:
        """Add a path at the end."""
        self.extend((path,))

    def extend(self, paths: Iterable[Path]) -> None:
        """Add paths at the end.

        Raises:
            ValueError: One is neither below the folder nor absolute.
        """
        self._texts.extend(map(self._shorten, paths.write() if isinstance(paths, PathList) else map(str, paths)))

    def select(self, indices: Iterable[int]) -> PathList:
        """Return the paths at these positions, counted from 0."""
        return PathList.of_names(self.folder, (self._texts[index] for index in indices))

    def absolute(self) -> PathList:
        """Return the same paths below the absolute folder; what is kept of them is shared."""
        other = PathList(self.folder.absolute())
        other._texts = self._texts
        return other

    def write(self) -> Iterator[str]:
        """Yield each path as text."""
        for text in self._texts:
            yield text if _is_absolute(text) else self._start + text

    def write_below(self) -> Iterator[str]:
        """Yield each path as text: from the folder on where it is below it."""
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> PathList: ...
    def __getitem__(self, index: int | slice) -> Path | PathList:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return self.folder / self._texts[index]

    def __iter__(self) -> Iterator[Path]:
        return map(self.folder.joinpath, self._texts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} paths below '{self.folder}'>"

    def _shorten(self, text: str) -> str:
        if not text.startswith(self._start) and not _is_absolute(text):
            raise ValueError(f"'{text}' is not below '{self.folder}'")
        return text.removeprefix(self._start)


def _is_absolute(text: str) -> bool:
    return os.path.isabs(text)  # noqa: PTH117 - of strings, for millions of files
