"""What the claims are tried on: digits to train on, a small checkpoint, photographs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

#: Parameters of the smallest training that does everything a large one does.
FULL_TRAINING = {
    "use_pretrained": False,
    "feature_extract": False,
    "input_size": 32,
    "epochs": 4,
    "batch_size": 8,
    "learning_rate": 0.02,
    "optimizer": "sgd",
    "augmentation": "basic",
    "tracking": "off",
}


def get_head_training(checkpoint: Path) -> dict[str, Any]:
    """Return the parameters of a training of the head alone, on the frozen backbone of a checkpoint."""
    return {**FULL_TRAINING, "feature_extract": True, "model_weight_file": str(checkpoint), "epochs": 8}


def write_digits(folder: Path, counts: Mapping[str, int] | None = None) -> Path:
    """Write scikit-learn's handwritten 0, 1 and 2, enlarged to 32x32, as `folder`/<split>/<digit>/<index>.png.

    Args:
        folder: Made if it does not exist.
        counts: Images a class in each split; None means 11 to train on, 5 to validate, 3 to test.
    """
    import cv2
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(3):
        indices = iter(np.flatnonzero(digits.target == label))
        for split, count in (counts or {"train": 11, "val": 5, "test": 3}).items():
            (folder / split / str(label)).mkdir(parents=True, exist_ok=True)
            for _ in range(count):
                index = next(indices)
                pixels = (digits.images[index] * 15.9375).astype(np.uint8)  # 0..16 to 0..255
                picture = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_CUBIC)
                cv2.imwrite(str(folder / split / str(label) / f"{index:04}.png"), picture)
    return folder


def write_model(path: Path, seed: int = 0, input_size: int = 64) -> Path:
    """Write a self-describing resnet18 with seeded weights and three classes."""
    from resnetkit.images.preprocessing import Preprocessing
    from resnetkit.weights.architectures import IMAGENET_MEAN, IMAGENET_STD
    from resnetkit.weights.checkpoint import write_checkpoint
    from resnetkit.weights.metadata import ModelMetadata
    from resnetkit.weights.models import initialize_model

    preprocessing = Preprocessing(input_size, input_size, "crop", IMAGENET_MEAN, IMAGENET_STD)
    path.parent.mkdir(parents=True, exist_ok=True)
    state_dict = initialize_model("resnet18", 3, seed=seed).state_dict()
    write_checkpoint(path, state_dict, ModelMetadata("resnet18", ("zero", "one", "two"), preprocessing))
    return path


def read_photographs() -> dict[str, np.ndarray]:
    """Return two real photographs in several sizes, each (height, width, 3) uint8 RGB."""
    import cv2
    from sklearn.datasets import load_sample_image

    china, flower = load_sample_image("china.jpg"), load_sample_image("flower.jpg")
    sizes = {"whole": (640, 427), "small": (150, 100), "tiny": (31, 20), "tall": (40, 300)}
    return {
        f"{name} {size}": cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
        for name, image in (("china", china), ("flower", flower))
        for size, sides in sizes.items()
    }
