"""What infer_resnet gives to the tasks behind it, for whole images and for every kind of shape before it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from ikomia import core, dataprocess

IMAGE, DETECTIONS, GRAPHICS, TABLE, HEATMAP, EMBEDDING = range(6)


@pytest.fixture
def make_detector(make_task):
    """`make_detector(boxes)`: a detector that finds them, animals and vehicles in turns."""

    def make(boxes):
        def add_objects(task) -> None:
            for index, box in enumerate(boxes):
                task.add_object(index, index % 2, 0.5, *(float(value) for value in box))

        return make_task(dataprocess.CObjectDetectionTask, add_objects)

    return make


@pytest.fixture
def add_classifier(workflow, checkpoint_path):
    """`add_classifier(finder=None, **parameters)`: infer_resnet with three classes behind a task of the test."""

    def add(finder=None, **parameters):
        if finder is not None:
            workflow.add_task(finder, auto_connect=True)
        task = workflow.add_task(name="infer_resnet", auto_connect=True)
        task.set_parameters({"model_weight_file": checkpoint_path, **parameters})
        return task

    return add


def get_shapes(graphics) -> list[tuple[str, list[float]]]:
    return [(item.get_category(), item.get_bounding_rect()) for item in graphics.get_items() if not item.is_text_item()]


def get_texts(graphics) -> list[str]:
    return [item.text for item in graphics.get_items() if item.is_text_item()]


# --- Whole images ---


def test_a_whole_image_fills_graphics_and_table(workflow, add_classifier, photographs):
    task = add_classifier(top_k=2)
    workflow.run_on(array=photographs["china"])
    (prediction,) = task.get_predictions()
    assert prediction.box is None
    assert [score.label for score in prediction.top_k] != []

    np.testing.assert_array_equal(task.get_output(IMAGE).get_image(), photographs["china"])
    assert task.get_output(DETECTIONS).get_objects() == []
    texts = get_texts(task.get_output(GRAPHICS))
    assert texts == [f"{score.label} {100 * score.confidence:.1f} %" for score in prediction.top_k]
    table = task.get_output(TABLE)
    assert table.get_all_header_labels() == ["Index", "Confidence"]
    assert table.get_all_label_list() == [[score.label for score in prediction.top_k]] * 2
    indices, confidences = table.get_all_value_list()
    assert indices == [str(score.index) for score in prediction.top_k]
    np.testing.assert_allclose(
        [float(text) for text in confidences], [s.confidence for s in prediction.top_k], atol=1e-4
    )


def test_the_table_has_no_more_rows_than_classes(workflow, add_classifier, photographs):
    task = add_classifier(top_k=1000)
    workflow.run_on(array=photographs["china"])
    assert len(task.get_output(TABLE).get_all_value_list()[0]) == 3


def test_outputs_4_and_5_are_there_and_empty_unless_asked_for(workflow, add_classifier, photographs):
    task = add_classifier()
    for is_asked in (False, True, False):
        task.set_parameters({"heatmap": is_asked, "embedding": is_asked})
        workflow.run_on(array=photographs["china"])
        assert task.get_output_count() == 6
        assert task.get_output(HEATMAP).is_data_available() is is_asked
        assert task.get_output(EMBEDDING).is_data_available() is is_asked
        prediction = task.get_predictions()[0]
        assert (prediction.embedding is not None) is is_asked


def test_the_heat_map_is_a_picture_of_the_image(workflow, add_classifier, photographs):
    task = add_classifier(heatmap=True)
    workflow.run_on(array=photographs["china"])
    picture = task.get_output(HEATMAP).get_image()
    assert (picture.shape, picture.dtype) == (photographs["china"].shape, np.uint8)
    changed = (picture != photographs["china"]).any(axis=2)
    assert 0.2 < changed.mean() < 1  # the centre that the network sees, not the sides


def test_the_embedding_is_the_predictions(workflow, add_classifier, photographs):
    task = add_classifier(embedding=True)
    workflow.run_on(array=photographs["china"])
    values = task.get_output(EMBEDDING).get_value_list(0)
    assert len(values) == 512
    np.testing.assert_allclose(values, task.get_predictions()[0].embedding, rtol=1e-6)


def test_below_the_threshold_is_unknown_everywhere(workflow, add_classifier, photographs):
    task = add_classifier(confidence_threshold=1.0)
    workflow.run_on(array=photographs["china"])
    (prediction,) = task.get_predictions()
    assert (prediction.label, prediction.index) == ("unknown", -1)
    assert get_texts(task.get_output(GRAPHICS))[0].startswith("unknown ")
    assert len(task.get_output(TABLE).get_all_value_list()[0]) == 3  # the real classes
    assert task.get_names()[-1] == "unknown"


def test_predictions_are_json(workflow, add_classifier, photographs, make_detector):
    task = add_classifier(make_detector([(10, 10, 50, 50)]), embedding=True)
    workflow.run_on(array=photographs["china"])
    (content,) = json.loads(json.dumps([prediction.to_dict() for prediction in task.get_predictions()]))
    assert content["box"] == [10, 10, 50, 50]
    assert content["label"] in ("cat", "dog", "fish")
    assert len(content["embedding"]) == 512


def test_a_direct_run_twice_does_not_accumulate(workflow, add_classifier, photographs, make_detector):
    task = add_classifier(make_detector([(10, 10, 50, 50), (60, 60, 90, 90)]), embedding=True, heatmap=True)
    workflow.run_on(array=photographs["china"])
    task.run()
    task.run()
    assert len(task.get_predictions()) == 2
    assert len(task.get_output(DETECTIONS).get_objects()) == 2
    assert len(get_shapes(task.get_output(GRAPHICS))) == 2
    assert len(task.get_output(TABLE).get_all_value_list()[0]) == 2
    assert len(task.get_output(EMBEDDING).get_all_value_list()) == 2


# --- Boxes ---


def test_boxes_come_in_the_detectors_order_with_its_boxes_and_our_names(
    workflow, add_classifier, photographs, make_detector
):
    boxes = [(300, 200, 80, 60), (10, 10, 120, 200), (150, 50, 33, 44)]
    task = add_classifier(make_detector(boxes))
    workflow.run_on(array=photographs["china"])
    predictions = task.get_predictions()
    assert [prediction.box for prediction in predictions] == boxes
    objects = task.get_output(DETECTIONS).get_objects()
    assert [tuple(found.box) for found in objects] == boxes
    labels = [prediction.label for prediction in predictions]
    assert [found.label for found in objects] == labels
    np.testing.assert_allclose([found.confidence for found in objects], [p.confidence for p in predictions])
    # Tasks further down select by the category of the graphics.
    for graphics in (task.get_output(GRAPHICS), task.get_output(DETECTIONS).get_graphics_io()):
        assert get_shapes(graphics) == [(label, list(box)) for label, box in zip(labels, boxes, strict=True)]
    assert task.get_output(TABLE).get_all_label_list()[0] == labels


def test_boxes_without_pixels_are_left_out(workflow, add_classifier, photographs, make_detector):
    nan = math.nan
    boxes = [
        (0, 0, 0, 0),
        (-50, -60, 100, 120),
        (700, 10, 50, 50),
        (nan, 0, 5, 5),
        (600, 400, 500, 500),
        (5, 5, 0.2, 0.2),
    ]
    task = add_classifier(make_detector(boxes), heatmap=True)
    workflow.run_on(array=photographs["china"])
    found = [prediction.box for prediction in task.get_predictions()]
    assert found == [boxes[1], boxes[4], pytest.approx(boxes[5])]
    assert task.get_output(HEATMAP).get_image().shape == photographs["china"].shape


def test_hundreds_of_boxes_are_each_classified_as_alone(workflow, add_classifier, photographs, make_detector):
    random = np.random.default_rng(0)
    boxes = [(*random.integers(0, 350, 2), *random.integers(5, 200, 2)) for _ in range(200)]
    task = add_classifier(make_detector(boxes))
    workflow.run_on(array=photographs["china"])
    predictions = task.get_predictions()
    assert len(predictions) == 200
    model = task._session.load(task.get_param_object().values)
    for index in (0, 57, 199):
        left, top, width, height = boxes[index]
        (alone,) = model.predict([photographs["china"][top : top + height, left : left + width]])
        np.testing.assert_allclose(predictions[index].probabilities, alone.probabilities, atol=1e-5)


def test_a_margin_widens_the_crop_and_not_the_box(workflow, add_classifier, photographs, make_detector):
    task = add_classifier(make_detector([(100, 100, 80, 40)]), box_margin=0.5)
    workflow.run_on(array=photographs["china"])
    (prediction,) = task.get_predictions()
    assert prediction.box == (100, 100, 80, 40)
    (wide,) = task._session.load(task.get_param_object().values).predict([photographs["china"][80:160, 60:220]])
    np.testing.assert_allclose(prediction.probabilities, wide.probabilities, atol=1e-5)


def test_an_unknown_box_has_the_name_after_the_last_class(workflow, add_classifier, photographs, make_detector):
    task = add_classifier(make_detector([(10, 10, 99, 99)]), confidence_threshold=1.0)
    workflow.run_on(array=photographs["china"])
    assert task.get_output(DETECTIONS).get_objects()[0].label == "unknown"
    assert task.get_predictions()[0].index == -1
    assert len(task.get_predictions()[0].top_k) == 3


def test_a_rotated_box_is_classified_by_what_is_around_it(workflow, add_classifier, photographs, make_task):
    def add_objects(task) -> None:
        task.add_object(0, 0, 0.5, 200.0, 150.0, 120.0, 40.0, 30.0)  # centre, size, angle
        task.add_object(1, 1, 0.5, 10.0, 10.0, 60.0, 30.0)

    task = add_classifier(make_task(dataprocess.CObjectDetectionTask, add_objects))
    workflow.run_on(array=photographs["china"])
    rotated, straight = task.get_predictions()
    assert straight.box == (10, 10, 60, 30)
    left, top, width, height = rotated.box
    assert (left + width / 2, top + height / 2) == pytest.approx((200, 150), abs=1.5)
    assert (width, height) == pytest.approx((124, 95), abs=2)


def test_an_object_of_a_segmentation_is_classified_once(workflow, add_classifier, photographs, make_task):
    """The engine sends a rectangle and then every part of the mask as a polygon, each with an id of its own."""

    def add_objects(task) -> None:
        for index, (left, top) in enumerate([(60, 50), (300, 100)]):
            mask = np.zeros((427, 640), np.uint8)
            mask[top : top + 40, left : left + 100] = 1
            mask[top + 60 : top + 100, left : left + 100] = 1  # in two parts
            task.add_object(index, 0, index, 0.5, float(left), float(top), 100.0, 100.0, mask)

    task = add_classifier(make_task(dataprocess.CInstanceSegmentationTask, add_objects))
    workflow.run_on(array=photographs["china"])
    assert [prediction.box for prediction in task.get_predictions()] == [(60, 50, 100, 100), (300, 100, 100, 100)]


def test_shapes_drawn_by_hand_are_all_classified(workflow, add_classifier, photographs):
    """Studio puts what a user draws into the input; nothing is connected."""
    task = add_classifier()
    points = [core.CPointF(x, y) for x, y in ((100.0, 100.0), (180.0, 120.0), (140.0, 200.0))]
    task.get_input(1).set_items([core.CGraphicsRectangle(10.0, 20.0, 90.0, 80.0), core.CGraphicsPolygon(points)])
    workflow.run_on(array=photographs["china"])
    # The engine's bounding rectangle of a polygon holds the pixels of its corners.
    assert [prediction.box for prediction in task.get_predictions()] == [(10, 20, 90, 80), (100, 100, 81, 101)]


# --- Whether a detector is connected ---


def find_id(workflow, task) -> int:
    return next(number for number in workflow.get_task_ids() if workflow.get_task(number).uuid == task.uuid)


@pytest.mark.parametrize(
    "base",
    [dataprocess.CObjectDetectionTask, dataprocess.CInstanceSegmentationTask],
    ids=["detection", "segmentation"],
)
def test_finding_nothing_gives_no_result_from_the_first_run(workflow, add_classifier, photographs, base, make_task):
    task = add_classifier(make_task(base, lambda _: None), heatmap=True, embedding=True)
    workflow.run_on(array=photographs["china"])
    assert task.get_predictions() == []
    assert not task.get_output(TABLE).is_data_available()
    assert get_texts(task.get_output(GRAPHICS)) == []
    np.testing.assert_array_equal(task.get_output(HEATMAP).get_image(), photographs["china"])


def test_without_its_connection_a_detector_counts_no_longer(workflow, add_classifier, photographs, make_detector):
    task = add_classifier(make_detector([(10, 10, 50, 50)]))
    workflow.run_on(array=photographs["china"])
    assert len(task.get_predictions()) == 1
    for edge in workflow.get_in_edges(find_id(workflow, task)):
        if workflow.get_edge_info(edge) == (1, 1):
            workflow.delete_edge(edge)
    workflow.run_on(array=photographs["china"])
    assert [prediction.box for prediction in task.get_predictions()] == [None]


def test_a_deleted_detector_leaves_its_last_boxes(workflow, add_classifier, photographs, make_detector):
    """The engine's doing, and nothing that a task can see: this test tells when it changes."""
    finder = make_detector([(10, 10, 50, 50)])
    task = add_classifier(finder)
    workflow.run_on(array=photographs["china"])
    workflow.delete_task(find_id(workflow, finder))
    workflow.connect(workflow.get_root_id(), find_id(workflow, task), 0, 0)
    workflow.run_on(array=photographs["flower"])
    assert [prediction.box for prediction in task.get_predictions()] == [(10, 10, 50, 50)]


def test_a_second_classifier_takes_the_boxes_of_the_first(workflow, add_classifier, photographs, make_detector):
    first = add_classifier(make_detector([(10, 10, 50, 50), (80, 90, 100, 110)]))
    second = add_classifier(input_size=96)
    workflow.run_on(array=photographs["china"])
    assert len(second.get_predictions()) == 2
    assert [p.box for p in second.get_predictions()] == [p.box for p in first.get_predictions()]


def test_a_second_classifier_takes_the_whole_image_as_the_first(workflow, add_classifier, photographs):
    first, second = add_classifier(), add_classifier(input_size=96, confidence_threshold=1.0)
    for name in ("china", "small"):
        workflow.run_on(array=photographs[name])
        assert [prediction.box for prediction in first.get_predictions() + second.get_predictions()] == [None, None]
