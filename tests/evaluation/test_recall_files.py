"""`weaksam recall` and `weaksam boxes`: any proposals against any truth, with figures counted by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.helpers import pickled, proposals
from weaksam import cli
from weaksam.data.formats.coco import read_instances, write_instances
from weaksam.data.formats.voc import write_annotations
from weaksam.data.formats.yolo import write_labels
from weaksam.data.proposals.files import write_store
from weaksam.evaluation.recall_files import measure_recall
from weaksam.evaluation.text import recall_text
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.proposals import Proposals

CAT, DOG, FAR = [0, 0, 10, 10], [20, 0, 40, 10], [50, 50, 60, 60]


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.output
    return result.stderr


def figures(*arguments: object) -> dict:
    result = invoke("recall", *arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


@pytest.fixture
def golden(tmp_path):
    """Two objects in a.jpg, one of them found by the second-best box; one in b.jpg, for which there are no proposals.

    The truth as COCO (``truth.json``), VOC (``voc``) and YOLO (``yolo``), photos, and the store ``ours``.
    """
    (tmp_path / "photos").mkdir()
    samples, truths = [], {"a.jpg": ([CAT, DOG], [0, 1]), "b.jpg": ([FAR], [0])}
    for number, (image_id, (true, labels)) in enumerate(truths.items(), start=41):
        Image.new("RGB", (100, 80)).save(tmp_path / "photos" / image_id)
        truth = Instances(torch.tensor(true).float(), torch.tensor(labels))
        samples.append(Sample(image_id, tmp_path / "photos" / image_id, (80, 100), tuple(labels), truth, number))
    dataset = Dataset("train", ("cat", "dog"), (1, 2), tuple(samples))
    write_instances(tmp_path / "truth.json", dataset, dataset.truths)
    write_annotations(tmp_path / "voc", dataset, dataset.truths)
    write_labels(tmp_path / "yolo", dataset, dataset.truths)
    # In the file's order the bad box comes first, by score the second; IoU with the dog 0.8
    write_store(tmp_path / "ours", {"a.jpg": proposals([60, 60, 90, 70, 0.9], [20, 0, 36, 10, 0.95])}, 1)
    return tmp_path


@pytest.mark.parametrize("truth", ["truth.json", "voc", "yolo"])
@pytest.mark.parametrize("matching", ["coco", "best-match", "one-to-one"])
def test_the_golden_case_against_any_truth(golden, truth, matching):
    measured = figures(
        *("--proposals", golden / "ours", "--truth", golden / truth, "--images", golden / "photos"),
        *("--matching", matching, "--counts", "1,2"),
    )
    ours = measured["sets"]["ours"]
    rows = {row["count"]: row for row in ours["rows"]}
    assert (measured["num_images"], measured["num_objects"], ours["num_bare"]) == (2, 3, 1)
    assert [rows[None]["recall"][iou] for iou in ("0.5", "0.75", "0.9")] == pytest.approx([1 / 3, 1 / 3, 0])
    assert rows[1]["recall"]["0.5"] == pytest.approx(1 / 3)
    # IoU 0.8 passes 0.5, 0.55, .., 0.8: seven of ten thresholds
    assert ours["ar"] == {"10": pytest.approx(0.7 / 3), "100": pytest.approx(0.7 / 3), "1000": pytest.approx(0.7 / 3)}
    assert (rows[None]["num_proposals"], ours["max_boxes"]) == (1.0, 2)


def test_without_photos_the_truth_names_the_images(golden):
    for truth in ("truth.json", "voc"):
        assert figures("--proposals", golden / "ours", "--truth", golden / truth)["num_objects"] == 3
    message = refused("recall", "--proposals", golden / "ours", "--truth", golden / "yolo")
    assert "give --images DIR" in message


def test_photos_choose_what_counts(golden):
    (golden / "photos/b.jpg").unlink()
    measured = figures("--proposals", golden / "ours", "--truth", golden / "truth.json", "--images", golden / "photos")
    assert (measured["num_images"], measured["num_objects"], measured["sets"]["ours"]["num_bare"]) == (1, 2, 0)
    assert measured["notes"] == [
        f"{golden / 'truth.json'}: 2 images; 3 objects of 2 classes",
        f"1 images of the truth have no photo in {golden / 'photos'}: left out",
        f"{golden / 'ours'}: 2 proposals of 1 images",
    ]
    Image.new("RGB", (8, 8)).save(golden / "photos/z.jpg")
    (golden / "photos/a.jpg").unlink()
    message = refused(
        "recall", "--proposals", golden / "ours", "--truth", golden / "voc", "--images", golden / "photos"
    )
    assert "found none of them" in message


def test_order_of_the_boxes(golden):
    command = ("--proposals", golden / "ours", "--truth", golden / "truth.json", "--counts", "1")
    by_file = figures(*command, "--order", "file")
    first = next(row for row in by_file["sets"]["ours"]["rows"] if row["count"] == 1)
    assert first["recall"]["0.5"] == 0 and "first proposals of each image in the file" in by_file["protocol"]
    assert "best-scored" in figures(*command)["protocol"]


def test_sets_side_by_side_and_per_class(golden):
    write_store(golden / "more", {"a": proposals([*CAT, 1], [*DOG, 1]), "b": proposals([*FAR, 1]), "c": proposals()}, 1)
    truth = ("--truth", golden / "truth.json")
    both = ("--proposals", f"one={golden / 'ours'}", "--proposals", golden / "more")
    text = invoke("recall", *both, *truth, "--per-class", "--counts", "1,2").stdout.splitlines()
    rows = {tuple(line.split()[:2]): line.split() for line in text if line}
    assert text[0].startswith("3 objects in 2 images of")
    start = text.index(next(line for line in text if line.startswith("recall at IoU 0.75")))
    assert text[start].split()[-3:] == ["1", "2", "all"]
    assert text[start + 1].split() == ["one", "0.333", "0.333", "0.333"]
    assert text[start + 2].split() == ["more", "0.667", "1.000", "1.000"]
    assert rows["AR,", "IoU"][-3:] == ["10", "100", "1000"]
    start = text.index(next(line for line in text if line.startswith("one, all boxes")))
    assert text[start + 1].split() == ["cat", "2", "0.000", "0.000", "0.000", "0.000"]
    assert text[start + 2].split() == ["dog", "1", "1.000", "1.000", "0.000", "0.700"]
    assert f"one: 1.0 boxes per image (at most 2), 1 images without any; {golden / 'ours'}" in text
    assert any("0 images without any, 1 more images not in the truth" in line for line in text)
    assert text[-1].startswith("protocol: ") and "COCO's rule" in text[-1] and "difficult" in text[-1]
    per_class = figures(*both, *truth, "--per-class")["sets"]["one"]["per_class"]
    assert [per_class[name]["num_truths"] for name in ("cat", "dog")] == [2, 1]


def test_difficult_objects(golden):
    path = golden / "voc/a.xml"
    path.write_text(path.read_text().replace("<difficult>0</difficult>", "<difficult>1</difficult>", 1))
    command = ("--proposals", golden / "ours", "--truth", golden / "voc")
    without, counted = figures(*command), figures(*command, "--count-difficult")
    assert (without["num_objects"], counted["num_objects"]) == (2, 3)
    assert "difficult and crowd truths ignored" in without["protocol"] and "difficult counted" in counted["protocol"]


def test_exported_files_measure_alike(golden):
    for name in ("x.json", "x.parquet"):
        result = invoke("boxes", "export", golden / "ours", "--out", golden / name)
        assert result.exit_code == 0 and "the boxes of 1 images" in result.stdout
    command = [f"--proposals={name}={golden / name}" for name in ("ours", "x.json", "x.parquet")]
    sets = figures(*command, "--truth", golden / "truth.json")["sets"]
    assert sets["ours"]["rows"] == sets["x.json"]["rows"] == sets["x.parquet"]["rows"]
    # Numbered as the truth is, the companion is not needed
    assert (
        invoke(
            "boxes", "export", golden / "ours", "--out", golden / "y.json", "--list", golden / "truth.json"
        ).exit_code
        == 0
    )
    assert {entry["image_id"] for entry in json.loads((golden / "y.json").read_text())} == {41}
    assert (
        figures("--proposals", golden / "y.json", "--truth", golden / "truth.json")["sets"]["y"]["rows"]
        == sets["ours"]["rows"]
    )


def test_import_and_measure(golden):
    path = pickled(golden / "a.pkl", {"boxes": [[CAT, DOG]], "scores": [[1, 1]], "ids": ["a"]})
    result = invoke(
        "boxes", "import", path, "--out", golden / "in", "--images", golden / "photos", "--corners", "half-open"
    )
    assert result.exit_code == 0 and "2 boxes of 1 images (detectron, corners half-open there" in result.stdout
    measured = figures("--proposals", golden / "in", "--truth", golden / "truth.json")
    assert measured["sets"]["in"]["rows"][-1]["recall"]["0.95"] == pytest.approx(2 / 3)
    assert "weaksam boxes import" in refused("recall", "--proposals", path, "--truth", golden / "truth.json")
    assert "half-open, found 'both'" in refused(
        "boxes", "import", path, "--out", golden / "in", "--corners", "both", "--images", golden
    )


@pytest.mark.parametrize("name", ["x.png", "x.svg"])
def test_the_plot_is_written(golden, name):
    write_store(golden / "none", {"a.jpg": proposals()}, 1)
    command = (
        "recall",
        "--proposals",
        golden / "ours",
        "--proposals",
        golden / "none",
        "--truth",
        golden / "truth.json",
    )
    assert invoke(*command, "--plot", golden / name).exit_code == 0
    content = (golden / name).read_bytes()
    if name == "x.svg":
        assert b"<svg" in content[:600]
    else:
        with Image.open(golden / name) as picture:
            assert picture.size == (1300, 598)
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    assert ".png" in refused(*command, "--plot", golden / "x.txt")


def test_mistakes_are_one_sentence(golden):
    truth = ("--truth", golden / "truth.json")
    write_store(golden / "other", {"x.jpg": proposals([*CAT, 1])}, 1)
    assert "speak of the 2 images given, found 1 others (x.jpg)" in refused(
        "recall", "--proposals", golden / "other", *truth
    )
    assert "'nearest'" in refused("recall", "--proposals", golden / "ours", *truth, "--matching", "nearest")
    assert "'0,5'" in refused("recall", "--proposals", golden / "ours", *truth, "--counts", "0,5")
    assert "twice" in refused("recall", "--proposals", golden / "ours", "--proposals", golden / "ours", *truth)
    assert "absent" in refused("recall", "--proposals", golden / "absent", *truth)
    assert "none.json" in refused("recall", "--proposals", golden / "ours", "--truth", golden / "none.json")


def test_true_boxes_as_proposals_find_everything(shared_data, tmp_path):
    path = shared_data / "fruit3/annotations/instances_test.json"
    truth = read_instances(path)
    write_store(tmp_path, {name: Proposals.of(image.instances.boxes) for name, image in truth.images.items()}, 1)
    report = measure_recall({"true": tmp_path}, path)
    assert set(report.sets["true"].result.recall[-1]) == {1.0} and "1.000" in recall_text(report)
