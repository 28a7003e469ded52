"""What a data set's folder or table comes to: the files of each class of each split, and how names are understood.

Names are compared and ordered by their UTF-8 bytes in Unicode's composed form, so that classes, order and split
come out the same on every file system.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resnetkit.sources.paths import PathList

SPLITS = ("train", "val", "test")

#: Files of each class of each split: {"train": {"cat": [...]}, "val": {}, "test": {}}; always these three splits.
ClassFiles = dict[str, dict[str, PathList]]

#: How people call their splits. "eval" is for validation, or for the test where another one is for validation;
#: "unlabelled" is what has no classes and takes no part.
_SPLIT_WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validate", "validation", "dev", "devel", "development"),
    "eval": ("eval", "evaluate", "evaluation", "holdout"),
    "test": ("test", "testing", "tst"),
    "unlabelled": ("pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled"),
}
_SPLIT_BY_WORD = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
#: Words beside them that tell nothing.
_FILLERS = ("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "pictures", "photos", "split", "folder")


class DatasetError(ValueError):
    """A data set that cannot be trained on."""


@dataclass
class SourceFiles:
    """What was found in a folder or table.

    Attributes:
        folder: That of the data set; of a table or shard the one it is in.
        splits: The files, by split and class.
        groups: What a file belongs to (a patient, a day), where a table says it, by its path as text.
        ignored: Files and folders that were left out.
        spellings: The names of each class as they are written in the source.
    """

    folder: Path
    splits: ClassFiles = field(default_factory=lambda: {split: {} for split in SPLITS})
    groups: dict[str, str] = field(default_factory=dict)
    ignored: list[Path] = field(default_factory=list)
    spellings: dict[str, set[str]] = field(default_factory=dict)

    def open_class(self, split: str, name: str) -> PathList:
        """Return the list of files of a class; its name loses the blanks around it, as in a file of class names."""
        written = compose(name)
        cleaned = written.strip()
        self.spellings.setdefault(cleaned, set()).add(written)
        return self.splits[split].setdefault(cleaned, PathList(self.folder))


def find_split(name: str) -> tuple[str, str] | None:
    """Tell which split a name means: `Training`, `seg_test`, `valid-images`, `train2017`.

    Returns:
        train, val, eval, test or unlabelled, and what else the name says, such as `seg`; None for any other name.
    """
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    splits, rest = set(), []
    for word in (word.lower() for word in words):
        split = _SPLIT_BY_WORD.get(word) or next(
            (_SPLIT_BY_WORD[stem] for filler in _FILLERS if (stem := word.removesuffix(filler)) in _SPLIT_BY_WORD), None
        )
        if split is not None:
            splits.add(split)
        elif word not in _FILLERS:
            rest.append(word)
    if splits == {"train", "val"}:  # as one split, to be learned from
        splits = {"train"}
    return (splits.pop(), " ".join(rest)) if len(splits) == 1 else None


def is_filler(name: str) -> bool:
    """Tell whether a folder's name says nothing but that there are images in it."""
    return name.lower() in _FILLERS


def compose(name: str) -> str:
    """Return a name in Unicode's composed form."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def get_order(name: str) -> bytes:
    """Return the bytes by which names are ordered; file names that are no UTF-8 have some, too."""
    return compose(name).encode("utf-8", "surrogateescape")


def enumerate_names(names: Sequence[str]) -> str:
    """Quote up to five names and count the others."""
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
