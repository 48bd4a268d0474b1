"""RoI drop against a worked example, a plain loop, and the cases where nothing may be dropped."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from weaksam.models.roi.roi_drop import RoiDropSettings, dropped_regions, mean_of_kept

CLASS_LOSS = torch.tensor([0.1, 6.0, 5.0, 0.2, 7.0, 0.3])
BOX_LOSS = torch.tensor([1.0, 5.0, 0.0, 6.0, 2.0, 0.0])
FOREGROUND = torch.tensor([True, True, False, True, True, False])


def terms(settings: RoiDropSettings) -> tuple[float, float]:
    """Class and box loss of the worked example."""
    losses = {"class": CLASS_LOSS, "box": BOX_LOSS}
    dropped = dropped_regions(losses, FOREGROUND, settings)
    return tuple(float(mean_of_kept(losses[term], dropped[term], 6)) for term in ("class", "box"))


@pytest.mark.parametrize(
    ("settings", "class_loss", "box_loss"),
    [
        # All regions: 18.6 / 6 and 14 / 6
        (RoiDropSettings(gate="independent", class_limit=100, box_limit=100), 3.1, 14 / 6),
        # Region 1 alone has both losses above 4
        (RoiDropSettings(gate="joint"), 2.1, 1.5),
        # By its equation the class term drops 1, 2 and 4, the box term 1 and 3
        (RoiDropSettings(gate="independent", drop_background=True), 0.1, 0.5),
        # Region 2 is background and stays
        (RoiDropSettings(gate="independent"), 5.6 / 6, 0.5),
        # Of the foreground's class losses 0.1 to 7 those above 3.55 go: 1 and 4; of its box losses 1 to 6 those above
        # 3.5: 1 and 3
        (RoiDropSettings(gate="independent", threshold="normalised", class_limit=0.5, box_limit=0.5), 5.6 / 6, 0.5),
        # One of four: region 4 for the class, region 3 for the box
        (RoiDropSettings(gate="independent", threshold="share", class_limit=0.25, box_limit=0.25), 11.6 / 6, 8 / 6),
        # Half of four: class 1 and 4, box 1 and 3; the joint gate drops the one in both
        (RoiDropSettings(gate="joint", threshold="share", class_limit=0.5, box_limit=0.5), 2.1, 1.5),
    ],
)
def test_worked_example(settings: RoiDropSettings, class_loss: float, box_loss: float) -> None:
    assert terms(settings) == pytest.approx((class_loss, box_loss), rel=1e-6)


def plainly_dropped(losses: dict[str, Tensor], foreground: Tensor, settings: RoiDropSettings) -> dict[str, list[bool]]:
    """The same, a region at a time."""
    above = {term: [False] * len(loss) for term, loss in losses.items()}
    for term, limit in settings.limits().items():
        values = losses[term].double().tolist()
        all_count = term == "class" and settings.drop_background and settings.gate == "independent"
        counted = [row for row in range(len(values)) if foreground[row] or all_count]
        ranked = sorted(counted, key=lambda row: -values[row])
        for row in counted:
            if settings.threshold == "loss":
                above[term][row] = values[row] > limit
            elif settings.threshold == "normalised":
                least, greatest = min(values[row] for row in counted), max(values[row] for row in counted)
                above[term][row] = values[row] - least > limit * (greatest - least)
            else:
                above[term][row] = ranked.index(row) < math.floor(limit * len(counted))
    if settings.gate == "independent":
        return above
    joint = [of_class and of_box for of_class, of_box in zip(above["class"], above["box"], strict=True)]
    return dict.fromkeys(losses, joint)


@pytest.mark.parametrize("gate", ["independent", "joint"])
@pytest.mark.parametrize("threshold", ["loss", "normalised", "share"])
@pytest.mark.parametrize("drop_background", [False, True])
@pytest.mark.parametrize("mask_limit", [None, 0.4])
def test_equals_a_plain_loop(gate: str, threshold: str, drop_background: bool, mask_limit: float | None) -> None:
    generator = torch.Generator().manual_seed(5)
    settings = RoiDropSettings(
        gate=gate,
        threshold=threshold,
        class_limit=0.625,
        box_limit=0.5,
        mask_limit=mask_limit,
        drop_background=drop_background,
    )
    for num_regions in (0, 1, 2, 17, 64):
        # Eighths are exact, and some of them are equal
        losses = {
            term: torch.randint(0, 9, (num_regions,), generator=generator) / 8 for term in ("class", "box", "mask")
        }
        foreground = torch.rand(num_regions, generator=generator) < 0.4
        for term in ("box", "mask"):
            losses[term] = losses[term] * foreground
        dropped = dropped_regions(losses, foreground, settings)
        assert {term: rows.tolist() for term, rows in dropped.items()} == plainly_dropped(losses, foreground, settings)


def test_without_foreground_nothing_is_dropped() -> None:
    losses = {"class": torch.tensor([9.0, 8.0]), "box": torch.zeros(2)}
    for threshold in ("loss", "normalised", "share"):
        settings = RoiDropSettings(gate="independent", threshold=threshold, class_limit=0.5, box_limit=0.5)
        dropped = dropped_regions(losses, torch.zeros(2, dtype=torch.bool), settings)
        assert not any(rows.any() for rows in dropped.values())


def test_a_dropped_region_has_no_gradient() -> None:
    loss = CLASS_LOSS.clone().requires_grad_()
    settings = RoiDropSettings(gate="independent")
    dropped = dropped_regions({"class": loss, "box": BOX_LOSS}, FOREGROUND, settings)
    mean_of_kept(loss, dropped["class"], 6).backward()
    assert loss.grad.tolist() == pytest.approx([1 / 6, 0, 1 / 6, 1 / 6, 0, 1 / 6])


def test_no_region_gives_no_loss() -> None:
    assert float(mean_of_kept(torch.zeros(0), torch.zeros(0, dtype=torch.bool), 0)) == 0


def test_start() -> None:
    by_share = RoiDropSettings(gate="joint")
    assert [by_share.active(step, 9000) for step in (0, 1999, 2000, 8999)] == [False, False, True, True]
    by_step = RoiDropSettings(gate="joint", start_step=3)
    assert [by_step.active(step, 9000) for step in (2, 3)] == [False, True]
    assert not RoiDropSettings().active(8999, 9000)


def test_limits_above_1_are_refused_where_they_mean_shares() -> None:
    with pytest.raises(ValueError, match="wants limits from 0 to 1, found class_limit, box_limit above 1"):
        RoiDropSettings(gate="joint", threshold="share")
