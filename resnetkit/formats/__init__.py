"""Formats of weights files, read without running code: tensors, whole networks, and what is neither."""
