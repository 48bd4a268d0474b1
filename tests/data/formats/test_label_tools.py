"""Files of Label Studio, CVAT and tables as people have them: read by hand-made example, and refused when broken."""

import json
from pathlib import Path
from typing import Any

import pytest

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.formats.brush_runs import decode_brush, encode_brush
from weaksam.data.formats.cvat import read_images
from weaksam.data.formats.label_studio_tasks import read_tasks
from weaksam.data.formats.object_tables import read_table
from weaksam.data.label_files import read_label_file
from weaksam.structures.masks import rle_area, rle_from_counts

# Label Studio


def region(kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "r", "type": kind, "original_width": 200, "original_height": 100, "value": value, **more}


RECTANGLE = {"x": 10, "y": 20, "width": 50, "height": 30, "rotation": 0, "rectanglelabels": ["fig"]}


def tasks(path: Path, *results: dict[str, Any], key: str = "annotations", **task: Any) -> Path:
    content = {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, key: [{"result": list(results)}], **task}
    path.write_text(json.dumps([content]))
    return path


def test_a_rectangle_is_percent_of_the_photo(tmp_path: Path) -> None:
    read = read_tasks(tasks(tmp_path / "t.json", region("rectanglelabels", RECTANGLE, score=0.5)))
    image = read.images["/data/upload/1/0a1b2c3d-a.jpg"]
    assert read.classes == ("fig",) and image.size == (100, 200)
    assert image.instances.boxes.tolist() == [[20, 20, 120, 50]] and image.instances.scores.tolist() == [0.5]


def test_a_turned_rectangle_gives_the_box_around_it(tmp_path: Path) -> None:
    value = {**RECTANGLE, "x": 50, "y": 0, "width": 10, "height": 50, "rotation": 90}
    findings = Findings()
    read = read_tasks(tasks(tmp_path / "t.json", region("rectanglelabels", value)), findings)
    # 20 x 50 pixels turned by a quarter about its corner (100, 0): it reaches 50 to the left and 20 down
    (image,) = read.images.values()
    assert image.instances.boxes[0].tolist() == pytest.approx([50, 0, 100, 20], abs=1e-4)
    assert list(findings.guesses) == ["the box around a turned rectangle was taken"]


def test_a_polygon_is_a_mask_and_a_crossing_one_is_said(tmp_path: Path) -> None:
    bow = {"points": [[0, 0], [50, 100], [50, 0], [0, 100]], "polygonlabels": ["fig"]}
    square = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["fig"]}
    findings = Findings()
    results = [region("polygonlabels", square), region("polygonlabels", bow)]
    (image,) = read_tasks(tasks(tmp_path / "t.json", *results), findings).images.values()
    assert rle_area(image.instances.masks).tolist()[0] == 100 * 50
    assert list(findings.guesses) == ["a polygon that crosses itself was filled by the even-odd rule"]
    assert "number 2" in findings.notes[-1]


def test_the_newest_answer_counts_and_predictions_come_last(tmp_path: Path) -> None:
    older = {"result": [region("rectanglelabels", {**RECTANGLE, "rectanglelabels": ["old"]})]}
    newer = {"result": [region("rectanglelabels", RECTANGLE)]}
    cancelled = {"result": [], "was_cancelled": True}
    content = [
        {"data": {"image": "a.jpg"}, "annotations": [older, newer, cancelled], "predictions": [older]},
        {"data": {"image": "b.jpg"}, "annotations": [], "predictions": [older]},
        {"data": {"image": "c.jpg"}, "annotations": [{"result": []}], "predictions": [older]},
    ]
    (tmp_path / "t.json").write_text(json.dumps(content))
    read = read_label_file(tmp_path / "t.json")
    named = {name: [read.classes[label] for label in image.instances.labels] for name, image in read.images.items()}
    assert named == {"a.jpg": ["fig"], "b.jpg": ["old"], "c.jpg": []}


def test_what_is_no_object_is_left_out_and_said(tmp_path: Path) -> None:
    findings = Findings()
    choice = {"type": "choices", "value": {"choices": ["good"]}}
    (image,) = read_tasks(
        tasks(tmp_path / "t.json", choice, region("rectanglelabels", RECTANGLE)), findings
    ).images.values()
    assert len(image.instances) == 1 and "no labelled rectangle, polygon or brush" in findings.notes[-1]


