"""Proposals in and out: stores, COCO results, Parquet, and the pickles of wetectron, mmdet and detectron."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.helpers import pickled
from weaksam.config import UserError
from weaksam.data.formats.coco import read_instances
from weaksam.data.image_names import ImageNames, number_in, read_image_list
from weaksam.data.proposals.exchange import export_proposals, import_proposals, named_proposals
from weaksam.data.proposals.files import open_store, read_proposals, store_rows, write_store
from weaksam.data.proposals.pickles import read_foreign_proposals
from weaksam.store.store import Store
from weaksam.structures.masks import mask_from_rle, rle_from_mask
from weaksam.structures.proposals import IMPORTED, Proposals

VOC = ("2008_000001", "2008_000002", "2009_000010")
COCO = ("COCO_val2014_000000000009.jpg", "COCO_val2014_000000000025.jpg")
FIRST = [[0, 0, 9, 19], [5, 6, 7, 8]]
SECOND = [[1, 2, 3, 4]]


def image_list(folder, names=VOC):
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))
    return folder / "list.txt"


def stored(folder):
    return {image_id: (one.boxes.tolist(), one.scores.tolist()) for image_id, one in store_rows(open_store(folder))}


def wetectron(boxes=(FIRST, SECOND, []), indexes=(2008000001, 2008000002, 2009000010), dtype=np.uint16):
    arrays = [np.array(one, dtype).reshape(-1, 4) for one in boxes]
    return {"boxes": arrays, "scores": [np.ones(len(one)) for one in arrays], "indexes": list(indexes)}


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_wetectron_voc(tmp_path, dtype):
    path = pickled(tmp_path / "voc.pkl", wetectron(dtype=dtype))
    result = import_proposals(path, tmp_path / "out", image_list=image_list(tmp_path))
    # The last pixel inside is column 9, so the box ends before column 10
    half_open = [[0, 0, 10, 20], [5, 6, 8, 9]]
    assert stored(tmp_path / "out") == {
        VOC[0]: (half_open, [1, 1]),
        VOC[1]: ([[1, 2, 4, 5]], [1]),
        VOC[2]: ([], []),
    }
    assert (result.num_images, result.num_boxes, result.num_bare) == (3, 3, 1)
    assert "wetectron, corners inclusive there" in str(result)
    assert all((one.sources == IMPORTED).all() for _, one in store_rows(open_store(tmp_path / "out")))


def test_uint16_does_not_overflow(tmp_path):
    path = pickled(tmp_path / "voc.pkl", wetectron([[[0, 0, 65535, 1]]], [2008000001]))
    one = read_foreign_proposals(path).images[0][1]
    assert one.boxes.tolist() == [[0, 0, 65536, 2]]


def test_wetectron_coco_by_number_and_photo(tmp_path):
    for name in COCO:
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    path = pickled(tmp_path / "coco.pkl", wetectron([FIRST, SECOND, FIRST], [25, 9, 77], np.float32))
    result = import_proposals(path, tmp_path / "out", photos=tmp_path)
    assert set(stored(tmp_path / "out")) == set(COCO) and result.left_out == ("77",)
    assert stored(tmp_path / "out")[COCO[0]][0] == [[1, 2, 4, 5]]
    assert "1 images have no photo (77): left out" in str(result)


@pytest.mark.parametrize(
    "entries",
    [
        [np.array([[0, 0, 9, 19, 0.5], [5, 6, 7, 8, 0.25]]), np.array([[1, 2, 3, 4, 1.0]]), np.zeros((0, 5))],
        [(np.array(FIRST), np.array([0.5, 0.25])), (np.array(SECOND), np.ones((1, 1))), (np.zeros((0, 4)), [])],
        [(FIRST, [0.5, 0.25]), (SECOND, [1.0]), ([], [])],
    ],
)
def test_mmdet_by_the_order_of_the_list(tmp_path, entries):
    path = pickled(tmp_path / "mmdet.pkl", entries)
    import_proposals(path, tmp_path / "out", image_list=image_list(tmp_path, reversed(VOC)))
    found = stored(tmp_path / "out")
    assert found[VOC[2]] == (FIRST, [0.5, 0.25]) and found[VOC[1]] == (SECOND, [1]) and found[VOC[0]] == ([], [])
    import_proposals(path, tmp_path / "wide", image_list=tmp_path / "list.txt", corners="inclusive")
    assert stored(tmp_path / "wide")[VOC[2]][0] == [[0, 0, 10, 20], [5, 6, 8, 9]]


@pytest.mark.parametrize("entry", [FIRST, tuple(map(tuple, FIRST)), np.array(FIRST), tuple(map(np.array, FIRST))])
def test_mmdet_boxes_without_scores(tmp_path, entry):
    ragged = np.empty(2, object)  # object arrays of arrays are how some lists are pickled
    ragged[:] = [entry, np.zeros((0, 4))]
    for content in ([entry, np.zeros((0, 4))], ragged):
        one = read_foreign_proposals(pickled(tmp_path / "mmdet.pkl", content)).images[0][1]
        assert one.boxes.tolist() == FIRST and one.scores.tolist() == [1, 1]


def test_detectron_and_detectron2(tmp_path):
    content = {"boxes": [np.array(FIRST, float)], "scores": [np.array([0.5, 0.25])], "ids": [np.int64(9)]}
    found = read_foreign_proposals(pickled(tmp_path / "a.pkl", content, 2))
    assert (found.layout, found.inclusive, found.images[0][0]) == ("detectron", True, 9)
    assert found.images[0][1].boxes.tolist() == [[0, 0, 10, 20], [5, 6, 8, 9]]
    modern = {"boxes": [np.array(FIRST)], "objectness_logits": [np.array([-0.5, 2.5])], "ids": ["a"], "bbox_mode": 1}
    found = read_foreign_proposals(pickled(tmp_path / "b.pkl", modern))
    assert not found.inclusive and found.images[0][0] == "a"
    assert found.images[0][1].boxes.tolist() == [[0, 0, 9, 19], [5, 6, 12, 14]]
    assert found.images[0][1].scores.tolist() == [-0.5, 2.5]


def test_boxes_that_are_none_are_left_out_and_counted(tmp_path):
    rows = [[0, 0, 0, 0], [5, 5, 3, 9], [np.nan, 0, 1, 1], [2, 2, 6, 6]]
    path = pickled(tmp_path / "a.pkl", [np.array(rows)])
    result = import_proposals(path, tmp_path / "out", image_list=image_list(tmp_path, VOC[:1]))
    assert stored(tmp_path / "out")[VOC[0]][0] == [[2, 2, 6, 6]] and result.num_dropped == 3
    assert "3 boxes had no area" in str(result)
    # Inclusive corners make the first a box of one pixel
    assert read_foreign_proposals(path, corners="inclusive").images[0][1].boxes.tolist() == [[0, 0, 1, 1], [2, 2, 7, 7]]


@pytest.mark.parametrize(
    "content, wanted",
    [
        ({"proposals": [1]}, "found a dictionary of ['proposals']"),
        (7, "found int"),
        ({"boxes": [np.zeros((1, 4))], "ids": [1, 2]}, "found 1 of boxes, 1 of scores and 2 of ids"),
        ({"boxes": [np.zeros((1, 4))] * 2, "ids": [1, 1]}, "found 1 twice"),
        ({"boxes": [np.zeros((1, 4))], "ids": [1.5]}, "found '1.5'"),
        ({"boxes": [np.zeros((1, 4))], "ids": [1], "bbox_mode": 4}, "found mode 4"),
        ([np.zeros((2, 3))], "found the shape (2, 3)"),
        ([["a"]], "found something else"),
        ([(np.zeros((2, 4)), np.ones(3))], "found 3 numbers for 2 boxes"),
        ([(np.zeros((5, 4)), np.ones((1, 5)))], "found 5 numbers for 5 boxes"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, wanted):
    with pytest.raises(UserError) as error:
        read_foreign_proposals(pickled(tmp_path / "a.pkl", content))
    assert wanted in str(error.value) and "a.pkl" in str(error.value)


def test_a_list_that_does_not_belong(tmp_path):
    mmdet = pickled(tmp_path / "a.pkl", [np.zeros((0, 4))] * 2)
    with pytest.raises(UserError, match=r"proposals of 3 images in .*a.pkl, found 2"):
        import_proposals(mmdet, tmp_path / "out", image_list=image_list(tmp_path))
    with pytest.raises(UserError, match="give --list FILE"):
        import_proposals(mmdet, tmp_path / "out")
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="mmdet keeps proposals in its order"):
        import_proposals(mmdet, tmp_path / "out", photos=tmp_path)
    path = pickled(tmp_path / "b.pkl", wetectron())
    with pytest.raises(UserError, match=r"found 1 others \(2009000010\)"):
        import_proposals(path, tmp_path / "out", image_list=image_list(tmp_path, VOC[:2]))
    with pytest.raises(UserError, match=r"all 4 images of .*list.txt, found 3 .*\(without 2010_000001\)"):
        import_proposals(path, tmp_path / "out", image_list=image_list(tmp_path, [*VOC, "2010_000001"]))
    with pytest.raises(UserError, match="found 3 others"):
        import_proposals(path, tmp_path / "out", photos=tmp_path)
    with pytest.raises(UserError, match=r"wanted the layout detectron in .*, found wetectron"):
        import_proposals(path, tmp_path / "out", image_list=image_list(tmp_path), layout="detectron")
    assert not (tmp_path / "out").exists()


def test_a_store_is_not_overwritten_by_another_file(tmp_path):
    path = pickled(tmp_path / "a.pkl", wetectron())
    listed = image_list(tmp_path)
    import_proposals(path, tmp_path / "out", image_list=listed)
    before = (tmp_path / "out/manifest.json").read_bytes()
    import_proposals(path, tmp_path / "out", image_list=listed)  # the same again changes nothing
    with pytest.raises(UserError, match="made with another fingerprint"):
        import_proposals(path, tmp_path / "out", image_list=listed, corners="half-open")
    assert (tmp_path / "out/manifest.json").read_bytes() == before


# Out, and back


@pytest.fixture
def store(tmp_path):
    """Three photos: two proposals with masks in a frame of half the photo's side, none, and one."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 15, 20, dtype=torch.bool)
    masks[0, 2:5, 3:9] = masks[1, 7:, :4] = True
    boxes = torch.tensor([[6.1, 4, 18.3, 10], [0, 14, 8, 30]]) + torch.rand(2, 4, generator=generator)
    rles = tuple(map(rle_from_mask, masks))
    one = Proposals(boxes, torch.tensor([0.9, 1 / 3]), torch.tensor([0, 4]), rles, (15, 20))
    last = Proposals(boxes[1:], torch.tensor([0.5]), torch.tensor([IMPORTED]), rles[1:], (15, 20))
    proposals = {"a.jpg": one, "b.jpg": Proposals.none(), "dir/c.jpg": last}
    (tmp_path / "photos/dir").mkdir(parents=True)
    for image_id in proposals:
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / image_id)
    return write_store(tmp_path / "store", proposals, "fixture")


