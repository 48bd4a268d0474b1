"""COCO AP against published values and pycocotools."""

import json
import math

import faster_coco_eval
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from weaksam.config import UserError
from weaksam.evaluation.coco import FIGURES, coco_ap
from weaksam.structures.instances import Instances
from weaksam.structures.masks import boxes_from_masks, rle_area, rle_from_mask


def test_published_values(shared_data):
    """voc100_metrics/EXPECTED.txt, metric_case_coco: 100 photos of COCO val2014."""
    folder = shared_data / "voc100_metrics" / "metric_case_coco"
    truth = json.loads((folder / "gts" / "sampled_gts_bbox_area.json").read_text())
    results = json.loads((folder / "dets" / "sampled_bbox_results.json").read_text())["annotations"]
    labels = {category["id"]: label for label, category in enumerate(truth["categories"])}
    image_ids = [image["id"] for image in truth["images"]]
    truths = _from_rows(truth["annotations"], image_ids, labels)
    detections = _from_rows(results, image_ids, labels)
    result = coco_ap(truths, detections, len(labels))
    wanted = [0.503647, 0.696973, 0.571667, 0.593252, 0.557991, 0.489363]
    wanted += [0.386813, 0.593680, 0.595353, 0.654764, 0.603130, 0.553744]
    assert [getattr(result, name) for name in FIGURES] == pytest.approx(wanted, abs=1e-6)
    assert "100 images" in str(result) and "at most 100 per image and class" in str(result)


