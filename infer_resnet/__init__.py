"""Classify images with ResNet in Ikomia workflows."""
