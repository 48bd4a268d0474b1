"""Labels in every format: there and back, opened by the tools that use them, whole or not at all."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection

from tests.data.label_cases import CLASSES, SIZES, labelled
from weaksam.config import UserError
from weaksam.data.given_boxes import read_given_boxes
from weaksam.data.label_export import FORMATS, ExportOptions, export_labels
from weaksam.pipeline.labels import labels_of_file
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances, ignored
from weaksam.structures.masks import mask_from_rle, pairwise_mask_iou, rle_from_mask

BOX_FORMATS = [name for name, form in FORMATS.items() if not form.needs_masks]
MASK_FORMATS = [
    ("coco", "rle"),
    ("coco", "polygons"),
    ("yolo-seg", "rle"),
    ("labelstudio", "rle"),
    ("labelstudio", "polygons"),
    ("cvat", "rle"),
    ("cvat", "polygons"),
    ("masks", "rle"),
    ("csv", "rle"),
    ("mmdet", "rle"),
    ("detectron2", "rle"),
]


def written(folder: Path, name: str, *, masks: bool = False, **options: str) -> tuple[Path, dict[str, Instances], str]:
    """Export the cases below ``folder``: where to, what, and what was said."""
    dataset, objects = labelled(folder / "photos", masks=masks)
    out = folder / f"labels{FORMATS[name].suffix}"
    return out, objects, export_labels(out, name, dataset, objects, ExportOptions(**options))


def kept(name: str, objects: Instances) -> Instances:
    """The objects that a format keeps."""
    return objects if FORMATS[name].ignored else objects[~ignored(objects)]


@pytest.mark.parametrize("name", BOX_FORMATS)
def test_boxes_there_and_back(tmp_path: Path, name: str) -> None:
    out, objects, text = written(tmp_path, name)
    assert f"{out}: 6 boxes on 4 photos, 1 of them without any; 3 ignored regions" in text
    read = labels_of_file(out, tmp_path / "photos")

    assert set(read.dataset.image_ids) == set(SIZES) and len(read.objects["empty.jpg"]) == 0
    for image_id, original in objects.items():
        wanted, found = kept(name, original), read.objects[image_id]
        assert [read.dataset.classes[label] for label in found.labels] == [CLASSES[label] for label in wanted.labels]
        assert torch.allclose(found.boxes, wanted.boxes, atol=0.5, rtol=0)
        assert ignored(found).tolist() == ignored(wanted).tolist()
        if found.scores is not None:
            assert torch.allclose(found.scores, wanted.scores, atol=1e-6)
        assert (found.scores is None) == ("without scores" in FORMATS[name].note or not len(wanted))


@pytest.mark.parametrize(("name", "form"), MASK_FORMATS)
def test_masks_there_and_back(tmp_path: Path, name: str, form: str) -> None:
    out, objects, _ = _masks(tmp_path, name, form)
    read = labels_of_file(out, tmp_path / "photos")
    for image_id, original in objects.items():
        wanted, found = kept(name, original), read.objects[image_id]
        if name == "masks":  # numbered in the order of their scores; ignored regions are borders
            wanted = original[~ignored(original)]
            wanted = wanted[wanted.scores.argsort()]
        assert len(found) == len(wanted)
        if not len(wanted):
            continue
        assert [read.dataset.classes[label] for label in found.labels] == [CLASSES[label] for label in wanted.labels]
        assert torch.allclose(found.boxes, wanted.boxes, atol=0.5, rtol=0)
        exact = form == "rle" and name != "yolo-seg"
        if exact:
            assert [rle["counts"] for rle in found.masks] == [rle["counts"] for rle in wanted.masks]
        overlaps = pairwise_mask_iou(wanted.masks, found.masks).diagonal()
        assert float(overlaps.min()) >= 0.98


def _masks(folder: Path, name: str, form: str) -> tuple[Path, dict[str, Instances], str]:
    dataset, objects = labelled(folder / "photos", masks=True)
    out = folder / f"labels{FORMATS[name].suffix}"
    return out, objects, export_labels(out, name, dataset, objects, ExportOptions(masks=form))


# Opened by the tools of each format


def test_pycocotools_opens_coco(tmp_path: Path) -> None:
    for form in ("rle", "polygons"):
        out, objects, _ = _masks(tmp_path / form, "coco", form)
        coco = COCO(str(out))
        names = {image["file_name"]: number for number, image in coco.imgs.items()}
        assert set(names) == set(SIZES)  # the photo without objects is listed
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        for image_id, of_image in objects.items():
            annotations = coco.loadAnns(coco.getAnnIds(names[image_id]))
            assert len(annotations) == len(of_image)
            for annotation, rle in zip(annotations, of_image.masks, strict=True):
                assert (coco.annToMask(annotation) == mask_from_rle(rle).numpy()).all()
            assert [annotation["iscrowd"] for annotation in annotations] == ignored(of_image).int().tolist()


def test_torchvision_opens_voc(tmp_path: Path) -> None:
    dataset, objects = labelled(tmp_path / "photos", masks=True)
    export_labels(tmp_path / "VOCdevkit" / "VOC2012", "voc", dataset, objects, ExportOptions())
    reader = VOCDetection(str(tmp_path), year="2012", image_set="train", download=False)
    assert len(reader) == 4
    names = (tmp_path / "VOCdevkit/VOC2012/ImageSets/Main/train.txt").read_text().splitlines()
    assert names == ["a b", "deep/füß", "empty", "plain"]
    for name, (photo, content) in zip(names, reader, strict=True):
        image_id = next(image_id for image_id in SIZES if image_id.startswith(f"{name}."))
        assert photo.size[::-1] == SIZES[image_id]
        boxes = content["annotation"].get("object", [])
        assert [box["name"] for box in boxes] == [CLASSES[label] for label in objects[image_id].labels]
        corners = [[int(box["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax")] for box in boxes]
        assert corners == [[x1 + 1, y1 + 1, x2, y2] for x1, y1, x2, y2 in objects[image_id].boxes.tolist()]
        assert [box["difficult"] for box in boxes] == [str(flag) for flag in ignored(objects[image_id]).int().tolist()]
    main = tmp_path / "VOCdevkit/VOC2012/ImageSets/Main"
    assert (main / "apple_train.txt").read_text().splitlines() == ["a b  1", "deep/füß  1", "empty -1", "plain  1"]
    assert (main / "fig_tree_train.txt").read_text().splitlines() == ["a b  0", "deep/füß  0", "empty -1", "plain  0"]


@pytest.mark.parametrize("name", ["yolo", "yolo-seg"])
def test_supervision_opens_yolo(tmp_path: Path, name: str) -> None:
    supervision = pytest.importorskip("supervision")
    dataset, objects = labelled(tmp_path / "photos", masks=name == "yolo-seg")
    flat = Dataset("train", CLASSES, (1, 2, 3), tuple(s for s in dataset if "/" not in s.image_id))
    export_labels(tmp_path / "yolo", name, flat, objects, ExportOptions(photos="copy"))
    read = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "yolo/images/train"), str(tmp_path / "yolo/labels/train"), str(tmp_path / "yolo/data.yaml")
    )
    assert read.classes == list(CLASSES) and len(read) == 3
    for path, _, detections in read:
        wanted = kept(name, objects[Path(path).name])
        assert detections.class_id.tolist() == wanted.labels.tolist() if len(wanted) else len(detections) == 0
        assert np.allclose(detections.xyxy, wanted.boxes.numpy().reshape(-1, 4), atol=0.5)


def test_label_studio_has_its_documented_form(tmp_path: Path) -> None:
    out, objects, _ = written(tmp_path, "labelstudio")
    tasks = json.loads((out / "tasks.json").read_text())
    images = [task["data"]["image"] for task in tasks]
    assert images[:2] == ["/data/local-files/?d=a%20b.jpg", "/data/local-files/?d=deep/f%C3%BC%C3%9F.png"]
    region = tasks[0]["predictions"][0]["result"][0]
    assert region["type"] == "rectanglelabels" and region["value"]["rectanglelabels"] == ["apple"]
    assert (region["original_width"], region["original_height"]) == (64, 48)
    x1, y1, x2, y2 = objects["a b.jpg"].boxes[0].tolist()
    value = [region["value"][key] for key in ("x", "y", "width", "height")]
    assert value == pytest.approx([100 * x1 / 64, 100 * y1 / 48, 100 * (x2 - x1) / 64, 100 * (y2 - y1) / 48])
    assert tasks[2]["predictions"] == [{"model_version": "weaksam", "result": []}]
    config = ElementTree.parse(out / "label_config.xml").getroot()
    names = {tool.get("name"): [label.get("value") for label in tool] for tool in config if len(tool)}
    assert names == {"box": list(CLASSES), "polygon": list(CLASSES), "brush": list(CLASSES)}
    assert {region["from_name"] for task in tasks for region in task["predictions"][0]["result"]} <= names.keys()


def brush_by_the_documentation(rle: list[int], size: tuple[int, int]) -> np.ndarray:
    """A brush decoded as Label Studio's converter describes it: bit after bit, the fourth channel is the mask."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    num, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < num:
        run = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(word)] * length if run else [take(word) for _ in range(length)]
    return np.array(values).reshape(*size, 4)[..., 3] > 0


