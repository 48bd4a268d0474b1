"""The truth of many photos made at once is that of one photo after the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from weaksam.config import UserError
from weaksam.data.image_names import ImageNames
from weaksam.data.photos import Photo
from weaksam.data.truth import SplitTruth, read_split_truth
from weaksam.data.truth_table import TruthTable

SIZE = (40, 60)
NAMES = tuple(f"{number:02d}.jpg" for number in range(30))
ODD = {
    "03.jpg": [[1, 1, 5, 5], [2, 2, 5, 5], [1, 1, 5, 5]],  # the first one again
    "04.jpg": [[50, 30, 10.4, 10.4]],  # reaches out by less than half a pixel
    "05.jpg": [[50, 30, 12, 10], [0, 0, 3, 3]],  # by more
    "06.jpg": [[-2, 3, 9, 9]],
    "07.jpg": [],
    "08.jpg": [[70, 3, 0, 9]],  # without area, and outside
}
"""Boxes (x, y, width, height) of images that are not like the others."""


def truth_file(path: Path, masks: bool = False) -> Path:
    """A COCO file of `NAMES`, its objects in no order of images; every third image states no size."""
    random = np.random.default_rng(0)
    images, objects = [], []
    for number, name in enumerate(NAMES):
        size = {"height": SIZE[0], "width": SIZE[1]} if number % 3 or masks else {}
        images.append({"id": 100 - number, "file_name": name, **size})
        plain = [[*random.integers(0, 20, 2).tolist(), 7.5, 9 + index] for index in range(number % 4)]
        for index, box in enumerate(ODD.get(name, plain)):
            kind = {"category_id": 1 + index % 2, "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9]] if masks else []}
            objects.append({"image_id": 100 - number, "bbox": box, "area": box[2] * box[3], **kind})
    random.shuffle(objects)
    annotations = [{"id": number + 1, **entry} for number, entry in enumerate(objects)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def read(path: Path, classes: tuple[str, ...] | None = None, size: tuple[int, int] = SIZE) -> SplitTruth:
    photos = {name: Photo(path.parent / name, size, 1, "", 0) for name in NAMES[:-2]}
    return read_split_truth(path, photos, ImageNames(list(photos)), classes)


def assert_same(truth: SplitTruth, wanted: SplitTruth) -> None:
    assert truth.objects.keys() == wanted.objects.keys()
    for name, objects in wanted.objects.items():
        for field, value in vars(objects).items():
            own = getattr(truth.objects[name], field)
            if isinstance(value, torch.Tensor):
                assert own.dtype == value.dtype and torch.equal(own, value), (name, field)
            else:
                assert own == value, (name, field)
    assert (truth.numbers, truth.notes, truth.without_photo) == (wanted.numbers, wanted.notes, wanted.without_photo)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("classes", [None, ("dog",), ("dog", "cat")])
def test_many_at_once_are_each_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: tuple[str, ...] | None, masks: bool
) -> None:
    path = truth_file(tmp_path / "truth.json", masks)
    together = read(path, classes)
    monkeypatch.setattr(TruthTable, "fitting", lambda *_: {})
    one_by_one = read(path, classes)
    assert_same(together, one_by_one)
    assert len(one_by_one.objects) == len(NAMES) - 2
    assert any("reaches out" in note for note in together.notes) and any("repeats" in note for note in together.notes)


def test_what_needs_no_change_is_made_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, object] = {}
    fitting = TruthTable.fitting

    def noted(self: TruthTable, *arguments: object) -> dict[str, object]:
        made.update(fitting(self, *arguments))
        return made

    monkeypatch.setattr(TruthTable, "fitting", noted)
    read(truth_file(tmp_path / "truth.json"))
    assert made.keys() == set(NAMES[:-2]) - {"03.jpg", "05.jpg", "06.jpg", "08.jpg"}


def test_photos_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found that 01\.jpg is 61 x 40 but the truth says 60 x 40"):
        read(truth_file(tmp_path / "truth.json"), size=(40, 61))