def assert_same(found, wanted, masks=False):
    assert torch.equal(found.boxes, wanted.boxes) and torch.equal(found.scores, wanted.scores)
    assert torch.equal(found.sources, wanted.sources)
    assert not masks or found.rles == wanted.rles


def test_store_there_and_back(store):
    rows = dict(store_rows(open_store(store.folder)))
    again = write_store(store.folder.parent / "again", rows, "again")
    for (image_id, found), (other, wanted) in zip(store_rows(again), rows.items(), strict=True):
        assert image_id == other
        assert_same(found, wanted, masks=True)
        assert found.mask_size == wanted.mask_size


@pytest.mark.parametrize("name", ["boxes.json", "boxes.parquet"])
def test_export_and_import_give_the_store_back(store, tmp_path, name):
    export_proposals(store.folder, tmp_path / name)
    result = import_proposals(tmp_path / name, tmp_path / "back")
    assert result.num_images == 3 and result.num_bare == 1
    for (image_id, found), (other, wanted) in zip(
        store_rows(open_store(tmp_path / "back")), store_rows(store), strict=True
    ):
        assert image_id == other
        assert_same(found, wanted)


@pytest.mark.parametrize("name", ["boxes.json", "boxes.parquet"])
def test_a_listed_image_without_a_box_has_no_proposals(store, tmp_path, name):
    (tmp_path / "list.json").write_text(
        json.dumps({"images": [{"id": n, "file_name": s} for n, s in ((7, "a.jpg"), (5, "b.jpg"), (6, "dir/c.jpg"))]})
    )
    numbers = {"image_list": tmp_path / "list.json"} if name == "boxes.json" else {}
    export_proposals(store.folder, tmp_path / name, **numbers)
    result = import_proposals(tmp_path / name, tmp_path / "back", image_list=tmp_path / "list.json")
    assert (result.num_images, result.num_bare) == (3, 1)
    for (image_id, found), (other, wanted) in zip(
        store_rows(open_store(tmp_path / "back")), store_rows(store), strict=True
    ):
        assert image_id == other
        assert_same(found, wanted)
    (tmp_path / "none.json").write_text("[]")
    bare = import_proposals(tmp_path / "none.json", tmp_path / "bare", image_list=tmp_path / "list.json")
    assert (bare.num_images, bare.num_boxes, bare.num_bare) == (3, 0, 3) and "3 images have no proposals" in str(bare)


