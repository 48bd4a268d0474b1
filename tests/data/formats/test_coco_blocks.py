"""COCO entries that are read many at a time give what they give one by one, on odd input above all."""

import json
import random

import numpy as np
import pytest

from weaksam.config import UserError
from weaksam.data import image_entries, json_stream
from weaksam.data.findings import Findings
from weaksam.data.formats import coco
from weaksam.data.formats.coco_blocks import plain_objects
from weaksam.data.formats.coco_entries import CategoryLabels
from weaksam.data.formats.tags import read_tags
from weaksam.data.image_entries import read_image_entries
from weaksam.data.object_columns import ImageRows, ObjectColumns
from weaksam.data.truth import truth_classes

ODD_IMAGES = (
    {"file_name": "x\\y.jpg"},
    {"file_name": " a.jpg"},
    {"file_name": ""},
    {"file_name": 7},
    {"file_name": "A\u0308.jpg"},
    {"file_name": "M0001.JPG"},
    {"file_name": "m0001.jpg"},
    {"file_name": "./m0002.jpg"},
    {"file_name": "two\nlines"},
    {"id": "text"},
    {"id": "12"},
    {"id": 3.0},
    {"id": 2**70},
    {"id": 1},
    {"id": -1},
    {"id": -2},
    {"id": True},
    {"height": None},
    {"height": 0},
    {"height": "20"},
    {"width": -1},
    {"width": 10**7, "height": 10**7},
    {"width": 10**9},
    None,
    5,
)
ODD_ANNOTATIONS = (
    {"bbox": [1, 2, 3]},
    {"bbox": [1, 2, -3, 4]},
    {"bbox": [1, 2, 1e9, 4]},
    {"bbox": [-1, 2, 3, 4]},
    {"bbox": ["1", 2, 3, 4]},
    {"bbox": [float("nan"), 2, 3, 4]},
    {"bbox": [1, float("inf"), 3, 4]},
    {"bbox": [True, 2, 3, 4]},
    {"bbox": None},
    {"category_id": "pear"},
    {"category_id": 9},
    {"category_id": 1.0},
    {"category_id": True},
    {"image_id": 10**6},
    {"image_id": "3"},
    {"image_id": None},
    {"image_id": "text"},
    {"id": 1},
    {"id": None},
    {"id": "word"},
    {"id": -2},
    {"iscrowd": 1},
    {"iscrowd": 1.0},
    {"iscrowd": True},
    {"iscrowd": "1"},
    {"iscrowd": 2},
    {"iscrowd": [1]},
    {"score": 0.5},
    {"difficult": 1},
    {"bbox_mode": 0},
    {"segmentation": [[1, 1, 9, 1, 9, 9]]},
    {"segmentation": {"size": [20, 30], "counts": [0, 600]}},
    {"segmentation": 0},
    {"segmentation": ""},
    {"segmentation": {}},
    None,
    "text",
)


def odd_content(seed: int, share: float = 0.08) -> dict[str, list]:
    """An instances file of 60 images and 240 annotations, a ``share`` of them odd."""
    draw = random.Random(seed)
    images = [{"id": n, "file_name": f"m{n:04d}.jpg", "height": 20, "width": 30} for n in range(1, 61)]
    boxes = [
        {"id": n, "image_id": 1 + n // 4, "category_id": 1 + n % 2, "bbox": [n % 7, 2.25, 3 + n % 5, 4], "iscrowd": 0}
        for n in range(240)
    ]
    for entries, odd in ((images, ODD_IMAGES), (boxes, ODD_ANNOTATIONS)):
        for row in range(len(entries)):
            if draw.random() < share:
                changes = draw.choice(odd)
                entries[row] = {**entries[row], **changes} if isinstance(changes, dict) else changes
    return {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "fig"}, {"id": 2, "name": "pear"}]}


def read(path) -> tuple[Findings, str, dict]:
    """What a file gives: findings, the sentence of the first fault alone, and all values of its objects."""
    findings = Findings(gather=True)
    annotations = coco.read_instances(path, findings)
    try:
        coco.read_instances(path)
        fault = ""
    except UserError as error:
        fault = str(error)
    values = {}
    for name, image in annotations.images.items():
        objects = image.instances
        columns = [objects.boxes, objects.labels, objects.crowd, objects.difficult, objects.scores]
        columns = [None if column is None else column.tolist() for column in columns]
        values[name] = (image.number, image.text_id, image.size, objects.masks, *columns)
    return findings, fault, values


