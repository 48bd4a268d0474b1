"""Detecting with torchvision's detectors where nothing is found, on photos of any shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers import CPU, UNTRAINED_BACKBONE, context, noise_photo
from weaksam.data.detection_stores import instances_of
from weaksam.engine.detectors.detecting import detect_photo, detect_splits
from weaksam.engine.detectors.photos import load_photo, load_scales
from weaksam.engine.detectors.training import TrainableSettings
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, detect
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn, predict_masks
from weaksam.stages.wsis import WsisSettings
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances

SMALL = {
    "short_side": 64, "long_side": 96, "fpn_channels": 8, "representation": 8, "rpn_pre_nms": 20, "rpn_post_nms": 10,
    "max_boxes": 5,
}  # fmt: skip
SIZES = {"black.png": (60, 80), "line.png": (1, 3000), "pixel.png": (1, 1), "tower.png": (3000, 1)}
DETECTORS = {
    "faster_rcnn": (TrainableSettings(**SMALL, flip_test=False), build_faster_rcnn),
    "faster_rcnn flipped": (TrainableSettings(**SMALL, flip_test=True), build_faster_rcnn),
    "mask_rcnn": (WsisSettings(**SMALL, mask_channels=8, mask_layers=1, detect_train=True), build_mask_rcnn),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Black photos of odd shapes."""
    folder = tmp_path_factory.mktemp("photos")
    for name, (height, width) in SIZES.items():
        Image.new("RGB", (width, height)).save(folder / name)
    samples = [Sample(name, folder / name, size, (), None, place) for place, (name, size) in enumerate(SIZES.items())]
    return Dataset("odd", ("cat", "dog"), (1, 2), tuple(samples))


@pytest.mark.parametrize("name", DETECTORS)
def test_nothing_found_has_the_columns_of_something_found(name: str, dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings, build = DETECTORS[name]
    model = build(UNTRAINED_BACKBONE, settings, 2)
    for sample in dataset:
        photo = load_photo(sample, settings.short_side, settings.long_side)
        model.roi_heads.score_thresh = 0.0
        full = detect_photo(model.eval(), [photo], settings, CPU)
        model.roi_heads.score_thresh = 1.0
        nothing = detect_photo(model, [photo], settings, CPU)
        assert len(nothing) == 0 and nothing.scores is not None and nothing.scores.dtype == torch.float32
        assert (nothing.masks is None) == (full.masks is None) == (name != "mask_rcnn")
        assert len(Instances.cat([nothing, full])) == len(full)
        assert all(rle["size"] == list(sample.size) for rle in full.masks or ())
    stores = detect_splits(context(tmp_path, dataset, test=dataset), settings, model, "stage", "weights")
    for split, store in stores.items():
        detections = instances_of(store)
        assert len(detections) == len(dataset) and all(len(of_photo) == 0 for of_photo in detections.values())
        assert (tmp_path / "stage" / f"detections_{split}.json").read_text().strip() == "[]"
    again = detect_splits(context(tmp_path, dataset, test=dataset), settings, model, "stage", "weights")
    assert {split: store.folder for split, store in again.items()} == {s: store.folder for s, store in stores.items()}


@pytest.mark.parametrize("name", ["faster_rcnn flipped", "mask_rcnn"])
def test_several_scales_are_merged_into_what_single_ones_give(name: str, dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings, build = DETECTORS[name]
    settings = settings.model_copy(update={"test_scales": (1.0, 1.5), "flip_test": True, "min_score": 0.0})
    model = build(UNTRAINED_BACKBONE, settings, 2).eval()
    model.roi_heads.score_thresh = 0.0
    path = tmp_path / "noise.png"
    Image.fromarray(noise_photo((60, 80))).save(path)
    photos = load_scales(Sample(path.name, path, (60, 80), (), None, 0), 64, 96, settings.test_scales)
    assert [photo.image.shape[1:] for photo in photos] == [(64, 85), (96, 128)]
    merged = detect_photo(model, photos, settings, CPU)
    views = [detect_photo(model, [photo], settings, CPU) for photo in photos]
    assert 0 < len(merged) <= settings.max_boxes
    assert merged.scores.tolist() == sorted(merged.scores.tolist(), reverse=True)
    assert merged.scores[0] >= max(view.scores[0] for view in views) - 1e-6
    if name == "mask_rcnn":
        assert len(merged.masks) == len(merged) and merged.masks[0]["size"] == [60, 80]
        whole = model.train(False)
        (raw,) = detect(whole, [photos[0].image])
        again = predict_masks(whole, photos[0].image, raw["boxes"], raw["labels"])
        torch.testing.assert_close(again, raw["masks"], rtol=1e-4, atol=1e-5)
