"""Any detections against any truth: the same figures from every form, and CorLoc beside its naive baselines."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.evaluation.masks import rectangles
from tests.helpers import FORM_CLASSES, instances, write_detections, write_forms
from weaksam.config import UserError
from weaksam.data.detection_stores import detection_store, instances_of
from weaksam.data.formats import voc_results
from weaksam.data.formats.coco import object_entries, write_instances, write_results
from weaksam.data.formats.voc import write_annotations
from weaksam.data.proposals.files import write_store
from weaksam.evaluation.file_inputs import truth_dataset
from weaksam.evaluation.files import MASK_METRICS, evaluate_files
from weaksam.evaluation.protocol import DetectionFilter
from weaksam.evaluation.text import evaluation_text
from weaksam.store.files import write_json_atomic
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask
from weaksam.structures.proposals import Proposals

METRICS = ("voc", "voc11", "corloc", "coco")


def objects(rows, scores=None, difficult=None) -> Instances:
    """Objects from rows of label, x1, y1, x2, y2."""
    return instances([row[1:] for row in rows], [row[0] for row in rows], scores, difficult=difficult)


@pytest.fixture
def forms(tmp_path):
    """A folder with objects and detections of six photos in every form, and the values they come from."""
    return tmp_path, *write_forms(tmp_path)


FORMS = [
    *[("truth.json", name) for name in ("numbers.json", "stems.json", "endings.json", "comp4", "OUT")],
    *[("voc", name) for name in ("digits.json", "stems.json", "endings.json", "comp4", "OUT")],
    *[("yolo", name) for name in ("stems.json", "comp4", "OUT")],
]


@pytest.mark.parametrize("truth, form", FORMS)
def test_every_form_gives_the_same_figures(forms, truth, form):
    folder, _, detections = forms
    plain = evaluate_files(folder / "truth.json", folder / "numbers.json", METRICS)
    path = folder / ("OUT/wsod/store/detections_test-1" if form == "OUT" else form)
    images = folder / "photos" if truth == "yolo" else None
    same = evaluate_files(folder / truth, path, METRICS, images=images)
    assert 0.1 < plain["voc"]["mean"]["0.5"] < 0.9 and plain["voc"]["num_detections"] == same["voc"]["num_detections"]
    assert sum(plain["voc"]["num_detections"]) == sum(map(len, detections.values()))
    for name in METRICS:
        assert flat(same[name]["per_class"]) == pytest.approx(flat(plain[name]["per_class"]), abs=1e-9)


def flat(per_class) -> list[float]:
    """Figures by class, of one threshold or of several, as one list."""
    return [value for values in per_class.values() for value in values] if isinstance(per_class, dict) else per_class


# Whose images and classes


def test_only_images_listed_or_with_a_photo_count(forms):
    folder, dataset, detections = forms
    (folder / "list.txt").write_text("2008_000001\n2008_000004\n")
    few = {name: detections[name] for name in ("2008_000001.jpg", "2008_000004.jpg")}
    small = Dataset("few", FORM_CLASSES, (1, 2, 3), tuple(dataset.by_id[name] for name in few))
    (folder / "few").mkdir()
    write_instances(folder / "few/truth.json", small, small.truths)
    write_detections(folder / "few", small, few)
    wanted = evaluate_files(folder / "few/truth.json", folder / "few/numbers.json", METRICS)
    listed = evaluate_files(folder / "voc", folder / "comp4", METRICS, image_list=folder / "list.txt")
    (folder / "some").mkdir()
    for name in few:
        (folder / "photos" / name).rename(folder / "some" / name)
    photographed = evaluate_files(folder / "voc", folder / "comp4", METRICS, images=folder / "some")
    for figures in (listed, photographed):
        assert {name: figures[name]["per_class"] for name in METRICS} == {n: wanted[n]["per_class"] for n in METRICS}
    assert "4 images of the truth have no photo" in photographed["corloc"]["protocol"]
    (folder / "list.txt").write_text("2008_000001\n2008_000009\n")
    with pytest.raises(UserError, match=r"found none for 1 of them \(2008_000009\)"):
        evaluate_files(folder / "voc", folder / "comp4", METRICS, image_list=folder / "list.txt")


def test_masks_of_a_store_are_measured(tmp_path):
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[10:20, 10:20] = True
    half = mask.clone()
    half[10:14] = False  # 60 of 100 pixels
    truth = objects([[0, 10, 10, 20, 20]]).replace(masks=(rle_from_mask(mask),))
    dataset = Dataset("test", ("cat",), (1,), (Sample("a.jpg", tmp_path / "a.jpg", (40, 60), (0,), truth, 1),))
    write_instances(tmp_path / "truth.json", dataset, dataset.truths)
    store = detection_store(tmp_path / "wsis", "wsis", "1", dataset, masks=True)
    row = {"boxes": truth.boxes, "labels": truth.labels, "scores": torch.ones(1), "rles": [rle_from_mask(half)]}
    store.fill(lambda _: row)
    assert len(instances_of(store)["a.jpg"].masks) == 1
    figures = evaluate_files(tmp_path / "truth.json", tmp_path / "wsis", ["mask"])
    mean = {"0.25": 1, "0.5": 1, "0.55": 1, "0.6": 1, **dict.fromkeys(("0.65", "0.7", "0.75"), 0)}
    assert figures["mask"]["mean"] == mean | dict.fromkeys(("0.8", "0.85", "0.9", "0.95"), 0)
    assert figures["mask"]["average"] == pytest.approx(0.3)


@pytest.fixture
def masked(tmp_path):
    """Two photos of 60 x 60: the cat's mask is 18 of 20 pixels a side, the dog's is its own, one is false."""
    truths = {
        "a.jpg": rectangles([(10, 10, 30, 30)], [0], size=(60, 60)),
        "b.jpg": rectangles([(0, 0, 40, 40)], [1], size=(60, 60)),
    }
    detections = {
        "a.jpg": rectangles([(11, 11, 29, 29), (40, 40, 50, 50)], [0, 0], [0.9, 0.4], size=(60, 60)),
        "b.jpg": rectangles([(0, 0, 40, 40)], [1], [0.8], size=(60, 60)),
    }
    samples = [Sample(n, tmp_path / n, (60, 60), (0,), t, k) for k, (n, t) in enumerate(truths.items(), start=1)]
    dataset = Dataset("test", ("cat", "dog"), (1, 2), tuple(samples))
    write_instances(tmp_path / "truth.json", dataset, truths)
    write_instances(tmp_path / "pseudo_masks.json", dataset, detections)
    write_results(tmp_path / "results.json", dataset, detections)
    return tmp_path


def test_every_mask_metric_of_files(masked):
    figures = evaluate_files(masked / "truth.json", masked / "results.json", MASK_METRICS)
    assert list(figures) == ["mask", "mask_coco", "boundary", "boundary_coco", "mask_iou", "miou", "pq"]
    # IoU of the cat: 0.81 as a mask, 1/3 with boundaries; the ten thresholds end at 0.95
    assert figures["mask"]["per_class"]["0.8"] == [1, 1] and figures["mask"]["per_class"]["0.85"] == [0, 1]
    assert figures["boundary"]["per_class"]["0.25"] == [1, 1] and figures["boundary"]["per_class"]["0.5"] == [0, 1]
    assert figures["mask_coco"]["per_class"] == pytest.approx([0.7, 1])
    assert figures["boundary_coco"]["per_class"] == pytest.approx([0, 1])
    of_masks = figures["mask_iou"]
    assert of_masks["mask_iou"] == pytest.approx((0.81 + 0 + 1) / 3) and of_masks["object_iou"] == pytest.approx(0.905)
    assert of_masks["per_class"][0]["num_masks"] == 2
    # Painted from a score of 0.5 on, so that the false mask is none
    assert figures["miou"]["per_class"] == pytest.approx([0.81, 1])
    assert figures["miou"]["background"] == pytest.approx((7200 - 2000) / (7200 - 1600 - 324))
    assert figures["pq"]["per_class"] == pytest.approx([0.81, 1])
    lower = evaluate_files(masked / "truth.json", masked / "results.json", ["pq"], keep=DetectionFilter(min_score=0.3))
    assert lower["pq"]["per_class"] == pytest.approx([0.81 / 1.5, 1])
    text = evaluation_text(figures)
    assert "pq: PQ 0.905, SQ 0.905, RQ 1.000" in text and "miou: mIoU " in text
    assert "  medium objects: IoU of masks 1.000, with boundaries 1.000, of objects 1.000 (1 masks, 1 objects)" in text
    assert "  small objects: IoU of masks 0.405, with boundaries 0.167" in text
    assert text.count("protocol: ") == 7


def test_the_instances_file_of_a_run_is_measured_as_well(masked):
    plain = evaluate_files(masked / "truth.json", masked / "results.json", MASK_METRICS)
    pseudo = evaluate_files(masked / "truth.json", masked / "pseudo_masks.json", MASK_METRICS)
    for name, values in plain.items():
        assert values["per_class"] == pseudo[name]["per_class"]


def test_metrics_of_masks_are_left_out_where_a_side_has_boxes_alone(masked):
    entries = json.loads((masked / "results.json").read_text())
    bare = [{key: value for key, value in entry.items() if key != "segmentation"} for entry in entries]
    write_json_atomic(masked / "boxes.json", bare)
    figures = evaluate_files(masked / "truth.json", masked / "boxes.json", ["voc", "pq", "mask"])
    assert list(figures) == ["voc"] and figures["voc"]["mean"]["0.5"] == 1
    assert "boxes.json for pq, mask, found boxes alone" in figures["voc"]["protocol"]
    with pytest.raises(UserError, match=r"wanted masks in .*boxes.json for mask_iou, found boxes alone: give masks"):
        evaluate_files(masked / "truth.json", masked / "boxes.json", ["mask_iou"])
    truth = json.loads((masked / "truth.json").read_text())
    for entry in truth["annotations"]:
        entry["segmentation"] = [[10, 10, 30, 30]]  # two points
    write_json_atomic(masked / "truth.json", truth)
    figures = evaluate_files(masked / "truth.json", masked / "results.json", ["voc", "miou"])
    assert list(figures) == ["voc"] and "truth.json for miou" in figures["voc"]["protocol"]
    assert "fewer than three points" in figures["voc"]["protocol"]


def test_masks_of_another_size_are_refused(masked):
    entries = json.loads((masked / "results.json").read_text())
    entries[0]["segmentation"] = rectangles([(0, 0, 9, 9)], size=(30, 60)).masks[0]
    write_json_atomic(masked / "results.json", entries)
    with pytest.raises(UserError, match="found that the image is 60 x 60 but its mask says 60 x 30"):
        evaluate_files(masked / "truth.json", masked / "results.json", ["mask"])


def test_images_of_a_truth_without_a_photo_take_no_part(masked):
    (masked / "photos").mkdir()
    Image.new("RGB", (60, 60)).save(masked / "photos" / "b.jpg")
    figures = evaluate_files(masked / "truth.json", masked / "results.json", MASK_METRICS, images=masked / "photos")
    assert figures["pq"]["per_class"] == [None, 1] and figures["mask_iou"]["num_masks"] == 1
    assert "1 images of the truth have no photo" in figures["miou"]["protocol"]


def test_classes_in_the_order_of_the_category_ids(forms):
    folder, _, _ = forms
    # Our alphabetical truth has no 'ant', which was the detector's first class
    entries = json.loads((folder / "stems.json").read_text())
    write_json_atomic(
        folder / "shifted.json", [{**entry, "category_id": entry["category_id"] + 1} for entry in entries]
    )
    with pytest.raises(UserError, match="category id"):
        evaluate_files(folder / "voc", folder / "shifted.json", METRICS)
    classes = ("ant", "bird", "cat", "dog")
    shifted = evaluate_files(folder / "voc", folder / "shifted.json", METRICS, classes=classes)
    plain = evaluate_files(folder / "voc", folder / "stems.json", METRICS)
    assert shifted["voc"]["classes"] == ["ant", *FORM_CLASSES] and shifted["voc"]["mean"] == plain["voc"]["mean"]
    assert shifted["corloc"]["per_class"] == [None, *plain["corloc"]["per_class"]]
    with pytest.raises(UserError, match="which numbers its own"):
        evaluate_files(folder / "truth.json", folder / "numbers.json", METRICS, classes=classes)


# CorLoc, by hand


@pytest.fixture
def located(tmp_path):
    """Two photos of 100 x 100 in VOC form: a cat of half the photo in a, a small cat and a difficult dog in b."""
    truths = {
        "a.jpg": objects([[0, 0, 0, 100, 60]]),
        "b.jpg": objects([[0, 10, 10, 20, 20], [1, 50, 50, 90, 90]], difficult=[False, True]),
    }
    samples = [Sample(name, Path(name), (100, 100), (0,), truth, 1) for name, truth in truths.items()]
    dataset = Dataset("train", ("cat", "dog"), (1, 2), tuple(samples))
    write_annotations(tmp_path / "voc", dataset, truths)
    detections = {"a.jpg": objects([[0, 0, 0, 100, 50]], [0.9]), "b.jpg": objects([[1, 50, 50, 90, 88]], [0.8])}
    voc_results.write_results(tmp_path / "comp4", dataset, detections)
    proposals = {
        "a": Proposals.of(torch.tensor([[0.0, 0, 100, 55], [0, 0, 10, 10], [90, 90, 95, 95], [0, 0, 100, 60]])),
        "b": Proposals.of(torch.tensor([[10.0, 10, 20, 20], [50, 50, 90, 90]])),
    }
    write_store(tmp_path / "proposals", proposals, 1)
    return tmp_path


def test_paths_may_be_text_and_metrics_have_a_default(located):
    figures = evaluate_files(str(located / "voc"), str(located / "comp4"), proposals=str(located / "proposals"))
    assert list(figures) == ["voc", "corloc", "corloc_largest", "corloc_whole", "corloc_random", "coco"]
    assert figures["coco"]["classes"] == ["cat", "dog"] and figures["corloc"]["num_images"] == [2, 0]
    with pytest.raises(UserError, match="found \\['auc'\\]: name some"):
        evaluate_files(located / "voc", located / "comp4", ["voc", "auc"])


def test_corloc_beside_its_baselines(located):
    figures = evaluate_files(
        located / "voc", located / "comp4", ["corloc"], proposals=located / "proposals"
    )  # tags: a cat in each; the dog is difficult and no tag
    assert list(figures) == ["corloc", "corloc_largest", "corloc_whole", "corloc_random"]
    per_class = {name: values["per_class"] for name, values in figures.items()}
    assert per_class["corloc"] == [0.5, None]  # a: IoU 5/6; b: no box of a cat
    assert per_class["corloc_largest"] == [0.5, None]  # a: the box itself; b: the dog's
    assert per_class["corloc_whole"] == [0.5, None]  # a: 0.6; b: 0.01
    assert per_class["corloc_random"] == [pytest.approx((2 / 4 + 1 / 2) / 2), None]
    assert evaluation_text(figures).count("protocol: ") == 4 == len({values["protocol"] for values in figures.values()})
    filtered = evaluate_files(located / "voc", located / "comp4", ["corloc"], keep=DetectionFilter(min_score=0.95))
    assert filtered["corloc"]["per_class"] == [0.0, None] and "at least 0.95" in filtered["corloc"]["protocol"]


def test_tags_of_a_file_decide_what_is_looked_for(located):
    (located / "tags.csv").write_text("file,tags\na.jpg,cat\nb.jpg,dog\nelsewhere.jpg,fish\n")
    figures = evaluate_files(located / "voc", located / "comp4", ["corloc"], tags=located / "tags.csv")
    assert figures["corloc"]["per_class"] == [1.0, 1.0]  # a hit on a difficult object counts
    (located / "tags.csv").write_text("file,tags\na.jpg,cat\n")
    figures = evaluate_files(located / "voc", located / "comp4", ["corloc"], tags=located / "tags.csv")
    assert figures["corloc"]["num_images"] == [1, 0] and "1 images" in figures["corloc"]["protocol"]
    (located / "tags.csv").write_text("file,tags\na.jpg,cta\n")
    with pytest.raises(UserError, match=r"found 'cta' \(did you mean 'cat'\?\)"):
        evaluate_files(located / "voc", located / "comp4", ["corloc"], tags=located / "tags.csv")
    (located / "tags.csv").write_text("file,tags\nz.jpg,cat\n")
    with pytest.raises(UserError, match="wanted tags of the 2 images"):
        evaluate_files(located / "voc", located / "comp4", ["corloc"], tags=located / "tags.csv")


def test_difficult_objects_of_xml_do_not_count_but_are_not_needed(located):
    plain = evaluate_files(located / "voc", located / "comp4", ["voc"])["voc"]
    assert plain["num_truths"] == [2, 0] and plain["per_class"]["0.5"] == [0.5, None]
    for path in (located / "voc").glob("*.xml"):
        lines = [line for line in path.read_text().splitlines() if "difficult" not in line]
        path.write_text("\n".join(lines))
    without = evaluate_files(located / "voc", located / "comp4", ["voc"])["voc"]
    assert without["num_truths"] == [2, 1] and without["per_class"]["0.5"] == [0.5, 1.0]


def test_sizes_come_from_the_photos_where_the_truth_has_none(located):
    for path in (located / "voc").glob("*.xml"):
        path.write_text(path.read_text().replace("<size>", "<unknown>").replace("</size>", "</unknown>"))
    command = (located / "voc", located / "comp4", ["corloc"])
    with pytest.raises(UserError, match="give --images DIR"):
        evaluate_files(*command, proposals=located / "proposals")
    (located / "photos").mkdir()
    for name in "ab":
        Image.new("RGB", (100, 100)).save(located / "photos" / f"{name}.jpg")
    figures = evaluate_files(*command, proposals=located / "proposals", images=located / "photos")
    assert figures["corloc_whole"]["per_class"] == [0.5, None]


def test_options_that_are_none(located):
    with pytest.raises(UserError, match="IoU threshold"):
        DetectionFilter(nms_iou=0.0)
    with pytest.raises(UserError, match="two COCO files"):
        evaluate_files(located / "voc", located / "comp4", ["voc"], pixel_inclusive=True)
    with pytest.raises(UserError, match="give --images DIR"):
        (located / "yolo").mkdir()
        (located / "yolo" / "a.txt").write_text("")
        evaluate_files(located / "yolo", located / "comp4", ["voc"])


# Published values


def test_published_values_from_files(shared_data, tmp_path):
    """voc100_metrics/EXPECTED.txt, metric_case_voc: x2 = x + w is the last pixel inside there."""
    folder = shared_data / "voc100_metrics" / "metric_case_voc"

    def read(name, first_number):
        objects_of = {}
        for path in sorted((folder / name).glob("*.txt")):
            rows = [[float(value) for value in line.split()[1:]] for line in path.read_text().splitlines() if line]
            table = torch.tensor(rows).reshape(-1, 3 + first_number)
            boxes = table[:, -4:].clone()
            boxes[:, 2:] += boxes[:, :2]
            scores = table[:, 0].tolist() if first_number == 2 else None
            objects_of[f"{path.stem}.jpg"] = objects([[0, *box] for box in boxes.tolist()], scores)
        return objects_of

    truths, detections = read("gts", 1), read("dets", 2)
    samples = [Sample(n, Path(n), (500, 500), (0,), truth, k) for k, (n, truth) in enumerate(sorted(truths.items()))]
    dataset = Dataset("case", ("object",), (1,), tuple(samples))
    write_instances(tmp_path / "truth.json", dataset, truths)
    entries = [{"image_id": n, **e} for n, in_image in detections.items() for e in object_entries(in_image, [1])]
    write_json_atomic(tmp_path / "detections.json", entries)
    figures = evaluate_files(
        tmp_path / "truth.json", tmp_path / "detections.json", ["voc", "voc11"], pixel_inclusive=True
    )

    def half_open(values):
        return {n: o.replace(boxes=o.boxes + torch.tensor([0.0, 0, 1, 1])) for n, o in values.items()}

    write_annotations(tmp_path / "voc", dataset, half_open(truths))
    voc_results.write_results(tmp_path / "comp4", dataset, half_open(detections))
    from_text = evaluate_files(tmp_path / "voc", tmp_path / "comp4", ["voc", "voc11"])
    for measured in (figures, from_text):
        assert measured["voc"]["mean"]["0.5"] == pytest.approx(0.0222222222, abs=1e-9)
        assert measured["voc11"]["mean"]["0.5"] == pytest.approx(0.0303030303, abs=1e-9)
        assert measured["voc"]["mean"]["0.75"] == measured["voc11"]["mean"]["0.75"] == 0.0


def test_real_truth_in_three_forms(shared_data, tmp_path):
    """100 photos of VOC: the COCO and YOLO forms, which know no difficult objects, agree; the XML differs by them."""
    folder = shared_data / "voc100_metrics"
    voc, _, _ = truth_dataset(folder / "Annotations")
    detections = {}
    for path in sorted((folder / "dets/abs_xyx2y2").glob("*.txt")):
        table = torch.tensor([[float(v) for v in line.split()] for line in path.read_text().splitlines()])
        detections[path.stem] = Instances(table[:, 2:].clone(), table[:, 0].long(), table[:, 1].clone())
    voc_results.write_results(tmp_path / "comp4", voc, detections)
    write_json_atomic(
        tmp_path / "detections.json",
        [{"image_id": n, **e} for n, o in detections.items() for e in object_entries(o, range(1, 21))],
    )
    photos = folder / "JPEGImages"
    yolo, coco = (
        evaluate_files(folder / truth, tmp_path / "comp4", METRICS, images=photos)
        for truth in ("gts_yolo/obj_train_data", "gts_coco_v1/instances_default.json")
    )
    by_class = [dict(zip(f["voc"]["classes"], f["voc"]["per_class"]["0.5"], strict=True)) for f in (yolo, coco)]
    assert by_class[0] == pytest.approx(by_class[1], abs=1e-9) and len(by_class[0]) == 20
    assert yolo["voc"]["mean"]["0.5"] == pytest.approx(0.6109, abs=1e-4)
    xml = [evaluate_files(folder / "Annotations", tmp_path / name, METRICS) for name in ("comp4", "detections.json")]
    assert flat(xml[0]["voc"]["per_class"]) == pytest.approx(flat(xml[1]["voc"]["per_class"]), abs=1e-9)
    assert xml[0]["voc"]["mean"]["0.5"] == pytest.approx(0.6076, abs=1e-4)
    assert sum(xml[0]["voc"]["num_truths"]) < sum(yolo["voc"]["num_truths"]) == 273
