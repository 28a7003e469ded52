"""A training opened from nothing or from an earlier run folder: everything that can be wrong is looked at first."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnetkit.data.dataset import Dataset, read_dataset
from resnetkit.data.identity import hash_dataset, measure_files
from resnetkit.data.scanning import check_images
from resnetkit.data.splitting import SPLIT_RULE
from resnetkit.images.pixels import ValueRange
from resnetkit.images.preprocessing import Preprocessing
from resnetkit.images.ranges import parse_value_range
from resnetkit.learners.finetuning import NetworkLearner
from resnetkit.learners.head import HeadLearner
from resnetkit.learners.initialization import Start, initialize
from resnetkit.learners.learner import ImageSplits, Learner
from resnetkit.learners.optimization import (
    Loss,
    choose_criterion,
    choose_numerics,
    compute_class_weights,
)
from resnetkit.learners.recipe import Recipe, choose_recipe
from resnetkit.learners.sharing import check_agreement, check_folder_is_seen, check_processes
from resnetkit.machine import ranks
from resnetkit.machine.files import resolve_path, write_text
from resnetkit.machine.progress import Progress
from resnetkit.machine.speaking import get_logger
from resnetkit.parameters.declaration import ParameterError
from resnetkit.parameters.training import TrainParameters
from resnetkit.sources.brightness import find_value_range
from resnetkit.sources.mirror import make_local
from resnetkit.training.run import Run
from resnetkit.training.run_folder import (
    RunFolderLock,
    create_named_run_folder,
    create_run_folder,
    prepare_output_folder,
    remove_temporary_files,
)
from resnetkit.training.state import (
    STATE_FILE,
    Circumstances,
    TrainingState,
    check_circumstances,
    check_resumable,
    check_weights,
    extend_recipe,
    read_state,
    write_state,
)
from resnetkit.weights.checkpoint import BEST_CHECKPOINT, open_weights
from resnetkit.weights.metadata import find_preprocessing

logger = get_logger()

DATA_REPORT_FILE = "data_report.json"
#: Parameters that a run that is gone on with has anew; where its data set is, its state says besides.
_OF_ONE_START = frozenset({"resume_from", "run_folder", "output_folder", "evaluate_only", "dataset_folder"})


def open_run(parameters: TrainParameters, source: Path, progress: Progress) -> Run:
    """Check everything that can be wrong, then make the run folder, or take up the one to resume; it is locked.

    Raises:
        ValueError: Parameters, data set or weights file are not usable; nothing was written.
        OSError: The output folder cannot be written to.
    """
    parameters.check_consistency()
    if parameters.evaluate_only:
        raise ParameterError("'evaluate_only' trains nothing; expected False, got True; `resnetkit evaluate` evaluates")
    if parameters.run_folder and ranks.share((resolve_path(parameters.run_folder) / STATE_FILE).is_file()):
        parameters = parameters.updated({"resume_from": parameters.run_folder})
    lock = None
    if (
        ranks.is_first()
        and parameters.resume_from
        and (folder := resolve_path(parameters.resume_from).resolve()).is_dir()
    ):
        lock = RunFolderLock(folder)
    try:
        run = _open_run(parameters, source, progress)
        run.lock = lock or (RunFolderLock(run.folder) if ranks.is_first() else None)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    return run


def complete(parameters: TrainParameters, source: Path | None) -> tuple[TrainParameters, Path]:
    """Take what was not given from the run that is gone on with, the place of its data set included.

    Raises:
        ParameterError: There is no such run, or no data set.
    """
    if parameters.resume_from:
        earlier = read_state(resolve_path(parameters.resume_from)).parameters
        names = TrainParameters.model_fields.keys() - parameters.model_fields_set - _OF_ONE_START
        own = {name: earlier[name] for name in names if name in earlier}
        if "***@" in str(own.get("tracking")):
            logger.warning("'tracking' was %s; its password was not kept: give it anew", own.pop("tracking"))
        parameters = parameters.updated(own)
        if source is None and earlier.get("dataset_folder"):
            source = Path(str(earlier["dataset_folder"]))
    if source is None:
        raise ParameterError("no data set; expected a path of a folder or of a CSV/TSV file, got nothing")
    return parameters, source


def _open_run(parameters: TrainParameters, source: Path, progress: Progress) -> Run:
    earlier_folder = resolve_path(parameters.resume_from).resolve() if parameters.resume_from else None
    split_rule = SPLIT_RULE
    if earlier_folder is None:
        output_folder = _prepare_output(parameters)
    else:
        check_folder_is_seen(earlier_folder / STATE_FILE)
        earlier, output_folder = read_state(earlier_folder), earlier_folder.parent
        check_resumable(earlier, parameters)
        split_rule = earlier.split_rule
    source = make_local(source, progress)
    dataset = read_dataset(source, parameters.val_split, parameters.seed, split_rule, output_folder)
    progress.check()  # before weights are downloaded
    start = initialize(parameters, dataset.classes)
    kept = _find_preprocessing(earlier_folder, earlier) if earlier_folder is not None else None
    value_range = kept.value_range if kept else _find_value_range(start, parameters, dataset, progress)
    start = replace(start, preprocessing=replace(start.preprocessing, value_range=value_range))
    recipe, cycle_ends = _choose_recipe(parameters, len(dataset.train), start), list[int]()
    check_processes(parameters, dataset, start, recipe)
    if earlier_folder is not None:
        recipe, cycle_ends = extend_recipe(earlier, recipe, parameters)
    splits = ImageSplits(dataset, start.preprocessing, parameters, recipe)
    began = time.monotonic()
    dataset, report = check_images(
        dataset, parameters.max_image_megapixels, progress, splits.keep, start.preprocessing.value_range
    )
    timings = {"checking": time.monotonic() - began}
    dataset, sizes = measure_files(dataset)
    splits.dataset = dataset
    learner = _open_learner(parameters, recipe, start, splits)
    content = hash_dataset(dataset, sizes)
    check_agreement(**{"data set": content})
    numerics, threads = ranks.share((learner.numerics, torch.get_num_threads()))
    state = TrainingState(
        {**parameters.model_dump(), "dataset_folder": str(source.absolute())},
        Circumstances(content, start.content_hash, numerics, threads, ranks.get_size()),
        dataset.classes,
        weights=learner.module.state_dict(),
        recipe=recipe.to_dict(),
        split_rule=split_rule,
        **_choose_figure(parameters, recipe, dataset),
        cycle_ends=cycle_ends,
    )
    if earlier_folder is None:
        folder = _create_folder(parameters, output_folder, state)
    else:
        folder = earlier_folder
        state = _take_up(earlier_folder, earlier, state, learner)
    if ranks.is_first():
        write_text(folder / DATA_REPORT_FILE, json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
        report.write_near_duplicates(folder)
    loss = Loss(recipe.label_smoothing, _weigh_classes(parameters, dataset))
    return Run(parameters, recipe, progress, folder, splits, report, start.preprocessing, learner, loss, state, timings)


def _choose_recipe(parameters: TrainParameters, num_images: int, start: Start) -> Recipe:
    """Return how it is trained, and say what became of the head that was there; a solved one begins anew."""
    recipe = choose_recipe(parameters, num_images)
    if recipe.is_solved or recipe.starts_from_solved_head or not start.head:
        return recipe
    logger.info("%s", start.head)
    return replace(recipe, reasons={**recipe.reasons, "classes": start.head})


def _choose_figure(parameters: TrainParameters, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Return what chooses among epochs, as `find_best` takes it."""
    figure = choose_criterion(parameters.class_weights, dataset).figure
    # A mean recall has no standard error as simple as an accuracy has; the user's rates may not fall to zero.
    is_settled = recipe.average_share > 0 and figure == "val_accuracy"
    return {"figure": figure, "num_choosing": len(dataset.val) if is_settled else 0}