def test_coco_results_as_other_tools_read_them(store, tmp_path):
    truth = {"images": [{"id": n, "file_name": f"{s}.jpg"} for n, s in ((70, "c"), (5, "a"), (6, "b"), (8, "more"))]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    said = export_proposals(
        *(store.folder, tmp_path / "x.json"),
        image_list=tmp_path / "truth.json",
        photos=tmp_path / "photos",
        category_id=3,
        masks=True,
    )
    entries = json.loads((tmp_path / "x.json").read_text())
    assert "masks of 3 images" in said and not (tmp_path / "x.images.json").exists()
    assert [(one["image_id"], one["category_id"], one["source"]) for one in entries] == [
        (5, 3, 0),
        (5, 3, 4),
        (70, 3, -1),
    ]
    first = store["a.jpg"]["boxes"][0].tolist()
    x, y, width, height = entries[0]["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(first, abs=1e-5)
    mask = mask_from_rle(entries[1]["segmentation"])
    wanted = torch.zeros(30, 40, dtype=torch.bool)
    wanted[14:, :8] = True
    # Twice the frame; edges that are interpolated may differ by a pixel at the corner
    assert mask.shape == (30, 40) and (mask != wanted).sum() <= 1


def test_flat_table_for_other_tools(store, tmp_path):
    export_proposals(store.folder, tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet").to_pydict()
    assert list(table) == ["image_id", "x1", "y1", "x2", "y2", "score", "source"]
    assert table["image_id"] == ["a.jpg", "a.jpg", "dir/c.jpg"] and table["source"] == [0, 4, -1]
    assert table["x2"][1] == store["a.jpg"]["boxes"][1, 2].item()


def test_a_plain_table_is_read_too(tmp_path):
    # As others write it: another order, whole numbers, no scores, no sources
    columns = {"y2": [9, 7, 8], "x2": [4, 5, 6], "image_id": ["b", "a", "b"], "x1": [0, 1, 2], "y1": [3, 4, 5]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    found = read_proposals(tmp_path / "x.parquet")
    assert found["b"].boxes.tolist() == [[0, 3, 4, 9], [2, 5, 6, 8]] and found["a"].scores.tolist() == [1]


def test_results_of_others_by_number_name_or_companion(tmp_path):
    entries = [{"image_id": 9, "bbox": [1, 2, 3, 4], "score": 1}, {"image_id": 9, "bbox": [0, 0, 5, 5], "score": 0.5}]
    (tmp_path / "x.json").write_text(json.dumps(entries))
    assert named_proposals(tmp_path / "x.json", ImageNames(COCO))[0][COCO[0]].boxes.tolist() == [
        [1, 2, 4, 6],
        [0, 0, 5, 5],
    ]
    numbered = ImageNames(["a.jpg", "9.jpg"], {"a.jpg": 9, "9.jpg": 1})
    assert list(named_proposals(tmp_path / "x.json", numbered)[0]) == ["a.jpg"]
    companion = {"images": [{"id": 9, "file_name": "z.jpg"}, {"id": 1, "file_name": "a.jpg"}]}
    (tmp_path / "x.images.json").write_text(json.dumps(companion))
    found, _ = named_proposals(tmp_path / "x.json", ImageNames(["a.jpg", "z.jpg"], {"a.jpg": 9, "z.jpg": 1}))
    assert (len(found["a.jpg"]), len(found["z.jpg"])) == (0, 2)
    with pytest.raises(UserError, match=r"found 2 others \(z.jpg, a.jpg\)"):
        named_proposals(tmp_path / "x.json", ImageNames(["c.jpg"]))
    (tmp_path / "x.images.json").unlink()
    (tmp_path / "x.json").write_text(json.dumps([{"image_id": "2008_000001", "bbox": [1, 2, 3, 4]}]))
    assert list(named_proposals(tmp_path / "x.json", ImageNames(["2008_000001.jpg"]))[0]) == ["2008_000001.jpg"]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ('{"images": []}', "entries with image_id and bbox"),
        ('[{"image_id": 1, "bbox": [1, 2, 3]}]', "four numbers"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, "four"]}]', "four numbers"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}, {"image_id": 1, "bbox": [1, 2, 3, 4]}]', "'score'"),
        ('[{"image_id": null, "bbox": [1, 2, 3, 4]}]', "a number or a name"),
        ('[{"image_id": 1, "bbox": [1, 2, -3, 4]}]', "height of at least 0"),
        ("[[1, 2, 3, 4]]", "an object with keys as proposal 1"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, NaN]}]', "finite"),
        ("<html>", "not JSON"),
    ],
)
def test_json_that_is_no_result_list(tmp_path, text, wanted):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=wanted):
        read_proposals(tmp_path / "x.json")


