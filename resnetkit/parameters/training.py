"""Every parameter of train_resnet, declared once: engine, form, README and error messages read it here."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from resnetkit.parameters.declaration import (
    DEVICE_EXAMPLES,
    DEVICE_PATTERN,
    ParameterError,
    parameter,
)
from resnetkit.parameters.training_data import DataParameters


class TrainParameters(DataParameters):
    """Parameters of train_resnet."""

    plugin: ClassVar[str] = "train_resnet"

    model_name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = parameter(
        "resnet18",
        "Model",
        "Architecture to train.",
        also_called=("model", "arch", "architecture", "backbone"),
    )
    input_size: int = parameter(
        224,
        "Input size",
        "Side in pixels of the square that the network sees.",
        ge=32,
        le=1024,
        step=32,
        also_called=("imgsz", "img_size", "image_size", "size", "resolution"),
    )
    use_pretrained: bool = parameter(
        True,
        "Pretrained",
        "Start from ImageNet weights.",
        also_called=("pretrained",),
    )
    feature_extract: bool = parameter(
        True,
        "Train the head only",
        "Freeze the backbone and train only the last layer, from cached features.",
        also_called=("freeze", "freeze_backbone", "freeze_epochs"),
    )
    model_weight_file: str = parameter(
        "",
        "Start from file",
        "Start from these weights instead of ImageNet's; a head for other classes is made anew.",
        path="file or folder",
        suffixes=(".safetensors", ".pth", ".pt"),
        expected="a path of a weights file or run folder",
        also_called=("weights", "weight_file", "checkpoint", "ckpt", "initial_checkpoint"),
    )
    small_input_stem: bool = parameter(
        False,
        "Small-image stem",
        "3x3 first convolution without max pooling, for images of 64 pixels and less; not with ImageNet weights.",
        is_advanced=True,
        also_called=("small_stem",),
    )
    optimizer: Literal["auto", "sgd", "adamw"] = parameter(
        "auto",
        "Optimizer",
        "auto: the optimum where only the head is trained, else AdamW from a solved head; or plain SGD or AdamW.",
        group="Optimisation",
        also_called=("opt", "opt_func"),
    )
    epochs: int = parameter(
        0,
        "Epochs",
        "Passes over the training images; 0 chooses by their number.",
        group="Optimisation",
        ge=0,
        le=10000,
        also_called=("epoch", "n_epoch", "n_epochs", "num_epochs", "max_epochs"),
    )
    batch_size: int = parameter(
        0,
        "Batch size",
        "Images per step; 0 chooses by their number.",
        group="Optimisation",
        ge=0,
        le=4096,
        also_called=("batch", "bs"),
    )
    learning_rate: float = parameter(
        0.0,
        "Learning rate",
        "Peak learning rate; 0 chooses.",
        group="Optimisation",
        ge=0,
        le=10,
        step=0.0001,
        also_called=("lr", "lr0", "lr_max", "base_lr"),
    )
    momentum: float = parameter(
        0.9,
        "Momentum",
        "Momentum of SGD; the first beta of AdamW. Not with optimizer auto.",
        group="Optimisation",
        is_advanced=True,
        ge=0,
        lt=1,
        step=0.05,
        also_called=("mom", "moms"),
    )
    weight_decay: float = parameter(
        1e-4,
        "Weight decay",
        "Decay of the weights per step. Not with optimizer auto.",
        group="Optimisation",
        is_advanced=True,
        ge=0,
        le=1,
        step=0.0001,
        also_called=("wd",),
    )
    scheduler: Literal["cosine", "constant"] = parameter(
        "cosine",
        "Schedule",
        "Learning rate over time: cosine with a short warm-up, or constant. Not with optimizer auto.",
        group="Optimisation",
        is_advanced=True,
        also_called=("sched", "lr_scheduler", "cos_lr"),
    )
    label_smoothing: float = parameter(
        0.0,
        "Label smoothing",
        "Share of the target spread over all classes; with optimizer auto, 0 means 0.1 for a whole network.",
        group="Optimisation",
        is_advanced=True,
        ge=0,
        le=0.9,
        step=0.05,
        also_called=("smoothing",),
    )
    class_weights: Literal["none", "balanced"] = parameter(
        "none",
        "Class weights",
        "balanced weighs each class by the inverse of its frequency. Then, and where a class has nine times the images "
        "of another, the mean recall of the classes chooses what is kept, not the accuracy.",
        group="Optimisation",
        is_advanced=True,
        also_called=("class_weight", "cls_weights"),
    )
    early_stopping_patience: int = parameter(
        0,
        "Early stopping",
        "Stops after this many epochs without a better validation accuracy (or mean recall, see `class_weights`); 0 "
        "never stops early.",
        group="Optimisation",
        is_advanced=True,
        ge=0,
        le=1000,
        also_called=("patience", "patience_epochs", "early_stopping"),
    )
    time_limit_minutes: float = parameter(
        0.0,
        "Time limit",
        "Stops after the epoch in which this many minutes have passed; 0 is no limit.",
        group="Optimisation",
        is_advanced=True,
        ge=0,
        le=100000,
        step=1,
        also_called=("time", "time_limit", "max_time"),
    )
    cached_views: int = parameter(
        -1,
        "Cached views",
        "Augmented views of each image to train on beside the plain one, where only the head is trained; each costs as "
        "much time again. -1 chooses two where that takes seconds, else none.",
        group="Optimisation",
        is_advanced=True,
        ge=-1,
        le=16,
    )
    folds: int = parameter(
        5,
        "Folds",
        "Parts of the cross-validation that a solved head ends with: what models say about images that they did not "
        "see, for the accuracy's spread and for labels that may be wrong. No effect on the model.",
        group="Optimisation",
        is_advanced=True,
        ge=2,
        le=20,
        also_called=("n_folds", "num_folds", "k_folds", "cv", "num_bag_folds", "n_splits"),
    )
    seed: int = parameter(
        0,
        "Seed",
        "Start of every random draw; the same seed gives the same model.",
        group="Optimisation",
        is_advanced=True,
        ge=0,
        le=2**31 - 1,
        also_called=("random_seed", "random_state"),
    )
    device: str = parameter(
        "auto",
        "Device",
        "Where training runs; auto takes a GPU where there is one.",
        group="Optimisation",
        is_advanced=True,
        expected="auto, cpu, cuda, cuda:N or mps",
        pattern=DEVICE_PATTERN,
        examples=DEVICE_EXAMPLES,
        also_called=("gpu", "cuda"),
    )
    precision: Literal["auto", "fp32", "bf16"] = parameter(
        "auto",
        "Precision",
        "auto is bf16 where the hardware runs it natively, else fp32.",
        group="Optimisation",
        is_advanced=True,
        also_called=("amp", "half", "dtype", "fp16", "bf16", "mixed_precision"),
    )
    evaluate_only: bool = parameter(
        False,
        "Evaluate only",
        "Trains nothing: the weights file, or without one ImageNet's weights, are evaluated on the data set (its test "
        "split, where there is one).",
        group="Output",
        is_advanced=True,
        also_called=("test_only", "eval_only", "val_only"),
    )
    output_folder: str = parameter(
        "",
        "Output folder",
        "Where run folders are made; empty means Models/train_resnet in the Ikomia folder.",
        group="Output",
        path="folder",
        expected="a path of a folder",
        also_called=("output", "output_dir", "out_dir", "project", "save_dir"),
    )
    run_folder: str = parameter(
        "",
        "Run folder",
        "The run folder itself: made if it is not there, gone on with if it is, so that a restart repeats the same "
        "command. Not with `output_folder` and `resume_from`.",
        group="Output",
        path="folder",
        is_advanced=True,
        expected="a path of a folder",
        also_called=("run_dir", "logdir"),
    )
    resume_from: str = parameter(
        "",
        "Resume from",
        "Run folder of an interrupted training to continue; what is not given is the run's own, the data set included.",
        group="Output",
        path="folder",
        is_advanced=True,
        expected="a path of a run folder",
        also_called=("resume",),
    )
    tracking: str = parameter(
        "local",
        "Tracking",
        "local: mlflow's file store in the Ikomia folder; or off, tensorboard, or an mlflow server's address.",
        group="Output",
        is_advanced=True,
        expected="local, off, tensorboard or an http(s) address",
        pattern=r"^(local|off|tensorboard|https?://\S+)$",
        examples=["local", "off", "tensorboard"],
        also_called=("tracker", "log_wandb", "wandb"),
    )
    export_pth: bool = parameter(
        True,
        "Export .pth",
        "Write a bare PyTorch state dict.",
        group="Output",
        also_called=("pth",),
    )
    export_onnx: bool = parameter(
        False,
        "Export ONNX",
        "Write an ONNX model.",
        group="Output",
        also_called=("onnx",),
    )
    export_openvino: bool = parameter(
        False,
        "Export OpenVINO",
        "Write an OpenVINO model.",
        group="Output",
        also_called=("openvino",),
    )
    export_int8: bool = parameter(
        False,
        "Export int8",
        "Write an OpenVINO model quantized to 8 bits with NNCF (an optional requirement).",
        group="Output",
        is_advanced=True,
        also_called=("int8", "quantize"),
    )

    @classmethod
    def describe_violation(cls, name: str, value: Any) -> str:
        """Return what a parameter must be and what it got; of several devices, the command that trains on them."""
        sentence = super().describe_violation(name, value)
        devices = value if isinstance(value, (list, tuple)) else str(value).strip("[]()").split(",")
        if name != "device" or len(devices) < 2:
            return sentence
        return (
            f"{sentence}; several devices train in a process each: "
            f"torchrun --nproc-per-node={len(devices)} -m resnetkit train DATASET --run-folder RUN"
        )

    def check_consistency(self) -> None:
        """Refuse an evaluation of nothing, a head on a random backbone, and a stem that ImageNet weights lack."""
        if self.evaluate_only and (self.resume_from or not (self.model_weight_file or self.use_pretrained)):
            raise ParameterError(
                "'evaluate_only' evaluates weights without training; "
                "expected a 'model_weight_file', or 'use_pretrained' for ImageNet's, and no 'resume_from'"
            )
        if self.run_folder and (self.resume_from or self.output_folder):
            raise ParameterError(
                "'run_folder' is where the run is and what is gone on with; expected no 'resume_from' and no "
                "'output_folder' beside it"
            )
        if self.feature_extract and not self.use_pretrained and not self.model_weight_file:
            raise ParameterError(
                "'feature_extract' trains only the head, but with 'use_pretrained' False and no "
                "'model_weight_file' the backbone would stay random; set one of the three"
            )
        if self.small_input_stem and self.use_pretrained and not self.model_weight_file:
            raise ParameterError(
                "'small_input_stem' changes the first layer, which ImageNet weights do not fit; "
                "set 'use_pretrained' to False or give a 'model_weight_file'"
            )
