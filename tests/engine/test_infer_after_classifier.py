"""What infer_resnet makes of a classifier of another plugin before it: auto_connect links its boxes and its table."""

from __future__ import annotations

import pytest
from ikomia import dataprocess

BOX = (10, 20, 120, 90)


@pytest.fixture
def whole_image_classifier(make_task):
    def fill(task) -> None:
        task.set_whole_image_results(["vehicle", "animal"], ["0.7", "0.3"])

    return make_task(dataprocess.CClassificationTask, fill)


def find_nothing(task) -> None:
    """Set no results."""


@pytest.fixture
def classify_behind(workflow, checkpoint_path, photographs):
    """`classify_behind(*tasks)` runs them one after the other with infer_resnet at the end; returns the boxes."""

    def run(*tasks) -> list:
        for task in tasks:
            workflow.add_task(task, auto_connect=True)
        resnet = workflow.add_task(name="infer_resnet", auto_connect=True)
        resnet.set_parameters({"model_weight_file": checkpoint_path})
        workflow.run_on(array=photographs["china"])
        return [prediction.box for prediction in resnet.get_predictions()]

    return run


def test_the_whole_image_behind_a_classifier_of_whole_images(classify_behind, whole_image_classifier):
    assert classify_behind(whole_image_classifier) == [None]


def test_boxes_behind_a_classifier_of_boxes(classify_behind, make_task):
    def classify_boxes(task) -> None:
        for item in task.get_input_objects():
            task.add_object(item, 1, 0.8)

    detector = make_task(dataprocess.CObjectDetectionTask, lambda task: task.add_object(0, 0, 0.9, *map(float, BOX)))
    assert classify_behind(detector, make_task(dataprocess.CClassificationTask, classify_boxes)) == [BOX]


@pytest.mark.parametrize("base", [dataprocess.CObjectDetectionTask, dataprocess.CClassificationTask])
def test_nothing_behind_a_task_without_results(classify_behind, base, make_task):
    assert classify_behind(make_task(base, find_nothing)) == []


@pytest.mark.parametrize(("table", "value"), [(dataprocess.CDataStringIO, "0"), (dataprocess.CNumericIO, 0.0)])
def test_nothing_behind_a_detector_that_found_nothing_and_has_a_table_of_its_own(
    classify_behind, table, value, make_task
):
    detector = make_task(
        dataprocess.CObjectDetectionTask, lambda task: task.get_output(2).add_value_list([value], "Count", ["animal"])
    )
    detector.add_output(table())
    assert classify_behind(detector) == []


def test_a_classifier_counts_no_longer_when_its_connections_are_deleted(
    workflow, classify_behind, whole_image_classifier, make_task, photographs
):
    assert classify_behind(whole_image_classifier) == [None]
    (resnet,) = workflow.find_task("infer_resnet")
    for edge in workflow.get_in_edges(workflow.get_task_id(resnet)):
        workflow.delete_edge(edge)
    detector = make_task(dataprocess.CObjectDetectionTask, find_nothing)
    workflow.add_task(detector)
    workflow.connect_tasks(workflow.root(), detector)
    workflow.connect_tasks(detector, resnet)
    workflow.run_on(array=photographs["china"])
    assert resnet.get_predictions() == []
