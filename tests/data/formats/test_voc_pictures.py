"""VOC's pictures of objects and classes as a truth: read by hand, and by the commands that take one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.masks import rectangles
from tests.helpers import write_photo
from weaksam.config import UserError
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.data.formats.coco import write_results
from weaksam.data.formats.voc import write_segmentation
from weaksam.data.formats.voc_pictures import VOC_CLASSES, read_pictures
from weaksam.data.truth import read_truth
from weaksam.evaluation.files import evaluate_files
from weaksam.structures.dataset import Dataset, Sample

OBJECTS = {
    "2008_000001": rectangles([(2, 2, 12, 12), (20, 20, 30, 40)], [7, 14]),
    "2008_000002": rectangles([]),
    "2008_000003": rectangles([(0, 0, 40, 10)], [19]),
}


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Three photos of VOC 2012 with their pictures; of the last there is no photo."""
    for name, instances in OBJECTS.items():
        pair = (tmp_path / kind / f"{name}.png" for kind in ("SegmentationClass", "SegmentationObject"))
        write_segmentation(*pair, instances, (40, 40))
    for name in list(OBJECTS)[:2]:
        write_photo(tmp_path / "JPEGImages" / f"{name}.jpg", size=(40, 40))
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2008_000001\n2008_000002\n")
    return tmp_path


def test_pictures_are_objects_with_masks(devkit: Path) -> None:
    annotations = read_truth(devkit / "SegmentationObject", {})
    assert annotations.classes == VOC_CLASSES and list(annotations.images) == list(OBJECTS)
    first = annotations.images["2008_000001"]
    assert first.instances.labels.tolist() == [7, 14] and first.size == (40, 40)
    assert first.instances.boxes.tolist() == [[2, 2, 12, 12], [20, 20, 30, 40]]
    assert first.instances.masks == OBJECTS["2008_000001"].masks
    assert len(annotations.images["2008_000002"].instances) == 0
    of_photos = read_truth(devkit / "SegmentationObject", {"2008_000003.jpg": (40, 40)})
    assert list(of_photos.images) == ["2008_000003"] and "1 of 3 read" in of_photos.notes[0]


def test_a_split_and_an_evaluation_take_them(devkit: Path) -> None:
    truth = devkit / "SegmentationObject"
    split = SplitSettings(
        images=devkit / "JPEGImages", tags=devkit / "ImageSets" / "Segmentation" / "val.txt", truth=truth
    )
    dataset = load_dataset(split.model_copy(update={"tags": None}), name="test", classes=("tvmonitor", *VOC_CLASSES))
    assert dataset.by_id["2008_000001.jpg"].truth.labels.tolist() == [8, 15]
    photo = Sample("2008_000001.jpg", devkit / "x", (40, 40), (7,), None, 2008000001)
    detected = OBJECTS["2008_000001"].replace(scores=rectangles([(0, 0, 1, 1)] * 2, scores=[0.9, 0.8]).scores)
    of_voc = Dataset("test", VOC_CLASSES, tuple(range(1, 21)), (photo,))
    write_results(devkit / "results.json", of_voc, {photo.image_id: detected})
    figures = evaluate_files(truth, devkit / "results.json", ["mask", "pq"], images=devkit / "JPEGImages")
    assert figures["mask"]["mean"]["0.95"] == figures["pq"]["pq"] == 1 and figures["mask"]["num_truths"][7] == 1


def test_other_classes_count_in_their_order(devkit: Path) -> None:
    names = tuple(f"kind {number:02}" for number in range(20))
    assert read_pictures(devkit / "SegmentationObject", names).classes == names
    with pytest.raises(UserError, match=r"wanted indices of the 2 classes a, b in .*1.png, found 8: name all classes"):
        read_pictures(devkit / "SegmentationObject", ("a", "b"))
    assert read_pictures(devkit / "SegmentationObject", ("cat", "dog")).classes == VOC_CLASSES


def test_mistakes_are_one_sentence(devkit: Path) -> None:
    (devkit / "SegmentationClass" / "2008_000003.png").unlink()
    with pytest.raises(UserError, match=r"wanted 2008_000003.png in .*SegmentationClass too, found nothing there"):
        read_truth(devkit / "SegmentationObject", {})
    small = np.zeros((20, 40), np.uint8)
    Image.fromarray(small).save(devkit / "SegmentationClass" / "2008_000003.png")
    with pytest.raises(UserError, match=r"wanted .*2008_000003.png of the size of"):
        read_truth(devkit / "SegmentationObject", {})
    for path in (devkit / "SegmentationObject").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"wanted true boxes in .*SegmentationObject, found neither"):
        read_truth(devkit / "SegmentationObject", {})
