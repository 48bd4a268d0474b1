"""A prediction converts for other tools, to the letter, and draws itself."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import instances, noise_photo, write_photo
from weaksam.config import UserError
from weaksam.prediction.result import Prediction
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask


def prediction(masks: bool = False, photo: Path | np.ndarray | None = None) -> Prediction:
    """A dog and a cat on a photo of 12 x 16 pixels."""
    objects = instances([[1, 2, 5, 9], [4, 0, 16, 12]], [1, 0], [0.75, 0.25])
    if masks:
        filled = torch.zeros(2, 12, 16, dtype=torch.bool)
        filled[0, 2:9, 1:5] = True
        filled[1, :, 4:] = True
        objects = objects.replace(masks=tuple(rle_from_mask(mask) for mask in filled))
    return Prediction("a.png", (12, 16), objects, ("cat", "dog"), (3, 7), photo)


def test_it_says_what_it_holds() -> None:
    value = prediction(masks=True)
    assert len(value) == 2 and value.names == ["dog", "cat"] and value.labels.tolist() == [1, 0]
    assert (
        value.masks is not None and value.masks.shape == (2, 12, 16) and value.masks.sum((1, 2)).tolist() == [28, 144]
    )
    assert prediction().masks is None
    assert value.above(0.5).names == ["dog"] and len(value.above(0.76)) == 0
    assert value.above(0.76).masks.shape == (0, 12, 16)  # type: ignore[union-attr]


def test_entries_of_coco() -> None:
    entries = prediction().to_coco(image_id=5)
    assert entries == [
        {"image_id": 5, "category_id": 7, "bbox": [1.0, 2.0, 4.0, 7.0], "score": 0.75},
        {"image_id": 5, "category_id": 3, "bbox": [4.0, 0.0, 12.0, 12.0], "score": 0.25},
    ]
    assert prediction(masks=True).to_coco()[0]["segmentation"]["size"] == [12, 16]
    assert prediction().to_coco()[0]["image_id"] == "a.png"


def test_plain_values() -> None:
    value = prediction().as_dict()
    assert (value["file"], value["width"], value["height"]) == ("a.png", 16, 12)
    assert value["detections"][0] == {"class": "dog", "score": 0.75, "box": [1.0, 2.0, 5.0, 9.0]}
    assert "mask" in prediction(masks=True).as_dict()["detections"][1]


@pytest.mark.filterwarnings("ignore")  # supervision warns of what else it could import
def test_detections_of_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    detections = prediction(masks=True).to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.xyxy.tolist() == [[1, 2, 5, 9], [4, 0, 16, 12]] and detections.class_id.tolist() == [1, 0]
    assert detections.confidence.tolist() == [0.75, 0.25] and detections.data["class_name"].tolist() == ["dog", "cat"]
    assert detections.mask.sum((1, 2)).tolist() == [28, 144]
    nothing = prediction(masks=True).above(1.0).to_supervision()
    assert len(nothing) == 0 and nothing.mask.shape == (0, 12, 16)
    assert prediction().to_supervision().mask is None


def test_it_draws_itself_on_its_photo(tmp_path: Path) -> None:
    pixels = noise_photo((12, 16))
    drawn = np.asarray(prediction(photo=pixels).draw(0.5))
    assert drawn.shape == (12, 16, 3) and not np.array_equal(drawn, pixels)
    assert np.array_equal(np.asarray(prediction(photo=pixels).draw(1.0)), pixels)  # nothing to draw
    path = write_photo(tmp_path / "a.png")
    png = Image.open(io.BytesIO(prediction(photo=path)._repr_png_()))
    assert (png.format, png.size) == ("PNG", (16, 12))
    assert prediction(photo=noise_photo((50, 100))).draw(max_side=40).size == (40, 20)
    with pytest.raises(UserError, match=r"wanted the pixels of a\.png to draw on"):
        prediction().draw()
    path.unlink()
    with pytest.raises(UserError, match="cannot be opened"):
        prediction(photo=path).draw()


def test_nothing_detected_is_a_value_too() -> None:
    nothing = Prediction("a.png", (12, 16), Instances.empty(scored=True), ("cat",), (1,), noise_photo((12, 16)))
    assert len(nothing) == 0 and nothing.to_coco() == [] and nothing.as_dict()["detections"] == []
    assert nothing.names == [] and nothing.draw().size == (16, 12)
