"""Names of classes: read from a text file, and matched with the number of the network's outputs."""

from __future__ import annotations

from pathlib import Path

from resnetkit.machine.speaking import get_logger
from resnetkit.weights.architectures import get_imagenet_classes
from resnetkit.weights.errors import WeightsError

logger = get_logger()

#: The file beside weights without names that is read where no class file is set.
CLASSES_NAME = "classes.txt"


def read_class_file(path: Path) -> tuple[str, ...]:
    """Read one class name a line; blank lines at the end do not count.

    Raises:
        WeightsError: The file is missing, a folder, not UTF-8, empty, or has a blank line between names.
    """
    if not path.is_file():
        raise WeightsError(f"class file '{path}' {'is a folder' if path.is_dir() else 'does not exist'}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # universal newlines: \r\n and \r become \n
    except UnicodeDecodeError as error:
        raise WeightsError(f"class file '{path}' is not UTF-8 text ({error.reason} at byte {error.start})") from error
    names = [line.strip() for line in text.split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise WeightsError(f"class file '{path}' is empty; expected one class name a line")
    if "" in names:
        number = names.index("") + 1
        raise WeightsError(f"class file '{path}' has a blank line at {number}, which would shift all names after it")
    return tuple(names)


def find_class_names(num_classes: int, class_file: Path | None, weights_path: Path) -> tuple[str, ...]:
    """Find names for a weights file that carries none.

    The class file comes first, then classes.txt beside the weights, then ImageNet's where the network has 1000 outputs.

    Raises:
        WeightsError: There are none, or not as many as the network has outputs.
    """
    beside = weights_path.with_name(CLASSES_NAME)
    if class_file is None and beside.is_file():
        class_file = beside
    if class_file is None:
        if num_classes == len(get_imagenet_classes()):
            logger.info("'%s' has 1000 outputs and no class names; ImageNet's are taken", weights_path)
            return get_imagenet_classes()
        raise WeightsError(
            f"weights file '{weights_path}' has {num_classes} outputs and no class names; "
            f"set 'class_file', or put a {CLASSES_NAME} beside it"
        )
    names = read_class_file(class_file)
    if len(names) != num_classes:
        raise WeightsError(
            f"class file '{class_file}' has {len(names)} names, but weights file '{weights_path}' "
            f"has {num_classes} outputs"
        )
    return names