def test_classes_come_in_the_order_of_the_project(tmp_path: Path) -> None:
    labels = "".join(f'<Label value="{name}"/>' for name in ("zebra", "fig"))
    (tmp_path / "label_config.xml").write_text(f"<View><RectangleLabels>{labels}</RectangleLabels></View>")
    other = region("rectanglelabels", {**RECTANGLE, "rectanglelabels": ["ant"]})
    read = read_tasks(tasks(tmp_path / "t.json", region("rectanglelabels", RECTANGLE), other))
    assert read.classes == ("zebra", "fig", "ant") and read.category_ids == (1, 2, 3)


BRUSH = {"format": "rle", "rle": encode_brush(rle_from_counts([3, 4, 5], (3, 4))), "brushlabels": ["fig"]}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (region("rectanglelabels", {**RECTANGLE, "x": 300}), "wanted percent of the photo's sides, 0 to 100"),
        (region("rectanglelabels", {**RECTANGLE, "x": "left"}), "finite numbers in percent"),
        (region("rectanglelabels", RECTANGLE, original_width=None), "the photo's width and height"),
        (region("rectanglelabels", RECTANGLE, image_rotation=90), "regions of an upright photo"),
        (region("rectanglelabels", {**RECTANGLE, "rectanglelabels": [""]}), "the name of a class"),
        (region("polygonlabels", {"points": [[1, 2], [3, 4]], "polygonlabels": ["a"]}), "at least three points"),
        (region("brushlabels", BRUSH), "a brush of 48 values for 200 x 100 pixels"),
        (region("brushlabels", {**BRUSH, "rle": [0, 1]}), "a brush that ends before its picture is full"),
        (region("brushlabels", {**BRUSH, "rle": ["x"]}), "bytes as 'rle'"),
    ],
)
def test_a_broken_region_is_one_sentence(tmp_path: Path, result: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_tasks(tasks(tmp_path / "t.json", result))
    assert "\n" not in str(caught.value)


def test_broken_tasks_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for content, message in (
        ([{"data": {"image": "a.jpg"}}, {"data": {"image": "a.jpg"}}], "wanted every photo once"),
        ([{"data": {"image": 7}}], "the address of a photo"),
        ([{"data": {"image": "a.jpg"}, "annotations": "none"}], "a list of answers"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            read_label_file(path)


def test_brushes_of_any_mask_come_back() -> None:
    for counts in ([12], [0, 12], [3, 4, 5], [0, 1, 10, 1]):
        rle = rle_from_counts(counts, (3, 4))
        assert decode_brush(encode_brush(rle), (3, 4)) == rle
    large = rle_from_counts([0, 200_000, 100_000], (500, 600))  # runs longer than 16 bits hold
    assert decode_brush(encode_brush(large), (500, 600)) == large


# CVAT

HEAD = (
    "<annotations><version>1.1</version><meta><task><labels><label><name>dog</name></label>"
    "<label><name>cat</name></label></labels></task></meta>"
)


def cvat(path: Path, shapes: str, image: str = 'name="a.jpg" width="20" height="10"') -> Path:
    path.write_text(f'{HEAD}<image id="0" {image}>{shapes}</image></annotations>')
    return path


def test_shapes_of_cvat_by_hand(tmp_path: Path) -> None:
    shapes = (
        '<box label="cat" xtl="1.5" ytl="2" xbr="11.5" ybr="8"><attribute name="score">0.25</attribute></box>'
        '<polygon label="cat" group_id="4" points="0,0;5,0;5,5;0,5">'
        '<attribute name="ignored">true</attribute></polygon>'
        '<polygon label="cat" group_id="4" points="10,5;15,5;15,10;10,10"/>'
        '<polygon label="dog" group_id="4" points="0,5;2,5;2,7;0,7"/>'
        '<mask label="dog" rle="1, 2, 1" left="3" top="4" width="2" height="2"/>'
        '<polyline label="dog" points="1,1;2,2"/>'
    )
    findings = Findings()
    read = read_images(cvat(tmp_path / "c.xml", shapes), findings)
    found = read.images["a.jpg"].instances
    assert read.classes == ("dog", "cat") and found.labels.tolist() == [1, 1, 0, 0]
    assert found.boxes.tolist() == [[1.5, 2, 11.5, 8], [0, 0, 15, 10], [0, 5, 2, 7], [3, 4, 5, 6]]
    assert found.crowd.tolist() == [False, True, False, False]
    assert rle_area(found.masks).tolist()[1:] == [50, 4, 2]
    assert any("a <polyline> was left out" in note for note in findings.notes)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ('<box label="cat" xtl="1" ytl="2" xbr="3"/>', "a finite number as 'ybr'"),
        ('<box label="" xtl="1" ytl="2" xbr="3" ybr="4"/>', "the name of a class"),
        ('<polygon label="cat" points="1,2;3,4"/>', "at least three points"),
        ('<polygon label="cat" points="1,2;3,4;9999,4"/>', "points on its image of 20 x 10 pixels"),
        ('<mask label="cat" rle="1, 2" left="3" top="4" width="2" height="2"/>', "run lengths that fill 2 x 2"),
        ('<mask label="cat" rle="4" left="19" top="4" width="2" height="2"/>', "a mask within its image"),
        ('<mask label="cat" rle="-1, 5" left="0" top="4" width="2" height="2"/>', "run lengths"),
    ],
)
def test_a_broken_shape_is_one_sentence(tmp_path: Path, shapes: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_images(cvat(tmp_path / "c.xml", shapes))
    assert "\n" not in str(caught.value)


def test_other_xml_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "c.xml"
    for text, message in (
        ("<annotation><object/></annotation>", "found <annotation>: name another file, or the folder of VOC"),
        ("<annotations></annotations>", "found no <image>"),
        ("<annotations><image", "found no XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declarations of entities"),
        ('<annotations><image name="a" width="0" height="5"/></annotations>', "whole numbers as height and width"),
        ('<annotations><image width="4" height="5"/></annotations>', "wanted a 'name'"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_label_file(path)


# Tables


def test_a_table_of_another_tool_is_read_by_its_columns(tmp_path: Path) -> None:
    rows = (
        "filename,width,height,class,xmin,ymin,xmax,ymax,split\na.jpg,20,10,fig,1,2,11.5,8,train\nb.jpg,20,10,,,,,,\n"
    )
    (tmp_path / "t.csv").write_text(rows)
    findings = Findings()
    read = read_table(tmp_path / "t.csv", findings)
    assert read.images["a.jpg"].instances.boxes.tolist() == [[1, 2, 11.5, 8]]
    assert read.images["a.jpg"].size == (10, 20) and len(read.images["b.jpg"].instances) == 0
    assert findings.notes[0].endswith("columns not used: 'split'")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("file,tags\na.jpg,fig\n", "found no label, x1, y1, x2, y2 among 'file', 'tags': rename the columns"),
        ("file,label,x1,y1,x2,y2,xmin\na.jpg,fig,1,2,3,4,5\n", None),
        ("file,label,xmin,left,y1,x2,y2\na.jpg,fig,1,2,3,4,5\n", "wanted one column for 'x1' in .* 'xmin', 'left'"),
        ("file,label,x1,y1,x2,y2\na.jpg,fig,1,2,x,4\n", "a finite number as 'x2' of line 2"),
        ("file,label,x1,y1,x2,y2\na.jpg,fig,5,2,3,4\n", "corners with x1 <= x2"),
        ("file,label,x1,y1,x2,y2\na.jpg,fig,.1,.2,.3,.4\n", "found shares of the photo"),
        ("file,label,x1,y1,x2,y2\na.jpg,,1,2,3,4\n", "the name of a class as the label on line 2"),
        ("file,label,x1,y1,x2,y2\n,fig,1,2,3,4\n", "wanted a photo on every line"),
        ("", "found no file, label"),
    ],
)
def test_a_broken_table_is_one_sentence(tmp_path: Path, rows: str, message: str | None) -> None:
    (tmp_path / "t.csv").write_text(rows)
    if message is None:
        assert len(read_table(tmp_path / "t.csv").images) == 1  # a column of the plain name comes first
        return
    with pytest.raises(UserError, match=message) as caught:
        read_table(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)
