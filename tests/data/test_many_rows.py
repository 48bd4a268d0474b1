"""Lists of many rows: work grows with the rows and not faster, and what is missing is counted and listed once."""

import collections
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import write_photo
from weaksam.config import UserError
from weaksam.data import dataset as splits
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings, load_dataset
from weaksam.data.findings import Findings
from weaksam.data.formats import coco
from weaksam.data.formats.tags import read_tags
from weaksam.data.json_stream import stream_json
from weaksam.data.key_index import KeyIndex, repeated
from weaksam.data.lines import Lines
from weaksam.engine.log import RunLog
from weaksam.pipeline.summary import metrics_dict, summary_text
from weaksam.structures.set_aside import SHOWN_OF_REASON, SetAside

NAMES = ("a.jpg", "b.jpg")


@pytest.fixture
def photos(tmp_path) -> Path:
    for seed, name in enumerate(NAMES):
        write_photo(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


def write_csv(path: Path, rows: int) -> Path:
    lines = [f"{name},fig" for name in NAMES] + [f"m{number:06d}.jpg,fig;pear" for number in range(rows)]
    path.write_text("file,tags\n" + "\n".join(lines))
    return path


def write_coco(path: Path, rows: int) -> Path:
    names = [*NAMES, *(f"m{number:06d}.jpg" for number in range(rows))]
    images = [{"id": n, "file_name": name, "height": 12, "width": 16} for n, name in enumerate(names)]
    boxes = [{"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [1, 2, 5.5, 6]} for n in range(len(names))]
    categories = [{"id": 1, "name": "fig"}, {"id": 2, "name": "pear"}]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


def num_calls(work) -> collections.Counter[str]:
    """How often functions of Python and of C are called in ``work``, by kind of event."""
    calls: collections.Counter[str] = collections.Counter()
    sys.setprofile(lambda frame, event, argument: calls.update((event,)))
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("kind", ["csv", "coco"])
def test_calls_and_looks_at_the_disk_grow_no_faster_than_the_rows(kind, photos, tmp_path, monkeypatch) -> None:
    key, write = ("tags", write_csv) if kind == "csv" else ("truth", write_coco)
    stats: collections.Counter[int] = collections.Counter()
    real_stat = Path.stat
    calls = {}
    for rows in (1000, 4000):
        monkeypatch.setattr(
            Path, "stat", lambda path, rows=rows, **how: stats.update((rows,)) or real_stat(path, **how)
        )
        path = write(tmp_path / f"{rows}.{'csv' if kind == 'csv' else 'json'}", rows)
        split = SplitSettings(**{"images": photos, key: path})
        counted = num_calls(lambda split=split: load_dataset(split, name="train"))
        calls[rows] = counted["call"] + counted["c_call"]
    assert stats[1000] == stats[4000] < 40
    assert calls[4000] - calls[1000] < 3000 * (100 if kind == "csv" else 160)
    assert calls[4000] < 4.2 * calls[1000]


def test_missing_rows_are_shown_first_counted_and_all_in_one_file(photos, tmp_path) -> None:
    split = SplitSettings(images=photos, tags=write_csv(tmp_path / "tags.csv", 5000))
    dataset = splits.load_dataset(split, name="train", log=RunLog(tmp_path / "run" / "log.jsonl"))
    reason = f"is named in {split.tags} but not in {photos}"
    assert len(dataset.bad) == 5000 and dataset.bad[0] == ("m000000.jpg", reason)
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    shown = [event["image_id"] for event in events if event["event"] == "set_aside"]
    assert shown == [f"m{number:06d}.jpg" for number in range(SHOWN_OF_REASON)]
    more = next(event for event in events if event["event"] == "set_aside_more")
    assert more["more"] == 5000 - SHOWN_OF_REASON and more["all_in"] == str(tmp_path / "run" / "set_aside_train.json")
    kept = json.loads(Path(more["all_in"]).read_text())
    assert kept == {reason: [f"m{number:06d}.jpg" for number in range(5000)]}
    metrics = metrics_dict("run", ("fig",), [], {"train": 2}, {"train": dataset.bad}, None)
    assert metrics["num_bad"] == {"train": 5000} and len(metrics["bad"]) == SHOWN_OF_REASON
    text = summary_text(metrics)
    assert "5000 photos were set aside" in text and "4980 more, all of them in set_aside_train.json" in text
    # Once nothing is set aside any more, the file is gone
    load_dataset(
        SplitSettings(images=photos, tags=write_csv(tmp_path / "tags.csv", 0)),
        name="train",
        log=RunLog(tmp_path / "run" / "log.jsonl"),
    )
    assert not Path(more["all_in"]).exists()


def test_the_check_still_has_a_line_for_every_row_without_keeping_them(photos, tmp_path) -> None:
    split = SplitSettings(images=photos, tags=write_csv(tmp_path / "tags.csv", 3000))
    lines = check_data(DataSettings(train=split))
    assert sum("but not in" in line for line in lines) == 3000 and len(lines._parts) < 10
    assert lines[0] == f"train: m000000.jpg: is named in {split.tags} but not in {photos}"


def test_a_table_is_read_alike_with_quotes_marks_and_short_rows(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('file,tags\r\n\r\n"a\r\nb.jpg",fig\r\nc.jpg\r\n# by me\r\nd.jpg,"fig;pear"\r\n'.encode("utf-16"))
    assert dict(read_tags(path).rows) == {"a\nb.jpg": ("fig",), "c.jpg": (), "d.jpg": ("fig", "pear")}
    path.write_bytes(b"file,tags\na.jpg,caf\xe9\n")
    with pytest.raises(UserError, match="0xe9 in line 2 is not utf-8"):
        read_tags(path)


TEXTS = (
    '{"a": [1, {"b": [2, "}"]}, {"c": "},{"}, 30], "d": {"e": null}, "f": []}',
    '[{"a": 1}, {"a": [{"b": "]}"}, 7]}, "x", 1.5, []]',
    "[]",
    "12345",
    '  {"a" : [ ] , "b" : 1 }  ',
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("block", [1, 3, 7, 1000])
def test_a_streamed_file_has_the_same_parts_whatever_is_read_at_a_time(text, block, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("weaksam.data.json_stream._BLOCK", block)
    (tmp_path / "t.json").write_text(text)
    value: object = None
    for key, number, part in stream_json(tmp_path / "t.json", "a file", ("a", "f")):
        if key is None:
            value = part if number is None else [*(value or []), part]
        elif number is None:
            value = {**(value or {}), key: part}
        else:
            value = {**(value or {}), key: [*(value or {}).get(key, []), part]}
    assert value == json.loads(text)


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2}', '[{"a": 1, "a": 2}]', '{"a": 1, "a": 2}', "[1] 2", "", "[1,]", '{"a" 1}']
)
def test_a_streamed_file_is_refused_as_a_whole_one_is(text, tmp_path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=r"not JSON|twice|an empty file"):
        list(stream_json(tmp_path / "t.json", "a file", ("a",)))


def test_sections_may_come_in_any_order_and_end_in_other_categories(tmp_path) -> None:
    content = json.loads(write_coco(tmp_path / "t.json", 3).read_text())
    wanted = coco.read_instances(tmp_path / "t.json")
    for keys in (("annotations", "images", "categories"), ("categories", "annotations", "images")):
        other = {key: content[key] for key in keys} | {"info": {"categories": [{"id": 1, "name": "wrong"}]}}
        (tmp_path / "o.json").write_text(json.dumps(other))
        read = coco.read_instances(tmp_path / "o.json")
        assert read.classes == wanted.classes and list(read.images) == list(wanted.images)
        for name in wanted.images:
            assert read.images[name].instances.boxes.tolist() == wanted.images[name].instances.boxes.tolist()
            assert read.images[name].instances.labels.tolist() == wanted.images[name].instances.labels.tolist()


def test_objects_of_an_image_may_lie_apart_in_the_file(tmp_path) -> None:
    content = json.loads(write_coco(tmp_path / "t.json", 1).read_text())
    content["annotations"].append({"id": 9, "image_id": 0, "category_id": 2, "bbox": [0, 0, 3, 4], "iscrowd": 1})
    (tmp_path / "t.json").write_text(json.dumps(content))
    findings = Findings()
    objects = coco.read_instances(tmp_path / "t.json", findings).images["a.jpg"].instances
    assert objects.boxes.tolist() == [[1, 2, 6.5, 8], [0, 0, 3, 4]] and objects.labels.tolist() == [0, 1]
    assert objects.crowd.tolist() == [False, True]
    assert findings.counts == [f"{tmp_path / 't.json'}: 3 images; 4 objects of 2 classes (1 crowd)"]


def test_key_index_finds_each_key_and_no_other() -> None:
    keys = ["b", 7, "a", -1, 2**70, "7"]  # -1 and -2 have one hash
    index = KeyIndex(keys, keys.__getitem__)
    assert [index.find(key) for key in keys] == list(range(6))
    assert index.find("c") is None and index.find(-2) is None
    assert KeyIndex([], [].__getitem__).find("a") is None
    from array import array

    assert repeated(array("q", [3, 1, 3, 2, 1])).tolist() == [True, True, True, False, True]
    assert np.array_equal(repeated(array("q")), np.zeros(0, dtype=bool))


def test_lines_and_what_was_set_aside_are_sequences() -> None:
    lines = Lines(["x"])
    for name in ("a\x1b", "b"):
        lines.add_about("train: ", name, ": gone")
    assert lines == ["x", "train: a\\x1b: gone", "train: b: gone"] and lines[-1] == "train: b: gone" and len(lines) == 3
    assert Lines() == [] and lines[1:] == ["train: a\\x1b: gone", "train: b: gone"]
    aside = SetAside.of([("b", "is old"), ("a", "is torn"), ("c", "is old")])
    assert aside == (("a", "is torn"), ("b", "is old"), ("c", "is old")) and aside[-1] == ("c", "is old")
    assert SetAside() == () and len(aside) == 3 and aside.few() == tuple(aside)
