"""VOC average precision against values worked out on paper, published ones and a plain loop."""

import math

import numpy as np
import pytest
import torch

from tests.evaluation.masks import rectangles
from tests.helpers import instances
from weaksam.config import UserError
from weaksam.evaluation.matching import overlaps
from weaksam.evaluation.protocol import DetectionFilter, image_order, keep_detections
from weaksam.evaluation.voc import MASK_IOUS, average_precision, voc_ap
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances
from weaksam.structures.masks import boxes_from_masks, rle_from_mask

LEFT, RIGHT, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [100, 100, 110, 110]


def test_average_precision_by_hand():
    # Two objects, hit - miss - hit: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    hits = np.array([True, False, True])
    assert average_precision(hits, 2, "all-point") == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(hits, 2, "11-point") == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    # The same with one object more that is never found: recall ends at 2/3
    assert average_precision(hits, 3, "all-point") == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(hits, 3, "11-point") == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_average_precision_of_nothing():
    assert average_precision(np.zeros(0, bool), 3) == 0
    assert average_precision(np.zeros(4, bool), 3, "11-point") == 0
    assert math.isnan(average_precision(np.array([False]), 0))


def test_eleven_levels_round_as_published_evaluators_do():
    # 3 of 10 found first: recall 0.3 is below the float level 0.30000000000000004, so levels 0, .1, .2 count
    assert average_precision(np.ones(3, bool), 10, "11-point") == pytest.approx(3 / 11)


def test_difficult_truth_is_neither_found_nor_false():
    truths = {"a": instances([LEFT, RIGHT], difficult=[False, True])}
    detections = {"a": instances([RIGHT, RIGHT, LEFT], scores=[0.9, 0.8, 0.7])}
    result = voc_ap(truths, detections, 1)
    assert result.num_truths == (1,)
    assert result.mean() == 1  # both detections on the difficult one vanish
    counted = voc_ap({"a": truths["a"].replace(difficult=None)}, detections, 1)
    assert counted.mean() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)  # hit, second hit on the same = false, hit


def test_second_detection_of_an_object_is_false_even_beside_a_free_one():
    # VOC: a detection belongs to the truth it overlaps most; COCO would give the second one the other truth
    truths = {"a": instances([[0, 0, 10, 10], [0, 4, 10, 14]])}
    detections = {"a": instances([[0, 0, 10, 10], [0, 1, 10, 11]], scores=[0.9, 0.8])}
    assert overlaps(detections["a"], truths["a"])[1].tolist() == pytest.approx([9 / 11, 7 / 13])
    assert voc_ap(truths, detections, 1).mean() == pytest.approx(0.5)


def test_mean_leaves_out_classes_without_a_truth():
    truths = {"a": instances([LEFT, FAR], labels=[0, 2]), "b": Instances.empty()}
    detections = {"a": instances([LEFT, RIGHT], labels=[0, 1], scores=[0.9, 0.8]), "b": instances([LEFT], scores=[0.1])}
    result = voc_ap(truths, detections, 3)
    assert result.ap[0.5][0] == 1 and math.isnan(result.ap[0.5][1]) and result.ap[0.5][2] == 0
    assert result.mean() == 0.5
    assert result.as_dict()["per_class"] == {"0.5": [1.0, None, 0.0]}
    assert result.num_detections == (2, 1, 0)


def test_image_without_detections_and_no_image_at_all():
    truths = {"a": instances([LEFT]), "b": instances([LEFT])}
    assert voc_ap(truths, {}, 1).mean() == 0
    assert voc_ap(truths, {"b": instances([LEFT], scores=[0.3])}, 1).mean() == 0.5
    assert math.isnan(voc_ap({}, {}, 2).mean())


def test_class_of_a_detection_must_be_right():
    truths = {"a": instances([LEFT], labels=[1])}
    assert voc_ap(truths, {"a": instances([LEFT], labels=[0], scores=[0.9])}, 2).mean() == 0


def test_threshold_is_reached_by_equality():
    truths = {"a": instances([[0, 0, 10, 10]])}
    detections = {"a": instances([[0, 0, 10, 7]], scores=[0.5])}
    assert {iou: voc_ap(truths, detections, 1, ious=[iou]).mean(iou) for iou in (0.7, 0.71)} == {0.7: 1, 0.71: 0}


