"""From a batch of images to logits: OpenVINO and PyTorch behind one interface, and a cache of compiled networks."""
