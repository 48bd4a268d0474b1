"""Partial labels of photos from every format, joined, and one sentence for each kind of bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import instances
from weaksam.config import UserError
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings, load_dataset
from weaksam.data.findings import Findings
from weaksam.data.formats.brush_runs import encode_brush
from weaksam.data.image_names import ImageNames
from weaksam.data.photo_labels import described, read_photo_labels, with_label_tags
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.masks import mask_from_rle, rle_from_mask
from weaksam.structures.photo_labels import PhotoLabels

CLASSES = ("apple", "fig")
SIZES = {"a.png": (20, 30), "b.png": (20, 30)}
"""Photos of 30 x 20."""


def read(*paths: Path, findings: Findings | None = None) -> dict[str, PhotoLabels]:
    """The labels in files on the two photos."""
    return read_photo_labels(paths, SIZES, CLASSES, ImageNames(tuple(SIZES)), findings or Findings())


def coco(path: Path, *annotations: dict, **image: object) -> Path:
    """A COCO file of a.png (id 7, with further keys ``image``) with annotations of it, and b.png."""
    images = [{"id": 7, "file_name": "a.png", "width": 30, "height": 20, **image}, {"id": 8, "file_name": "b.png"}]
    categories = [{"id": 3, "name": "apple"}, {"id": 5, "name": "fig"}]
    rows = [{"id": number, "image_id": 7, "category_id": 3, **entry} for number, entry in enumerate(annotations, 1)]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": rows}))
    return path


def table(path: Path, *lines: str) -> Path:
    """A CSV table."""
    path.write_text("\n".join(lines))
    return path


def test_coco_labels_in_part(tmp_path):
    square = [[2, 2, 6, 2, 6, 6, 2, 6]]
    path = coco(
        tmp_path / "labels.json",
        {"bbox": [2, 3, 10, 5]},
        {"bbox": [2, 2, 4, 4], "segmentation": square, "category_id": 5},
        {"point": [20, 10], "category_id": 5},
        {"keypoints": [1, 2, 2, 0, 0, 0, 3, 4, 1]},
        {"segmentation": square, "scribble": 1},
        {"bbox": [12, 12, 4, 4], "iscrowd": 1},
        counts={"apple": 4},
        complete=True,
    )
    labels = read(path)
    assert list(labels) == ["a.png"]
    of_photo = labels["a.png"]
    assert of_photo.boxes.boxes.tolist() == [[2, 3, 12, 8], [2, 2, 6, 6], [12, 12, 16, 16]]
    assert of_photo.boxes.labels.tolist() == [0, 1, 0] and of_photo.boxes.crowd.tolist() == [False, False, True]
    assert [rle is None for rle in of_photo.masks] == [True, False, True]
    assert int(mask_from_rle(of_photo.masks[1]).sum()) == 16
    assert of_photo.marks.extents.tolist() == [[20, 10, 20, 10], [1, 2, 1, 2], [3, 4, 3, 4], [2, 2, 6, 6]]
    assert of_photo.marks.labels.tolist() == [1, 0, 0, 0]
    assert of_photo.counts == {0: 4} and of_photo.complete
    assert described(labels) == (
        "labels beside the tags: 2 boxes, 1 masks among them, 1 regions to ignore, 3 points, 1 scribbles, 1 counts, "
        "1 complete photos, on 1 photos"
    )


def test_a_table_labels_points_boxes_counts_and_complete_photos(tmp_path):
    path = table(
        tmp_path / "labels.csv",
        "image,class,x,y,x1,y1,x2,y2,count,complete",
        "a,apple,4,5,,,,,,",
        "a,fig,,,1,2,3,4,,",
        "b.png,fig,,,,,,,0,1",
    )
    labels = read(path)
    assert labels["a.png"].marks.points[0].tolist() == [[4, 5]]
    assert labels["a.png"].boxes.boxes.tolist() == [[1, 2, 3, 4]] and labels["a.png"].boxes.labels.tolist() == [1]
    assert labels["b.png"].counts == {1: 0} and labels["b.png"].complete is True


def test_label_studio_exports_keypoints_brushes_and_choices(tmp_path):
    def region(kind: str, value: dict, **more: object) -> dict:
        return {"type": kind, "original_width": 30, "original_height": 20, "image_rotation": 0, "value": value, **more}

    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[4, 10:20] = True
    brush = {"format": "rle", "rle": encode_brush(rle_from_mask(mask)), "brushlabels": ["fig"]}
    rectangle = {"x": 10, "y": 50, "width": 20, "height": 25, "rotation": 0, "rectanglelabels": ["apple"]}
    result = [
        region("keypointlabels", {"x": 50, "y": 25, "width": 1, "keypointlabels": ["apple"]}),
        region("brushlabels", brush, meta={"text": ["scribble"]}),
        region("brushlabels", brush),
        region("rectanglelabels", rectangle),
        {"type": "choices", "value": {"choices": ["complete"]}},
    ]
    tasks = [
        {"id": 1, "data": {"image": "/data/a.png"}, "annotations": [{"result": result}]},
        {"id": 2, "data": {"image": "b.png", "counts": {"fig": 3}}, "annotations": [{"result": []}]},
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    labels = read(tmp_path / "tasks.json")
    of_photo = labels["a.png"]
    assert of_photo.marks.extents.tolist() == [[15, 5, 15, 5], [10, 4, 20, 5]]
    assert of_photo.boxes.boxes.tolist() == [[10, 4, 20, 5], [3, 10, 9, 15]]
    assert of_photo.masks[0] is not None and of_photo.masks[1] is None
    assert of_photo.complete and labels["b.png"].counts == {1: 3} and not labels["b.png"].complete


def test_cvat_exports_points_polylines_and_the_tag_complete(tmp_path):
    (tmp_path / "labels.xml").write_text(
        '<annotations><image name="a.png" width="30" height="20">'
        '<points label="apple" points="3,4;5,6"/><polyline label="fig" points="1,1;9,5"/>'
        '<box label="fig" xtl="2" ytl="3" xbr="8" ybr="9"/><tag label="complete"/></image></annotations>'
    )
    of_photo = read(tmp_path / "labels.xml")["a.png"]
    assert of_photo.marks.extents.tolist() == [[3, 4, 3, 4], [5, 6, 5, 6], [1, 1, 9, 5]]
    assert of_photo.boxes.boxes.tolist() == [[2, 3, 8, 9]] and of_photo.complete


def scribbles(folder: Path, size: tuple[int, int] = (20, 30), number: int = 2) -> Path:
    """A picture with two scribbles of one class for a.png."""
    folder.mkdir(exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    pixels[2, 3:8], pixels[10:14, 5], pixels[0, 0] = number, number, 255
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def test_a_folder_of_pictures_holds_scribbles(tmp_path):
    marks = read(scribbles(tmp_path / "scribbles"))["a.png"].marks
    assert marks.extents.tolist() == [[3, 2, 8, 3], [5, 10, 6, 14]] and marks.labels.tolist() == [1, 1]


def test_files_are_joined(tmp_path):
    first = coco(tmp_path / "labels.json", {"bbox": [2, 3, 10, 5]}, counts={"apple": 2})
    second = table(tmp_path / "labels.csv", "image,class,x,y,count", "a.png,fig,4,5,1", "a.png,apple,,,2")
    of_photo = read(first, second, scribbles(tmp_path / "scribbles", number=1))["a.png"]
    assert len(of_photo.objects) == 1 and of_photo.marks.labels.tolist() == [1, 0, 0]
    assert of_photo.counts == {0: 2, 1: 1}


HEAD = "image,class,x,y,x1,y1,x2,y2,count"
BAD = {
    "a point outside": (["a.png,apple,31,5,,,,,"], r"points in their photos .* a.png \(30 x 20\) outside .* \(31, 5\)"),
    "a box outside": (["a.png,apple,,,40,1,50,9,"], r"boxes in their photos .* a.png \(30 x 20\) outside"),
    "a box without area": (["a.png,apple,,,4,1,4,9,"], r"boxes with an area on a.png .* give a point"),
    "more boxes than the count": (
        ["a.png,apple,,,1,1,5,5,1", "a.png,apple,,,11,1,15,5,"],
        r"at most 1 boxes of 'apple' on a.png, as its count says, found 2",
    ),
    "more points than the count": (
        ["a.png,fig,1,1,,,,,1", "a.png,fig,9,9,,,,,"],
        r"at most 1 points and scribbles of 'fig' on a.png, as its count says, found 2",
    ),
    "two counts": (["a.png,fig,,,,,,,1", "a.png,fig,,,,,,,2"], r"one count of 'fig' on a.png .* found 1 and 2"),
    "a count that is none": (["a.png,fig,,,,,,,1.5"], r"a whole number of objects as 'count'"),
    "an unknown class": (["a.png,aple,4,4,,,,,"], r"one of the classes apple, fig in line 2 .* 'aple' \(did you mean"),
    "unknown photos": (["z.png,apple,4,4,,,,,"], r"at least one box, point, .* found none on its 1 images \(z.png\)"),
    "nothing": ([], r"at least one box, point, .* found none on its 0 images \(no image\)"),
}


@pytest.mark.parametrize("lines, sentence", BAD.values(), ids=BAD.keys())
def test_bad_input_is_said_in_one_sentence(tmp_path, lines, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        read(table(tmp_path / "labels.csv", HEAD, *lines))
    assert str(raised.value).startswith("wanted ") and "\n" not in str(raised.value)


def test_bad_files_are_said_in_one_sentence(tmp_path):
    cases = [
        (scribbles(tmp_path / "other", (10, 30)), r"drawn on the photos as they are shown, .* a.png"),
        (scribbles(tmp_path / "number", number=3), "indices of the 2 classes apple, fig .* found 3"),
        (tmp_path / "gone.json", "found nothing there: mend data.train.labels"),
        (table(tmp_path / "labels.csv", "image,class", "a.png,fig"), "points .* or complete in the columns of"),
        (coco(tmp_path / "keys.json", {"area": 3}), "a bbox, a segmentation, a point .* as 'bbox'"),
        (coco(tmp_path / "count.json", counts={"apple": -1}), "numbers of objects by class"),
        (
            coco(tmp_path / "full.json", {"bbox": [1, 1, 4, 4]}, counts={"apple": 2}, complete=1),
            "all 2 objects .* found 1",
        ),
        (coco(tmp_path / "no.json"), "at least one box, .* found none on its 2 images"),
        (table(tmp_path / "x.txt", "?"), "labels as .json"),
    ]
    for path, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            read(path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"PNG")
    with pytest.raises(UserError, match="a PNG label picture"):
        read(tmp_path / "broken")
    Image.new("RGB", (30, 20)).save(tmp_path / "broken" / "a.png")
    with pytest.raises(UserError, match=r"labels of 8 bits .* found colours"):
        read(tmp_path / "broken")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="a COCO file with the lists images, annotations, categories"):
        read(tmp_path / "list.json")


def test_labels_of_other_photos_are_left_out_and_counted(tmp_path):
    findings = Findings()
    path = table(tmp_path / "labels.csv", HEAD, "a.png,fig,4,4,,,,,", "z.png,fig,4,4,,,,,")
    assert list(read(path, findings=findings)) == ["a.png"]
    assert any("left out the labels of 1 images without a photo (z.png)" in line for line in findings.counts)


def test_tags_follow_the_labels_and_it_is_said(tmp_path):
    samples = tuple(
        Sample(name, tmp_path / name, (20, 30), tags, None, 1) for name, tags in (("a", (0,)), ("b", (0, 1)))
    )
    dataset = Dataset("train", CLASSES, (1, 2), samples)
    boxed = PhotoLabels(instances([(0, 0, 4, 4)], [1]), (None,))
    changed, notes = with_label_tags(dataset, {"a": boxed, "b": PhotoLabels(complete=True, counts={0: 1})})
    assert [sample.tags for sample in changed] == [(0, 1), (0,)]
    assert notes == (
        "1 labelled classes were no tag of their photo: believed, and tagged (fig on a)",
        "1 tags are on photos whose labels say that there is no such object: taken away (fig on b)",
    )
    same, nothing = with_label_tags(dataset, {})
    assert [sample.tags for sample in same] == [(0,), (0, 1)] and nothing == ()


def test_data_check_reads_the_labels(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in SIZES:
        Image.new("RGB", (30, 20)).save(tmp_path / "photos" / name)
    table(tmp_path / "tags.csv", "file,tags", "a.png,apple", "b.png,fig")
    path = table(tmp_path / "labels.csv", HEAD, "a.png,apple,31,5,,,,,", "b.png,fig,3,5,,,,,")
    split = SplitSettings(images=tmp_path / "photos", tags=tmp_path / "tags.csv", labels=path)
    assert split.labels == (path,)
    counts: list[str] = []
    lines = "\n".join(check_data(DataSettings(train=split), counts))
    assert "train: wanted points in their photos" in lines
    assert any("1 points" in line for line in counts)
    assert [sample.tags for sample in load_dataset(split, name="train")] == [(0,), (1,)]
