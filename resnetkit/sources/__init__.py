"""What a data set's folder or table means: the files of each class of each split, and what is no part of it."""
