"""Make a quicker int8 network from any weights and a folder of images that are like those it will see.

    python examples/quantize.py runs/latest photographs
    python examples/quantize.py resnet50 photographs
    python examples/quantize.py weights.pth photographs --class-file names.txt

The weights are a run folder or file of train_resnet, a bare state dict, or the name of an architecture, which means
torchvision's best ImageNet weights. 100 to 300 images are enough, and no labels are needed: they only show how large
the values in the network become. The answer is `<name>_int8.xml` with its `.bin`, for `model_weight_file` of
infer_resnet. Needs NNCF (pip install nncf).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from resnetkit.exports.quantization import MAX_CALIBRATION_IMAGES, QuantizationError, quantize_graph
from resnetkit.images.pixels import ImageError
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.images.reading import IMAGE_SUFFIXES, read_image
from resnetkit.machine.files import resolve_path
from resnetkit.runtimes.choice import open_runtime
from resnetkit.runtimes.network import NetworkSource, RuntimeOptions
from resnetkit.runtimes.openvino_graph import build_graph, is_quantized, save_graph
from resnetkit.weights.architectures import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD, get_imagenet_classes
from resnetkit.weights.checkpoint import BEST_CHECKPOINT, WeightsFile, open_weights
from resnetkit.weights.class_names import find_class_names
from resnetkit.weights.errors import WeightsError
from resnetkit.weights.metadata import ModelMetadata
from resnetkit.weights.published import fetch_imagenet_weights

_BATCH_SIZE = 16


def main(arguments: Sequence[str] | None = None) -> None:
    """Quantize, write, and say how often the answers stayed the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="run folder, weights file, or resnet18 ... resnet152 for ImageNet weights")
    parser.add_argument("images", type=resolve_path, help="folder of images, searched with its sub-folders")
    parser.add_argument("--output", type=resolve_path, help="default: <name>_int8.xml beside the weights")
    parser.add_argument("--class-file", type=resolve_path, help="names, for weights that carry none")
    options = parser.parse_args(arguments)
    try:
        file, metadata = find_weights(options.weights, options.class_file)
        images = read_images(options.images, metadata.preprocessing)
        output = options.output or choose_output(options.weights, file, metadata)
        quantize(file, metadata, images, output)
    except (WeightsError, ImageError, QuantizationError, OSError) as error:
        parser.exit(1, f"quantize: {error}\n")


def find_weights(weights: str, class_file: Path | None) -> tuple[WeightsFile, ModelMetadata]:
    """Return the weights file and what is known about it.

    Raises:
        WeightsError: It is missing, damaged, quantized already, or has no class names.
    """
    if weights in ARCHITECTURES:
        file = WeightsFile(fetch_imagenet_weights(weights), "torch", None)
        return file, ModelMetadata(weights, get_imagenet_classes(), get_published_preprocessing(weights))
    file = open_weights(resolve_path(weights))
    if file.is_graph and is_quantized(file.path):
        raise WeightsError(f"weights file '{file.path}' is int8 already; give the one that it was made from")
    if file.metadata is not None:
        return file, file.metadata
    model_name, num_classes, small_input_stem = file.identify()
    classes = find_class_names(num_classes, class_file, file.path)
    return file, ModelMetadata(model_name, classes, get_published_preprocessing(model_name), small_input_stem)


def get_published_preprocessing(model_name: str) -> Preprocessing:
    """Return the preprocessing that torchvision's best weights need."""
    published = ARCHITECTURES[model_name].get_weights()
    return Preprocessing(published.crop_size, published.resize_size, "crop", IMAGENET_MEAN, IMAGENET_STD)


def read_images(folder: Path, preprocessing: Preprocessing) -> list[np.ndarray]:
    """Read and prepare up to 300 images of a folder, evenly spread over their names.

    Returns:
        (3, S, S) uint8 each.

    Raises:
        ImageError: The folder is missing, or holds no image that can be read.
    """
    if not folder.is_dir():
        raise ImageError(f"'{folder}' is no folder; expected a folder of images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ImageError(f"'{folder}' holds no images; expected files such as {', '.join(IMAGE_SUFFIXES[:4])}")
    chosen = np.unique(np.linspace(0, len(paths) - 1, MAX_CALIBRATION_IMAGES).round().astype(int))
    images, problems = [], []
    for index in chosen:
        try:
            images.append(preprocessing.prepare(read_image(paths[index])))
        except ImageError as error:
            problems.append(str(error))
            print(f"quantize: left out: {error}", file=sys.stderr)
    if not images:
        raise ImageError(f"none of the {len(chosen)} images in '{folder}' can be read; the first: {problems[0]}")
    return images


def choose_output(weights: str, file: WeightsFile, metadata: ModelMetadata) -> Path:
    """Return where the result goes: beside the weights, or into the current folder for ImageNet's."""
    if weights in ARCHITECTURES:
        return resolve_path(f"{weights}_int8.xml")
    stem = metadata.model_name if file.path.name == BEST_CHECKPOINT else file.path.stem
    return file.path.with_name(f"{stem}_int8.xml")


def quantize(file: WeightsFile, metadata: ModelMetadata, images: Sequence[np.ndarray], output: Path) -> None:
    """Write the int8 network and print how its answers compare with the original's on the same images."""
    source = NetworkSource.from_metadata(metadata, file.read_state_dict, file.path if file.is_graph else None)
    save_graph(quantize_graph(build_graph(source), images), output, metadata)
    same = classify(source, images) == classify(replace(source, graph_path=output), images)
    print(f"quantize: {output}")
    print(f"quantize: calibrated on {len(images)} images; the first class is the same on {same.mean():.1%} of them")


def classify(source: NetworkSource, images: Iterable[np.ndarray]) -> np.ndarray:
    """Return the index of the most probable class of each image."""
    runtime = open_runtime(source, RuntimeOptions("openvino"), cache_folder=None)
    stacked = np.stack(list(images))
    batches = [stacked[start : start + _BATCH_SIZE] for start in range(0, len(stacked), _BATCH_SIZE)]
    return np.concatenate([runtime.run(batch).logits.argmax(axis=1) for batch in batches])


if __name__ == "__main__":
    main()
