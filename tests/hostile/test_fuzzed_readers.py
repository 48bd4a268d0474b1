"""Every text reader, fed with small sound files that were changed at random: an answer, or one sentence on the file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import write_photo
from tests.hostile.harness import coco_results, coco_truth
from weaksam.config import UserError, load_settings
from weaksam.data.findings import Findings
from weaksam.data.formats.brush_runs import encode_brush
from weaksam.data.formats.coco import read_instances
from weaksam.data.formats.coco_results import read_results
from weaksam.data.formats.cvat import read_images
from weaksam.data.formats.label_studio_tasks import read_tasks
from weaksam.data.formats.object_tables import read_table
from weaksam.data.formats.tags import read_tags
from weaksam.data.formats.voc import read_annotations
from weaksam.data.formats.yolo import read_labels
from weaksam.data.image_names import ImageNames, read_image_list
from weaksam.pipeline.settings import RunSettings
from weaksam.store.records import read_manifest, read_record
from weaksam.store.sealed import open_sealed
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.masks import rle_from_counts
from weaksam.terminal import printable

QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
SIZES = {"a": (30, 40), "b": (30, 40)}
SAMPLES = tuple(Sample(f"{name}.png", Path(f"{name}.png"), (30, 40), (0,), None, "ab".find(name) + 1) for name in "ab")
DATASET = Dataset("d", ("cat", "dog"), (1, 2), SAMPLES)
SEGMENTS = {"segmentation": [[4, 4, 24, 4, 24, 24]], "iscrowd": 0, "area": 400}
RUNS = {"segmentation": {"size": [30, 40], "counts": [0, 1200]}}
BRUSH = rle_from_counts([3, 4, 5], (3, 4))
MANIFEST = {
    "format": 1,
    "stage": "proposals",
    "fingerprint": "f" * 64,
    "columns": {"boxes": "boxes"},
    "parts": [{"file": "part-00000.parquet", "rows": 2, "sha256": "0" * 64}],
}
DEEP: Any = 1
for _ in range(150):
    DEEP = [DEEP]
ODD = [
    None,
    True,
    -1,
    0,
    7,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0\x1b[31m\u202e",
    "../../x",
    [],
    {},
    [[]],
]
ODD += [["x"], {"x": 1}, "1e400", "9" * 400, "x" * 5000, DEEP, [None], -1e9, 0.5, "NaN"]


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, as the keys that lead there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(inner for key, item in items for inner in places(item, (*place, key)))]


@st.composite
def changed_values(draw: st.DrawFn, values: Sequence[Any]) -> Any:
    """One of ``values`` with one to three places replaced, removed, said twice or under another key."""
    value = copy.deepcopy(draw(st.sampled_from(values)))
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(places(value)[1:] or [("",)]))
        holder = value
        for step in above:
            holder = holder[step]
        if not isinstance(holder, (dict, list)) or (isinstance(holder, dict) and key not in holder):
            continue
        deed = draw(st.sampled_from(["replace", "replace", "replace", "remove", "again", "wrap"]))
        if deed == "remove":
            del holder[key]
        elif deed == "again" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif deed == "wrap":
            holder[key] = [holder[key]]
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return value


@st.composite
def changed_texts(draw: st.DrawFn, texts: Sequence[str]) -> bytes:
    """One of ``texts`` as bytes, of which one to four stretches were cut out, said twice or replaced."""
    data = draw(st.sampled_from(texts)).encode()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        odd = [
            b"",
            data[start:end] * 3,
            b"\0",
            b"\xff",
            b"\x1b[31m",
            b'"',
            b"[",
            b"{",
            b"<",
            b"&",
            b"*a",
            b"1e999",
            b"-1",
        ]
        odd += [
            b"\n",
            b"\r",
            b",",
            b";",
            b":",
            b"\t",
            "\u202e".encode(),
            b"9" * 400,
            b"nan",
            b"!!",
            b"&a ",
            b"? ",
            b"|",
        ]
        data = data[:start] + draw(st.sampled_from(odd)) + data[end:]
    return data


def assert_answers(read: Callable[[], object], name: str) -> None:
    """Assert that ``read`` returns, or raises one printable sentence that names the file."""
    try:
        read()
    except UserError as error:
        text = str(error)
        assert name in text, text
        assert len(text) < 4000, text
        assert printable(text) == text or "\n" not in text, text


TRUTHS = [coco_truth(**SEGMENTS, score=0.5), coco_truth(**RUNS), coco_truth(difficult=1)]
RESULTS = [coco_results(), coco_results(**SEGMENTS), coco_results(**RUNS)]
TAGS = [
    {"a.png": ["cat"], "b.png": ["dog", "cat"]},
    [{"file": "a.png", "tags": ["cat"]}, {"file": "b.png", "tags": "dog"}],
]
TAGS += [{"a.png": {"cat": 1, "dog": 0}}, {"a.png": "cat;dog", "b.png": None}, coco_truth()]
NAMES = [
    "names:\n  0: cat\n  1: dog\nnc: 2\n",
    "names: [cat, dog]\ntrain: x\n",
    "names:\n- {id: 0, name: cat}\n- &a dog\n",
]
TABLES = ["file,tags\na.png,cat\nb.png,dog;cat\n", "a.png cat\nb.png dog\n", "file;cat;dog\na.png;1;0\nb.png;0;1\n"]
TABLES += ['"file"\t"label"\n"a.png"\t"a ""cat"""\n', "sep=;\nfile;label\na.png;cat\n"]
LABELS = ["0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.1 0.1 0.9\n", "0 0.1 0.1 0.9 0.1 0.9 0.9\n"]
XML = [
    '<?xml version="1.0" encoding="utf-8"?><annotation><filename>a.png</filename><size><width>40</width><height>30'
    "</height></size><object><name>cat</name><difficult>0</difficult><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20"
    "</xmax><ymax>20</ymax></bndbox></object></annotation>",
    "<annotation><object><name>cat</name><polygon><x1>1</x1><y1>2</y1><x2>9</x2><y2>9</y2></polygon></object>"
    "<object><name>dog</name><robndbox><cx>9</cx><cy>9</cy><w>4</w><h>5</h><angle>0.1</angle></robndbox></object>"
    "</annotation>",
]
SIDES = {"original_width": 40, "original_height": 30}
TASKS = [
    {
        "data": {"image": "a.png"},
        "annotations": [
            {
                "result": [
                    {
                        **SIDES,
                        "type": "rectanglelabels",
                        "score": 0.5,
                        "value": {"x": 1, "y": 2, "width": 9, "height": 9, "rotation": 5, "rectanglelabels": ["cat"]},
                    },
                    {
                        **SIDES,
                        "type": "polygonlabels",
                        "meta": {"text": ["ignored"]},
                        "value": {"points": [[1, 2], [30, 2], [30, 40]], "polygonlabels": ["dog"]},
                    },
                    {
                        "original_width": 4,
                        "original_height": 3,
                        "type": "brushlabels",
                        "value": {"format": "rle", "rle": encode_brush(BRUSH), "brushlabels": ["cat"]},
                    },
                ]
            }
        ],
    }
]
CVAT = (
    "<annotations><meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    '<image name="a.png" width="40" height="30"><box label="cat" xtl="1" ytl="2" xbr="9" ybr="9" rotation="3"/>'
    '<polygon label="cat" group_id="1" points="1,2;9,2;9,9"><attribute name="score">0.5</attribute></polygon>'
    '<mask label="cat" group_id="1" rle="1, 2, 1" left="3" top="4" width="2" height="2"/></image></annotations>'
)
OBJECT_TABLE = (
    "file,width,height,label,x1,y1,x2,y2,score,ignored,mask\na.png,4,3,cat,1,1,3,2,0.5,0,345\nb.png,4,3,,,,,,,,\n"
)
CONFIGS = [
    "out: x\nseed: 3\ndata:\n  train: {images: p, tags: t.csv}\n",
    "wsod: {seeds: mist, num_epochs: 2}\nout: x\n",
]
LISTS = ["a\nb\n", "a.png 1\nb.png -1\n"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("yolo", "xml", "named"):
        (folder / name).mkdir()
    for name in "ab":
        write_photo(folder / "photos" / f"{name}.png", size=(30, 40))
    (folder / "named" / "a.txt").write_text(LABELS[0])
    return folder


@pytest.mark.parametrize("gather", [False, True])
def test_coco_instances(folder: Path, gather: bool) -> None:
    @QUICK
    @given(changed_values(TRUTHS))
    def fuzz(value: Any) -> None:
        (folder / "odd.json").write_text(json.dumps(value))
        assert_answers(lambda: read_instances(folder / "odd.json", Findings(gather)), "odd.json")

    fuzz()


def test_results(folder: Path) -> None:
    @QUICK
    @given(changed_values(RESULTS))
    def fuzz(value: Any) -> None:
        (folder / "odd.json").write_text(json.dumps(value))
        assert_answers(lambda: read_results(folder / "odd.json", DATASET), "odd.json")

    fuzz()


@pytest.mark.parametrize("gather", [False, True])
def test_tags_in_json(folder: Path, gather: bool) -> None:
    @QUICK
    @given(changed_values(TAGS))
    def fuzz(value: Any) -> None:
        (folder / "odd.json").write_text(json.dumps(value))
        lines = value if isinstance(value, list) else [value]
        (folder / "odd.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for name in ("odd.json", "odd.jsonl"):
            assert_answers(lambda name=name: read_tags(folder / name, findings=Findings(gather)), name)

    fuzz()


@pytest.mark.parametrize("gather", [False, True])
def test_tables(folder: Path, gather: bool) -> None:
    @QUICK
    @given(changed_texts(TABLES))
    def fuzz(data: bytes) -> None:
        (folder / "odd.csv").write_bytes(data)
        names = ImageNames(["a.png", "b.png"])
        assert_answers(
            lambda: list(read_tags(folder / "odd.csv", findings=Findings(gather), photo_names=names).rows), "odd.csv"
        )

    fuzz()


@pytest.mark.parametrize("texts", [TRUTHS, TAGS], ids=["truth", "tags"])
def test_bytes_of_json(folder: Path, texts: list[Any]) -> None:
    @QUICK
    @given(changed_texts([json.dumps(value) for value in texts]))
    def fuzz(data: bytes) -> None:
        (folder / "odd.json").write_bytes(data)
        for read in (read_instances, read_tags, read_image_list, lambda path: read_results(path, DATASET)):
            assert_answers(lambda read=read: read(folder / "odd.json"), "odd.json")

    fuzz()


def test_yolo_labels(folder: Path) -> None:
    (folder / "yolo" / "classes.txt").write_text("cat\ndog\n")

    @QUICK
    @given(changed_texts(LABELS))
    def fuzz(data: bytes) -> None:
        (folder / "yolo" / "a.txt").write_bytes(data)
        assert_answers(lambda: read_labels(folder / "yolo", SIZES), "yolo")

    fuzz()


@pytest.mark.parametrize("file", ["data.yaml", "classes.txt"])
def test_names_of_classes(folder: Path, file: str) -> None:
    @QUICK
    @given(changed_texts(NAMES if file == "data.yaml" else ["cat\ndog\n", "0 cat\n1 dog\n"]))
    def fuzz(data: bytes) -> None:
        (folder / "named" / file).write_bytes(data)
        assert_answers(lambda: read_labels(folder / "named", SIZES), "named")

    fuzz()
    (folder / "named" / file).unlink()


@pytest.mark.parametrize("gather", [False, True])
def test_voc(folder: Path, gather: bool) -> None:
    @QUICK
    @given(changed_texts(XML))
    def fuzz(data: bytes) -> None:
        (folder / "xml" / "a.xml").write_bytes(data)
        assert_answers(lambda: read_annotations(folder / "xml", Findings(gather)), "xml")

    fuzz()


@pytest.mark.parametrize("gather", [False, True])
def test_label_studio(folder: Path, gather: bool) -> None:
    @QUICK
    @given(changed_values([TASKS]))
    def fuzz(value: Any) -> None:
        (folder / "odd.json").write_text(json.dumps(value))
        assert_answers(lambda: read_tasks(folder / "odd.json", Findings(gather)), "odd.json")

    fuzz()


@pytest.mark.parametrize("gather", [False, True])
def test_cvat(folder: Path, gather: bool) -> None:
    @QUICK
    @given(changed_texts([CVAT]))
    def fuzz(data: bytes) -> None:
        (folder / "odd.xml").write_bytes(data)
        assert_answers(lambda: read_images(folder / "odd.xml", Findings(gather)), "odd.xml")

    fuzz()


@pytest.mark.parametrize("gather", [False, True])
def test_tables_of_objects(folder: Path, gather: bool) -> None:
    @QUICK
    @given(changed_texts([OBJECT_TABLE]))
    def fuzz(data: bytes) -> None:
        (folder / "odd.csv").write_bytes(data)
        assert_answers(lambda: read_table(folder / "odd.csv", Findings(gather)), "odd.csv")

    fuzz()


def test_settings(folder: Path) -> None:
    @QUICK
    @given(changed_texts(CONFIGS))
    def fuzz(data: bytes) -> None:
        (folder / "odd.yaml").write_bytes(data)
        assert_answers(lambda: load_settings(RunSettings, folder / "odd.yaml"), "odd.yaml")

    fuzz()


def test_lists_of_images(folder: Path) -> None:
    @QUICK
    @given(changed_texts(LISTS))
    def fuzz(data: bytes) -> None:
        (folder / "odd.txt").write_bytes(data)
        assert_answers(lambda: read_image_list(folder / "odd.txt"), "odd.txt")

    fuzz()


def test_records_of_a_run(folder: Path) -> None:
    @QUICK
    @given(changed_values([MANIFEST]))
    def fuzz(value: Any) -> None:
        (folder / "manifest.json").write_text(json.dumps(value))
        manifest, record = read_manifest(folder / "manifest.json"), read_record(folder / "manifest.json")
        assert manifest is None or manifest["parts"] is not None
        assert record is None or isinstance(record, dict)
        assert_answers(lambda: open_sealed(folder), folder.name)

    fuzz()
