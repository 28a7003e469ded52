"""The trained model in other formats, each compared with PyTorch before it is kept."""
