"""What a weights file is: architectures, formats, metadata, class names, and the networks built from it."""
