"""Fine-tune a ResNet with PyTorch and torchvision alone, in the way that PyTorch's transfer-learning tutorial goes.

This is what the benchmarks compare with: ImageFolder and DataLoader, RandomResizedCrop and a mirror, SGD with a step
schedule, a pass over train and val in every epoch, the best weights kept. It knows nothing of this project.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

BEGAN = time.monotonic()

import torch  # noqa: E402 - importing is part of the time
from torch import nn, optim  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision import datasets, models, transforms  # noqa: E402

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def main() -> None:
    """Train, write the weights, and say how long each part took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--freeze", action="store_true")
    arguments = parser.parse_args()

    loaders = open_loaders(arguments.data, arguments.batch_size)
    model = open_model(arguments, len(loaders["train"].dataset.classes))
    criterion = nn.CrossEntropyLoss()
    weights = model.fc.parameters() if arguments.freeze else model.parameters()
    optimizer = optim.SGD(weights, lr=0.001, momentum=0.9)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    preparation = time.monotonic() - BEGAN

    best_accuracy, epochs = -1.0, []
    for _ in range(arguments.epochs):
        began = time.monotonic()
        run_epoch(model, loaders["train"], criterion, optimizer)
        scheduler.step()
        accuracy = run_epoch(model, loaders["val"], criterion, None)
        if accuracy > best_accuracy:
            best_accuracy = accuracy
            torch.save(model.state_dict(), arguments.output)
        epochs.append(time.monotonic() - began)
    print(json.dumps({"preparation": preparation, "epochs": epochs, "val_accuracy": best_accuracy}))


def open_loaders(folder: Path, batch_size: int) -> dict[str, DataLoader]:
    """Return the readers of train and val."""
    steps = {
        "train": [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()],
        "val": [transforms.Resize(256), transforms.CenterCrop(224)],
    }
    loaders = {}
    for split, first in steps.items():
        transform = transforms.Compose([*first, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        images = datasets.ImageFolder(str(folder / split), transform)
        loaders[split] = DataLoader(images, batch_size, shuffle=split == "train", num_workers=0)
    return loaders


def open_model(arguments: argparse.Namespace, num_classes: int) -> nn.Module:
    """Return the pretrained network with a new head."""
    model = models.get_model(arguments.model, weights=None)
    model.load_state_dict(torch.load(arguments.weights, weights_only=True))
    if arguments.freeze:
        for parameter in model.parameters():
            parameter.requires_grad = False
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def run_epoch(model: nn.Module, loader: DataLoader, criterion: nn.Module, optimizer: optim.Optimizer | None) -> float:
    """Pass over a split once, learning if there is an optimizer; return the accuracy."""
    model.train(optimizer is not None)
    right = 0
    for images, labels in loader:
        if optimizer is not None:
            optimizer.zero_grad()
        with torch.set_grad_enabled(optimizer is not None):
            outputs = model(images)
            loss = criterion(outputs, labels)
            if optimizer is not None:
                loss.backward()
                optimizer.step()
        right += int((outputs.argmax(1) == labels).sum())
    return right / len(loader.dataset)


if __name__ == "__main__":
    main()
