"""Write the archives, answers and workflows of this folder, with the code of commit 0ecbd59 and no other.

They were written once. In a work tree of that commit:
`OMP_NUM_THREADS=1 PYTHONPATH=. python <this folder>/make_material.py <new folder>`.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

#: Channels of each layer that are not zero: zeros stay zero while training, and cost an archive nothing.
LIVE = 4

FULL = {
    "feature_extract": False,
    "epochs": 4,
    "learning_rate": 0.002,
    "export_onnx": True,
    "export_openvino": True,
    "export_int8": True,
}
HEAD = {"feature_extract": True, "epochs": 5, "optimizer": "adamw", "learning_rate": 0.1, "export_pth": False}
SHARED = {
    "input_size": 32,
    "resize_mode": "squash",
    "val_split": 0.25,
    "device": "cpu",
    "precision": "fp32",
    "tracking": "off",
}
STATE_FILES = (
    "best.safetensors", "state.pt", "classes.txt", "metrics.csv", "metrics.json", "data_report.json",
)  # fmt: skip
EXPORTS = (
    "classes.txt", "resnet18.pth", "resnet18.onnx", "resnet18.xml", "resnet18.bin", "resnet18_int8.xml",
    "resnet18_int8.bin",
)  # fmt: skip

EVERY_INFER_PARAMETER = {
    "model_name": "resnet34", "pretrained_weights": "IMAGENET1K_V1", "model_weight_file": "/data/model/resnet34.pth",
    "class_file": "/data/model/classes.txt", "input_size": 96, "resize_mode": "letterbox", "box_margin": 0.25,
    "top_k": 3, "confidence_threshold": 0.5, "heatmap": True, "embedding": True, "smoothing": 0.5, "device": "cpu",
    "precision": "bf16", "runtime": "torch", "threads": 2,
}  # fmt: skip
EVERY_TRAIN_PARAMETER = {
    "dataset_folder": "/data/fruit", "val_split": 0.3, "augmentation": "strong", "resize_mode": "letterbox",
    "max_image_megapixels": 100, "num_workers": 2, "model_name": "resnet34", "input_size": 96,
    "use_pretrained": False, "feature_extract": False, "model_weight_file": "/data/model/resnet34.pth",
    "small_input_stem": True, "epochs": 30, "batch_size": 16, "learning_rate": 0.01, "momentum": 0.8,
    "weight_decay": 0.0005, "optimizer": "adamw", "scheduler": "constant", "label_smoothing": 0.1,
    "class_weights": "balanced", "early_stopping_patience": 5, "time_limit_minutes": 60.0, "cached_views": 2,
    "seed": 7, "device": "cpu", "precision": "fp32", "output_folder": "/data/runs", "resume_from": "/data/runs/latest",
    "tracking": "tensorboard", "export_pth": False, "export_onnx": True, "export_openvino": True, "export_int8": True,
}  # fmt: skip


def write_start(path: Path, model_name: str, classes: str) -> None:
    """Write weights of which all but some channels are zero, drawn by NumPy."""
    import torch

    from infer_resnet.checkpoint import ModelMetadata, write_checkpoint
    from infer_resnet.model import initialize_model
    from infer_resnet.preprocessing import Preprocessing

    random = np.random.Generator(np.random.Philox(0))
    weights = initialize_model(model_name, len(classes), seed=0).state_dict()
    for name, tensor in weights.items():
        if tensor.ndim == 4:
            channels, size = min(LIVE, tensor.shape[1]), tensor.shape[2]
            live = random.standard_normal((LIVE, channels, size, size)) * np.sqrt(2 / (channels * size * size))
            tensor.zero_()[:LIVE, :channels] = torch.from_numpy(live.astype(np.float32))
        elif name == "fc.weight":
            live = random.standard_normal((len(tensor), LIVE))
            tensor.zero_()[:, :LIVE] = torch.from_numpy(live.astype(np.float32))
    preprocessing = Preprocessing(64, 73, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    write_checkpoint(path, weights, ModelMetadata(model_name, tuple(classes), preprocessing))


def train_twice(name: str, values: dict, source: Path, folder: Path) -> tuple[Path, Path]:
    """Train without a break, and until two epochs before the end; return both run folders."""
    from train_resnet.parameters import TrainParameters
    from train_resnet.progress import Hooks, TrainingStopped
    from train_resnet.training import train

    parameters = TrainParameters().updated({**SHARED, **values, "output_folder": str(folder / name / "finished")})
    finished = train(parameters, source).folder
    parameters = parameters.updated({"output_folder": str(folder / name / "interrupted")})
    epochs: list[int] = []
    hooks = Hooks(lambda: len(epochs) == parameters.epochs - 2, lambda: epochs.append(1))
    checkpoint = None
    try:
        train(parameters, source, hooks)
    except TrainingStopped as stopped:
        checkpoint = stopped.checkpoint
    assert checkpoint is not None
    return finished, checkpoint.parent


def write_archive(path: Path, files: dict[str, Path]) -> None:
    """Pack files under the given names, without their owners' names."""

    def forget_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(path, "w:xz", preset=9) as archive:
        for name, file in files.items():
            archive.add(file, name, filter=forget_owner)


