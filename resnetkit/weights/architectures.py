"""The five ResNets: names, sizes, and the preprocessing that their published weights need.

Figures are those of torchvision's `ResNet*_Weights`; a test compares every one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from resnetkit.images.preprocessing import Preprocessing
from resnetkit.weights.errors import WeightsError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CROP_SIZE = 224
_RESIZE_SIZES = MappingProxyType({"IMAGENET1K_V1": 256, "IMAGENET1K_V2": 232})


@dataclass(frozen=True)
class PublishedWeights:
    """Weights trained on ImageNet-1K, with the preprocessing that they expect.

    Attributes:
        name: IMAGENET1K_V1 (the original recipe) or IMAGENET1K_V2 (torchvision's newer one).
        file_name: Name in torch's cache folder; it ends in the first 8 digits of the file's SHA-256.
        resize_size: Length in pixels to which the short side is resized before the centre crop.
        crop_size: Side in pixels of the centre crop.
    """

    name: str
    file_name: str
    resize_size: int
    crop_size: int = _CROP_SIZE

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the input that they were trained on."""
        return Preprocessing(self.crop_size, self.resize_size, "crop", IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class Architecture:
    """One network of He et al., "Deep Residual Learning for Image Recognition" (2015), table 1.

    Attributes:
        name: Name in torchvision and in the parameters.
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        depths: Blocks in each of the four stages.
        parameter_count: Learned values of the network with 1000 outputs.
        gmacs: Billions of multiplications and additions for one image of 224x224 pixels.
        weights: The published weights, oldest first.
    """

    name: str
    block: str
    depths: tuple[int, int, int, int]
    parameter_count: int
    gmacs: float
    weights: tuple[PublishedWeights, ...]

    @property
    def feature_size(self) -> int:
        """Length of the pooled feature vector: 512 or 2048."""
        return 512 if self.block == "basic" else 2048

    def list_shapes(self, num_classes: int, small_input_stem: bool = False) -> dict[str, tuple[int, ...]]:
        """Return name and shape of all weights and batch statistics, as in torchvision's state dict.

        Batch normalization's counters of batches, which have no part in any answer, are left out.
        """
        expansion = self.feature_size // 512
        shapes = dict(_list_conv("conv1", "bn1", (64, 3), 3 if small_input_stem else 7))
        num_inputs = 64
        for stage, depth in enumerate(self.depths, start=1):
            width = 32 << stage
            for index in range(depth):
                block = f"layer{stage}.{index}"
                for number, (channels, size) in enumerate(self._list_convs(num_inputs, width), start=1):
                    shapes |= _list_conv(f"{block}.conv{number}", f"{block}.bn{number}", channels, size)
                if index == 0 and (stage > 1 or expansion > 1):  # the shortcut changes size or number of channels
                    channels = (width * expansion, num_inputs)
                    shapes |= _list_conv(f"{block}.downsample.0", f"{block}.downsample.1", channels, 1)
                num_inputs = width * expansion
        return {**shapes, "fc.weight": (num_classes, self.feature_size), "fc.bias": (num_classes,)}

    def _list_convs(self, num_inputs: int, width: int) -> tuple[tuple[tuple[int, int], int], ...]:
        """Return outputs, inputs and kernel size of each convolution of a block."""
        if self.block == "basic":
            return ((width, num_inputs), 3), ((width, width), 3)
        return ((width, num_inputs), 1), ((width, width), 3), ((4 * width, width), 1)

    def get_weights(self, name: str = "DEFAULT") -> PublishedWeights:
        """Return the published weights of that name; DEFAULT is the newest.

        Raises:
            WeightsError: There are none of that name for this architecture.
        """
        if name == "DEFAULT":
            return self.weights[-1]
        for weights in self.weights:
            if weights.name == name:
                return weights
        names = ", ".join(weights.name for weights in self.weights)
        raise WeightsError(f"'pretrained_weights' {name} do not exist for {self.name}; it has {names}")


def _list_conv(conv: str, norm: str, channels: tuple[int, int], size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of a convolution's weights, and of those of the batch normalization behind it."""
    yield f"{conv}.weight", (*channels, size, size)
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{part}", channels[:1]


def _publish(model: str, **digests: str) -> tuple[PublishedWeights, ...]:
    return tuple(
        PublishedWeights(name, f"{model}-{digest}.pth", _RESIZE_SIZES[name]) for name, digest in digests.items()
    )


ARCHITECTURES = MappingProxyType(
    {
        architecture.name: architecture
        for architecture in (
            Architecture(
                "resnet18", "basic", (2, 2, 2, 2), 11_689_512, 1.814, _publish("resnet18", IMAGENET1K_V1="f37072fd")
            ),
            Architecture(
                "resnet34", "basic", (3, 4, 6, 3), 21_797_672, 3.664, _publish("resnet34", IMAGENET1K_V1="b627a593")
            ),
            Architecture(
                "resnet50",
                "bottleneck",
                (3, 4, 6, 3),
                25_557_032,
                4.089,
                _publish("resnet50", IMAGENET1K_V1="0676ba61", IMAGENET1K_V2="11ad3fa6"),
            ),
            Architecture(
                "resnet101",
                "bottleneck",
                (3, 4, 23, 3),
                44_549_160,
                7.801,
                _publish("resnet101", IMAGENET1K_V1="63fe2227", IMAGENET1K_V2="cd907fc2"),
            ),
            Architecture(
                "resnet152",
                "bottleneck",
                (3, 8, 36, 3),
                60_192_808,
                11.514,
                _publish("resnet152", IMAGENET1K_V1="394f9c45", IMAGENET1K_V2="f82ba261"),
            ),
        )
    }
)


@cache
def get_imagenet_classes() -> tuple[str, ...]:
    """Return the 1000 class names of ImageNet-1K, in the order of the networks' outputs."""
    return tuple((Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines())
