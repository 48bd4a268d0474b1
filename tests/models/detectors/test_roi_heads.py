"""The heads' losses after RoI drop: by hand from single regions, of masks too, and in a training from its start on."""

from dataclasses import replace

import pytest
import torch

from tests.helpers import UNTRAINED_BACKBONE, instances
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, target_of, training_losses
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings, build_mask_rcnn
from weaksam.models.detectors.roi_heads import RoiLosses
from weaksam.models.roi.roi_drop import RoiDropSettings

LOSSES = RoiLosses(
    torch.tensor([1, 2, 0, 1, 2, 0]),
    torch.tensor([0.1, 6.0, 5.0, 0.2, 7.0, 0.3]),
    torch.tensor([1.0, 5.0, 0.0, 6.0, 2.0, 0.0]),
    torch.tensor([0.5, 0.7, 0.9, 0.3]),
)
"""The worked example of RoI drop, with masks of its four foreground regions."""


def values(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in losses.items()}


def test_losses_after_the_joint_gate() -> None:
    """Region 1 alone has both losses above 4; it leaves the mask term too, whose divisor stays four."""
    losses = LOSSES.reduced_after(RoiDropSettings(gate="joint"), active=True)
    assert values(losses) == pytest.approx(
        {
            "loss_classifier": 12.6 / 6,
            "loss_box_reg": 9 / 6,
            "loss_mask": 1.7 / 4,
            "dropped_class": 0.25,
            "dropped_box": 0.25,
            "dropped_mask": 0.25,
        }
    )


def test_losses_after_independent_gates() -> None:
    """Class losses of 1 and 4 go, box losses of 1 and 3, and of the masks 0.9, that of region 3."""
    losses = LOSSES.reduced_after(RoiDropSettings(gate="independent", mask_limit=0.8), active=True)
    assert values(losses) == pytest.approx(
        {
            "loss_classifier": 5.6 / 6,
            "loss_box_reg": 3 / 6,
            "loss_mask": 1.5 / 4,
            "dropped_class": 0.5,
            "dropped_box": 0.5,
            "dropped_mask": 0.25,
        }
    )


def test_masks_count_by_their_weights() -> None:
    """Weights of 1, 0.5, 0.25 and 0: (0.5 + 0.35 + 0.225) / 3, and without the third mask, whose loss is above 0.8.

    What is dropped is decided by the losses as they are; a mask without weight leaves the divisor, a dropped one stays.
    """
    weighted = replace(LOSSES, mask_weights=torch.tensor([1.0, 0.5, 0.25, 0.0]))
    plain = values(LOSSES.reduced())
    assert values(weighted.reduced()) == pytest.approx(plain | {"loss_mask": 1.075 / 3})
    losses = weighted.reduced_after(RoiDropSettings(gate="independent", mask_limit=0.8), active=True)
    assert float(losses["loss_mask"]) == pytest.approx(0.85 / 3)
    assert float(losses["dropped_mask"]) == 0.25
    nothing = replace(LOSSES, mask_weights=torch.zeros(4))
    assert values(nothing.reduced()) == pytest.approx(plain | {"loss_mask": 0.0})


def test_a_mask_without_weight_still_trains_its_box() -> None:
    """Of two objects: each region's mask counts by the weight of the object that it is assigned to."""
    settings = MaskDetectorSettings(fpn_channels=16, representation=32, mask_channels=16, mask_layers=1)
    torch.manual_seed(0)
    model = build_mask_rcnn(UNTRAINED_BACKBONE, settings, 2).train()
    objects = instances([[4, 4, 40, 40], [50, 10, 90, 60]], [0, 1])
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 6:36, 6:36], masks[1, 12:50, 52:88] = True, True
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))
    all_losses = {}
    for weights in (None, (1.0, 1.0), (0.0, 0.5), (0.0, 0.0)):
        weighted = objects if weights is None else objects.replace(mask_weights=torch.tensor(weights))
        torch.manual_seed(2)
        losses = training_losses(model, [image], [target_of(weighted, masks)])
        all_losses[weights] = values(losses)
    plain = all_losses[None]
    assert plain["loss_mask"] > 0.5 and plain["loss_box_reg"] > 0
    assert all_losses[1.0, 1.0] == pytest.approx(plain, rel=1e-5)
    assert all_losses[0.0, 0.0] == pytest.approx(plain | {"loss_mask": 0.0}, rel=1e-5)
    assert 0.2 < all_losses[0.0, 0.5]["loss_mask"] < 0.5  # about half of ln 2, of the second object's regions alone


def test_before_the_start_nothing_is_dropped() -> None:
    losses = LOSSES.reduced_after(RoiDropSettings(gate="independent", mask_limit=0.8), active=False)
    shares = {f"dropped_{term}": 0.0 for term in ("class", "box", "mask")}
    assert values(losses) == pytest.approx(values(LOSSES.reduced()) | shares)


def test_no_region_at_all() -> None:
    nothing = RoiLosses(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0), torch.zeros(0))
    losses = nothing.reduced_after(RoiDropSettings(gate="joint"), active=True)
    assert set(values(losses).values()) == {0.0}


@pytest.mark.parametrize("build", [build_faster_rcnn, build_mask_rcnn])
def test_a_step_of_the_detector(build) -> None:
    """With limits of 0 every foreground region leaves: the boxes' loss is 0 and their weights get no gradient."""
    torch.manual_seed(0)
    settings = MaskDetectorSettings(
        fpn_channels=16, representation=32, trainable_layers=1, mask_channels=16, mask_layers=1
    )
    model = build(UNTRAINED_BACKBONE, settings, 2)
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[0, 10:40, 10:40] = True
    targets = [target_of(instances([[8, 8, 42, 42]], [0]), masks if build is build_mask_rcnn else None)]
    model.roi_heads.drop = RoiDropSettings(gate="independent", class_limit=0, box_limit=0, mask_limit=0)
    model.roi_heads.dropping = True
    losses = training_losses(model, [torch.rand(3, 64, 96)], targets)
    dropped = {name: float(value) for name, value in losses.items() if name.startswith("dropped_")}
    assert set(dropped.values()) == {1.0}
    assert all(not losses[name].requires_grad for name in dropped)
    assert losses["loss_box_reg"].item() == 0
    assert "loss_mask" not in losses or losses["loss_mask"].item() == 0
    losses["loss_box_reg"].backward()
    assert float(model.roi_heads.box_predictor.bbox_pred.weight.grad.abs().sum()) == 0
