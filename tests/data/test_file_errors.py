"""Closed files and folders, folders for files, files for folders and links in a circle: one sentence each."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import write_forms, write_photo
from weaksam.config import UserError
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings, load_dataset
from weaksam.data.detection_files import read_detections
from weaksam.data.formats.tags import read_tags
from weaksam.data.image_names import read_image_list
from weaksam.data.photos import scan_photos
from weaksam.data.proposals.files import read_proposals
from weaksam.data.proposals.pickles import read_foreign_proposals
from weaksam.data.truth import read_measured_truth, read_truth
from weaksam.structures.dataset import Dataset

NOBODY = 65534
CATS = Dataset("test", ("cat",), (1,), ())


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a closed folder and a closed file, in which this process has no more rights than any user."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    (path / "closed").mkdir()
    for name in ("tags.csv", "truth.json", "a.xml", "list.txt", "comp4_det_test_cat.txt", "boxes.parquet", "boxes.pkl"):
        for place in (path, path / "closed"):
            (place / name).write_text("x")
            (place / name).chmod(0o000)
    write_photo(path / "closed" / "photos" / "a.jpg")
    (path / "closed").chmod(0o000)
    try:
        "".encode("utf-8-sig")  # found before the rights are given up, in case they are those of Python's own folder
        with any_user():
            yield path
    finally:
        (path / "closed").chmod(0o755)
        shutil.rmtree(path)


@contextlib.contextmanager
def any_user() -> Iterator[None]:
    """Give up the rights of root, to whom nothing is closed, while the block runs."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


CLOSED: dict[str, Callable[[Path], object]] = {
    "truth file": lambda path: read_truth(path / "truth.json", {}),
    "truth in a closed folder": lambda path: read_truth(path / "closed" / "truth.json", {}),
    "truth folder": lambda path: read_truth(path / "closed", {}),
    "truth of an evaluation": lambda path: read_measured_truth(path / "closed" / "truth.json"),
    "tags": lambda path: read_tags(path / "tags.csv"),
    "tags in a closed folder": lambda path: read_tags(path / "closed" / "tags.csv"),
    "photos": lambda path: scan_photos(path / "closed"),
    "photos in a closed folder": lambda path: load_dataset(
        SplitSettings(images=path / "closed" / "photos", tags=path / "tags.csv"), name="train"
    ),
    "photos to check": lambda path: check_data(
        DataSettings(train=SplitSettings(images=path / "closed" / "photos", tags=path / "tags.csv"))
    ),
    "list": lambda path: read_image_list(path / "closed" / "list.txt"),
    "result file": lambda path: read_detections(path / "comp4_det_test_cat.txt", CATS),
    "result file in a closed folder": lambda path: read_detections(path / "closed" / "comp4_det_test_cat.txt", CATS),
    "table of proposals": lambda path: read_proposals(path / "boxes.parquet"),
    "store of proposals": lambda path: read_proposals(path / "closed" / "store"),
    "pickle of proposals": lambda path: read_foreign_proposals(path / "boxes.pkl", None, "auto"),
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_is_closed_is_named_in_one_sentence(folder, name):
    with pytest.raises(UserError, match=r"(?i)wanted .*permission denied") as caught:
        CLOSED[name](folder)
    assert "Errno" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_closed_photo_is_set_aside_and_the_rest_goes_on():
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    for number in range(2):
        write_photo(path / "photos" / f"{number}.jpg", number)
    (path / "tags.csv").write_text("0.jpg,cat\n1.jpg,dog\n")
    split = SplitSettings(images=path / "photos", tags=path / "tags.csv")
    assert len(load_dataset(split, name="train")) == 2
    (path / "photos" / "1.jpg").chmod(0o000)
    with any_user():
        dataset = load_dataset(split, name="train")
    shutil.rmtree(path)
    assert list(dataset.image_ids) == ["0.jpg"]
    assert list(dataset.bad) == [("1.jpg", "cannot be opened (Permission denied)")]


def test_folders_for_files_and_files_for_folders(tmp_path):
    dataset, _ = write_forms(tmp_path)
    photo = tmp_path / "photos" / "2008_000001.jpg"
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder.csv").mkdir()
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    for read, wanted in (
        (lambda: read_truth(photo / "truth.json", {}), "true boxes"),
        (lambda: read_truth(loop, {}), "true boxes"),
        (lambda: read_truth(tmp_path / "folder.json", {}), "neither VOC"),
        (lambda: read_truth(tmp_path / ("x" * 5000), {}), "true boxes"),
        (lambda: read_tags(tmp_path / "folder.csv"), "one folder of photos per class"),
        (lambda: read_tags(photo / "tags.csv"), "nothing there"),
        (lambda: read_tags(loop), "image tags"),
        (lambda: read_detections(tmp_path / "folder.json", dataset), "a folder"),
        (lambda: read_detections(photo / "x.json", dataset), "COCO results list"),
        (lambda: read_image_list(tmp_path / "folder.json"), "photos"),
        (lambda: read_image_list(photo / "list.txt"), "list of images"),
        (lambda: read_image_list(loop), "list of images"),
        (lambda: read_proposals(tmp_path / "folder.json"), "COCO results list"),
        (lambda: read_proposals(photo), "sealed store"),
        (lambda: scan_photos(photo), "photos"),
    ):
        with pytest.raises(UserError, match=wanted) as caught:
            read()
        assert "Errno" not in str(caught.value)