def test_pixel_inclusive_boxes():
    # 0..9 is ten pixels wide when 9 is inside: 10x10 against 10x5, IoU 1/2; half-open 9x9 against 9x4, IoU 4/9
    truths, detections = {"a": instances([[0, 0, 9, 9]])}, {"a": instances([[0, 0, 9, 4]], scores=[0.5])}
    assert voc_ap(truths, detections, 1, pixel_inclusive=True).mean() == 1
    assert voc_ap(truths, detections, 1).mean() == 0


def masked(columns, scores=None):
    masks = torch.zeros(len(columns), 20, 20, dtype=torch.bool)
    for mask, (first, last) in zip(masks, columns, strict=True):
        mask[:10, first:last] = True
    return instances(boxes_from_masks(masks).tolist(), scores=scores).replace(masks=tuple(map(rle_from_mask, masks)))


def test_mask_ap_25_50_70_75_by_hand():
    # Columns 0..10 against 0..7: 70 of 100 pixels, IoU 0.7; 10..20 against 10..13: 0.3; both boxes would differ as well
    truths = {"a": masked([(0, 10), (10, 20)])}
    detections = {"a": masked([(0, 7), (10, 13)], scores=[0.9, 0.8])}
    result = voc_ap(truths, detections, 1, ious=MASK_IOUS, geometry="masks")
    assert [result.mean(iou) for iou in MASK_IOUS] == [1, 0.5, 0.5, 0]


def test_mask_ap_compares_masks_and_not_boxes():
    # A ring and the square that fills its box: equal boxes, mask IoU 36 / 100
    ring = torch.zeros(20, 20, dtype=torch.bool)
    ring[:10, :10] = True
    full = ring.clone()
    ring[1:9, 1:9] = False
    truths = {"a": instances([LEFT]).replace(masks=(rle_from_mask(full),))}
    detections = {"a": instances([LEFT], scores=[0.9]).replace(masks=(rle_from_mask(ring),))}
    result = voc_ap(truths, detections, 1, ious=(0.25, 0.36, 0.5), geometry="masks")
    assert [result.mean(iou) for iou in (0.25, 0.36, 0.5)] == [1, 1, 0]
    assert voc_ap(truths, detections, 1).mean() == 1


def test_published_values(shared_data):
    """voc100_metrics/EXPECTED.txt, metric_case_voc: boxes are pixel-inclusive there."""
    folder = shared_data / "voc100_metrics" / "metric_case_voc"
    truths, detections = _read_texts(folder / "gts", 1), _read_texts(folder / "dets", 2)
    ious = (0.1, 0.3, 0.5, 0.75)
    wanted = {
        "11-point": [0.3333333333, 0.2683982683, 0.0303030303, 0.0],
        "all-point": [0.3371980676, 0.2456866804, 0.0222222222, 0.0],
    }
    for interpolation, values in wanted.items():
        result = voc_ap(truths, detections, 1, ious=ious, interpolation=interpolation, pixel_inclusive=True)
        assert [result.mean(iou) for iou in ious] == pytest.approx(values, abs=1e-9)


def _read_texts(folder, first_number):
    detections = {}
    for path in folder.glob("*.txt"):
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
        boxes = torch.tensor([[float(value) for value in row[first_number:]] for row in rows])
        boxes[:, 2:] += boxes[:, :2]
        scores = [float(row[1]) for row in rows] if first_number == 2 else None
        detections[path.stem] = instances(boxes.tolist(), scores=scores)
    return detections


def random_set(seed, num_images=12, num_classes=3, difficult=True):
    rng = np.random.default_rng(seed)

    def boxes(count):
        corner = rng.integers(0, 40, (count, 2))
        return np.concatenate([corner, corner + rng.integers(4, 40, (count, 2))], axis=1).tolist()

    truths, detections = {}, {}
    for number in range(num_images):
        count, more = int(rng.integers(0, 6)), int(rng.integers(0, 30))
        marks = {"difficult": (rng.random(count) < 0.2).tolist()} if difficult and count else {}
        truths[str(number)] = instances(boxes(count), rng.integers(0, num_classes, count).tolist(), **marks)
        scores = (rng.integers(0, 50, more) / 50).tolist()  # with ties
        detections[str(number)] = instances(boxes(more), rng.integers(0, num_classes, more).tolist(), scores)
    return truths, detections


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("iou", [0.3, 0.5])
def test_equals_the_plain_loop(seed, iou):
    truths, detections = random_set(seed)
    result = voc_ap(truths, detections, 3, ious=[iou])
    for label in range(3):
        assert result.ap[iou][label] == pytest.approx(_plain_ap(truths, detections, label, iou), nan_ok=True)