def answer(path: Path, images: list[np.ndarray]) -> dict:
    """Return what the file says about itself, and the probabilities of the images."""
    from infer_resnet.checkpoint import open_weights
    from infer_resnet.loader import Loader
    from infer_resnet.parameters import InferParameters

    metadata = open_weights(path).metadata
    values = {"model_weight_file": str(path), "device": "cpu"}
    if metadata is None:
        values |= {"input_size": "32", "resize_mode": "squash"}
    _, predictor = Loader().load(InferParameters().updated(values))
    return {
        "metadata": None if metadata is None else asdict(metadata),
        "probabilities": [prediction.probabilities.tolist() for prediction in predictor.predict(images)],
    }


def write_workflows(folder: Path) -> None:
    """Save workflows as a user does."""
    from ikomia.dataprocess.workflow import Workflow

    folder.mkdir()
    for name, plugin, values in (
        ("infer_defaults", "infer_resnet", {}),
        ("infer_everything", "infer_resnet", EVERY_INFER_PARAMETER),
        # The file holds a resnet18 of 32 pixels.
        ("infer_size_224", "infer_resnet", {"model_weight_file": "/data/model.safetensors", "input_size": 224}),
        # The file holds a resnet50 of 64 pixels.
        ("infer_resnet50", "infer_resnet", {"model_weight_file": "/data/model.safetensors", "model_name": "resnet18"}),
        ("train_defaults", "train_resnet", {}),
        ("train_everything", "train_resnet", EVERY_TRAIN_PARAMETER),
    ):
        workflow = Workflow(name)
        workflow.add_task(name=plugin, auto_connect=True).set_parameters(values)
        path = folder / f"{name}.json"
        workflow.save(str(path))
        content = json.loads(path.read_text(encoding="utf-8"))
        for task in content["tasks"]:
            task["task_data"]["url"] = ""
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(target: Path, folder: Path) -> None:
    """Write everything into `target`; `folder` is for what is in between."""
    from digits import read_images, write_digits

    target.mkdir(parents=True)
    start, resnet50 = folder / "start.safetensors", folder / "resnet50.safetensors"
    write_start(start, "resnet18", "345")
    write_start(resnet50, "resnet50", "01")
    three, other_three = write_digits(folder / "data" / "345", "345"), write_digits(folder / "data" / "012", "012")
    full = train_twice("full", {**FULL, "model_weight_file": str(start)}, three, folder)
    head = train_twice("head", {**HEAD, "model_weight_file": str(full[0])}, other_three, folder)
    write_archive(target / "start.tar.xz", {start.name: start, resnet50.name: resnet50})
    for kind, runs in (("full", full), ("head", head)):
        for state, run in zip(("finished", "interrupted"), runs, strict=True):
            files = {name: run / name for name in STATE_FILES if (run / name).exists()}
            write_archive(target / f"{kind}_{state}.tar.xz", files)
    write_archive(target / "full_exports.tar.xz", {name: full[0] / name for name in EXPORTS})
    answers = {
        "start/resnet50.safetensors": answer(resnet50, read_images((3, 4, 5))),
        "full_finished/best.safetensors": answer(full[0] / "best.safetensors", read_images((3, 4, 5))),
        "head_finished/best.safetensors": answer(head[0] / "best.safetensors", read_images((0, 1, 2))),
    }
    for name in EXPORTS:
        if not name.endswith((".txt", ".bin")):
            answers[f"full_exports/{name}"] = answer(full[0] / name, read_images((3, 4, 5)))
    (target / "answers.json").write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_workflows(target / "workflows")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "home"
        plugins = home / "Ikomia" / "Plugins" / "Python"
        plugins.mkdir(parents=True)
        for plugin in ("infer_resnet", "train_resnet"):
            (plugins / plugin).symlink_to(Path.cwd() / plugin, target_is_directory=True)
        os.environ.update({"HOME": str(home), "IKOMIA_AUTO_COMPLETION": "0", "QT_QPA_PLATFORM": "offscreen"})
        main(Path(sys.argv[1]), Path(temporary))
