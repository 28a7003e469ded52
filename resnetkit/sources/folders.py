"""Folders of images: what the sub-folders of a data set mean, and which files and folders are no part of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from resnetkit.images.reading import IMAGE_SUFFIXES, MISSING_PACKAGES
from resnetkit.machine.speaking import get_logger
from resnetkit.sources.names import (
    SPLITS,
    DatasetError,
    SourceFiles,
    compose,
    enumerate_names,
    find_split,
    get_order,
    is_filler,
)
from resnetkit.sources.paths import PathList

logger = get_logger()

#: What systems, file servers and programs put into anybody's folders; compared in lower case. Names that begin with a
#: dot are left out anyhow; those listed here without a warning.
_SYSTEM_NAMES = frozenset(
    {
        "@eadir", "@tmp", "#recycle", "#snapshot", "~snapshot", "@recycle", "@recently-snapshot", "lost+found",
        "lost.dir", "$recycle.bin", "recycler", "system volume information", "found.000", "network trash folder",
        "temporary items", "__pycache__", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "node_modules",
        "mlruns", "mlartifacts", "wandb", "lightning_logs", ".ipynb_checkpoints", ".cache", ".git", ".svn", ".trash",
        ".thumbnails", ".thumbs", ".@__thumb", ".ds_store", ".appledouble", ".spotlight-v100", ".fseventsd",
        ".trashes", ".temporaryitems", ".documentrevisions-v100", ".venv",
    }
)  # fmt: skip
#: A folder that holds one of these was written by training or evaluation.
_OUTPUT_FILES = frozenset({"state.pt", "best.safetensors", "data_report.json"})
#: Kinds of images that are counted when they are left out, because they are not read.
_OTHER_IMAGE_SUFFIXES = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".dcm", ".dicom", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf",
    ".rw2", ".orf", ".raw", ".psd", ".svg", ".eps", ".pdf", ".exr", ".hdr", ".tga", ".ico", ".nii", ".npy", ".mat",
)  # fmt: skip

#: A split, the name of a class as it is written, and the folder of its images.
_Placed = list[tuple[str, str, "Folder"]]


class Folder:
    """One folder, listed once when it is first looked into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @property
    def folders(self) -> list[Folder]:
        """The folders in it, ordered by their names, without those that a training wrote."""
        return self._divided[0]

    @property
    def outputs(self) -> list[Folder]:
        """The folders in it that a training wrote."""
        return self._divided[1]

    @property
    def images(self) -> PathList:
        """The image files in it, ordered by their names."""
        return self._listing[1]

    @property
    def files(self) -> list[Path]:
        """The files in it that are no images by their names."""
        return self._listing[2]

    @property
    def left_out(self) -> list[Path]:
        """What in it is no part of a data set: hidden, of the system, or written by a training."""
        return [*self._listing[3], *(folder.path for folder in self.outputs)]

    @property
    def is_output(self) -> bool:
        """Whether a training, an evaluation or the tracking store wrote it."""
        try:
            names = {path.name for path in self.files}
        except DatasetError:  # cannot be read: an error where it is needed, not here
            return False
        if names & _OUTPUT_FILES or {"metrics.json", "report.html"} <= names:
            return True
        return "meta.yaml" in names and _is_tracked(self.path / "meta.yaml")

    @cached_property
    def has_images(self) -> bool:
        """Whether there is an image in it or below it."""
        return any(folder.images for folder in self.walk())

    @property
    def is_nested(self) -> bool:
        """Whether it holds folders of images and no image itself."""
        return not self.images and any(folder.has_images for folder in self.folders)

    @property
    def inner_names(self) -> set[str]:
        """The names of the folders in it that have images."""
        return {_clean(folder) for folder in self.folders if folder.has_images}

    def walk(self) -> Iterator[Folder]:
        """Yield it and all folders below it, each once, however it is linked."""
        visited = set()
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            real_path = os.path.realpath(folder.path)
            if real_path not in visited:
                visited.add(real_path)
                yield folder
                waiting.extend(reversed(folder.folders))

    @cached_property
    def _divided(self) -> tuple[list[Folder], list[Folder]]:
        kept: list[Folder] = []
        outputs: list[Folder] = []
        for folder in self._listing[0]:
            (outputs if folder.is_output else kept).append(folder)
        return kept, outputs

    @cached_property
    def _listing(self) -> tuple[list[Folder], PathList, list[Path], list[Path]]:
        """Folders, images, other files and what is hidden, in an order that does not depend on the file system."""
        try:
            with os.scandir(self.path) as entries:
                found = {entry.name: _is_folder(entry) for entry in entries}
        except OSError as error:
            raise DatasetError(f"the folder '{self.path}' cannot be read ({error.strerror})") from error
        folders: list[Folder] = []
        images: list[str] = []
        files: list[Path] = []
        hidden: list[Path] = []
        for name in sorted(found, key=get_order):
            if name.startswith((".", "__MACOSX")) or name.lower() in _SYSTEM_NAMES:
                hidden.append(self.path / name)
            elif found[name]:
                folders.append(Folder(self.path / name))
            elif name.lower().endswith(IMAGE_SUFFIXES):
                images.append(name)
            else:
                files.append(self.path / name)
        return folders, PathList.of_names(self.path, images), files, hidden


