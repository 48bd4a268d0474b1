"""Detections read from every form of file: which image and class they belong to, and what is refused."""

import pytest
import torch

from tests.helpers import write_forms
from weaksam.config import UserError
from weaksam.data.detection_files import read_detections
from weaksam.data.formats import voc_results
from weaksam.data.formats.coco_results import read_results
from weaksam.data.proposals.files import write_store
from weaksam.store.files import write_json_atomic


@pytest.fixture
def forms(tmp_path):
    """A folder with detections of six photos in every form, the dataset and the detections themselves."""
    return tmp_path, *write_forms(tmp_path)


def test_voc_result_files_there_and_back(forms):
    folder, dataset, detections = forms
    first = (folder / "comp4" / "comp4_det_test_cat.txt").read_text().splitlines()
    best, row = max(
        (
            (in_image, row)
            for in_image in detections.values()
            for row in range(len(in_image))
            if in_image.labels[row] == 1
        ),
        key=lambda pair: float(pair[0].scores[pair[1]]),
    )
    x1, y1, x2, y2 = best.boxes[row].tolist()
    # Counted from 1, and the last pixel is inside: x2 of a half-open box counted from 0 is its number
    assert [float(value) for value in first[0].split()[2:]] == [x1 + 1, y1 + 1, x2, y2]
    back = read_detections(folder / "comp4", dataset)
    for image_id, written in detections.items():
        order, again = written.scores.argsort(descending=True), back[image_id].scores.argsort(descending=True)
        assert torch.equal(back[image_id].boxes[again], written.boxes[order])
        assert torch.equal(back[image_id].labels[again], written.labels[order])
        assert back[image_id].scores[again].tolist() == pytest.approx(written.scores[order].tolist(), abs=1e-6)
    one_class = read_detections(folder / "comp4" / "comp4_det_test_cat.txt", dataset)
    assert {label for in_image in one_class.values() for label in in_image.labels.tolist()} == {1}


def test_voc_result_files_are_told_by_their_names(tmp_path):
    for name in ("comp4_det_test_cat.txt", "comp3-1f_b_det_val_traffic_light.txt", "labels.txt", "comp6_test_cls.txt"):
        (tmp_path / name).write_text("")
    assert {name: path.name for name, path in voc_results.result_files(tmp_path).items()} == {
        "cat": "comp4_det_test_cat.txt",
        "traffic_light": "comp3-1f_b_det_val_traffic_light.txt",
    }
    (tmp_path / "comp4_det_val_cat.txt").write_text("")
    with pytest.raises(UserError, match=r"found comp4_det_test_cat.txt and comp4_det_val_cat.txt: keep"):
        voc_results.result_files(tmp_path)


@pytest.mark.parametrize("line", ["2008_000001 0.5 1 2 3", "2008_000001 0.5 1 2 3 x", "2008_000001 nan 1 2 3 4"])
def test_voc_result_lines_that_are_none(forms, line):
    folder, dataset, _ = forms
    (folder / "comp4" / "comp4_det_test_dog.txt").write_text(f"2008_000001 0.5 1 2 3 4\n\n{line}\n")
    with pytest.raises(UserError, match=r"on line 3 of .*comp4_det_test_dog.txt"):
        read_detections(folder / "comp4", dataset)


def test_detections_of_other_images_are_refused(forms):
    folder, dataset, _ = forms
    write_json_atomic(folder / "strange.json", [{"image_id": "img1", "category_id": 1, "bbox": [0, 0, 1, 1]}])
    (folder / "comp4" / "comp4_det_test_cat.txt").write_text("2009_000001 0.5 1 1 5 5\n")
    with pytest.raises(UserError, match="found image_id 'img1'"):
        read_results(folder / "strange.json", dataset)
    with pytest.raises(UserError, match=r"found 1 other images \(2009_000001\): give the truth"):
        read_detections(folder / "comp4", dataset)
    with pytest.raises(UserError, match=r"name one of the stores below it \(.*detections_test-1"):
        read_detections(folder / "OUT", dataset)
    for path in (folder / "absent", folder / "photos" / "2008_000001.jpg"):
        with pytest.raises(UserError, match="wanted detections at"):
            read_detections(path, dataset)
    proposals = write_store(folder / "ss", {}, 1)
    with pytest.raises(UserError, match="without the column 'labels'"):
        read_detections(proposals.folder, dataset)


def test_a_runs_labels_are_told_by_its_class_names(forms):
    folder, dataset, detections = forms
    store = folder / "OUT/wsod/store/detections_test-1"
    # The run had a class more than the truth, and another order
    write_json_atomic(folder / "OUT/metrics.json", {"classes": ["dog", "zebra", "cat"]})
    label_of = {0: 2, 2: 1}
    for image_id, in_image in read_detections(store, dataset).items():
        kept = [label_of[label] for label in detections[image_id].labels.tolist() if label != 1]
        assert in_image.labels.tolist() == kept and len(in_image.boxes) == len(kept)
    write_json_atomic(folder / "OUT/metrics.json", {"classes": ["bird", "cat", "dgo"]})
    with pytest.raises(UserError, match=r"found 'dgo' \(did you mean 'dog'\?\)"):
        read_detections(store, dataset)
    write_json_atomic(folder / "OUT/metrics.json", {"classes": ["bird", "cat"]})
    with pytest.raises(UserError, match="found the label 2"):
        read_detections(store, dataset)
