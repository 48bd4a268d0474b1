"""Detections that cannot be meant: lines of result files, tampered stores, and boxes and masks of other photos."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.helpers import change_record, part_file, write_forms
from weaksam.config import UserError
from weaksam.data.detection_files import read_detections
from weaksam.data.detection_stores import detection_store, instances_of
from weaksam.data.findings import Findings
from weaksam.data.proposals.files import read_proposals, write_store
from weaksam.report.proposal_picture import draw_stored
from weaksam.store.files import file_sha256
from weaksam.store.sealed import open_sealed
from weaksam.store.store import Store
from weaksam.structures.masks import rle_from_mask
from weaksam.structures.proposals import Proposals

STORE = "OUT/wsod/store/detections_test-1"


@pytest.fixture
def forms(tmp_path):
    """A folder with detections of six photos in every form, the dataset and the detections themselves."""
    return tmp_path, *write_forms(tmp_path)


# VOC's result files


@pytest.mark.parametrize(
    "line, wanted",
    [
        (
            "2008_000001 0.5 30 10 10 20",
            r"1 boxes of 2 that end before they begin \(first: 30 10 10 20 on line 3",
        ),
        ("2008_000001 12 10 20 30 0.9", r"that end before they begin \(first: 10 20 30 0.9 on line 3\).* score first"),
        ("2008_000001,0.5,1,2,3,4", r"on line 3 of .*, found '2008_000001,0.5,1,2,3,4': separate the values by blanks"),
        ("2008_000001 0,5 1 2 3 4", "write decimal points"),
        ("2008_000001 0.5 1 2 3 1e99", "with finite numbers on line 3"),
        ("2008_000001", "on line 3"),
        ("0.5 1 2 3 4", "on line 3"),
    ],
)
def test_result_lines_that_cannot_be_meant(forms, line, wanted):
    folder, dataset, _ = forms
    (folder / "comp4" / "comp4_det_test_dog.txt").write_text(f"2008_000001 0.5 1 2 3 4\n\n{line}\n")
    with pytest.raises(UserError, match=wanted):
        read_detections(folder / "comp4", dataset)


def test_shares_of_the_photo_are_no_corners(forms):
    folder, dataset, _ = forms
    path = folder / "comp4_det_test_dog.txt"
    path.write_text("2008_000001 0.5 0.1 0.2 0.3 0.4\n2008_000002 0.5 0 0 1 1\n")
    with pytest.raises(UserError, match="found no number above 1 in 2 boxes, as in shares of the photo"):
        read_detections(path, dataset)


def test_result_files_say_how_much_was_read_and_left_out(forms):
    folder, dataset, _ = forms
    (folder / "r").mkdir()
    (folder / "r" / "comp4_det_test_dog.txt").write_text("2008_000001 7.5 1 1 5 5\n" * 2)
    (folder / "r" / "comp4_det_test_zebra.txt").write_text("2008_000001 0.5 1 1 5 5\n")
    findings = Findings()
    read = read_detections(folder / "r", dataset, findings)
    assert read["2008_000001.jpg"].labels.tolist() == [2, 2]
    assert findings.notes == (
        f"{folder / 'r'}: left out 1 detections of classes that the truth lacks (zebra)",
        f"{folder / 'r'}: no file and so no detections of bird, cat",
        f"{folder / 'r'}: 2 detections on 1 of 6 images (1 repeat another)",
        f"scores outside 0 to 1 (7.5 to 7.5) were used as they are, to rank ({folder / 'r'})",
    )


def test_an_empty_box_that_we_write_ourselves_is_read_back(forms):
    folder, dataset, _ = forms
    path = folder / "comp4_det_test_dog.txt"
    path.write_text("2008_000001 0.5 11.000 11.000 10.000 20.000\n")
    assert read_detections(path, dataset)["2008_000001.jpg"].boxes.tolist() == [[10, 10, 10, 20]]


# Boxes and masks of other photos


def test_detections_centred_outside_of_their_photos_are_of_others(forms):
    folder, dataset, _ = forms
    path = folder / "comp4_det_test_dog.txt"
    path.write_text("".join(f"2008_00000{number} 0.5 50 30 90 60\n" for number in (1, 2, 3)))  # photos are 60 x 40
    with pytest.raises(UserError, match="found 3 of 3 boxes centred outside of their photo"):
        read_detections(path, dataset)
    path.write_text("".join(f"2008_00000{number} 0.5 50 30 65 45\n" for number in (1, 2, 3)))
    findings = Findings()
    read_detections(path, dataset, findings)
    assert f"{path}: 3 detections reach out of their photos and were used as they are" in findings.notes


def test_masks_of_a_store_are_compared_with_their_photos(forms):
    folder, dataset, detections = forms
    turned = rle_from_mask(torch.ones(60, 40, dtype=torch.bool))  # photos are 40 high, 60 wide
    store = detection_store(folder / "OUT/wsis/store/detections_test-2", "wsis", "2", dataset, masks=True)

    def row(image_id: str) -> dict:
        objects = detections[image_id]
        values = {name: getattr(objects, name) for name in ("boxes", "labels", "scores")}
        return {**values, "rles": [turned] * len(objects)}

    store.fill(row)
    with pytest.raises(UserError, match=r"2008_000001.jpg is 60 x 40 but a mask says 40 x 60, .* turned photo"):
        read_detections(store.folder, dataset)


def test_labels_without_the_names_of_their_run_are_said(forms):
    folder, dataset, _ = forms
    findings = Findings()
    read_detections(folder / STORE, dataset, findings)
    assert any("no metrics.json says how" in note for note in findings.notes)
    assert f"{folder / STORE}: 54 detections on 6 of 6 images" in findings.notes


# Stores that somebody changed: the manifest fits, the values do not


def tampered(store: Store, column: str, value: pa.Array) -> Path:
    """The store with another first value in ``column`` of its only part, sealed anew."""
    path, manifest = part_file(store.folder), store.folder / "manifest.json"
    table = pq.read_table(path)
    values = [value, *(scalar.as_py() for scalar in table.column(column)[1:])]
    array = pa.array(values, table.schema.field(column).type)
    pq.write_table(table.set_column(table.column_names.index(column), column, array), path)
    (part,) = json.loads(manifest.read_text())["parts"]
    change_record(manifest, parts=[{**part, "sha256": file_sha256(path)}])
    return store.folder


BAD_BOXES = {"nan": [[float("nan"), 0, 1, 1]], "inf": [[0, 0, float("inf"), 1]], "inverted": [[5, 5, 2, 9]]}


@pytest.mark.parametrize(
    "column, value, wanted",
    [
        *(("boxes", value, r"boxes of 2008_000001.jpg in the store .*detections") for value in BAD_BOXES.values()),
        ("scores", [7.0] * 9, "found a score of 7, not in 0 to 1"),
        ("scores", [float("nan")] * 9, "found a score of nan"),
        ("scores", [0.5], "found 1 scores beside 9 boxes"),
        ("labels", [-1] * 9, "found the label -1"),
        ("labels", [99] * 9, "found the label 99"),
        ("labels", None, "the column labels whole in .*, found values missing"),
    ],
)
def test_a_store_of_detections_that_somebody_changed(forms, column, value, wanted):
    folder, dataset, _ = forms
    path = tampered(open_sealed(folder / STORE), column, value)
    with pytest.raises(UserError, match=wanted):
        read_detections(path, dataset)
    if value != [99] * 9:  # how many classes there are the store does not say
        with pytest.raises(UserError, match=wanted):
            instances_of(open_sealed(path))


MASK = rle_from_mask(torch.ones(20, 30, dtype=torch.bool))


@pytest.mark.parametrize(
    "column, value, wanted",
    [
        *(("boxes", value, "found 1 boxes of 1 with") for value in BAD_BOXES.values()),
        ("scores", [float("inf")], "found a score of inf"),
        ("sources", [], "found 0 sources beside 1 boxes"),
        ("rles", [{"size": [0, 0], "counts": ""}], "found a mask of 0 x 0 pixels"),
        ("rles", [{"size": [20, 30], "counts": "1"}], "run lengths that do not fill a mask of 30 x 20"),
        ("rles", [{"size": [20, 30], "counts": "\u00e9\u00e9"}], "run lengths that do not fill"),
        ("rles", [MASK, MASK], "found 2 rles beside 1 boxes"),
        ("mask_size", [30, 20], r"a mask of \[20, 30\] where mask_size is \[30, 20\]"),
        ("mask_size", [20], r"found a mask_size of \[20\]"),
    ],
)
def test_a_store_of_proposals_that_somebody_changed(forms, tmp_path, column, value, wanted):
    proposals = Proposals(*(torch.tensor(rows) for rows in ([[1.0, 2, 9, 9]], [0.5], [0])), (MASK,), (20, 30))
    path = tampered(write_store(tmp_path / "store", {"2008_000001.jpg": proposals}, 1), column, value)
    with pytest.raises(UserError, match=wanted):
        draw_stored(path, tmp_path / "photos", "2008_000001", tmp_path / "x.png", 25)
    assert not (tmp_path / "x.png").exists()
    if column in ("boxes", "scores", "sources"):
        with pytest.raises(UserError, match=wanted):
            read_proposals(path)


def test_a_table_of_proposals_calls_its_scores_otherwise(tmp_path):
    columns = {"image_id": ["a"], "x1": [0], "y1": [0], "x2": [5], "y2": [5], "confidence": [0.25]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    findings = Findings()
    assert read_proposals(tmp_path / "x.parquet", findings)["a"].scores.tolist() == [0.25]
    assert findings.notes == (
        f"{tmp_path / 'x.parquet'}: 1 proposals of 1 images",
        f"'confidence' was taken as the score ({tmp_path / 'x.parquet'})",
    )
    pq.write_table(pa.table({**columns, "prob": [0.5]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="found confidence, prob: name the right one 'score'"):
        read_proposals(tmp_path / "x.parquet")
