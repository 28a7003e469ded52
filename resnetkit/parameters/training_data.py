"""The parameters of train_resnet that say which images are trained on, and how they are read."""

from __future__ import annotations

from typing import Literal

from resnetkit.parameters.declaration import (
    VALUE_RANGE_EXAMPLES,
    VALUE_RANGE_EXPECTED,
    VALUE_RANGE_PATTERN,
    Parameters,
    parameter,
)


class DataParameters(Parameters):
    """Parameters of a training's data set."""

    dataset_folder: str = parameter(
        "",
        "Data set",
        "Folder of class folders, a CSV/TSV file (path,label[,split]), tar or Parquet shards, or an address of these; "
        "used where no data set is connected.",
        group="Data",
        path="file or folder",
        suffixes=(".csv", ".tsv", ".tar", ".parquet"),
        expected="a path of a folder or of a CSV/TSV file",
        also_called=("data", "dataset", "data_dir", "data_path", "path", "root", "train_dir"),
    )
    val_split: float = parameter(
        0.2,
        "Validation share",
        "Share of the images kept for validation where the data set has no split of its own.",
        group="Data",
        ge=0.01,
        le=0.9,
        step=0.05,
        also_called=("valid_pct", "val_pct", "val_size", "validation_split"),
    )
    augmentation: Literal["auto", "none", "basic", "strong"] = parameter(
        "auto",
        "Augmentation",
        "auto: gentle crops, turns and tints; basic: random resized crop; strong: also TrivialAugment, erasing, mixup "
        "and cutmix.",
        group="Data",
        also_called=("aug", "augment", "augmentations", "auto_augment", "aa", "aug_transforms"),
    )
    horizontal_flip: Literal["auto", "on", "off"] = parameter(
        "auto",
        "Mirror",
        "Mirrors half of the training images left to right; auto: with auto augmentation only where mirrored images of "
        "the validation split keep their class.",
        group="Data",
        is_advanced=True,
    )
    vertical_flip: bool = parameter(
        False,
        "Upside down",
        "Turns half of the training images upside down: for microscopes, satellites and tables, which have no up.",
        group="Data",
        is_advanced=True,
    )
    rotation: str = parameter(
        "auto",
        "Rotation",
        "Largest rotation of training images in degrees; auto is 10 with auto augmentation, else 0.",
        group="Data",
        is_advanced=True,
        expected="auto or whole degrees from 0 to 180",
        pattern=r"^(auto|\d|[1-9]\d|1[0-7]\d|180)$",
        examples=["auto", "0", "10", "45", "180"],
    )
    resize_mode: Literal["crop", "squash", "letterbox"] = parameter(
        "crop",
        "Resize",
        "How an image becomes square at validation and inference; stored in the checkpoint.",
        group="Data",
        is_advanced=True,
        also_called=("resize", "crop_mode", "resize_method"),
    )
    value_range: str = parameter(
        "auto",
        "Brightness range",
        "What is black and white in images of more than 8 bits; auto finds one range for the data set. Stored in the "
        "checkpoint.",
        group="Data",
        is_advanced=True,
        expected=VALUE_RANGE_EXPECTED,
        pattern=VALUE_RANGE_PATTERN,
        examples=VALUE_RANGE_EXAMPLES,
        also_called=("bit_depth", "window"),
    )
    max_image_megapixels: int = parameter(
        500,
        "Largest image",
        "Images of more megapixels are left out and listed.",
        group="Data",
        is_advanced=True,
        ge=1,
        le=1000,
        also_called=("max_pixels",),
    )
    num_workers: int = parameter(
        0,
        "Worker processes",
        "Processes that read images; 0 reads in threads of this process. No effect on the result.",
        group="Data",
        is_advanced=True,
        ge=0,
        le=64,
        also_called=("workers", "n_workers", "nw"),
    )