def test_files_that_are_none(store, tmp_path):
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"x.parquet, found none"):
        read_proposals(tmp_path / "x.parquet")
    with pytest.raises(UserError, match="weaksam boxes import"):
        read_proposals(tmp_path / "x.pkl")
    with pytest.raises(UserError, match="none: finish the run"):
        read_proposals(tmp_path / "absent")
    Store(tmp_path / "s", stage="clues", fingerprint="f", image_ids=[], columns={"points": "floats"}).seal()
    with pytest.raises(UserError, match="stage clues without the column 'boxes'"):
        read_proposals(tmp_path / "s")
    with pytest.raises(UserError, match=r"\.parquet \(flat table\), found .*x.csv"):
        export_proposals(store.folder, tmp_path / "x.csv")
    with pytest.raises(UserError, match="--images"):
        export_proposals(store.folder, tmp_path / "x.json", masks=True)
    (tmp_path / "truth.json").write_text(json.dumps({"images": [{"id": 5, "file_name": "a.jpg"}]}))
    with pytest.raises(UserError, match=r"found 2 that it lacks \(b.jpg, dir/c.jpg\)"):
        export_proposals(store.folder, tmp_path / "x.json", image_list=tmp_path / "truth.json")
    assert not (tmp_path / "x.json").exists()


