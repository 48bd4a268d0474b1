"""The heads' losses after RoI drop: by hand from single regions, of masks too, and in a training from its start on."""

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
    return {name: float(value) for name, value in losses.items()}


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
