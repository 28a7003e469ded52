"""Write weights from which both sides of a benchmark start: a bare state dict of torchvision's, no download.

The convolutions are random, from a seed. The batch-norm statistics are measured on pictures, as training would have
done, so that features have a sane size and no value overflows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

NUM_IMAGES = 32
NUM_CLASSES = 1000


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="resnet18")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = models.get_model(arguments.model, weights=None, num_classes=NUM_CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all that is seen
    crop = transforms.Compose([transforms.RandomResizedCrop(224), transforms.ToTensor()])
    loader = DataLoader(datasets.ImageFolder(str(arguments.data), crop), batch_size=NUM_IMAGES, shuffle=True)
    images, _ = next(iter(loader))
    with torch.no_grad():
        model((images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), arguments.output)


if __name__ == "__main__":
    main()