# Names


@pytest.mark.parametrize(
    "name, number",
    [
        ("000005", 5),
        ("2008_000001.jpg", 2008000001),
        ("COCO_val2014_000000000009.jpg", 9),
        ("a.jpg", None),
        ("b/12", 12),
    ],
)
def test_numbers_in_names(name, number):
    assert number_in(name) == number


def test_names_are_found_with_or_without_endings():
    names = ImageNames(["dir/a.jpg", "000005", "my photo.png"])
    assert [names.find(key, "x") for key in ("a", "a.png", "other/a.jpg", "000005.jpg", 5, "5", "my photo", 6)] == [
        "dir/a.jpg", "dir/a.jpg", None, "000005", "000005", "000005", "my photo.png", None,
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"found 'a' and 'a.jpg', which both mean dir/a.jpg"):
        names.find_all(["a", "a.jpg"], "x")
    with pytest.raises(UserError, match=r"number 1 of x, found 1\.jpg, 01\.png"):
        ImageNames(["1.jpg", "01.png"]).find(1, "x")


def test_image_lists(tmp_path):
    (tmp_path / "list.txt").write_text("000005  1\n\nmy photo.jpg\n")
    assert read_image_list(tmp_path / "list.txt").names == ("000005", "my photo.jpg")
    (tmp_path / "list.txt").write_text("a\nb\na\n")
    with pytest.raises(UserError, match="found 'a' twice"):
        read_image_list(tmp_path / "list.txt")
    (tmp_path / "list.json").write_text('{"boxes": []}')
    with pytest.raises(UserError, match="id and file_name"):
        read_image_list(tmp_path / "list.json")
    with pytest.raises(UserError, match=r"wanted a list of images .* found nothing there"):
        read_image_list(tmp_path / "absent.txt")


def test_real_coco_file_as_list(shared_data):
    path = shared_data / "fruit3/annotations/instances_train.json"
    names = read_image_list(path)
    truth = read_instances(path)
    assert set(names.names) == set(truth.images)
    assert all(names.find(one.number, "x") == name for name, one in truth.images.items())
