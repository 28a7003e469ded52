"""One training from its data set to its run folder: the loop, its state, tracking, the end."""