def test_a_brush_is_decoded_by_its_documentation(tmp_path: Path) -> None:
    out, objects, _ = _masks(tmp_path, "labelstudio", "rle")
    for task, (image_id, of_image) in zip(
        json.loads((out / "tasks.json").read_text()), sorted(objects.items()), strict=True
    ):
        for region, rle in zip(task["predictions"][0]["result"], of_image.masks, strict=True):
            decoded = brush_by_the_documentation(region["value"]["rle"], SIZES[image_id])
            assert (decoded == mask_from_rle(rle).numpy()).all()


def test_cvat_has_its_documented_form(tmp_path: Path) -> None:
    out, objects, _ = _masks(tmp_path, "cvat", "rle")
    root = ElementTree.parse(out).getroot()
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iter("label")] == list(CLASSES)
    images = root.findall("image")
    assert [image.get("name") for image in images] == sorted(SIZES)
    for image in images:
        size = (int(image.get("height")), int(image.get("width")))
        assert size == SIZES[image.get("name")]
        for shape, rle in zip(image, objects[image.get("name")].masks, strict=True):
            # Runs go row by row within the rectangle, background first
            left, top, width, height = (int(shape.get(key)) for key in ("left", "top", "width", "height"))
            pixels: list[bool] = []
            for number, run in enumerate(shape.get("rle").split(", ")):
                pixels += [number % 2 == 1] * int(run)
            mask = np.zeros(size, bool)
            mask[top : top + height, left : left + width] = np.array(pixels).reshape(height, width)
            assert (mask == mask_from_rle(rle).numpy()).all()


