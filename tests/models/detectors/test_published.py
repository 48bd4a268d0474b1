"""Published detectors: detectron2's names there and back, the background's place, names without a place."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn

from tests.helpers import pickled
from weaksam.config import UserError
from weaksam.models.detectors.published import read_published, torchvision_names
from weaksam.store.weights import save_weights

NUM_CLASSES = 3


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    """Names and shapes of torchvision's Mask R-CNN of three classes, with small tensors told apart by their values."""
    with torch.device("meta"):
        model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    # The first axis is whole, for classes are rows; the others shrink to one element
    return {
        key: torch.full((value.shape[0], *[1] * (value.ndim - 1)), float(index))
        + torch.arange(value.shape[0]).reshape(-1, *[1] * (value.ndim - 1)) / 10_000
        for index, (key, value) in enumerate(state.items())
    }


def detectron2_name(key: str) -> str:
    """Detectron2's name for one of torchvision's, written down from its documentation of modules."""
    for pattern, replacement in [
        (r"backbone\.body\.conv1\.", "backbone.bottom_up.stem.conv1."),
        (r"backbone\.body\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
        (r"backbone\.body\.layer(\d)\.(\d+)\.bn(\d)\.", r"backbone.bottom_up.res\1+.\2.conv\3.norm."),
        (r"backbone\.body\.layer(\d)\.(\d+)\.conv(\d)\.", r"backbone.bottom_up.res\1+.\2.conv\3."),
        (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.0\.", r"backbone.bottom_up.res\1+.\2.shortcut."),
        (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.1\.", r"backbone.bottom_up.res\1+.\2.shortcut.norm."),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"backbone.fpn_lateral\1++."),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"backbone.fpn_output\1++."),
        (r"rpn\.head\.conv\.0\.0\.", "proposal_generator.rpn_head.conv."),
        (r"rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
        (r"rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
        (r"roi_heads\.box_head\.fc6\.", "roi_heads.box_head.fc1."),
        (r"roi_heads\.box_head\.fc7\.", "roi_heads.box_head.fc2."),
        (r"roi_heads\.mask_head\.(\d)\.0\.", r"roi_heads.mask_head.mask_fcn\1+."),
        (r"roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.mask_head.deconv."),
        (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_heads.mask_head.predictor."),
    ]:
        key = re.sub(f"^{pattern}", replacement, key)
    # A number before one plus is counted from one, before two pluses from two
    return re.sub(r"(\d)(\++)", lambda match: str(int(match[1]) + len(match[2])), key)


@pytest.fixture(scope="module")
def detectron2(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as detectron2 holds them: background last among scores, absent from offsets and masks."""
    state = {detectron2_name(key): value for key, value in theirs.items()}
    for key, value in state.items():
        if "box_predictor.cls_score" in key:
            state[key] = torch.cat([value[1:], value[:1]])
        elif "box_predictor.bbox_pred" in key:
            state[key] = value[4:]
        elif "mask_head.predictor" in key:
            state[key] = value[1:]
    return state | {
        "pixel_mean": torch.zeros(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }


def check_same(state: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert state.keys() == theirs.keys()
    for key, value in state.items():
        expected = theirs[key].clone()
        if "roi_heads.box_predictor.bbox_pred" in key:
            expected[:4] = 0
        elif "mask_fcn_logits" in key:
            expected[:1] = 0
        assert torch.equal(value, expected), key


def test_detectron2_names_and_the_place_of_the_background(
    theirs: dict[str, Tensor], detectron2: dict[str, Tensor]
) -> None:
    assert "backbone.bottom_up.res2.0.shortcut.norm.running_var" in detectron2
    assert "backbone.fpn_lateral5.weight" in detectron2
    assert "roi_heads.mask_head.mask_fcn4.bias" in detectron2
    check_same(torchvision_names(detectron2, "the detector"), theirs)


@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_of_arrays(
    tmp_path: Path, theirs: dict[str, Tensor], detectron2: dict[str, Tensor], nested: bool
) -> None:
    arrays = {key: value.numpy() for key, value in detectron2.items()}
    path = pickled(tmp_path / "model.pkl", {"model": arrays, "__author__": "somebody"} if nested else arrays)
    check_same(read_published(path, "the detector").state, theirs)


def test_files_of_tensors(tmp_path: Path, theirs: dict[str, Tensor], detectron2: dict[str, Tensor]) -> None:
    torch.save({"model": detectron2}, tmp_path / "detectron2.pth")
    save_weights(tmp_path / "theirs.safetensors", theirs)
    check_same(read_published(tmp_path / "detectron2.pth", "the detector").state, theirs)
    state = read_published(tmp_path / "theirs.safetensors", "the detector").state
    assert state.keys() == theirs.keys()
    assert all(torch.equal(state[key], value) for key, value in theirs.items())


def test_older_names_of_torchvision(tmp_path: Path, theirs: dict[str, Tensor]) -> None:
    older = {}
    for key, value in theirs.items():
        key = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", key)
        key = re.sub(r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv.", key)
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}.", key)
        older[key] = value
    assert {"backbone.fpn.inner_blocks.0.weight", "roi_heads.mask_head.mask_fcn4.bias"} <= older.keys()
    torch.save(older | {"backbone.body.bn1.num_batches_tracked": torch.tensor(1)}, tmp_path / "older.pth")
    state = read_published(tmp_path / "older.pth", "the detector").state
    assert state.keys() == theirs.keys()
    assert all(torch.equal(state[key], value) for key, value in theirs.items())


def test_a_name_without_a_place(detectron2: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match=r"found the tensor 'roi_heads\.1\.extra\.weight', which has no place in one"):
        torchvision_names(detectron2 | {"roi_heads.1.extra.weight": torch.zeros(1)}, "the detector")


@pytest.mark.parametrize("content", [{"model": {"a": "text"}}, [np.zeros(2)], {}, {"model": 3}])
def test_a_pickle_of_something_else(tmp_path: Path, content: object) -> None:
    path = pickled(tmp_path / "model.pkl", content)
    with pytest.raises(UserError, match="found a pickle without named arrays: give another file"):
        read_published(path, "the detector")
