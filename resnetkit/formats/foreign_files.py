"""What else lies under the name of a weights file: downloads that failed, and the formats of other programs."""

from __future__ import annotations

from pathlib import Path

from resnetkit.machine.files import open_regular

_STARTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch it with: git lfs pull"),
    (b"\x1f\x8b", "is a gzip archive; unpack it, and give the file in it"),
    (b"BZh", "is a bzip2 archive; unpack it, and give the file in it"),
    (b"\xfd7zXZ", "is an xz archive; unpack it, and give the file in it"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it, and give the file in it"),
    (b"Rar!", "is a RAR archive; unpack it, and give the file in it"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes them; expected weights of PyTorch"),
    (b"GGUF", "is a GGUF file of a language model; expected weights of PyTorch"),
    (b"\x89PNG", "is an image; expected weights"),
    (b"\xff\xd8\xff", "is an image; expected weights"),
    (b"{", "is a JSON text, perhaps the answer of a server that refused a download; expected weights"),
)
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")


def explain_foreign_file(path: Path) -> str:
    """Say what a file is, if it is none of ours; empty where that cannot be said."""
    try:
        with open_regular(path) as stream:
            start = stream.read(512)
    except (OSError, ValueError):
        return ""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.lower().startswith(_HTML):
        return "is a web page (HTML), perhaps because a download asked for a login; fetch the file itself again"
    if start[257:262] == b"ustar":
        return "is a tar archive; unpack it, and give the file in it"
    if start[4:8] == b"TFL3":
        return "is a TensorFlow Lite model; expected weights of PyTorch"
    return next((sentence for prefix, sentence in _STARTS if text.startswith(prefix)), "")
