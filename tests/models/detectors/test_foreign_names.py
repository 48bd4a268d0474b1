"""Our detectors by detectron2's and mmdet's names: there and back exact, and read by a model of ours again."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.detectors.dino.toys import mmdet_names as mmdet_by_hand
from tests.models.detectors.dino.toys import small_network
from weaksam.config import UserError
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.dino.names import our_names
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.models.detectors.first_weights import FirstWeights, folded, load_first_weights, own_names
from weaksam.models.detectors.foreign_names import detectron2_names, mmdet_names
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings, build_mask_rcnn
from weaksam.models.detectors.published import read_published, torchvision_names
from weaksam.pipeline.weight_conversion import convert_weights
from weaksam.store.weights import load_state, save_weights

RESNET50 = BackboneSettings(name="resnet50", weights="none")
SHAPE = MaskDetectorSettings(pyramid="full", fpn_channels=16, representation=16, mask_channels=16, mask_layers=2)
BACKGROUND = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_predictor.mask_fcn_logits": 1}
"""Rows of the background that detectron2 has not."""


@pytest.fixture(scope="module")
def ours() -> dict[str, Tensor]:
    """A Mask R-CNN of three classes whose tensors all differ, batch-norms of its frozen stages folded."""
    torch.manual_seed(0)
    state = build_mask_rcnn(RESNET50, SHAPE, 3).state_dict()
    return {
        key: torch.randn_like(value).abs() + 0.1 if value.is_floating_point() else value for key, value in state.items()
    }


def without_background(state: dict[str, Tensor]) -> dict[str, Tensor]:
    rows = {key: next((num for start, num in BACKGROUND.items() if key.startswith(start)), 0) for key in state}
    return {key: value[rows[key] :] for key, value in state.items()}


def test_detectron2_has_its_names_and_its_order(ours: dict[str, Tensor]) -> None:
    theirs = detectron2_names(ours, "it")
    assert {key.split(".")[0] for key in theirs} == {"backbone", "proposal_generator", "roi_heads"}
    for key in ("stem.conv1.norm.running_var", "res2.0.shortcut.norm.weight", "res5.2.conv3.weight"):
        assert f"backbone.bottom_up.{key}" in theirs
    scores = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(theirs[scores][-1], ours[scores][0]) and torch.equal(theirs[scores][0], ours[scores][1])
    assert len(theirs["roi_heads.box_predictor.bbox_pred.weight"]) == 3 * 4
    assert len(theirs["roi_heads.mask_head.predictor.weight"]) == 3
    assert torch.equal(theirs["backbone.fpn_output2.weight"], ours["backbone.fpn.layer_blocks.0.0.weight"])


def test_detectron2_there_and_back_is_exact(ours: dict[str, Tensor]) -> None:
    theirs = detectron2_names(ours, "it")
    back = folded(own_names(torchvision_names(theirs, "it")), ours)
    assert back.keys() == ours.keys()
    first, second = without_background(ours), without_background(back)
    assert [key for key in ours if not torch.equal(first[key], second[key])] == []
    assert detectron2_names(back, "it").keys() == theirs.keys()
    again = detectron2_names(back, "it")
    assert [key for key in theirs if not torch.equal(again[key], theirs[key])] == []


def test_a_file_is_read_by_a_detector_again(ours: dict[str, Tensor], tmp_path: Path) -> None:
    save_weights(tmp_path / "weights.safetensors", ours)
    text = convert_weights(tmp_path, "detectron2", tmp_path / "d2.pth")
    assert text.endswith("tensors by the names of detectron2")
    model = build_mask_rcnn(RESNET50, SHAPE, 3)
    published = read_published(tmp_path / "d2.pth", "it")
    assert load_first_weights(model, FirstWeights(published.state, "it", "wsis")) == []
    loaded = without_background(model.state_dict())
    assert [key for key, value in without_background(ours).items() if not torch.equal(loaded[key], value)] == []
    convert_weights(tmp_path / "d2.pth", "weaksam", tmp_path / "ours.safetensors")
    assert set(load_state(tmp_path / "ours.safetensors")) == set(own_names(published.state))


def test_mmdet_there_and_back_is_exact(tmp_path: Path) -> None:
    network = small_network()
    state = network.state_dict()
    by_hand = {key: value for key, value in mmdet_by_hand(network).items() if "num_batches" not in key}
    theirs = mmdet_names(state, "it")
    assert theirs.keys() == by_hand.keys() and all(torch.equal(theirs[key], by_hand[key]) for key in theirs)
    back = our_names(theirs, "it")
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    save_weights(tmp_path / "dino.safetensors", state)
    convert_weights(tmp_path / "dino.safetensors", "mmdet", tmp_path / "dino.pth")
    assert torch.load(tmp_path / "dino.pth", weights_only=True)["state_dict"].keys() == theirs.keys()
    convert_weights(tmp_path / "dino.pth", "weaksam", tmp_path / "back.safetensors")
    assert all(torch.equal(value, state[key]) for key, value in load_state(tmp_path / "back.safetensors").items())


def test_other_networks_are_one_sentence(tmp_path: Path, ours: dict[str, Tensor]) -> None:
    small = build_faster_rcnn(BackboneSettings(name="mobilenet_v2", weights="none"), SHAPE, 2).state_dict()
    with pytest.raises(UserError, match="it must be a Faster or Mask R-CNN with resnet50 and pyramid=full"):
        detectron2_names(small, "it")
    with pytest.raises(UserError, match="must be a DINO with resnet50 and implementation=mmdet for mmdet"):
        mmdet_names(ours, "it")
    for frame, out, message in (
        ("mmdett", "x.pth", "did you mean 'mmdet'"),
        ("mmdet", "x.safetensors", r"ends in \.pth for --to mmdet"),
    ):
        with pytest.raises(UserError, match=message):
            convert_weights(tmp_path, frame, tmp_path / out)
