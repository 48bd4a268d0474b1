"""The file of a review's decisions: what is read, and one sentence for what is not."""

import json
from pathlib import Path

import pytest

from weaksam.config import UserError
from weaksam.data.review_decisions import read_decisions

ROW = {"image_id": "a.jpg", "row": 0, "box": [1, 2, 3.5, 4], "label": "cat", "decision": "accept"}


def write(folder: Path, rows, **changes) -> Path:
    content = {"format": "weaksam-review", "version": 1, "run": {"name": "r", "pseudo_gt": "key"}, "decisions": rows}
    path = folder / "decisions.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_all_four_decisions_are_read(tmp_path):
    rows = [
        ROW,
        {**ROW, "row": 1, "decision": "reject"},
        {**ROW, "row": 2, "decision": "relabel", "to_label": "dog"},
        {**ROW, "row": 3, "decision": "redraw", "to_box": [0, 0, 9, 9]},
    ]
    file = read_decisions(write(tmp_path, rows))
    assert file.labels_key == "key"
    assert [(row.verdict, row.row, row.to_label, row.to_box) for row in file.rows] == [
        ("accept", 0, "cat", (1, 2, 3.5, 4)),
        ("reject", 1, "cat", (1, 2, 3.5, 4)),
        ("relabel", 2, "dog", (1, 2, 3.5, 4)),
        ("redraw", 3, "cat", (0, 0, 9, 9)),
    ]


def test_the_fingerprint_is_of_the_decisions_alone(tmp_path):
    other = {**ROW, "row": 1}
    first = read_decisions(write(tmp_path, [ROW, other])).fingerprint
    assert read_decisions(write(tmp_path, [other, ROW], run={"name": "x", "pseudo_gt": "y"})).fingerprint == first
    assert read_decisions(write(tmp_path, [ROW])).fingerprint != first
    assert read_decisions(write(tmp_path, [])).rows == ()


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        ([], {"format": "coco"}, "found another file"),
        ([], {"version": 2}, "found version 2"),
        ([], {"run": None}, "missing or damaged"),
        ({}, {}, "missing or damaged"),
        ([7], {}, "wanted an object as decision 1"),
        ([{**ROW, "decision": "maybe"}], {}, "wanted accept, reject, relabel, redraw"),
        ([{**ROW, "row": -1}], {}, "wanted the number of a box"),
        ([{**ROW, "row": True}], {}, "wanted the number of a box"),
        ([{**ROW, "image_id": 3}], {}, "wanted the name of a photo"),
        ([{**ROW, "box": [3, 0, 1, 1]}], {}, "wanted four corners"),
        ([{**ROW, "box": [0, 0, 1e300, 1]}], {}, "wanted four corners"),
        ([{**ROW, "decision": "relabel"}], {}, "wanted the name of a class as 'to_label'"),
        ([{**ROW, "decision": "redraw"}], {}, "wanted four corners with x1 <= x2 and y1 <= y2 as 'to_box'"),
        ([ROW, ROW], {}, "several on box 0 of a.jpg"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, rows, changes, said):
    with pytest.raises(UserError, match=said):
        read_decisions(write(tmp_path, rows, **changes))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 5000])
def test_no_json_is_one_sentence(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match="wanted"):
        read_decisions(tmp_path / "x.json")
    with pytest.raises(UserError, match="missing"):
        read_decisions(tmp_path / "missing.json")
