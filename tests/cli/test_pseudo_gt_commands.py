"""`weaksam pseudo-gt eval` and `export`: of files by hand, and of a run's own pseudo ground truth, there and back."""

import json
from pathlib import Path

import pytest

from tests.commands import output, refused
from tests.evaluation.masks import rectangles
from tests.helpers import TOY_RUN, instances
from weaksam.data.formats.coco import read_instances, write_instances
from weaksam.data.formats.voc import read_annotations, write_annotations
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.structures.dataset import Dataset, Sample

TRUTH = {
    "a.jpg": instances([[0, 0, 40, 40], [40, 0, 80, 40]], [0, 0]),
    "b.jpg": instances([[10, 10, 50, 50]], [1]),
    "c.jpg": instances([], []),
}
PSEUDO_GT = {
    "a.jpg": instances([[0, 0, 40, 38], [0, 0, 40, 40], [40, 0, 80, 10]], [0, 0, 0], [0.5, 0.75, 0.25]),
    "b.jpg": instances([[10, 10, 50, 50]], [0], [0.5]),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Truth and pseudo ground truth of three photos as COCO JSON and VOC XML; the last photo has neither."""
    samples = (
        Sample(name, tmp_path / name, (100, 120), (0,), None, number) for number, name in enumerate(TRUTH, start=1)
    )
    dataset = Dataset("train", ("cat", "dog"), (1, 2), tuple(samples))
    for name, boxes in (("truth", TRUTH), ("pgt", PSEUDO_GT)):
        write_instances(tmp_path / f"{name}.json", dataset, boxes)
        write_annotations(tmp_path / name, dataset, boxes)
    return tmp_path


def test_files_are_measured_by_hand(files: Path) -> None:
    figures = json.loads(output("pseudo-gt", "eval", files / "pgt.json", "--truth", files / "truth.json", "--json"))
    assert any(f"{files / 'pgt.json'}: 3 images" in note and "4 objects" in note for note in figures["notes"])
    assert figures["number"] == 4 and figures["num_photos"] == 3 and figures["num_photos_without_box"] == 1
    assert figures["per_photo"] == pytest.approx(4 / 3) and figures["per_photo_per_class"] == [2, None]
    measured = figures["against_truth"]
    assert (measured["precision"], measured["recall"]) == pytest.approx((1 / 4, 1 / 3))
    # A right box and its duplicate, a quarter of the second cat, and a cat where the dog is
    kinds = measured["kinds"]
    assert {kind: count for kind, count in kinds["boxes"].items() if count} == {
        "right": 1,
        "duplicate": 1,
        "wrong_class": 1,
        "part": 1,
    }
    assert kinds["objects"] == {"found": 1, "missed": 2, "ignored": 0}
    assert kinds["objects_per_class"]["missed"] == [1, 1]
    text = output("pseudo-gt", "eval", files / "pgt.json", "--truth", files / "truth.json")
    lines = text.splitlines()
    assert lines[0] == "4 boxes on 2 of 3 photos, 1.333 a photo; 1 photos without any"
    row = next(line for line in lines if line.startswith("all")).split()
    assert row[:6] == ["all", "4", "2.000", "0.250", "0.333", "1.000"]
    assert row[6:] == ["1", "1", "1", "0", "1", "0", "0", "3", "1", "2", "0"]
    assert text.count("protocol: ") == 1 and "kinds: at IoU 0.5" in text


def test_masks_are_measured_where_both_sides_have_them(files: Path) -> None:
    samples = (Sample(f"{k}.jpg", files / f"{k}.jpg", (40, 40), (0,), None, k) for k in (1, 2))
    dataset = Dataset("train", ("cat", "dog"), (1, 2), tuple(samples))
    write_instances(files / "true_masks.json", dataset, {"1.jpg": rectangles([(0, 0, 10, 10)], [1])})
    # No scores: another tool's masks
    masks = {"1.jpg": rectangles([(0, 0, 10, 8)], [1]), "2.jpg": rectangles([(0, 0, 4, 4)], [1])}
    write_instances(files / "masks.json", dataset, masks)
    command = ("pseudo-gt", "eval", files / "masks.json", "--truth", files / "true_masks.json")
    figures = json.loads(output(*command, "--json"))["against_truth"]["masks"]
    assert figures["mask_iou"]["mask_iou"] == pytest.approx(0.4) and figures["mask_iou"]["object_iou"] == 0.8
    assert figures["mask_iou"]["per_size"]["small"]["num_masks"] == 2
    assert figures["pq"]["per_class"] == [None, pytest.approx(0.8 / 1.5)]
    assert figures["miou"]["per_class"] == [None, pytest.approx(80 / 116)]
    text = output(*command, "--masks")
    assert "mask_iou: IoU of masks 0.400" in text and "dog: IoU of masks 0.400" in text and "pq: PQ 0.533" in text
    assert "found none in the truth: give --truth with masks" in refused(
        "pseudo-gt", "eval", files / "masks.json", "--masks"
    )
    write_instances(files / "boxes.json", dataset, {"1.jpg": masks["1.jpg"].replace(masks=None)})
    bare = ("pseudo-gt", "eval", files / "boxes.json", "--truth", files / "true_masks.json")
    assert f"found none in {files / 'boxes.json'}: give pseudo masks" in refused(*bare, "--masks")
    assert "mask_iou" not in output(*bare)


def test_every_form_gives_the_same_figures(files: Path) -> None:
    classes = ("--classes", "cat,dog")
    texts = [
        json.loads(output("pseudo-gt", "eval", files / pgt, "--truth", files / truth, "--json", *more))["against_truth"]
        for truth, more in (("truth.json", ()), ("truth", classes))
        for pgt in ("pgt.json", "pgt")
    ]
    for text in texts:
        text.pop("protocol")
    assert texts[0] == texts[2] and texts[1] == texts[3]
    # VOC has no scores: the first box on the cat is the right one, and the figures but for their overlap are the same
    assert texts[0]["kinds"] == texts[1]["kinds"] and texts[1]["per_class"][0]["overlap"] == pytest.approx(0.95)


def test_without_a_truth_there_are_counts(files: Path) -> None:
    figures = json.loads(output("pseudo-gt", "eval", files / "pgt.json", "--json"))
    assert figures["number_per_class"] == [4, 0] and "against_truth" not in figures
    assert "precision" not in output("pseudo-gt", "eval", files / "pgt.json")


def test_files_become_the_other_form_and_back(files: Path) -> None:
    assert "4 boxes on 3 photos, 1 of them without any (VOC XML" in output(
        "pseudo-gt", "export", files / "pgt.json", "--out", files / "xml"
    )
    assert "4 boxes on 3 photos" in output("pseudo-gt", "export", files / "xml", "--out", files / "back.json")
    # The names of VOC have no ending, and its classes are those that occur
    first, second = read_instances(files / "pgt.json"), read_instances(files / "back.json")
    assert list(second.images) == ["a", "b", "c"] and second.classes == ("cat",)
    for name, image in first.images.items():
        assert second.images[Path(name).stem].instances.boxes.tolist() == image.instances.boxes.tolist()
    assert "wanted a .json file (COCO) or a folder" in refused(
        "pseudo-gt", "export", files / "pgt.json", "--out", files / "x.csv"
    )


def test_mistakes_are_one_sentence(files: Path) -> None:
    half_done = refused("pseudo-gt", "eval", _folder(files / "run" / "pseudo_gt").parent)
    assert "wanted a run that has ended" in half_done and "under way or was stopped in pseudo_gt" in half_done
    assert "found nothing there" in refused("pseudo-gt", "eval", files / "absent.json")
    content = json.loads((files / "pgt.json").read_text())
    content["categories"][0]["name"] = "horse"
    (files / "other.json").write_text(json.dumps(content))
    assert "wanted boxes of the classes cat, dog in" in refused(
        "pseudo-gt", "eval", files / "other.json", "--truth", files / "truth.json"
    )
    assert "IoU threshold" in refused(
        "pseudo-gt", "eval", files / "pgt.json", "--truth", files / "truth.json", "--iou", 0
    )


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


# A run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy run up to its pseudo ground truth, on five scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=2, max_distractors=1), 5, 1, seed=1)
    data = {"images": folder / "train", "tags": folder / "tags_train.json", "truth": folder / "instances_train.json"}
    settings = [f"data.train.{name}={path}" for name, path in data.items()]
    output("pseudo-gt", *TOY_RUN, *settings, f"out={folder / 'out'}")
    return folder / "out"


def test_a_run_is_measured_as_its_metrics_say(finished: Path) -> None:
    figures = json.loads(output("pseudo-gt", "eval", finished, "--json"))
    known = json.loads((finished / "metrics.json").read_text())["stages"][-1]["figures"]["train_chosen"]
    assert figures["against_truth"] == {name: known[name] for name in figures["against_truth"]}
    assert known["per_photo"] == figures["per_photo"] and sum(known["kinds"]["boxes"].values()) == figures["number"] > 0
    objects = read_instances(finished.parent / "instances_train.json")
    assert sum(known["kinds"]["objects"].values()) == sum(len(image.instances) for image in objects.images.values())
    by_file = json.loads(
        output("pseudo-gt", "eval", finished, "--truth", finished.parent / "instances_train.json", "--json")
    )
    assert {**by_file, "notes": []} == figures and "17 objects" in by_file["notes"][0]  # how the file was read
    assert "wrong place" in (finished / "report.html").read_text()


@pytest.mark.parametrize("name", ["boxes.json", "boxes"])
def test_a_run_goes_out_and_into_another(finished: Path, name: str) -> None:
    said = output("pseudo-gt", "export", finished, "--out", finished.parent / name)
    original = read_instances(finished / "pseudo_gt" / "train.json")
    num_boxes = sum(len(image.instances) for image in original.images.values())
    assert f"{num_boxes} boxes on 5 photos" in said
    read = read_instances if name.endswith(".json") else read_annotations
    assert len(read(finished.parent / name).images) == 5  # those without a box too
    record = json.loads((finished / "run.json").read_text())["settings"]["data"]["train"]
    settings = [f"data.train.{key}={value}" for key, value in record.items() if key in ("images", "tags", "truth")]
    # The stages before lie in the folder of the first run, where those of the second are found finished
    output(
        "pseudo-gt",
        *TOY_RUN,
        *settings,
        f"out={finished}",
        "pseudo_gt=given",
        f"pseudo_gt.path={finished.parent / name}",
    )
    given = read_instances(finished / "pseudo_gt" / "train.json")
    for image_id, image in original.images.items():
        boxes = image.instances.boxes if name.endswith(".json") else image.instances.boxes.round()
        assert given.images[image_id].instances.boxes.tolist() == boxes.tolist()
        assert given.images[image_id].instances.labels.tolist() == image.instances.labels.tolist()
    output("pseudo-gt", *TOY_RUN, *settings, f"out={finished}")  # as it was


def test_a_run_is_exported_in_the_formats_of_tools(finished: Path) -> None:
    original = read_instances(finished / "pseudo_gt" / "train.json")
    num_boxes = sum(len(image.instances) for image in original.images.values())
    text = output("export", finished, "--format", "yolo")
    out = finished / "export" / "pseudo-gt_train_yolo"
    assert f"{out}: {num_boxes} boxes on 5 photos" in text and "links of the photos in images/train" in text
    assert len(list((out / "labels/train").glob("train_*.txt"))) == len(list((out / "images/train").iterdir())) == 5
    text = output("export", finished, "--format", "csv", "--what", "detections", "--min-score", 0.5)
    detections = json.loads((finished / "wsod" / "detections_train.json").read_text())
    assert f" {sum(entry['score'] >= 0.5 for entry in detections)} boxes on 5 photos" in text
    assert "wanted the finished stage wsis" in refused("export", finished, "--format", "masks", "--what", "masks")
    assert "wanted the test photos" in refused("export", finished, "--format", "csv", "--split", "test")
