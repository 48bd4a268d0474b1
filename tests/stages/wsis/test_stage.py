"""Pseudo masks and Mask R-CNN: choices and pasting by hand, a mask head that learns, and the files of a run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import MaskRCNN

from tests.helpers import context
from weaksam.config import UserError
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, detect, training_losses
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn, paste_masks, start_from_detector
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.wsis import WsisSettings, run
from weaksam.store.weights import load_state, save_weights
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle, pairwise_mask_iou, rle_from_mask

TINY = WsisSettings(
    short_side=64,
    long_side=96,
    fpn_channels=16,
    representation=32,
    mask_channels=16,
    mask_layers=1,
    num_epochs=1,
    batch_size=2,
    warmup_steps=1,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    min_score=0.0,
    max_boxes=5,
)
NONE = BackboneSettings(weights="none")


def test_pasting_puts_a_full_mask_exactly_on_its_box():
    probabilities = torch.ones(2, 1, 28, 28)
    probabilities[1, :, :, 14:] = 0  # the right half is background
    boxes = torch.tensor([[10.0, 20.0, 50.0, 60.0], [100.0, 20.0, 156.0, 60.0]])
    full, half = (mask_from_rle(rle) for rle in paste_masks(probabilities, boxes, (80, 200)))
    assert full.shape == (80, 200)
    assert full[22:58, 12:48].all() and int(full.sum()) == pytest.approx(40 * 40, rel=0.12)
    assert half[25:55, 104:124].all() and not half[:, 132:].any()
    assert paste_masks(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), (80, 200)) == ()


def test_many_masks_pasted_in_chunks_equal_one_by_one():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(19, 1, 28, 28, generator=generator)
    corner = torch.rand(19, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 5 + 30 * torch.rand(19, 2, generator=generator)], dim=1)
    together = paste_masks(probabilities, boxes, (64, 96))
    apart = tuple(paste_masks(probabilities[i : i + 1], boxes[i : i + 1], (64, 96))[0] for i in range(19))
    assert together == apart


def test_starting_from_the_detector_changes_no_box():
    torch.manual_seed(0)
    detector = build_faster_rcnn(NONE, TINY, 2)
    segmenting = build_mask_rcnn(NONE, TINY, 2)
    start_from_detector(segmenting, detector.state_dict())
    image = torch.rand(3, 64, 96)
    (expected,), (found,) = detect(detector, [image]), detect(segmenting, [image])
    assert len(found["boxes"]) > 0
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(found[name], expected[name])
    assert found["masks"].shape == (len(found["boxes"]), 1, 28, 28)


def test_another_detector_is_refused_in_one_sentence():
    state = build_faster_rcnn(NONE, TINY, 3).state_dict()
    with pytest.raises(UserError, match=r"roi_heads\.box_predictor") as caught:
        start_from_detector(build_mask_rcnn(NONE, TINY, 2), state)
    assert "\n" not in str(caught.value)


def test_the_mask_loss_starts_at_that_of_a_coin_and_falls():
    torch.manual_seed(0)
    model = build_mask_rcnn(NONE, TINY, 2)
    masks = torch.zeros(1, 64, 96, dtype=torch.uint8)
    masks[0, 10:50, 20:40] = 1  # the left half of the box
    target = {"boxes": torch.tensor([[20.0, 10.0, 60.0, 50.0]]), "labels": torch.tensor([1]), "masks": masks}
    optimizer = torch.optim.Adam(model.roi_heads.mask_predictor.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        loss = training_losses(model, [torch.ones(3, 64, 96) * 0.5], [target])["loss_mask"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.6931, abs=0.02)  # ln 2
    assert losses[-1] < 0.8 * losses[0]


@pytest.fixture(scope="module")
def disc(tmp_path_factory):
    """Two photos of a bright disc on a dark ground, the second without a pseudo box, and the disc's mask."""
    folder = tmp_path_factory.mktemp("disc")
    rows, columns = np.mgrid[:64, :96]
    inside = (rows - 32) ** 2 + (columns - 50) ** 2 <= 20**2
    samples = []
    for number in range(2):
        noise = np.random.default_rng(number).integers(-8, 8, (64, 96, 3))
        image = np.where(inside[..., None], 210, 40) + noise
        path = folder / f"{number}.png"
        Image.fromarray(image.astype(np.uint8)).save(path)
        truth = Instances(torch.tensor([[30.0, 12.0, 71.0, 53.0]]), torch.tensor([1]))
        samples.append(Sample(path.name, path, (64, 96), (1,), truth, number + 10))
    return Dataset("disc", ("square", "disc"), (1, 2), tuple(samples), ()), torch.from_numpy(inside)


def test_a_run_from_boxes_to_masks(tmp_path, disc):
    dataset, inside = disc
    run_context = context(tmp_path, dataset, test=dataset, backbone=NONE)
    pseudo = {"0.png": dataset.by_id["0.png"].truth.replace(scores=torch.tensor([0.75]))}
    detector = tmp_path / "detector.safetensors"
    save_weights(detector, build_faster_rcnn(NONE, TINY, 2).state_dict())
    result = run(run_context, TINY, RegionTreeSegmenter(), pseudo, detector)

    content = json.loads((tmp_path / "wsis" / "pseudo_masks_train.json").read_text())
    assert [image["id"] for image in content["images"]] == [10, 11]
    (annotation,) = content["annotations"]
    assert (annotation["image_id"], annotation["category_id"], annotation["score"]) == (10, 2, 0.75)
    assert annotation["bbox"] == [30, 12, 41, 41]
    assert float(pairwise_mask_iou([annotation["segmentation"]], [rle_from_mask(inside)])) > 0.9

    rows = json.loads((tmp_path / "wsis" / "detections_test.json").read_text())
    assert {row["image_id"] for row in rows} == {10, 11}
    assert all(row["segmentation"]["size"] == [64, 96] for row in rows)
    assert set(load_state(result.weights)) == set(build_mask_rcnn(NONE, TINY, 2).state_dict())
    found = result.detections("test")["0.png"]
    assert found.masks is not None and len(found.masks) == len(found) <= 5

    again = run(run_context, TINY, RegionTreeSegmenter(), pseudo, detector)
    assert again.weights == result.weights and again.pseudo_masks.folder == result.pseudo_masks.folder


class Unasked:
    """A segmenter that cannot be asked."""

    name = fingerprint = "unasked"


def test_true_masks_are_kept_for_the_ceiling(tmp_path, disc):
    dataset, inside = disc
    run_context = context(tmp_path, dataset, backbone=NONE)
    rle = rle_from_mask(inside)
    truth = {s.image_id: s.truth.replace(masks=(rle,)) for s in dataset}
    result = run(run_context, TINY, Unasked(), truth, name="wsis_ceiling")
    assert [row["rles"] for row in result.pseudo_masks.rows()] == [[rle], [rle]]
    assert dict(result.stores) == {}
    assert (tmp_path / "wsis_ceiling" / "pseudo_masks_train.json").is_file()


def test_detecting_equals_torchvisions_own_forward():
    torch.manual_seed(0)
    model = build_mask_rcnn(NONE, TINY, 2).eval()
    image = torch.rand(3, 64, 96)
    with torch.inference_mode():
        (expected,) = MaskRCNN.forward(model, [image])
    (found,) = detect(model, [image])
    pasted = paste_masks(found["masks"], found["boxes"], (64, 96))
    assert len(pasted) == len(expected["masks"]) > 0
    for rle, mask in zip(pasted, expected["masks"], strict=True):
        assert torch.equal(mask_from_rle(rle), mask[0] >= 0.5)
