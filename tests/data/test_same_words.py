"""``data check`` lists what a run refuses, in the same words: one sentence for one fault."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weaksam.config import UserError
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings, load_splits

IMAGES = [{"id": n, "file_name": f"{name}.png", "width": 40, "height": 30} for n, name in enumerate("ab", start=1)]
BOXES = [{"id": n, "image_id": n, "category_id": n, "bbox": [2, 3, 20, 10]} for n in (1, 2)]
CLASSES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two photos of noise, 40 x 30."""
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate("ab"):
        noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def coco(**changes: object) -> str:
    """A truth whose first annotation, or with the name of a section that section, has other values."""
    sections = {"images": IMAGES, "annotations": BOXES, "categories": CLASSES}
    of_section = {key: value for key, value in changes.items() if key in sections}
    boxes = [{**BOXES[0], **{key: value for key, value in changes.items() if key not in sections}}, BOXES[1]]
    return json.dumps({**sections, "annotations": boxes, **of_section})


TAGS = {
    "a cell of 200,000 letters": ("odd.csv", f"file,tags\na.png,{'x' * 200_000}\nb.png,dog\n"),
    "a quote that never ends": ("odd.csv", 'file,tags\na.png,"cat\nb.png,dog\n'),
    "flags of 1e400": ("odd.csv", "file,cat,dog\na.png,1e400,0\nb.png,0,1\n"),
    "escapes": ("odd.csv", "file,tags\na.png,\x1b[31mcat\nb.png,dog\n"),
    "scores": ("odd.csv", "file,tags\na.png,0.5\nb.png,dog\n"),
    "no photo in a row": ("odd.csv", "file,tags\n,cat\na.png,dog\n"),
    "nulls": ("odd.csv", "file,tags\na\0.png,cat\n"),
    "no UTF-8": ("odd.csv", b"file,tags\na.png,c\xe9\n"),
    "an empty table": ("odd.csv", ""),
    "a number": ("odd.json", "7"),
    "brackets": ("odd.json", "[" * 1000),
    "tags of scores": ("odd.json", '{"a.png": {"cat": 0.3}, "b.png": ["dog"]}'),
    "tags of escapes": ("odd.json", '{"a.png": ["c\\u001b[31mat"], "b.png": ["dog"]}'),
    "a photo twice": ("odd.json", '{"a.png": ["cat"], "a.png": ["dog"]}'),
    "lines of numbers": ("odd.jsonl", "1\n2\n"),
}
TRUTHS = {
    "corners that are not finite": coco(bbox=[1, 2, float("inf"), 4]),
    "a side below 0": coco(bbox=[1, 2, -3, 4]),
    "three numbers": coco(bbox=[1, 2, 3]),
    "a polygon far away": coco(segmentation=[[1, 1, 1e6, 1, 9, 9]]),
    "run lengths that do not fill": coco(segmentation={"size": [30, 40], "counts": [1, 2]}),
    "an unknown category": coco(category_id=7),
    "an unknown image": coco(image_id=7),
    "a huge image": coco(images=[{**IMAGES[0], "width": 10**7, "height": 10**7}, IMAGES[1]]),
    "an id of two images": coco(images=[IMAGES[0], {**IMAGES[1], "id": 1}]),
    "a category of escapes": coco(categories=[{"id": 1, "name": "c\x1bat"}, CLASSES[1]]),
    "annotations that are numbers": coco(annotations=[1, 2]),
    "no images": coco(images=7),
    "text": "{",
}


def both(data: DataSettings) -> tuple[str, list[str]]:
    """The sentence with which a run refuses ``data``, and the lines of the check."""
    with pytest.raises(UserError) as refusal:
        load_splits(data)
    return str(refusal.value), list(check_data(data))


@pytest.mark.parametrize("name", TAGS)
def test_tags_are_refused_in_the_words_of_the_check(name, folder) -> None:
    file, content = TAGS[name]
    path = folder / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence, lines = both(DataSettings(train=SplitSettings(images=folder / "photos", tags=path)))
    assert f"train: {sentence}" in lines


@pytest.mark.parametrize("name", TRUTHS)
def test_truths_are_refused_in_the_words_of_the_check(name, folder) -> None:
    (folder / "odd.json").write_text(TRUTHS[name])
    split = SplitSettings(images=folder / "photos", truth=folder / "odd.json")
    sentence, lines = both(DataSettings(train=split))
    assert f"train: {sentence}" in lines