def _from_rows(rows, image_ids, labels):
    by_image = {image_id: [row for row in rows if row["image_id"] == image_id] for image_id in image_ids}
    instances = {}
    for image_id, image_rows in by_image.items():
        boxes = torch.tensor([row["bbox"] for row in image_rows], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([row["score"] for row in image_rows]) if image_rows and "score" in image_rows[0] else None
        classes = torch.tensor([labels[row["category_id"]] for row in image_rows], dtype=torch.int64)
        instances[str(image_id)] = Instances(boxes.float(), classes, scores)
    return instances


def random_masks(seed, num_images=8, num_classes=3, noise=1.0):
    """Ellipses in 120 x 160 images with crowd truths, tied scores and empty images."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:120, :160]

    def draw(centre, radius):
        return ((rows - centre[0]) / radius[0]) ** 2 + ((columns - centre[1]) / radius[1]) ** 2 <= 1

    truths, detections = {}, {}
    for number in range(num_images):
        count = int(rng.integers(0, 5))
        centres, radii = rng.uniform((10, 10), (110, 150), (count, 2)), rng.uniform(4, 60, (count, 2))
        noisy = [
            (c + rng.normal(0, 4 * noise, 2), r * rng.uniform(1 - 0.3 * noise, 1 + 0.3 * noise, 2))
            for c, r in zip(centres, radii, strict=True)
        ]
        noisy += [(rng.uniform((10, 10), (110, 150)), rng.uniform(4, 60, 2)) for _ in range(4)]
        labels = rng.integers(0, num_classes, count)
        guessed = np.concatenate([np.where(rng.random(count) < 0.8, labels, 0), rng.integers(0, num_classes, 4)])
        truth = _from_masks([draw(c, r) for c, r in zip(centres, radii, strict=True)], labels)
        truths[str(number)] = truth.replace(crowd=torch.from_numpy(rng.random(count) < 0.2))
        image_detections = _from_masks([draw(c, r) for c, r in noisy], guessed)
        scores = torch.from_numpy(rng.integers(1, 10, len(image_detections)) / 10).float()
        detections[str(number)] = image_detections.replace(scores=scores)
    return truths, detections


def _from_masks(masks, labels):
    stack = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, 120, 160, dtype=torch.bool)
    rles = tuple(rle_from_mask(mask) for mask in stack)
    return Instances(boxes_from_masks(stack), torch.from_numpy(labels.astype(np.int64)), masks=rles)


@pytest.mark.parametrize("geometry", ["boxes", "masks"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(seed, geometry, capsys):
    truths, detections = random_masks(seed)
    result = coco_ap(truths, detections, 3, geometry=geometry)
    reference = _pycocotools(truths, detections, 3, "bbox" if geometry == "boxes" else "segm")
    capsys.readouterr()
    wanted = [math.nan if value == -1 else value for value in reference.stats]
    assert [getattr(result, name) for name in FIGURES] == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    precision = reference.eval["precision"][:, :, :, 0, -1]
    assert list(result.per_class) == pytest.approx([precision[:, :, label].mean() for label in range(3)])
    assert 0.1 < result.ap < 0.9  # the case says something


def _pycocotools(truths, detections, num_classes, kind):
    dataset = COCO()
    dataset.dataset, results = _coco_rows(truths, detections, num_classes)
    dataset.createIndex()
    if kind == "segm":
        results = _without_boxes(results)
    evaluation = COCOeval(dataset, dataset.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _coco_rows(truths, detections, num_classes):
    """The truths as a COCO dataset and the detections as COCO results."""
    rows, results = [], []
    for number, image_id in enumerate(sorted(truths, key=int), start=1):
        truth = truths[image_id]
        sizes, crowd = rle_area(truth.masks).tolist(), truth.crowd.tolist()
        for index, row in enumerate(_shapes(truth, number)):
            rows.append({**row, "id": len(rows) + 1, "iscrowd": int(crowd[index]), "area": sizes[index]})
        shapes, scores = _shapes(detections[image_id], number), detections[image_id].scores.tolist()
        results += [{**row, "score": score} for row, score in zip(shapes, scores, strict=True)]
    dataset = {
        "info": {},
        "images": [{"id": number, "height": 120, "width": 160} for number in range(1, len(truths) + 1)],
        "annotations": rows,
        "categories": [{"id": label + 1} for label in range(num_classes)],
    }
    return dataset, results


def _without_boxes(results):
    """Results whose size is their mask's area, which loadRes takes from the box where there is one."""
    return [{key: value for key, value in row.items() if key != "bbox"} for row in results]


def _shapes(instances, number):
    rows = []
    for box, label, rle in zip(instances.boxes.tolist(), instances.labels.tolist(), instances.masks, strict=True):
        bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        rows.append({"image_id": number, "category_id": label + 1, "bbox": bbox, "segmentation": dict(rle)})
    return rows


def _boxes(boxes, scores=None, **marks):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    scores = None if scores is None else torch.tensor(scores)
    return Instances(boxes, labels, scores, **{name: torch.tensor(flags) for name, flags in marks.items()})


def test_ap_by_hand():
    # IoU 0.8 reaches the thresholds 0.5 to 0.8, seven of ten; the object is 10 x 10, so small
    truths, detections = {"a": _boxes([[0, 0, 10, 10]])}, {"a": _boxes([[0, 0, 10, 8]], scores=[0.5])}
    result = coco_ap(truths, detections, 2)
    assert (result.ap, result.ap50, result.ap75, result.ap_small) == pytest.approx((0.7, 1, 1, 0.7))
    assert math.isnan(result.ap_large) and math.isnan(result.per_class[1])
    assert result.as_dict()["ap_large"] is None


def test_no_detection_is_zero_and_no_truth_is_nothing():
    truths = {"a": _boxes([[0, 0, 10, 10]]), "b": Instances.empty()}
    assert coco_ap(truths, {}, 1).ap == 0
    assert coco_ap(truths, {"b": Instances.empty().replace(scores=torch.zeros(0))}, 1).ar100 == 0
    assert math.isnan(coco_ap({"a": Instances.empty()}, {}, 1).ap)


def test_difficult_truths_are_ignored():
    truths = {"a": _boxes([[0, 0, 10, 10], [50, 50, 90, 90]], difficult=[False, True])}
    detections = {"a": _boxes([[50, 50, 90, 90], [0, 0, 10, 10]], scores=[0.9, 0.8])}
    assert coco_ap(truths, detections, 1).ap == pytest.approx(1)
    plain = {"a": truths["a"].replace(difficult=None)}
    assert coco_ap(plain, {"a": detections["a"][torch.tensor([1])]}, 1).ap == pytest.approx(51 / 101)


def test_mistakes_are_one_sentence():
    truths = {"a": _boxes([[0, 0, 10, 10]])}
    with pytest.raises(UserError, match="first: z"):
        coco_ap(truths, {"z": _boxes([[0, 0, 1, 1]], scores=[0.5])}, 1)
    with pytest.raises(UserError, match="boxes alone"):
        coco_ap(truths, {}, 1, geometry="masks")
    with pytest.raises(UserError, match="score"):
        coco_ap(truths, {"a": _boxes([[0, 0, 1, 1]])}, 1)


@pytest.mark.parametrize("seed", range(3))
def test_boundaries_equal_the_library_which_outlines_every_mask(seed):
    truths, detections = random_masks(seed, noise=0.2)
    result = coco_ap(truths, detections, 3, geometry="boundaries")
    dataset, results = _coco_rows(truths, detections, 3)
    truth = faster_coco_eval.COCO(dataset, print_function=_silent)
    results = truth.loadRes(_without_boxes(results))
    evaluation = faster_coco_eval.COCOeval_faster(truth, results, "boundary", print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    wanted = [math.nan if value == -1 else value for value in evaluation.stats]
    assert [getattr(result, name) for name in FIGURES] == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    masks = coco_ap(truths, detections, 3, geometry="masks")
    assert 0.1 < result.ap < masks.ap - 0.05 and "2% of the photo's diagonal" in str(result)


def _silent(*_):
    pass
