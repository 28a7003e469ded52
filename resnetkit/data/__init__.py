"""From a folder or table of images to batches: splits, checks, augmentation, reading ahead."""
