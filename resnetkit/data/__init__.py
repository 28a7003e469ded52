"""From the files of a data set to batches: drawn splits, checks, augmentation, reading ahead."""
