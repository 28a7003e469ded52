"""ResNet image classification: train on a folder of images, classify, explain; what both Ikomia plugins stand on."""

__version__ = "0.1.0"
