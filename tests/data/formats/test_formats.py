"""COCO, VOC and YOLO files: read by hand-made example, written and read back, and refused when broken."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from weaksam.config import UserError
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.data.formats import coco, coco_results, voc, voc_lists, yolo
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle, rle_from_mask


def two_images(truth: Instances | None = None) -> Dataset:
    """Image 7 with objects, 40 wide and 20 high, and image 3 without; category ids that do not count from 1."""
    samples = (
        Sample("a/one.jpg", Path("one.jpg"), (20, 40), (0, 1), truth, 7),
        Sample("b two.png", Path("two.png"), (10, 10), (), None, 3),
    )
    return Dataset("test", ("apple", "fig tree"), (5, 90), samples)


def mask_of(x1: int, y1: int, x2: int, y2: int) -> torch.Tensor:
    mask = torch.zeros(20, 40, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def objects(*, scores: bool = False, masks: bool = False) -> Instances:
    corners = [(1, 2, 11, 12), (30, 0, 40, 20), (5, 5, 5, 9)]
    return Instances(
        torch.tensor(corners, dtype=torch.float32),
        torch.tensor([0, 1, 1]),
        torch.tensor([0.9, 0.1, 1 / 3]) if scores else None,
        tuple(rle_from_mask(mask_of(*box)) for box in corners) if masks else None,
        torch.tensor([True, False, False]),
        torch.tensor([False, True, False]),
    )


def assert_same(found: Instances, wanted: Instances, *, but: tuple[str, ...] = ()) -> None:
    for name in ("boxes", "labels", "scores", "masks", "difficult", "crowd"):
        left, right = getattr(found, name), getattr(wanted, name)
        if name in but:
            continue
        if isinstance(right, torch.Tensor):
            assert left is not None and left.equal(right), name
        else:
            assert left == right, name


# --- COCO ---


def coco_file(path: Path, **changes) -> Path:
    content = {
        "images": [
            {"id": 12, "file_name": "x.jpg", "width": 8, "height": 4},
            {"id": 11, "file_name": "y.jpg", "width": 8, "height": 4},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"image_id": 12, "category_id": 18, "bbox": [0, 0, 2, 4], "segmentation": [[0, 0, 2, 0, 2, 4, 0, 4]]},
            {
                "image_id": 12,
                "category_id": 2,
                "bbox": [4, 0, 4, 4],
                "segmentation": {"size": [4, 8], "counts": [16, 16]},
                "iscrowd": 1,
            },
            {"image_id": 12, "category_id": 2, "bbox": [1.5, 1, 2, 0], "segmentation": []},
        ],
    }
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_coco_polygons_rle_crowds_and_a_degenerate_box(tmp_path) -> None:
    read = coco.read_instances(coco_file(tmp_path / "truth.json"))
    assert read.classes == ("car", "dog")
    assert read.category_ids == (2, 18)
    assert (read.images["x.jpg"].number, read.images["x.jpg"].size) == (12, (4, 8))
    found = read.images["x.jpg"].instances
    assert found.boxes.tolist() == [[0, 0, 2, 4], [4, 0, 8, 4], [1.5, 1, 3.5, 1]]
    assert found.labels.tolist() == [1, 0, 0]
    assert found.crowd.tolist() == [False, True, False]
    assert mask_from_rle(found.masks[0]).sum(0).tolist() == [4, 4, 0, 0, 0, 0, 0, 0]
    # Sixteen pixels of background down the first four columns, then sixteen of the object
    assert mask_from_rle(found.masks[1]).sum(0).tolist() == [0, 0, 0, 0, 4, 4, 4, 4]
    assert mask_from_rle(found.masks[2]).sum() == 0
    assert len(read.images["y.jpg"].instances) == 0


def test_coco_without_segmentation_has_no_masks_and_among_masks_a_box_fills_in(tmp_path) -> None:
    plain = [{"image_id": 11, "category_id": 2, "bbox": [1, 1, 3, 2]}]
    read = coco.read_instances(coco_file(tmp_path / "plain.json", annotations=plain))
    assert read.images["y.jpg"].instances.masks is None
    mixed = [*plain, {"image_id": 11, "category_id": 2, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}]
    found = coco.read_instances(coco_file(tmp_path / "mixed.json", annotations=mixed)).images["y.jpg"].instances
    assert mask_from_rle(found.masks[0]).nonzero().tolist() == [[y, x] for y in (1, 2) for x in (1, 2, 3)]
    # The second object has no bbox: its mask gives one
    assert found.boxes[1].tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("scores", [False, True])
def test_coco_instances_there_and_back(tmp_path, masks, scores) -> None:
    wanted = objects(scores=scores, masks=masks)
    coco.write_instances(tmp_path / "out.json", two_images(), {"a/one.jpg": wanted})
    read = coco.read_instances(tmp_path / "out.json")
    assert (read.classes, read.category_ids) == (("apple", "fig tree"), (5, 90))
    assert {name: image.number for name, image in read.images.items()} == {"a/one.jpg": 7, "b two.png": 3}
    assert_same(read.images["a/one.jpg"].instances, wanted)
    assert len(read.images["b two.png"].instances) == 0
    written = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert [entry["area"] for entry in written] == [100, 200, 0]
    assert [entry["id"] for entry in written] == [1, 2, 3]


@pytest.mark.parametrize("masks", [False, True])
def test_coco_results_there_and_back_bit_for_bit(tmp_path, masks) -> None:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(50, 2, generator=generator) * 300
    many = Instances(
        torch.cat([corners, corners + torch.rand(50, 2, generator=generator) * 200], 1),
        torch.randint(0, 2, (50,), generator=generator),
        torch.rand(50, generator=generator),
        (rle_from_mask(mask_of(1, 1, 3, 4)),) * 50 if masks else None,
    )
    coco.write_results(tmp_path / "r.json", two_images(), {"a/one.jpg": many})
    back = coco_results.read_results(tmp_path / "r.json", two_images())
    assert_same(back["a/one.jpg"], many)
    assert list(back) == ["a/one.jpg", "b two.png"]
    assert len(back["b two.png"]) == 0
    entry = json.loads((tmp_path / "r.json").read_text())[0]
    assert entry["image_id"] == 7
    assert entry["category_id"] in (5, 90)


def test_coco_results_are_refused_without_scores_and_for_other_images(tmp_path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(UserError, match=r"found none on a/one\.jpg"):
        coco.write_results(path, two_images(), {"a/one.jpg": objects()})
    path.write_text(json.dumps([{"image_id": 8, "category_id": 5, "bbox": [0, 0, 1, 1], "score": 1}]))
    with pytest.raises(UserError, match="found image_id 8"):
        coco_results.read_results(path, two_images())
    path.write_text("{}")
    with pytest.raises(UserError, match="wanted a COCO results list"):
        coco_results.read_results(path, two_images())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": None}, "wanted a COCO instances file with images, annotations, categories"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "'a' twice"),
        ({"annotations": [{"image_id": 99, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "image_id 99"),
        ({"annotations": [{"image_id": 12, "category_id": 7, "bbox": [0, 0, 1, 1]}]}, "found 7"),
        ({"annotations": [{"image_id": 12, "category_id": 2, "bbox": [0, 0, 1]}]}, "bbox of four numbers"),
        ({"images": [{"id": 1}]}, "wanted a text as 'file_name' of image 1 .* found none among the keys 'id'"),
    ],
)
def test_a_broken_coco_file_is_one_sentence(tmp_path, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        coco.read_instances(coco_file(tmp_path / "truth.json", **changes))


@pytest.mark.parametrize(("text", "message"), [("", "empty file"), ("{", "not JSON"), ("[]", "a list")])
def test_a_file_that_is_not_coco_is_one_sentence(tmp_path, text, message) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=message):
        coco.read_instances(tmp_path / "t.json")


# --- VOC ---

VOC_XML = """<annotation><size><width>40</width><height>20</height></size>
<object><name>dog</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>40</xmax><ymax>20</ymax></bndbox></object>
<object><name>cat</name><part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>
<bndbox><xmin>30.5</xmin><ymin>9</ymin><xmax>20</xmax><ymax>9</ymax></bndbox></object>
</annotation>"""


def test_voc_counts_from_one_and_names_the_last_pixel(tmp_path) -> None:
    (tmp_path / "1.xml").write_text(VOC_XML)
    read = voc.read_annotations(tmp_path)
    assert read.classes == ("cat", "dog")
    assert read.images["1"].size == (20, 40)
    found = read.images["1"].instances
    # The whole picture is 1..40 by 2..20; the inverted box is turned, one pixel high
    assert found.boxes.tolist() == [[0, 1, 40, 20], [19, 8, 30.5, 9]]
    assert found.labels.tolist() == [1, 0]
    assert found.difficult.tolist() == [True, False]


def test_voc_xml_there_and_back(tmp_path) -> None:
    voc.write_annotations(tmp_path, two_images(), {"a/one.jpg": objects()})
    read = voc.read_annotations(tmp_path)
    assert read.classes == ("apple", "fig tree")
    marked = objects().replace(difficult=objects().difficult | objects().crowd)  # VOC has no other mark for a crowd
    assert_same(read.images["a/one"].instances, marked, but=("crowd",))
    assert len(read.images["b two"].instances) == 0
    assert read.images["b two"].size == (10, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "wanted VOC XML"),
        ("<annotation><object><bndbox/></object></annotation>", "<name>"),
        ("<annotation><object><name>a</name><bndbox><xmin>x</xmin></bndbox></object></annotation>", "four numbers"),
    ],
)
def test_broken_voc_xml_is_one_sentence(tmp_path, text, message) -> None:
    (tmp_path / "1.xml").write_text(text)
    with pytest.raises(UserError, match=message):
        voc.read_annotations(tmp_path)


def test_voc_lists_there_and_back(tmp_path) -> None:
    names = ("0003", "0001", "0002")
    flags = {"cat": {"0001": 1, "0002": 0, "0003": -1}, "potted_plant": {"0003": 1}}
    voc_lists.write_split(tmp_path, "train", flags, names)
    assert voc_lists.read_split(tmp_path, "train") == names
    full = {"cat": {"0003": -1, "0001": 1, "0002": 0}, "potted_plant": {"0003": 1, "0001": -1, "0002": -1}}
    assert voc_lists.read_class_flags(tmp_path, "train") == full
    assert voc_lists.splits_in(tmp_path) == ("train",)
    (tmp_path / "train.txt").unlink()
    assert set(voc_lists.read_split(tmp_path, "train")) == set(names)
    assert voc_lists.splits_in(tmp_path) == ("train",)
    with pytest.raises(UserError, match=r"wanted val.txt in .* found cat_train.txt, potted_plant_train.txt"):
        voc_lists.read_split(tmp_path, "val")
    (tmp_path / "cat_train.txt").write_text("0001 2\n")
    with pytest.raises(UserError, match="flag -1, 0 or 1"):
        voc_lists.read_class_flags(tmp_path, "train")


def test_voc_segmentation_pictures_there_and_back(tmp_path) -> None:
    wanted = objects(masks=True)[torch.tensor([0, 1])].replace(difficult=None, crowd=None)
    paths = (tmp_path / "SegmentationClass" / "1.png", tmp_path / "SegmentationObject" / "1.png")
    voc.write_segmentation(*paths, wanted, (20, 40))
    assert_same(voc.read_segmentation(*paths), wanted)
    # VOC's palette: class 1 is dark red, class 2 dark green
    colours = np.asarray(Image.open(paths[0]).convert("RGB"))
    assert colours[2, 1].tolist() == [128, 0, 0]
    assert colours[0, 39].tolist() == [0, 128, 0]
    voc.write_segmentation(*paths, Instances.empty().replace(masks=()), (20, 40))
    assert len(voc.read_segmentation(*paths)) == 0


def test_voc_borders_belong_to_nothing(tmp_path) -> None:
    class_map, object_map = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    class_map[:, :3], object_map[:, :3] = 255, 255
    class_map[1:3, 1:2], object_map[1:3, 1:2] = 15, 1
    for name, indices in (("c.png", class_map), ("o.png", object_map)):
        Image.fromarray(indices).save(tmp_path / name)
    found = voc.read_segmentation(tmp_path / "c.png", tmp_path / "o.png")
    assert found.boxes.tolist() == [[1, 1, 2, 3]]
    assert found.labels.tolist() == [14]
    Image.fromarray(class_map[:2]).save(tmp_path / "c.png")
    with pytest.raises(UserError, match="size"):
        voc.read_segmentation(tmp_path / "c.png", tmp_path / "o.png")


# --- YOLO ---


def test_yolo_boxes_polygons_and_scores_by_hand(tmp_path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "one.txt").write_text("1 0.25 0.5 0.5 0.2\n0 0.5 0 1 0 1 1 0.5 1\n\n")
    read = yolo.read_labels(tmp_path, {"one.jpg": (20, 40), "two.jpg": (10, 10)})
    found = read.images["one.jpg"].instances
    assert read.classes == ("cat", "dog")
    assert found.boxes.tolist() == [[0, 8, 20, 12], [20, 0, 40, 20]]
    assert found.labels.tolist() == [1, 0]
    assert mask_from_rle(found.masks[1]).equal(mask_of(20, 0, 40, 20))
    assert mask_from_rle(found.masks[0]).equal(mask_of(0, 8, 20, 12))
    assert len(read.images["two.jpg"].instances) == 0
    (tmp_path / "one.txt").write_text("1 0.25 0.5 0.5 0.2 0.75\n")
    scored = yolo.read_labels(tmp_path, {"one.jpg": (20, 40)}).images["one.jpg"].instances
    assert scored.scores.tolist() == [0.75]
    assert scored.masks is None


@pytest.mark.parametrize("scores", [False, True])
def test_yolo_there_and_back(tmp_path, scores) -> None:
    sizes = {sample.image_id: sample.size for sample in two_images()}
    wanted = objects(scores=scores).replace(difficult=None, crowd=None)
    yolo.write_labels(tmp_path, two_images(), {"a/one.jpg": wanted})
    read = yolo.read_labels(tmp_path, sizes)
    assert read.classes == ("apple", "fig tree")
    found = read.images["a/one.jpg"].instances
    torch.testing.assert_close(found.boxes, wanted.boxes, atol=1e-5, rtol=0)
    assert found.labels.equal(wanted.labels)
    assert len(read.images["b two.png"].instances) == 0
    if scores:
        torch.testing.assert_close(found.scores, wanted.scores)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.yaml", "names: [cat, dog]\n"),
        ("data.yaml", "names:\n  1: dog\n  0: cat\n"),
        ("obj.names", "cat\ndog\n"),
    ],
)
def test_yolo_names_are_found_above_the_labels(tmp_path, name, text) -> None:
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / name).write_text(text)
    assert yolo.read_names(tmp_path / "labels" / "train") == ("cat", "dog")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "line 1 of .* found 3 numbers"),
        ("0 1 2 3 4 5 6 7", "found 7 numbers"),
        ("2 0.5 0.5 0.1 0.1", "class number below 2 .* found 2"),
        ("-1 0.5 0.5 0.1 0.1", "found -1"),
        ("cat 0.5 0.5 0.1 0.1", "wanted numbers on line 1"),
    ],
)
def test_broken_yolo_lines_are_one_sentence(tmp_path, line, message) -> None:
    (tmp_path / "one.txt").write_text(line)
    with pytest.raises(UserError, match=message):
        yolo.read_labels(tmp_path, {"one.jpg": (20, 40)}, ["cat", "dog"])


def test_yolo_without_names_or_labels_says_what_to_do(tmp_path) -> None:
    with pytest.raises(UserError, match=r"put classes.txt beside them"):
        yolo.read_labels(tmp_path, {})
    with pytest.raises(UserError, match="wanted YOLO labels"):
        yolo.read_labels(tmp_path, {}, ["cat"])


# --- One real ground truth in three forms ---


def test_three_forms_of_one_ground_truth_give_the_same_boxes(shared_data) -> None:
    folder = shared_data / "voc100_metrics"
    forms = {
        "voc": "Annotations",
        "coco": "gts_coco_v2/instances_v2.json",
        "cvat_coco": "gts_coco_v1/instances_default.json",
        "yolo": "gts_yolo/obj_train_data",
    }
    read = {
        form: load_dataset(SplitSettings(images=folder / "JPEGImages", truth=folder / path), name="test")
        for form, path in forms.items()
    }
    count = 0
    for image_id in read["voc"].image_ids:
        objects_in = {}
        for form, dataset in read.items():
            truth = dataset.by_id[image_id].truth
            # The other forms were made from the XML's numbers taken as edges, without its count from one
            boxes = truth.boxes + torch.tensor([1.0, 1, 0, 0]) if form == "voc" else truth.boxes
            labels = [dataset.classes[label] for label in truth.labels.tolist()]
            objects_in[form] = sorted(zip(labels, boxes.round().tolist(), strict=True))
        assert objects_in["voc"] == objects_in["coco"] == objects_in["cvat_coco"] == objects_in["yolo"], image_id
        count += len(objects_in["voc"])
    assert count == 273
    assert set(read["coco"].classes) == set(read["voc"].classes) == set(read["yolo"].classes)
    assert read["coco"].by_id["2007_000027.jpg"].number == 20180000001


def test_real_voc_boxes_survive_every_format_there_and_back(shared_data, tmp_path) -> None:
    folder = shared_data / "voc100_metrics"
    dataset = load_dataset(SplitSettings(images=folder / "JPEGImages", truth=folder / "Annotations"), name="test")
    voc.write_annotations(tmp_path / "xml", dataset, dataset.truths)
    coco.write_instances(tmp_path / "coco.json", dataset, dataset.truths)
    yolo.write_labels(tmp_path / "txt", dataset, dataset.truths)
    for path in (tmp_path / "xml", tmp_path / "coco.json", tmp_path / "txt"):
        split = SplitSettings(images=folder / "JPEGImages", truth=path)
        again = load_dataset(split, name="test", classes=dataset.classes)
        for before, after in zip(dataset, again, strict=True):
            assert after.truth.labels.equal(before.truth.labels)
            torch.testing.assert_close(after.truth.boxes, before.truth.boxes, atol=1e-4, rtol=0)
            # YOLO cannot say that an object is difficult, so there it counts as a tag
            assert set(after.tags) >= set(before.tags)
            assert path.name == "txt" or after.tags == before.tags


def test_degenerate_boxes_of_a_real_voc_set_survive(shared_data) -> None:
    read = voc.read_annotations(shared_data / "bccd3" / "Annotations")
    assert read.classes == ("Platelets", "RBC", "WBC")
    counts = torch.cat([image.instances.labels for image in read.images.values()]).bincount().tolist()
    assert counts == [361, 4155, 372]
    thin = [
        (name, row)
        for name, image in read.images.items()
        for row, box in enumerate(image.instances.boxes)
        if min(box[2] - box[0], box[3] - box[1]) <= 1
    ]
    assert [name for name, _ in thin] == ["BloodImage_00338", "BloodImage_00343"]
    # A degenerate box meets the boxes around it without a division by zero
    boxes = read.images["BloodImage_00338"].instances.boxes
    assert torch.isfinite(pairwise_iou(boxes, boxes)).all()


def test_polygons_of_a_real_set_lie_in_their_boxes(shared_data) -> None:
    folder = shared_data / "boards4"
    split = SplitSettings(images=folder / "images/test", truth=folder / "annotations/instances_test.json")
    dataset = load_dataset(split, name="test")
    assert dataset.classes == ("Arduino", "ESP8266", "Heltec", "Raspberry")
    for sample in dataset:
        for box, rle in zip(sample.truth.boxes, sample.truth.masks, strict=True):
            ys, xs = mask_from_rle(rle).nonzero().T
            drawn = torch.tensor([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]).float()
            assert pairwise_iou(drawn, box[None]) > 0.95
