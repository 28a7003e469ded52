"""Folders of millions of images: a plan of parts, and engines that classify each part exactly once."""
