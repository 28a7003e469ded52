"""What is trained: the head on cached features, or the whole network on images."""