# Whole or not at all


def test_photos_are_linked_copied_or_left(tmp_path: Path) -> None:
    for how in ("link", "copy", "none"):
        out, _, text = written(tmp_path / how, "yolo", photos=how)
        photo = out / "images/train/deep/füß.png"
        assert photo.is_symlink() == (how == "link") and photo.is_file() == (how != "none")
        assert (out / "labels/train/deep/füß.txt").is_file() and (out / "labels/train/empty.txt").read_text() == ""
        assert ("images/train" in text) == (how != "none")
    dataset = Dataset("train", ("a",), (1,), (Sample("x.jpg", Path("absent/x.jpg"), (4, 4), (), None, 1),))
    assert "1 photos are missing" in export_labels(tmp_path / "lost", "voc", dataset, {}, ExportOptions())


def one_photo(image_ids: tuple[str, ...], classes: tuple[str, ...] = ("a",), size: tuple[int, int] = (8, 8)) -> Dataset:
    samples = tuple(Sample(name, Path(name), size, (), None, number) for number, name in enumerate(image_ids, 1))
    return Dataset("train", classes, tuple(range(1, len(classes) + 1)), samples)


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        ("voc", one_photo(("a.jpg", "a.png")), "for each photo, found that 'a.jpg' and 'a.png' both become a"),
        ("yolo", one_photo(("a.jpg", "A.png")), "both become"),
        ("voc", one_photo(("a.jpg",), ("red apple", "red_apple")), "for each class, found that 'red apple' and"),
        ("yolo", one_photo(("images/a.jpg",)), "below no folder called 'images'"),
        ("coco", one_photo(("a.jpg",), size=(0, 0)), "wanted the sizes of all 1 photos"),
        ("pascal", one_photo(("a.jpg",)), "wanted a format .*coco.* found 'pascal'"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, name: str, dataset: Dataset, message: str) -> None:
    out = tmp_path / f"labels{FORMATS[name].suffix if name in FORMATS else ''}"
    with pytest.raises(UserError, match=message):
        export_labels(out, name, dataset, {}, ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="wanted a new or empty folder to write, found a folder with files"):
        export_labels(tmp_path / "out", "voc", one_photo(("a.jpg",)), {}, ExportOptions())
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_masks_are_wanted_where_a_format_is_of_masks(tmp_path: Path) -> None:
    dataset, objects = labelled(tmp_path / "photos", masks=False)
    for name in ("masks", "yolo-seg"):
        with pytest.raises(UserError, match=f"wanted masks for --format {name}, found boxes alone"):
            export_labels(tmp_path / "out", name, dataset, objects, ExportOptions())
    with pytest.raises(UserError, match=r"wanted a file that ends in \.json"):
        export_labels(tmp_path / "out.txt", "coco", dataset, objects, ExportOptions())
    with pytest.raises(UserError, match="wanted rle, polygons as --masks, found 'polygon'"):
        ExportOptions(masks="polygon")


