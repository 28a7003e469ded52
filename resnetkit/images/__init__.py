"""From a file, an array or a box of one to the input of a network."""
