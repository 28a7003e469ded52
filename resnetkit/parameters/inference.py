"""Every parameter of infer_resnet, declared once: engine, form, README and error messages read it here."""

from __future__ import annotations

from typing import ClassVar, Literal

from resnetkit.parameters.declaration import (
    DEVICE_EXAMPLES,
    DEVICE_PATTERN,
    VALUE_RANGE_EXAMPLES,
    VALUE_RANGE_EXPECTED,
    VALUE_RANGE_PATTERN,
    Parameters,
    parameter,
)

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".onnx", ".xml")


class InferParameters(Parameters):
    """Parameters of infer_resnet."""

    plugin: ClassVar[str] = "infer_resnet"
    retired: ClassVar[tuple[str, ...]] = ("dataset",)

    model_name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = parameter(
        "resnet18",
        "Model",
        "Architecture; taken from the weights file if it names one.",
        also_called=("model", "arch", "architecture", "backbone"),
    )
    pretrained_weights: Literal["DEFAULT", "IMAGENET1K_V1", "IMAGENET1K_V2"] = parameter(
        "DEFAULT",
        "ImageNet weights",
        "Which of torchvision's ImageNet weights, where no weights file is given; DEFAULT is the best there is. "
        "For a bare state dict: whose preprocessing it needs.",
        is_advanced=True,
        also_called=("pretrained",),
    )
    model_weight_file: str = parameter(
        "",
        "Weights file",
        "Your own model: a file or run folder of train_resnet, or a state dict; empty means ImageNet.",
        path="file or folder",
        suffixes=WEIGHTS_SUFFIXES,
        expected="a path of a file or run folder",
        also_called=("weights", "weight_file", "checkpoint", "ckpt", "model_path"),
    )
    class_file: str = parameter(
        "",
        "Class names",
        "Text file with one class name a line, for a weights file that carries none.",
        path="file",
        suffixes=(".txt",),
        expected="a path of a text file",
        also_called=("names", "class_names", "classes", "labels", "class_map"),
    )
    input_size: int = parameter(
        224,
        "Input size",
        "Side in pixels of the square that the network sees; a weights file brings its own, see `settings_from`.",
        ge=32,
        le=1024,
        step=32,
        also_called=("imgsz", "img_size", "image_size", "size", "resolution"),
    )
    settings_from: Literal["auto", "weights_file", "parameters"] = parameter(
        "auto",
        "Settings from",
        "What decides architecture and input size: weights_file, or parameters (`model_name`, `input_size`); "
        "auto is the weights file, but for an `input_size` other than 224.",
        is_advanced=True,
    )
    resize_mode: Literal["auto", "crop", "squash", "letterbox"] = parameter(
        "auto",
        "Resize",
        "How an image becomes square: centre crop, squash or letterbox; auto is as the weights were trained.",
        group="Preprocessing",
        also_called=("resize", "crop_mode", "resize_method"),
    )
    value_range: str = parameter(
        "auto",
        "Brightness range",
        "What is black and white in images of more than 8 bits; auto is as the weights were trained, or where they do "
        "not know, by the file's header or the type: 0..65535 in 16 bits, 0..1 in floats.",
        group="Preprocessing",
        is_advanced=True,
        expected=VALUE_RANGE_EXPECTED,
        pattern=VALUE_RANGE_PATTERN,
        examples=VALUE_RANGE_EXAMPLES,
        also_called=("bit_depth", "window"),
    )
    box_margin: float = parameter(
        0.0,
        "Box margin",
        "Widens the boxes of a connected detector on each side by this share of their size.",
        group="Preprocessing",
        is_advanced=True,
        ge=0,
        le=2,
        step=0.05,
        also_called=("margin", "padding"),
    )
    top_k: int = parameter(
        5,
        "Top k",
        "How many of the most probable classes are reported.",
        group="Results",
        ge=1,
        le=1000,
        also_called=("topk", "k"),
    )
    confidence_threshold: float = parameter(
        0.0,
        "Confidence threshold",
        "Below this probability of the first class the answer is `unknown`.",
        group="Results",
        ge=0,
        le=1,
        step=0.05,
        also_called=("conf", "threshold", "min_confidence", "score_threshold"),
    )
    wanted_accuracy: float = parameter(
        0.0,
        "Wanted accuracy",
        "Answers `unknown` below the confidence from which on at least this share of the answers was right on the "
        "validation images of the training, which a weights file of train_resnet knows; 0 is off.",
        group="Results",
        is_advanced=True,
        ge=0,
        le=0.999,
        step=0.05,
    )
    heatmap: bool = parameter(
        False,
        "Heat map",
        "Fills output 4: the class activation map of the first class, or of `heatmap_class`.",
        group="Results",
        also_called=("cam", "grad_cam", "visualize"),
    )
    heatmap_class: str = parameter(
        "",
        "Heat map of",
        "Class whose heat map is made, by its name; empty means the first class of the answer.",
        group="Results",
        is_advanced=True,
        expected="the name of a class",
    )
    embedding: bool = parameter(
        False,
        "Embedding",
        "Fills output 5: the pooled feature vector (512 or 2048 numbers).",
        group="Results",
        is_advanced=True,
        also_called=("embed", "embeddings", "features"),
    )
    smoothing: float = parameter(
        0.0,
        "Video smoothing",
        "Share of the previous frames in a moving average of the probabilities; whole images only.",
        group="Results",
        is_advanced=True,
        ge=0,
        le=0.99,
        step=0.05,
        also_called=("temporal_smoothing",),
    )
    device: str = parameter(
        "auto",
        "Device",
        "Where the network runs; auto takes a GPU where there is one.",
        group="Speed",
        is_advanced=True,
        expected="auto, cpu, cuda, cuda:N or mps",
        pattern=DEVICE_PATTERN,
        examples=DEVICE_EXAMPLES,
        also_called=("gpu", "cuda"),
    )
    precision: Literal["fp32", "bf16", "fp16", "auto"] = parameter(
        "fp32",
        "Precision",
        "fp32 is exact; auto takes the fastest of fp32, bf16 and fp16 that the hardware runs natively.",
        group="Speed",
        also_called=("amp", "half", "dtype", "fp16", "bf16"),
    )
    runtime: Literal["auto", "torch", "openvino"] = parameter(
        "auto",
        "Runtime",
        "auto is OpenVINO on a CPU where it is installed, else PyTorch.",
        group="Speed",
        is_advanced=True,
        also_called=("backend", "engine"),
    )
    threads: int = parameter(
        0,
        "Threads",
        "CPU threads of the network; 0 means all cores.",
        group="Speed",
        is_advanced=True,
        ge=0,
        le=256,
        also_called=("num_threads", "workers", "num_workers"),
    )