def _take_up(folder: Path, earlier: TrainingState, now: TrainingState, learner: Learner) -> TrainingState:
    """Go on from an earlier state, under the parameters of now.

    Raises:
        ValueError: Something that the result depends on has changed.
    """
    check_circumstances(earlier, now.circumstances)
    if ranks.is_first():
        remove_temporary_files(folder)
    if not earlier.history:
        earlier = replace(earlier, figure=now.figure, num_choosing=now.num_choosing)
    state = replace(earlier, parameters=now.parameters, cycle_ends=now.cycle_ends)
    check_weights(state, learner.module)
    learner.restore(state.weights, state.average)
    return state


def _prepare_output(parameters: TrainParameters) -> Path:
    """Return what a new run's files lie in, and is no part of the data set; the first process proves that it can write.

    Raises:
        OutputError: It cannot.
    """
    if parameters.run_folder:
        return resolve_path(parameters.run_folder)
    return prepare_output_folder(parameters.output_folder)


def _create_folder(parameters: TrainParameters, output_folder: Path, state: TrainingState) -> Path:
    """Make the run folder: the first process does, and all have to see it.

    Raises:
        OutputError: It cannot be made.
        JointError: A process does not see it.
    """
    folder = None
    if ranks.is_first() and parameters.run_folder:
        folder = create_named_run_folder(output_folder, lambda folder: write_state(folder, state))
    elif ranks.is_first():
        folder = create_run_folder(output_folder, parameters.model_name, lambda folder: write_state(folder, state))
    folder = ranks.share(folder)
    assert folder is not None
    check_folder_is_seen(folder / STATE_FILE)
    return folder


def _find_preprocessing(folder: Path, state: TrainingState) -> Preprocessing | None:
    """Return the preprocessing of a run that goes on; None where it saved nothing yet, and is to find the same again.

    Runs from before there were brightness ranges have guessed it from each image, and go on to.
    """
    kept = find_preprocessing(folder / BEST_CHECKPOINT)
    if kept is None and "value_range" not in state.parameters:
        weights = open_weights(folder / BEST_CHECKPOINT) if (folder / BEST_CHECKPOINT).is_file() else None
        kept = weights.preprocessing if weights is not None else None
    return kept


def _find_value_range(
    start: Start, parameters: TrainParameters, dataset: Dataset, progress: Progress
) -> ValueRange | None:
    """Return the declared brightness range, or that of the data set; where it needs none, the weights' own."""
    found = parse_value_range(parameters.value_range)
    if found is None:
        found = find_value_range(dataset.source, dataset.train.paths, parameters.max_image_megapixels, progress)
    return start.preprocessing.value_range if found is None else found


def _open_learner(parameters: TrainParameters, recipe: Recipe, start: Start, splits: ImageSplits) -> Learner:
    if parameters.feature_extract:
        return HeadLearner(start, splits, parameters, recipe)
    numerics = choose_numerics(parameters.device, parameters.precision)
    return NetworkLearner(start, splits, parameters, recipe, numerics)


def _weigh_classes(parameters: TrainParameters, dataset: Dataset) -> torch.Tensor | None:
    return compute_class_weights(parameters.class_weights, dataset.train.labels, len(dataset.classes))
