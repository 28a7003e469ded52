"""`resnetkit similar`: the images of a folder that are most like another one."""

from __future__ import annotations

import argparse
from pathlib import Path

from resnetkit.commands.classify import ELSEWHERE, MODEL_HELP, read_model
from resnetkit.commands.options import CommandParser
from resnetkit.commands.program import Answer
from resnetkit.machine.files import resolve_path
from resnetkit.machine.imports import pause_garbage_collection
from resnetkit.machine.progress import Progress
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.inference import InferParameters

SUMMARY = "Find the images that a model's feature vectors place nearest to another one; prints them, nearest first."
USAGE = "MODEL PATH... --query IMAGE"

_MAX_COUNT = 1000


def add_arguments(parser: CommandParser) -> None:
    """Add model, paths, what is looked for, and an option per parameter."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="Where to look: images, folders, patterns, .txt or .csv lists; or -."
    )
    group = parser.add_argument_group("Search")
    group.add_argument("--query", metavar="IMAGE", required=True, help="The image that is looked for.")
    group.add_argument("--count", metavar="N", default="9", help="How many are found at most; default 9.")
    group.add_argument("--output", metavar="PATH", help="Contact sheet of the query and what was found, a JPEG.")
    # An embedding is what is compared, and there is no picture to lay a heat map over.
    parser.add_parameters(InferParameters, {**ELSEWHERE, "embedding": "", "heatmap": "", "heatmap_class": ""})


def run(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Search.

    Raises:
        ValueError: Parameters, weights, paths or the query are not usable.
        Stopped: The user asked for it.
    """
    if not arguments.count.isdecimal() or not 1 <= int(arguments.count) <= _MAX_COUNT:
        raise ParameterError(f"'count' must be an integer from 1 to {_MAX_COUNT}, got {arguments.count!r}")
    output = None if arguments.output is None else resolve_path(arguments.output)
    if output is not None and output.suffix.lower() not in (".jpg", ".jpeg"):
        raise ParameterError(f"'output' must end in .jpg, got '{arguments.output}'")
    values = read_model(arguments).updated({"embedding": True})
    with pause_garbage_collection():
        from resnetkit.folders.classifier import Classifier
        from resnetkit.folders.pictures import save_jpeg
        from resnetkit.folders.similar import draw_similar, find_similar
        from resnetkit.machine.text import to_printable
    query = Path(arguments.query).expanduser()
    classifier = Classifier(values)
    found = find_similar(classifier, query, arguments.paths, int(arguments.count), progress)
    if output is not None:
        save_jpeg(output, draw_similar(query, found, classifier.preprocessing.value_range))
    lines = [to_printable(f"{each.similarity:.4f}  {each.label}  {each.path}") for each in found]
    return Answer(lines, {"query": str(query), "found": [{**vars(each), "path": str(each.path)} for each in found]})
