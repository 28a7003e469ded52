"""A job from its first start to its last part: whatever is killed meanwhile, the same command goes on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from resnetkit.folders.classifier import Classifier
from resnetkit.folders.tables import import_pyarrow
from resnetkit.jobs.engines import LocalEngine, RayEngine
from resnetkit.jobs.parts import Part, find_missing, name_part, remove_unfinished
from resnetkit.jobs.plan import Plan, open_plan, read_parts
from resnetkit.machine.files import resolve_path
from resnetkit.machine.progress import Progress, ProgressBar
from resnetkit.machine.speaking import get_logger
from resnetkit.machine.text import to_printable

logger = get_logger()

ENGINES = ("local", "ray")

#: Parameters that decide where and how fast, not what comes out. Runtime and precision change the last digits, and of
#: a quantized or a half-precise network more: the parts of a job have the same ones.
_FREE = ("device", "threads", "model_weight_file", "smoothing", "box_margin", "heatmap")
_MAX_NAMED = 5


class LostPartsError(RuntimeError):
    """Parts are missing after a second pass."""


class Engine(Protocol):
    """What classifies parts."""

    def run(self, parts: Iterable[Part], folder: Path, progress: Progress, bar: ProgressBar) -> None:
        """Classify parts; those that fail are not there afterwards."""


@dataclass(frozen=True)
class JobOptions:
    """How a job is done.

    Attributes:
        engine: One of `ENGINES`.
        workers: Number of Ray's actors; 0 chooses.
        part_size: Files of a part.
        has_probabilities: Whether there is a column a class.
    """

    engine: str = "local"
    workers: int = 0
    part_size: int = 1000
    has_probabilities: bool = False


@dataclass(frozen=True)
class JobSummary:
    """What came of a job.

    Attributes:
        output: The folder of the parts.
        num_files: Rows of all parts; each file has one.
        num_errors: Files that cannot be read; the column `error` says why.
        num_parts: Parts.
        num_there: Parts that were there before.
        seconds: How long it took.
    """

    output: Path
    num_files: int
    num_errors: int
    num_parts: int
    num_there: int
    seconds: float

    def __str__(self) -> str:
        """Say it in a line."""
        errors = f", {self.num_errors:,} of them cannot be read" if self.num_errors else ""
        there = f", {self.num_there:,} of them from before" if self.num_there else ""
        parts = f"{self.num_parts:,} part{'s' * (self.num_parts > 1)}"
        return f"{self.num_files:,} files in {parts}{there}{errors}: {to_printable(str(self.output))}"


def classify_into_parts(
    classifier: Classifier,
    sources: Sequence[str],
    output: Path,
    options: JobOptions | None = None,
    progress: Progress | None = None,
) -> JobSummary:
    """Classify files into a folder of Parquet parts; parts that are there already stay, whichever engine made them.

    Args:
        classifier: The model, and what its answers hold.
        sources: Files, folders, patterns, lists of paths; see `list_files`.
        output: The folder.
        options: How it is done.
        progress: Shows a bar, and may stop after a part.

    Raises:
        JobError: The folder holds another job or something else, there are no files, or Ray is not installed.
        EngineError: Ray cannot be started.
        ListingError: A list of paths or a folder cannot be read.
        LostPartsError: Parts are missing after a second pass; all others are there.
        Stopped: The user asked for it; the parts so far are there.
        TableError: pyarrow is not installed.
    """
    options, progress, began = options or JobOptions(), progress or Progress(), time.perf_counter()
    import_pyarrow()
    engine: Engine = (
        RayEngine(classifier.values, options.has_probabilities, options.workers)
        if options.engine == "ray"
        else LocalEngine(classifier, options.has_probabilities)
    )
    plan = open_plan(output, _describe(classifier, sources, options))
    num_there = plan.num_parts - len(find_missing(output, plan))
    with progress.show("classifying", plan.num_files, "image") as bar:
        for is_second in (False, True):
            missing = set(find_missing(output, plan))
            if not missing:
                break
            if is_second:
                logger.warning("%d parts are missing after the first pass; they are tried once more", len(missing))
            engine.run(read_parts(output, plan, missing), output, progress, bar)
    remove_unfinished(output)
    _check_is_complete(output, plan)
    num_rows, num_errors = _count(output, plan)
    return JobSummary(output, num_rows, num_errors, plan.num_parts, num_there, time.perf_counter() - began)


def _describe(classifier: Classifier, sources: Sequence[str], options: JobOptions) -> Plan:
    columns = classifier.make_columns(options.has_probabilities)
    values = {name: value for name, value in classifier.values.model_dump().items() if name not in _FREE}
    settings = {**values, "probabilities": options.has_probabilities}
    absolute = tuple(str(source) if source == "-" else str(resolve_path(str(source))) for source in sources)
    return Plan(absolute, columns.model, settings, options.part_size)


def _check_is_complete(output: Path, plan: Plan) -> None:
    missing = find_missing(output, plan)
    if not missing:
        return
    names = ", ".join(name_part(number) for number in missing[:_MAX_NAMED])
    more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
    raise LostPartsError(
        f"{len(missing)} of {plan.num_parts} parts could not be done, in two passes: {names}{more}; the others are in "
        f"'{output}'. An image of theirs may end any process that reads it; the same command tries them again"
    )


def _count(output: Path, plan: Plan) -> tuple[int, int]:
    """Return rows and errors of all parts.

    Raises:
        LostPartsError: A part cannot be read, or has another number of rows than its plan.
    """
    from pyarrow import ArrowException, parquet

    rows = errors = 0
    for number in range(plan.num_parts):
        path = output / name_part(number)
        try:
            column = parquet.read_table(path, columns=["error"]).column("error").to_pylist()
        except (ArrowException, KeyError) as error:
            raise LostPartsError(
                f"'{path}' is damaged: delete it, and the same command does it again ({str(error).splitlines()[0]})"
            ) from error
        if len(column) != plan.count_rows(number):
            raise LostPartsError(f"'{path}' has {len(column)} rows, expected {plan.count_rows(number)}; delete it")
        rows, errors = rows + len(column), errors + sum(map(bool, column))
    return rows, errors