def read_folder(source: Path, output_folder: Path | None = None) -> SourceFiles:
    """Read `train/<class>/` with `val/` and `test/` beside `train/`, or `<class>/`.

    Names of splits are understood as `find_split` does. All may lie in one more folder, or in several that each have
    the splits; `<class>/train/` with `<class>/test/` is understood, too.

    Args:
        source: The folder.
        output_folder: Where training writes; where that is in the data set, it is no class.

    Raises:
        DatasetError: There is no class folder, or it cannot be told which folders are classes and which are splits.
    """
    root = Folder(source)
    found = SourceFiles(source)
    for split, name, folder in _find_classes(root, output_folder, found):
        if _is_for_output(folder, output_folder):
            found.ignored.append(folder.path)
            continue
        images = found.open_class(split, name)
        for part in folder.walk():
            images.extend(part.images)
            found.ignored += [*part.files, *part.left_out]
    if not found.splits["train"]:
        name = source.name or str(source)
        raise DatasetError(
            f"'{source}/' has no class folders; expected {name}/train/<class>/*.jpg or {name}/<class>/*.jpg."
        )
    _warn_of_kinds(found.ignored)
    return found


def _find_classes(folder: Folder, output_folder: Path | None, found: SourceFiles) -> _Placed:
    """Tell what the sub-folders of a folder mean.

    Raises:
        DatasetError: They could be classes or splits; the message says what was found.
    """
    _note_strays(folder, folder.images, found)
    folders = [child for child in folder.folders if not _is_for_output(child, output_folder)]
    found.ignored += [child.path for child in folder.folders if child not in folders]
    splits = _find_splits(folder, folders)
    if splits is not None:
        for child in folders:
            if child not in splits.values() and child.has_images:
                logger.warning("left out the folder '%s', which is beside the splits and none of them", child.path)
                found.ignored.append(child.path)
        return _place_splits(splits, found)
    filled = [child for child in folders if child.has_images]
    if len(folders) == 1 and folders[0].is_nested:  # one more folder around everything
        return _find_classes(folders[0], output_folder, found)
    if len(filled) > 1 and all(child.is_nested for child in filled):
        placed = _place_parts(filled, found)
        if placed is not None:
            return placed
        _refuse_same_folders(folder, filled)
    return _place_plain(folder, folders, found)


