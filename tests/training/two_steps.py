"""Run by two processes: compares the gradients of their steps with those of the same images by one network alone."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

from resnetkit.learners.optimization import compute_class_weights
from resnetkit.machine import ranks
from resnetkit.machine.progress import Progress
from resnetkit.parameters.training import TrainParameters
from resnetkit.training.loop import take_batches
from resnetkit.training.opening import open_run


def get_gradients(module):
    gradients = torch.cat([each.grad.reshape(-1).clone() for each in module.parameters()])
    module.zero_grad()
    return gradients


def compare(source, run_folder, class_weights):
    """Return the sizes of the steps' shares, and the largest relative difference of a step's gradients."""
    parameters = TrainParameters().updated(
        {
            "use_pretrained": False, "feature_extract": False, "input_size": 32, "optimizer": "sgd", "batch_size": 20,
            "augmentation": "none", "precision": "fp32", "class_weights": class_weights,
            "run_folder": run_folder, "tracking": "off",
        }
    )  # fmt: skip
    run = open_run(parameters, Path(source), Progress())
    module, sizes, differences = run.learner.module.train(), [], []
    network = copy.deepcopy(module)  # without the ties to the other process
    labels = [sample.label for sample in run.dataset.train]
    weights = compute_class_weights(class_weights, torch.tensor(labels).numpy(), len(run.dataset.classes))
    for inputs, targets, share in take_batches(run, 0):
        (run.loss(run.learner.forward(inputs), targets) * share.factor).backward()
        found = get_gradients(module)
        F.cross_entropy(network(inputs), targets, weights, reduction="sum").backward()
        denominator = len(targets) if weights is None else float(weights[targets].sum())
        shares = ranks.gather((get_gradients(network), denominator, len(targets)))
        expected = sum(gradients for gradients, _, _ in shares) / sum(number for _, number, _ in shares)
        differences.append(float((found - expected).norm() / expected.norm()))
        sizes.append([count for _, _, count in shares])
    run.close()
    return sizes, max(differences)


with ranks.join():
    for kind in ("none", "balanced"):
        sizes, difference = compare(sys.argv[1], f"{sys.argv[2]}-{kind}", kind)
        assert difference < 1e-5, (kind, difference)
        if ranks.is_first():
            print(kind, sizes)