def _plain_ap(truths, detections, label, iou):
    """The VOC development kit's loop, one detection after the other."""
    rows = [
        (score, image_id, box)
        for image_id in image_order(truths)
        for score, box, of_box in zip(*_columns(detections[image_id]), strict=True)
        if of_box == label
    ]
    taken, hits, total = set(), [], 0
    for truth in truths.values():
        difficult = torch.zeros(len(truth), dtype=torch.bool) if truth.difficult is None else truth.difficult
        total += int(((truth.labels == label) & ~difficult).sum())
    for _, image_id, box in sorted(rows, key=lambda row: -row[0]):
        truth = truths[image_id]
        overlap = pairwise_iou(torch.tensor([box]).double(), truth.boxes.double())[0].tolist() if len(truth) else []
        of_label = [(value, -index) for index, value in enumerate(overlap) if truth.labels[index] == label]
        best, index = max(of_label, default=(0.0, 0))
        if best < iou:
            hits.append(False)
        elif truth.difficult is None or not truth.difficult[-index]:
            hits.append((image_id, index) not in taken)
            taken.add((image_id, index))
    return average_precision(np.array(hits, dtype=bool), total)


def _columns(detections):
    return detections.scores.tolist(), detections.boxes.tolist(), detections.labels.tolist()


def test_filter_keeps_the_best_and_is_idempotent():
    detections = instances([LEFT, [1, 0, 11, 10], RIGHT, LEFT], [0, 0, 0, 1], [0.5, 0.9, 0.3, 0.4])
    keep = DetectionFilter(min_score=0.2, nms_iou=0.5, max_per_image=2)
    kept = keep_detections(detections, keep)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.4])  # LEFT falls to its twin, RIGHT to the cap
    again = keep_detections(kept, keep)
    assert torch.equal(again.boxes, kept.boxes) and torch.equal(again.scores, kept.scores)
    assert len(keep_detections(Instances.empty(), keep)) == 0
    assert keep_detections(detections, DetectionFilter(min_score=0.4)).scores.tolist() == pytest.approx([0.5, 0.9, 0.4])


def test_filter_changes_the_figure_and_is_printed_with_it():
    truths = {"a": instances([LEFT])}
    detections = {"a": instances([FAR, LEFT], scores=[0.9, 0.8])}
    assert voc_ap(truths, detections, 1).mean() == 0.5
    capped = voc_ap(truths, detections, 1, keep=DetectionFilter(nms_iou=0.3, max_per_image=1))
    assert capped.mean() == 0
    for words in ("AP50 0.000", "all-point", "difficult", "NMS at IoU 0.3", "at most 1 boxes per image", "1 images"):
        assert words in str(capped)


def test_ids_are_ordered_by_their_numbers():
    assert image_order(["b/10.jpg", "b/9.jpg", "a/1.jpg", "10", "9"]) == ["9", "10", "a/1.jpg", "b/9.jpg", "b/10.jpg"]


@pytest.mark.parametrize(
    ("detections", "ious", "words"),
    [
        ({"z": instances([LEFT], scores=[0.5])}, [0.5], "first: z"),
        ({"a": instances([LEFT])}, [0.5], "score"),
        ({"a": instances([LEFT], labels=[7], scores=[0.5])}, [0.5], "0..1"),
        ({}, [0.0], r"\(0, 1\]"),
    ],
)
def test_mistakes_are_one_sentence(detections, ious, words):
    with pytest.raises(UserError, match=words) as caught:
        voc_ap({"a": instances([LEFT])}, detections, 2, ious=ious)
    assert "\n" not in str(caught.value)


def test_masks_must_be_there_to_be_compared():
    with pytest.raises(UserError, match="boxes alone"):
        voc_ap({"a": instances([LEFT])}, {"a": instances([LEFT], scores=[0.5])}, 1, geometry="masks")


def test_boundary_ap_takes_the_smaller_iou():
    # 60 x 60, width 2: of 18 x 18 in 20 x 20 pixels the mask IoU is 0.81, that of the boundaries 1/3
    truths = {"a": rectangles([(10, 10, 30, 30)], size=(60, 60))}
    detections = {"a": rectangles([(11, 11, 29, 29)], scores=[0.9], size=(60, 60))}
    result = voc_ap(truths, detections, 1, ious=(0.25, 0.5), geometry="boundaries")
    assert (result.mean(0.25), result.mean(0.5)) == (1, 0)
    assert voc_ap(truths, detections, 1, ious=(0.75,), geometry="masks").mean(0.75) == 1
    assert "2% of the photo's diagonal" in str(result.protocol)