def _find_splits(folder: Folder, folders: Sequence[Folder]) -> dict[str, Folder] | None:
    """Return the folder of each split; None where the sub-folders are no splits, or not of training images.

    A folder `train` beside other folders than those of splits is a class of that name, as in trains and cars.
    """
    named = _find_named(folders)
    trains = [child for child, split in named.items() if split == "train"]
    others = [child for child in folders if child not in named and child.has_images]
    if not named or (not trains and others):
        return None
    if not trains:
        names = enumerate_names([child.name for child in named])
        raise DatasetError(f"'{folder.path}' has {names} but no folder 'train'; expected one")
    if len(set(named.values())) == 1 and others:
        if len(others) == 1 and others[0].images and all(child.is_nested for child in trains):
            raise DatasetError(
                f"'{folder.path}' has '{trains[0].name}' with folders of images "
                f"({enumerate_names(sorted(trains[0].inner_names))}) and '{others[0].name}' with images; expected "
                "train/<class>/ with nothing but val/<class>/ and test/<class>/ beside it, or <class>/ folders only"
            )
        return None
    return _assign_splits(folder, named)


def _find_named(folders: Sequence[Folder]) -> dict[Folder, str]:
    """Return the folders that are called as splits are, with their splits.

    A name that says more (`seg_test`, but also "test tube") counts beside that of another split, where both say the
    same more or one of them holds folders of images.
    """
    named = {child: meaning for child in folders if (meaning := find_split(child.name)) is not None}
    return {
        child: split
        for child, (split, rest) in named.items()
        if not rest
        or any(
            other_split != split and (other_rest == rest or child.is_nested or other.is_nested)
            for other, (other_split, other_rest) in named.items()
        )
    }


def _assign_splits(folder: Folder, named: Mapping[Folder, str]) -> dict[str, Folder]:
    """Return the one folder of each split; an `eval` is for validation unless something else is.

    Raises:
        DatasetError: Two folders are for the same split.
    """
    by_split: dict[str, Folder] = {}
    for child, meaning in sorted(named.items(), key=lambda item: item[1] == "eval"):
        split = meaning
        if split == "eval":
            split = "test" if "val" in by_split and "test" not in by_split else "val"
        if split in by_split:
            raise DatasetError(
                f"'{folder.path}' has both '{by_split[split].name}' and '{child.name}'; expected one {split} split"
            )
        by_split[split] = child
    return by_split


def _place_splits(splits: Mapping[str, Folder], found: SourceFiles) -> _Placed:
    """Place the class folders of each split; pictures that lie in a split without class folders are left out."""
    train = _unwrap(splits["train"], "train", set())
    classes = {_clean(folder) for folder in train.folders}
    placed: _Placed = [("train", child.name, child) for child in train.folders]
    _note_strays(train, [*train.images, *train.files], found)
    for split in ("val", "test", "unlabelled"):
        if split not in splits:
            continue
        folder = _unwrap(splits[split], split, classes)
        if split == "unlabelled" or (folder.images and not any(child.has_images for child in folder.folders)):
            logger.warning("the images in '%s' have no classes; they are unlabelled and take no part", folder.path)
            found.ignored.append(folder.path)
            continue
        _note_strays(folder, [*folder.images, *folder.files], found)
        placed += [(split, child.name, child) for child in folder.folders]
    return placed


def _unwrap(folder: Folder, split: str, classes: set[str]) -> Folder:
    """Return what holds the classes of a split: its folder, or one in it as in `seg_train/seg_train/<class>/`."""
    while len(folder.folders) == 1 and not folder.images:
        inner = folder.folders[0]
        meaning = find_split(inner.name)
        is_same_split = meaning is not None and meaning[0] == split
        if _clean(inner) in classes or not (is_same_split or is_filler(inner.name) or inner.is_nested):
            break
        folder = inner
    return folder