def test_names_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    dataset = one_photo(("../../up.jpg", "/abs/there.jpg", "C:\\photos\\drive.jpg"))
    export_labels(tmp_path / "out", "yolo", dataset, {}, ExportOptions())
    names = {path.relative_to(tmp_path / "out/labels/train").as_posix() for path in tmp_path.rglob("*.txt")}
    assert names == {"up.txt", "abs/there.txt", "photos/drive.txt", "classes.txt"}


def test_where_masks_overlap_the_better_scored_is_seen(tmp_path: Path) -> None:
    whole, half = torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    half[:4] = True
    masks = (rle_from_mask(half), rle_from_mask(whole))
    boxes = torch.tensor([[0.0, 0, 8, 4], [0, 0, 8, 8]])
    objects = {"a.jpg": Instances(boxes, torch.tensor([0, 0]), torch.tensor([0.9, 0.1]), masks)}
    export_labels(tmp_path / "out", "masks", one_photo(("a.jpg",)), objects, ExportOptions())
    read = labels_of_file(tmp_path / "out").objects
    assert [mask_from_rle(rle).sum().item() for rle in read["a"].masks] == [32, 32]


@pytest.mark.parametrize("name", BOX_FORMATS)
def test_every_format_is_pseudo_ground_truth_that_is_given(tmp_path: Path, name: str) -> None:
    out, objects, _ = written(tmp_path, name)
    dataset, _ = labelled(tmp_path / "photos", masks=False)
    given = read_given_boxes(out, dataset)
    for image_id, original in objects.items():
        wanted = kept(name, original)
        assert torch.allclose(given[image_id].boxes, wanted.boxes, atol=0.5, rtol=0)
        assert given[image_id].labels.tolist() == wanted.labels.tolist()