def one_by_one(monkeypatch) -> None:
    """Read each entry on its own, and each object of the JSON text with a look at its keys."""
    monkeypatch.setattr(coco, "plain_objects", lambda block, labels: None)
    monkeypatch.setattr(image_entries._ImageReader, "read_plain", lambda self, block, start: False)
    monkeypatch.setattr(json_stream, "_have_flat_objects", lambda values, text: False)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.2])
def test_a_file_is_read_alike_in_blocks_and_entry_by_entry(seed, share, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("weaksam.data.json_stream._BLOCK", 700)  # characters: some seven entries
    content = odd_content(seed, share)
    order = ("images", "annotations", "categories") if seed % 2 else ("annotations", "categories", "images")
    (tmp_path / "t.json").write_text(json.dumps({key: content[key] for key in order}, indent=seed % 3 or None))
    in_blocks = read(tmp_path / "t.json")
    one_by_one(monkeypatch)
    entry_by_entry = read(tmp_path / "t.json")
    assert in_blocks == entry_by_entry
    assert len(in_blocks[2]) >= 40 and bool(in_blocks[0].faults) == (share > 0)


def test_every_odd_value_alone_is_read_alike(tmp_path, monkeypatch) -> None:
    results = []
    for plain in (False, True):
        if plain:
            one_by_one(monkeypatch)
        for section, odd in (("images", ODD_IMAGES), ("annotations", ODD_ANNOTATIONS)):
            for changes in odd:
                content = odd_content(0, 0.0)
                entries = content[section]
                entries[30] = {**entries[30], **changes} if isinstance(changes, dict) else changes
                (tmp_path / "t.json").write_text(json.dumps(content))
                results.append(read(tmp_path / "t.json"))
    half = len(results) // 2
    assert half == len(ODD_IMAGES) + len(ODD_ANNOTATIONS) and results[:half] == results[half:]


@pytest.mark.parametrize(
    "repeat", ['"id": 1, "id": 2', '"id":1,"id":2', '"id" : 1, "id" : 2', '"id"\n:1,"id":2', '"id": 1, "i\\u0064": 2']
)
@pytest.mark.parametrize("rest", ["", ', "name": "a: {b"', ', "name": "\\":"', ', "name": {"x": 1}', ', "name": ":"'])
def test_a_key_that_comes_twice_is_seen_wherever_it_is(repeat, rest, tmp_path) -> None:
    plain = '{"id": 7, "name": "b"}'
    for objects in ([f"{{{repeat}{rest}}}"], [plain, f"{{{repeat}{rest}}}", plain], [plain] * 50 + [f"{{{repeat}}}"]):
        (tmp_path / "t.json").write_text(f'{{"a": [{", ".join(objects)}]}}')
        with pytest.raises(UserError, match="'id' twice in one object"):
            list(json_stream.stream_json(tmp_path / "t.json", "a file", ("a",)))


def test_plain_objects_are_columns_of_what_is_stated() -> None:
    labels = CategoryLabels({3: 0, 5: 1}, {"fig": 0, "pear": 1})
    entries = [
        {"id": 4, "image_id": 9, "category_id": 5, "bbox": [1, 2, 3.5, 4], "iscrowd": 1, "segmentation": []},
        {"id": 2, "image_id": 8, "category_id": 3, "bbox": [0, 0.5, 1, 1]},
    ]
    objects = plain_objects(entries, labels)
    assert objects.own_ids.tolist() == [4, 2] and objects.image_ids.tolist() == [9, 8]
    assert objects.labels.tolist() == [1, 0] and objects.crowd.tolist() == [True, False]
    assert objects.corners.tolist() == [[1, 2, 4.5, 6], [0, 0.5, 1, 1.5]]
    for changes in ODD_ANNOTATIONS:
        if changes not in ({"iscrowd": 1}, {"id": 1}, {"id": -2}, {"image_id": 10**6}):
            odd = {**entries[1], **changes} if isinstance(changes, dict) else changes
            assert plain_objects([entries[0], odd], labels) is None, changes


def test_images_are_found_by_their_numbers_all_or_none(tmp_path) -> None:
    entries = [{"id": n, "file_name": f"{n}.jpg", "height": 2, "width": 3} for n in (5, -1, 40, 7)]
    images = read_image_entries([entries[:3], entries[3:]], tmp_path, Findings())
    assert images.places(np.array([7, 5, 7, -1])).tolist() == [3, 0, 3, 1]
    assert images.places(np.array([7, 6])) is None and images.places(np.array([99])) is None
    assert images.sides(np.array([2])).tolist() == [[3, 2]]
    entries[0]["id"] = "text"  # is kept apart, and takes no number
    images = read_image_entries([entries], tmp_path, Findings())
    assert images.places(np.array([7, -1, 40])).tolist() == [3, 1, 2] and images.places(np.array([0])) is None
    assert read_image_entries([], tmp_path, Findings()).places(np.array([0])) is None


def test_objects_have_scores_and_masks_where_they_were_given_them() -> None:
    mask = {"size": [4, 4], "counts": "0@"}
    objects = ObjectColumns()
    objects.of_image(1).add((3, 4, 1, 2), 2)  # inverted corners are empty
    objects.of_image(0).add((0, 0, 2, 2), 1, score=0.25, mask=mask, difficult=True)
    objects.of_image(1).add((0, 0, 1, 1), 0, score=0.5, crowd=True)
    rows = ImageRows(objects.images, 3)
    assert [rows.of(place).tolist() for place in range(3)] == [[1], [0, 2], []] and rows.num_empty == 1
    of_first, of_second = (objects.instances(rows.of(place), with_masks=place == 0, size=(4, 4)) for place in (0, 1))
    assert of_first.scores.tolist() == [0.25] and of_first.masks == (mask,) and of_first.difficult.tolist() == [True]
    assert of_second.boxes.tolist() == [[3, 4, 3, 4], [0, 0, 1, 1]] and of_second.labels.tolist() == [2, 0]
    assert of_second.scores is None and of_second.masks is None and of_second.crowd.tolist() == [False, True]
    nothing = objects.instances(rows.of(2), with_masks=True, size=(4, 4))
    assert len(nothing) == 0 and nothing.masks == () and nothing.boxes.shape == (0, 4) and nothing.scores is None


@pytest.fixture
def readings(monkeypatch) -> list[str]:
    """The names of the JSON files that were read from their beginning, in order."""
    paths, stream = [], coco.stream_blocks
    monkeypatch.setattr(coco, "stream_blocks", lambda path, *rest: paths.append(path.name) or stream(path, *rest))
    return paths


def test_tags_of_an_instances_file_are_read_once(readings, tmp_path) -> None:
    content = odd_content(0, 0.0)
    (tmp_path / "t.json").write_text(json.dumps(content))
    tags = read_tags(tmp_path / "t.json")
    assert readings == ["t.json"] and tags.classes == ("fig", "pear")
    assert tags.rows["m0001.jpg"] == ("fig", "pear") and len(tags.rows) == 60


def test_words_of_an_instances_file_do_not_make_one(readings, tmp_path) -> None:
    words = ["images", "annotations", "categories"]
    (tmp_path / "t.json").write_text(json.dumps({"a.jpg": words, "images": ["fig"]}))
    assert read_tags(tmp_path / "t.json").rows["images"] == ("fig",)
    (tmp_path / "t.json").write_text('{"images": [], "annotations": [1, "categories"')
    with pytest.raises(UserError, match=r"wanted image tags at .* not JSON"):
        read_tags(tmp_path / "t.json")
    content = odd_content(0, 0.0)
    content["annotations"][3]["bbox"] = [1, 2]
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"a bbox of four numbers .* of annotation 4"):
        read_tags(tmp_path / "t.json")


def test_classes_of_a_truth_are_read_without_its_objects(readings, tmp_path) -> None:
    content = odd_content(0, 0.0)
    (tmp_path / "t.json").write_text(json.dumps({"categories": content["categories"], "images": 7}))
    assert truth_classes(tmp_path / "t.json") == ("fig", "pear") and readings == ["t.json"]
    (tmp_path / "t.json").write_text(json.dumps({**content, "annotations": [{"bbox": "odd"}]}))
    assert truth_classes(tmp_path / "t.json") == ("fig", "pear")
    (tmp_path / "t.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(UserError, match="wanted a COCO instances file with images, annotations, categories"):
        truth_classes(tmp_path / "t.json")