def _place_parts(folders: Sequence[Folder], found: SourceFiles) -> _Placed | None:
    """Place `part1/train/<class>/`, `part2/train/<class>/` or `<class>/train/`; None where it is neither."""
    parts = [_find_splits(child, child.folders) for child in folders]
    placed: _Placed = []
    for child, splits in zip(folders, parts, strict=True):
        if splits is None:
            return None
        if all(folder.images for folder in splits.values()):
            placed += [(split, child.name, folder) for split, folder in splits.items() if split in SPLITS]
        else:
            _note_strays(child, child.images, found)
            placed += _place_splits(splits, found)
    return placed


def _refuse_same_folders(folder: Folder, folders: Sequence[Folder]) -> None:
    """Refuse folders that hold no images, but all the same folders: splits whose names do not say which is which.

    Raises:
        DatasetError: It is so.
    """
    largest = max((child.inner_names for child in folders), key=len)
    if len(largest) > 1 and all(child.inner_names <= largest for child in folders):
        raise DatasetError(
            f"'{folder.path}' has {enumerate_names([child.name for child in folders])}, which hold no images, but the "
            f"same folders {enumerate_names(sorted(largest))}; if they are splits, name them train, val and test; "
            "if they are classes, put their images directly into them, or list the images in a CSV file (path,label)"
        )


def _place_plain(folder: Folder, folders: Sequence[Folder], found: SourceFiles) -> _Placed:
    """Place `<class>/` folders, and `test/<class>/` or `val/<class>/` beside them."""
    named = _find_named(folders)
    plain = [child for child in folders if child not in named]
    classes = {_clean(child) for child in plain}
    if named and all(child.is_nested and child.inner_names <= classes for child in named):
        splits = _assign_splits(folder, named)
        held_out = [
            (split, below.name, below) for split, child in splits.items() if split in SPLITS for below in child.folders
        ]
        for child in splits.values():
            _note_strays(child, child.files, found)
        return [*(("train", child.name, child) for child in plain), *held_out]
    for child in named:
        logger.warning("the folder '%s' is taken for a class, not for a split", child.path)
    return [("train", child.name, child) for child in folders]


def _note_strays(folder: Folder, files: Sequence[Path], found: SourceFiles) -> None:
    """List what lies beside the folders of classes or splits; hidden folders of images are warned about."""
    found.ignored += [*files, *folder.left_out]
    for path in folder.left_out:
        name = path.name.lower()
        is_known = name in _SYSTEM_NAMES or name.startswith((".trash", "__macosx")) or name.endswith(".tmp")
        if not is_known and name.startswith(".") and path.is_dir() and Folder(path).has_images:
            logger.warning("left out the hidden folder '%s', which has images; if it is a class, rename it", path)


def _is_for_output(folder: Folder, output_folder: Path | None) -> bool:
    """Tell whether a folder has no images, and is or has in it what training wrote or will write."""
    if folder.has_images:
        return False
    if output_folder is not None:
        real_path = Path(os.path.realpath(folder.path))
        if Path(os.path.realpath(output_folder)).is_relative_to(real_path):
            return True
    return any(part.outputs for part in folder.walk())


def _warn_of_kinds(ignored: Sequence[Path]) -> None:
    counts = Counter(path.suffix.lower() for path in ignored)
    kinds = [f"{counts[suffix]} {suffix}" for suffix in _OTHER_IMAGE_SUFFIXES if counts[suffix]]
    packages = sorted({MISSING_PACKAGES[suffix] for suffix in counts if suffix in MISSING_PACKAGES})
    remedy = f"convert them to one of {', '.join(IMAGE_SUFFIXES)}"
    remedy += f", or: pip install {' '.join(packages)}" if packages else ""
    if kinds:
        logger.warning("left out images of kinds that are not read: %s; %s", ", ".join(kinds), remedy)


def _is_tracked(path: Path) -> bool:
    """Tell whether a file is what the tracking store describes an experiment or a run with."""
    try:
        with path.open("rb") as file:
            return b"experiment_id" in file.read(4096)
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _clean(folder: Folder) -> str:
    return compose(folder.name).strip()
