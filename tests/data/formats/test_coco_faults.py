"""COCO files as people write them: what is read and said, and what every command refuses in one sentence."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from weaksam.config import UserError
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings, load_dataset
from weaksam.data.findings import Findings
from weaksam.data.formats import coco
from weaksam.evaluation.files import evaluate_files
from weaksam.structures.masks import mask_from_rle, rle_from_mask

WIDTH, HEIGHT = 60, 40
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
SIZE = {"width": WIDTH, "height": HEIGHT}


def image(number, name, **more):
    return {"id": number, "file_name": name, **SIZE, **more}


def annotation(number, image_id, **more):
    return {"id": number, "image_id": image_id, "category_id": 1, "bbox": [10, 10, 20, 20], **more}


def result(image_id, **more):
    return {"image_id": image_id, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9, **more}


def truth_file(folder: Path, **changes) -> Path:
    """The truth of the photos a.png and b.png, one object each."""
    content = {
        "images": [image(1, "a.png"), image(2, "b.png")],
        "annotations": [annotation(1, 1), annotation(2, 2)],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (folder / "truth.json").write_text(json.dumps({**content, **changes}))
    return folder / "truth.json"


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    for index, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (WIDTH, HEIGHT), (index, 0, 0)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def measure(truth: Path, results, metrics=("voc",), **arguments) -> tuple[float, str]:
    """AP50 and the protocol of results, written as JSON beside the truth."""
    path = truth.with_name("results.json")
    path.write_text(json.dumps(results))
    figures = evaluate_files(truth, path, metrics, **arguments)[metrics[0]]
    return figures["mean"]["0.5"], figures["protocol"]


def check(photos: Path, truth: Path) -> list[str]:
    """What 'data check' says, without the class that is in every photo."""
    lines = check_data(DataSettings(train=SplitSettings(images=photos, truth=truth)))
    return [line.removeprefix("train: ") for line in lines]


def refused_by_all(photos: Path, truth: Path, sentence: str) -> None:
    """One sentence from the reader of a run and from the evaluation, and among the lines of 'data check'."""
    for read in (
        lambda: load_dataset(SplitSettings(images=photos, truth=truth), name="test"),
        lambda: measure(truth, [], images=photos),
    ):
        with pytest.raises(UserError, match=sentence) as refusal:
            read()
        assert "\n" not in str(refusal.value)
        assert str(truth) in str(refusal.value)
    with pytest.raises(UserError, match=sentence):
        raise UserError("\n".join(check(photos, truth)))


# Keys that must be unique


@pytest.mark.parametrize("name", ["a.png", "./a.png", ".\\a.png", "caf\u00e9.png"])
def test_a_file_name_under_two_ids_is_refused(photos, name) -> None:
    first = "cafe\u0301.png" if name.startswith("caf") else "a.png"
    truth = truth_file(photos.parent, images=[image(1, first), image(2, name)])
    refused_by_all(photos, truth, r"wanted every file_name once in .* under the ids 1 and 2: name each photo")


@pytest.mark.parametrize("name", ["A.PNG", "/home/me/a.png", "8f21ab09-a.png", "%61.png"])
def test_two_names_of_one_photo_are_refused(photos, name) -> None:
    truth = truth_file(photos.parent, images=[image(1, "a.png"), image(2, name)])
    refused_by_all(photos, truth, r"wanted every photo once in .*found a\.png twice, as 'a\.png' and ")


def test_every_repeat_is_listed_by_data_check(photos) -> None:
    images = [image(1, "a.png"), image(2, "a.png"), image(3, "b.png"), image(3, "c.png"), image(1, "a.png")]
    categories = [{"id": 1, "name": "cup"}, {"id": 1, "name": "pot"}, {"id": 2, "name": "cup"}]
    truth = truth_file(photos.parent, images=images, categories=categories, annotations=[annotation(1, 1)] * 2)
    lines = "\n".join(check(photos, truth))
    for part in (
        "'a.png' under the ids 1 and 2",
        "image id once in .* found 3 for 'b.png' and 'c.png'",
        "image 5 .* an image that is listed twice was taken once",
        "category id of .* once, found 1 for 'cup' and 'pot'",
        "category of .* once, found 'cup' twice",
        "annotation 2 .* there twice, word for word",
    ):
        with pytest.raises(UserError, match=part):
            raise UserError(lines)


def test_annotations_of_one_id_stay_objects_and_are_named(photos) -> None:
    truth = truth_file(photos.parent, annotations=[annotation(1, 1), annotation(1, 2, bbox=[0, 0, 5, 5])])
    ap, protocol = measure(truth, [result(1), result(2, bbox=[0, 0, 5, 5])])
    assert ap == 1
    assert "an annotation with the id of another was read as an object of its own (annotation 2 (id 1)" in protocol


# Ids


@pytest.mark.parametrize(
    "ids, read",
    [
        (("7", "12"), [7, 12]),
        ((7.0, 12.0), [7, 12]),
        (("img_a", "img_b"), ["img_a", "img_b"]),
        (("a.png", "b.png"), ["a.png", "b.png"]),
        (("b.png", "a.png"), ["b.png", "a.png"]),
        ((10**15 + 1, 10**20), [10**15 + 1, 10**20]),
        (("0f8fad5b-d9cb", 5), ["0f8fad5b-d9cb", 5]),
    ],
)
def test_image_ids_of_every_kind_find_their_results(photos, ids, read) -> None:
    truth = truth_file(
        photos.parent,
        images=[image(ids[0], "a.png"), image(ids[1], "b.png")],
        annotations=[annotation(1, ids[0]), annotation(2, ids[1], bbox=[30, 5, 9, 9])],
    )
    results = [result(ids[0]), result(ids[1], bbox=[30, 5, 9, 9])]
    assert measure(truth, results)[0] == 1
    dataset = load_dataset(SplitSettings(images=photos, truth=truth), name="test")
    assert [sample.file_id for sample in dataset] == read
    # What a run writes on this data set is measured against the same truth
    scored = {name: truth.replace(scores=torch.ones(len(truth))) for name, truth in dataset.truths.items()}
    coco.write_results(photos.parent / "own.json", dataset, scored)
    assert evaluate_files(truth, photos.parent / "own.json", ["voc"])["voc"]["mean"]["0.5"] == 1


@pytest.mark.parametrize("wrong", [None, 7.5, [1], {}, True, "", float("nan"), "\ud800"])
def test_image_ids_that_are_none(photos, wrong) -> None:
    truth = truth_file(photos.parent, images=[image(wrong, "a.png")], annotations=[])
    refused_by_all(photos, truth, "wanted a whole number or a text as 'id' of image 1")


# Other values that cannot be meant


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({"bbox": None}, "bbox of four numbers .* of annotation 1 .*found None"),
        ({"bbox": {"x": 1}}, r"bbox of four numbers .*found \{'x': 1\}"),
        ({"bbox": [0, 0, 1, "wide"]}, "bbox of four numbers"),
        ({"bbox": [0, 0, float("inf"), 1]}, "bbox of four numbers"),
        ({"bbox": [0, 0, 1e9, 1]}, "bbox of four numbers"),
        ({"bbox": [0, 0, True, 1]}, "bbox of four numbers"),
        ({"bbox": [30, 30, -10, 5]}, "a width and a height of at least 0"),
        ({"bbox": [100, 10, 20, 20]}, r"outside of it \(100, 10, 120, 30\)|outside the photo \(100, 10, 120, 30\)"),
        ({"category_id": None}, "a category id of the dataset"),
        ({"category_id": [1]}, "a category id of the dataset"),
        ({"category_id": 0}, "ids that count from 0"),
        ({"image_id": None}, "the id of an image of the file as 'image_id'"),
        ({"iscrowd": "yes"}, "0 or 1 as 'iscrowd'"),
        ({"score": "high"}, "a finite number as 'score'"),
        ({"bbox_mode": 0}, r"wanted 1 \(x, y, width, height\) as 'bbox_mode' of annotation 1"),
        ({"segmentation": "none"}, "polygons .* as 'segmentation' of annotation 1"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "polygons of finite numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, "x"]]}, "polygons of finite numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "polygons of finite numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6e6]]}, "polygons on its image of 60 x 40"),
        ({"segmentation": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}, "polygons"),
        ({"segmentation": {"counts": [2400]}}, r"a size of \[height, width\]"),
        ({"segmentation": {"size": [40, 60], "counts": [2399]}}, "run lengths that fill 40 x 60"),
        ({"segmentation": {"size": [40, 60], "counts": "zzz!"}}, "run lengths that fill 40 x 60"),
        ({"segmentation": {"size": [40, 60], "counts": [-1, 2401]}}, "run lengths that fill 40 x 60"),
        ({"segmentation": {"size": [60, 40], "counts": [2400]}}, "its mask says 40 x 60, .* on the turned photo"),
        ({"segmentation": {"size": [80, 120], "counts": [9600]}}, "its mask says 120 x 80, .* 2 times as large"),
    ],
)
def test_values_of_annotations_that_cannot_be_meant(photos, more, sentence) -> None:
    truth = truth_file(photos.parent, annotations=[{**annotation(1, 1), **more}])
    refused_by_all(photos, truth, sentence)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"images": {"id": 1}}, "wanted a COCO instances file with .* found 'images' as"),
        ({"annotations": None}, "found 'annotations' as None"),
        ({"images": [1]}, "wanted an object with keys as image 1"),
        ({"images": [image(1, None)]}, "wanted a text as 'file_name' of image 1"),
        ({"images": [image(1, ["a.png"])]}, "wanted a text as 'file_name'"),
        ({"images": [image(1, "a\ud800.png")]}, "wanted a text as 'file_name'"),
        ({"images": [image(1, "a.png", width="wide")]}, "a finite number as 'width'"),
        ({"images": [image(1, "a.png", height=40.5)]}, "a whole number of pixels as 'height'"),
        ({"images": [image(1, "a.png", height=-40)]}, "a whole number of pixels as 'height'"),
        ({"annotations": [[1, 1, 10, 10, 20, 20]]}, "wanted an object with keys as annotation 1"),
        ({"categories": [{"id": "first", "name": "cup"}]}, "a whole number as 'id' of category 1"),
        ({"categories": [{"id": 1, "name": None}]}, "a text as 'name' of category 1"),
        ({"categories": [{"id": 1, "name": "0.93"}]}, "the name of a class as 'name' of category 1 .*found '0.93'"),
        ({"categories": [{"id": 1, "name": "cup\u200b"}]}, "a name of at most .* as 'name' of category 1"),
        ({"categories": ["cup"]}, "wanted an object with keys as category 1"),
    ],
)
def test_sections_of_other_shapes(photos, changes, sentence) -> None:
    refused_by_all(photos, truth_file(photos.parent, **changes), sentence)


def test_values_whose_meaning_is_clear_are_read_and_said(photos) -> None:
    truth = truth_file(
        photos.parent,
        images=[image("1", "a.png", width="60"), image(2, "b.png", width=None), image(3, 17)],
        annotations=[annotation(1, 1, bbox=["10", "10", "20", "20"]), annotation(2, 2.0, category_id="cup")],
    )
    ap, protocol = measure(truth, [result(1), result("b.png")])
    assert ap == 1
    assert "3 images, 1 of them without objects; 2 objects of 1 classes" in protocol
    assert "numbers written as text were read as numbers (2 times, first in image 1 (id 1)" in protocol
    assert "a class's name was taken for its category_id (annotation 2 (id 2)" in protocol
    assert "a number as 'file_name' was read as text (image 3 (id 3)" in protocol


@pytest.mark.parametrize(
    "segmentation, said",
    [
        ([SQUARE], ""),
        (SQUARE, "a flat list of coordinates was taken as one polygon"),
        ([[10, 10], [30, 10], [30, 30], [10, 30]], "a list of points was taken as one polygon"),
        ([[[10, 10], [30, 10], [30, 30], [10, 30]]], "lists of points were taken as polygons"),
        ([list(map(str, SQUARE))], "numbers written as text were read as numbers"),
        ([SQUARE, [1, 2], []], "a polygon of fewer than three points was left out (2 times"),
        ([[1, 2, 3, 4]], "a polygon of fewer than three points was left out"),
        ([[]], "a polygon of fewer than three points was left out"),
    ],
)
def test_polygons_in_other_brackets(tmp_path, segmentation, said) -> None:
    other = annotation(2, 2, segmentation=[SQUARE])
    read = coco.read_instances(truth_file(tmp_path, annotations=[annotation(1, 1, segmentation=segmentation), other]))
    mask = mask_from_rle(read.images["a.png"].instances.masks[0])
    assert mask.nonzero().min(0).values.tolist() == [10, 10]
    assert mask.sum() == 400
    assert said in "; ".join(read.notes)


def test_masks_give_the_size_that_the_file_does_not_state(photos) -> None:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[10:30, 10:30] = True
    rle = rle_from_mask(mask)
    truth = truth_file(
        photos.parent,
        images=[{"id": 1, "file_name": "a.png"}],
        annotations=[annotation(1, 1, segmentation=rle), annotation(2, 1, segmentation={**rle, "size": [60, 40]})],
    )
    refused_by_all(photos, truth, "its mask says 40 x 60")
    truth = truth_file(photos.parent, images=[image(1, "a.png")], annotations=[annotation(1, 1, segmentation=rle)])
    assert measure(truth, [result(1, segmentation=rle)], ["mask"])[0] == 1
    with pytest.raises(UserError, match=r"'segmentation' of result 1 in .* 120 x 80, .* 2 times as large"):
        measure(truth, [result(1, segmentation={"size": [80, 120], "counts": [9600]})], ["mask"])


# Sizes


@pytest.mark.parametrize(
    "size, kind",
    [((40, 60), "drawn on the turned photo"), ((120, 80), "2 times as large"), ((30, 20), "0.5 times"), ((60, 50), "")],
)
def test_truth_of_another_size_is_refused(photos, size, kind) -> None:
    images = [image(1, "a.png", width=size[0], height=size[1]), image(2, "b.png")]
    sentence = f"a.png.? is 60 x 40 but the truth says {size[0]} x {size[1]}.*{kind}"
    refused_by_size = truth_file(photos.parent, images=images, annotations=[])
    for read in (
        lambda: load_dataset(
            SplitSettings(images=photos, truth=refused_by_size, tags=_tags(photos)), name="test", classes=("cup",)
        ),
        lambda: measure(refused_by_size, [], images=photos),
    ):
        with pytest.raises(UserError, match=sentence):
            read()
    assert any(
        f"a.png: is 60 x 40 but the truth says {size[0]} x {size[1]}" in line for line in check(photos, refused_by_size)
    )


def _tags(photos: Path) -> Path:
    (photos.parent / "tags.json").write_text(json.dumps({"a.png": ["cup"], "b.png": ["cup"]}))
    return photos.parent / "tags.json"


def test_a_box_that_reaches_out_is_clipped_and_said(photos) -> None:
    truth = truth_file(photos.parent, annotations=[annotation(1, 1, bbox=[50, 30, 20, 20]), annotation(2, 2)])
    dataset = load_dataset(SplitSettings(images=photos, truth=truth), name="test")
    assert dataset.by_id["a.png"].truth.boxes.tolist() == [[50, 30, 60, 40]]
    assert any("a box that reaches out of its photo was clipped to it" in note for note in dataset.notes)
    ap, protocol = measure(truth, [result(1, bbox=[50, 30, 10, 10]), result(2)])
    assert ap == 1
    assert "clipped" in protocol
    assert "a.png: has a box of 'cup' outside the photo (50, 30, 70, 50)" in check(photos, truth)


def test_an_object_that_is_there_twice_counts_and_is_said(photos) -> None:
    truth = truth_file(photos.parent, annotations=[annotation(1, 1), annotation(2, 1), annotation(3, 2)])
    said = "an object that repeats another of its photo, box and class, counts too"
    assert any(said in note for note in load_dataset(SplitSettings(images=photos, truth=truth), name="test").notes)
    assert said in measure(truth, [], images=photos)[1]
    assert "a.png: has 1 of 2 objects with the box and the class of another" in check(photos, truth)


# Names as labelling servers write them


@pytest.mark.parametrize(
    "names, said",
    [
        (("a.png", "b.png"), None),
        (("A.PNG", ".\\b.png"), None),
        (("..\\..\\upload\\4\\a.png", "D:\\data\\b.png"), "a path of another machine by its file name alone"),
        (("/home/me/a.png", "../label/b.png"), "a path of another machine by its file name alone"),
        (("%61.png", "b%2Epng"), "an escaped name"),
        (("8f21ab09-a.png", "77aa0b12-b.png"), "an uploaded file's name without its prefix"),
        (("/data/upload/8f21ab09-a.png", "/data/local-files/?d=x/b.png"), "without its prefix"),
    ],
)
def test_names_of_labelling_servers(photos, names, said) -> None:
    (photos / "batch").mkdir()
    for name in ("a.png", "b.png"):
        (photos / name).rename(photos / "batch" / name)
    truth = truth_file(photos.parent, images=[image(1, names[0]), image(2, names[1])])
    dataset = load_dataset(SplitSettings(images=photos, truth=truth), name="test")
    assert [sample.number for sample in dataset] == [1, 2]
    assert said is None or any(said in note for note in dataset.notes)
    lines = check(photos, truth)
    assert bool(lines) == (said is not None)
    assert all("was matched" in line for line in lines)
    ap, protocol = measure(truth, [result(1), result(2)], images=photos)
    assert (ap, "has no photo" in protocol) == (1, False)


def test_a_path_of_another_machine_that_fits_two_photos_is_refused(photos) -> None:
    for folder in ("x", "y"):
        (photos / folder).mkdir()
        Image.new("RGB", (WIDTH, HEIGHT), (9, len(list(photos.iterdir())), 9)).save(photos / folder / "c.png")
    truth = truth_file(photos.parent, images=[image(1, "/home/me/c.png"), image(2, "b.png")])
    refused_by_all(photos, truth, r"wanted one photo for 'c\.png' of .* found x/c\.png, y/c\.png")


# Results


@pytest.mark.parametrize("key", ["score", "confidence", "conf", "scores", "probability"])
def test_scores_under_other_names_rank_alike(tmp_path, key) -> None:
    results = [
        {"image_id": number, "category_id": 1, "bbox": box, key: score}
        for number in (1, 2)
        for box, score in (([0, 0, 5, 5], 0.05), ([10, 10, 20, 20], 0.95))
    ]
    ap, protocol = measure(truth_file(tmp_path), results)
    assert ap == 1
    assert (f"{key!r} was taken as the score" in protocol) == (key != "score")
    assert "4 detections on 2 of 2 images" in protocol


@pytest.mark.parametrize(
    "scores, said",
    [
        (("0.05", "0.95"), "numbers written as text were read as numbers (4 times"),
        ((5, 95), "scores outside 0 to 1 (5 to 95) were used as they are, to rank"),
        ((-3.2, 4.1), "scores outside 0 to 1 (-3.2 to 4.1)"),
        ((0, 1), "4 detections on 2 of 2 images"),
    ],
)
def test_scores_of_other_scales_rank_and_are_said(tmp_path, scores, said) -> None:
    results = [
        result(number, bbox=box, score=score)
        for number in (1, 2)
        for box, score in zip(([0, 0, 5, 5], [10, 10, 20, 20]), scores, strict=True)
    ]
    ap, protocol = measure(truth_file(tmp_path), results)
    assert ap == 1
    assert said in protocol


@pytest.mark.parametrize("score", [None, float("nan"), float("inf"), "high", "", [0.9], {"cup": 0.9}, True, "0,9"])
def test_scores_that_are_none(tmp_path, score) -> None:
    with pytest.raises(UserError, match=r"wanted a finite number as 'score' of result 2 in .*results.json"):
        measure(truth_file(tmp_path), [result(1), result(2, score=score)])


@pytest.mark.parametrize(
    "results, sentence",
    [
        (
            [result(1), {"image_id": 2, "category_id": 1, "bbox": [1, 1, 2, 2]}],
            "as 'score' of result 2 .* found none among",
        ),
        ([{"image_id": 2, "category_id": 1, "bbox": [1, 1, 2, 2]}], "as 'score' of result 1"),
        ([{"image_id": 2, "confidence": 1, "prob": 1}], "found confidence, prob: name the right one 'score'"),
        ([[1, 1, 0.9, 10, 10, 20, 20]], "an object with keys as result 1"),
        ({"annotations": [], "results": []}, "found a JSON dict"),
        ({}, "found a JSON dict with no keys"),
        (None, "found None"),
        ("results", "found 'results'"),
        ([result(99)], "found image_id 99 in result 1"),
        ([result(None)], "found image_id None"),
        ([result(1.5)], "found image_id 1.5"),
        ([result([1])], r"found image_id \[1\]"),
        ([result(1, category_id=0)], "count from 0"),
        ([result(1, category_id="pot")], "a category id of the dataset"),
        ([result(1, bbox=[10, 10, 30, 30]), result(2, bbox=[40, 20, 58, 39])], "corners x1, y1, x2, y2"),
        ([result(1, bbox=[0.1, 0.2, 0.3, 0.4])], "shares of the photo"),
        ({"annotations": [result(1)], "images": [image(1, "b.png")]}, "found 1 for 'b.png'"),
        ({"annotations": [], "categories": [{"id": 2, "name": "cup"}]}, "found 2 for 'cup'"),
    ],
)
def test_results_that_cannot_be_meant(tmp_path, results, sentence) -> None:
    with pytest.raises(UserError, match=sentence) as refusal:
        measure(truth_file(tmp_path), results)
    assert "\n" not in str(refusal.value)


def test_results_whose_meaning_is_clear(tmp_path) -> None:
    truth = truth_file(tmp_path)
    wrapped = {"annotations": [result(1), result(2)], "images": [image(1, "a.png"), image(2, "b.png")]}
    ap, protocol = measure(truth, wrapped)
    assert ap == 1
    assert "the list under 'annotations' was read as the results" in protocol
    ap, protocol = measure(truth, [result("a"), result("b.png", category_id="cup"), result(2.0), result(2.0)])
    assert ap == 1
    assert "4 detections on 2 of 2 images (2 repeat another)" in protocol
    ap, protocol = measure(truth, [])
    assert ap == 0
    assert "0 detections on 0 of 2 images" in protocol


def test_findings_gather_every_fault_of_a_file(tmp_path) -> None:
    findings = Findings(gather=True)
    broken = [annotation(1, 1, bbox=None), annotation(2, 9), 7, annotation(4, 2), annotation(5, 2, category_id=8)]
    read = coco.read_instances(truth_file(tmp_path, annotations=broken), findings)
    assert len(findings.faults) == 4
    assert [len(image.instances) for image in read.images.values()] == [0, 1]
