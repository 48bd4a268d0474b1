"""WSDDN and OICR on the golden values of docs/method.md and on cases worked out by hand."""

import math

import pytest
import torch

from weaksam.models.wsod.losses import refine_loss
from weaksam.models.wsod.targets import Targets
from weaksam.models.wsod.wsddn import image_scores, wsddn_loss, wsddn_scores


def test_wsddn_golden_values() -> None:
    scores = wsddn_scores(torch.tensor([[2.0, 0], [0, 1], [1, 1]]), torch.tensor([[1.0, 0], [0, 2], [0, 0]]))
    assert image_scores(scores).tolist() == pytest.approx([0.670413, 0.641282], abs=1e-6)
    assert wsddn_loss(scores, torch.tensor([1.0, 0.0])).item() == pytest.approx(1.425081, abs=1e-5)


def test_wsddn_without_rois_teaches_nothing() -> None:
    scores = wsddn_scores(torch.zeros(0, 3), torch.zeros(0, 3))
    assert wsddn_loss(scores, torch.tensor([1.0, 0.0, 1.0])).item() == 0.0


def test_wsddn_loss_is_finite_where_a_tagged_class_has_no_evidence() -> None:
    assert wsddn_loss(torch.zeros(4, 2), torch.ones(2)).item() == pytest.approx(-2 * math.log(1e-6), rel=1e-4)


def test_wsddn_loss_as_in_mist_is_the_mean_over_the_columns() -> None:
    scores = wsddn_scores(torch.tensor([[2.0, 0], [0, 1], [1, 1]]), torch.tensor([[1.0, 0], [0, 2], [0, 0]]))
    tags = torch.tensor([1.0, 0.0])
    assert wsddn_loss(scores, tags, reduction="mean").item() == pytest.approx(0.712541, abs=1e-5)
    # Background, column 0, has tag 0: its -log(1 - 0.5) is one more term of the mean
    with_background = torch.cat([torch.full((3, 1), 0.5 / 3), scores], dim=1)
    loss = wsddn_loss(with_background, torch.tensor([0.0, 1.0, 0.0]), eps=1e-8, reduction="mean")
    assert loss.item() == pytest.approx((math.log(2) + 1.425081) / 3, abs=1e-5)


@pytest.mark.parametrize("total", [1.0, 1.0 - 2.0**-24, 1.0 - 2.0**-23])
def test_wsddn_loss_of_a_sure_false_class_is_finite_with_a_usable_gradient(total: float) -> None:
    scores = torch.tensor([[total], [0.0]], requires_grad=True)
    loss = wsddn_loss(scores, torch.zeros(1), eps=1e-8, reduction="mean")
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(2.0**-23), rel=1e-6)
    assert scores.grad.abs().max() <= 2.0**23


def test_wsddn_loss_passes_nan_on_so_that_the_training_can_name_the_image() -> None:
    scores = torch.tensor([[0.5, float("nan")], [0.1, 0.2]])
    assert math.isnan(wsddn_loss(scores, torch.tensor([1.0, 0.0])).item())
    assert math.isnan(wsddn_loss(scores, torch.tensor([1.0, 0.0]), eps=1e-8, reduction="mean").item())


def test_refine_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    labels = Targets(torch.tensor([1, 0]), torch.tensor([1.0, 0.5]), torch.tensor([0, 0]))
    wanted = (-math.log(0.75) - 0.5 * math.log(0.5)) / 2
    assert refine_loss(logits, labels).item() == pytest.approx(wanted, abs=1e-5)
    none = torch.zeros(0, dtype=torch.int64)
    assert refine_loss(torch.zeros(0, 3), Targets(none, torch.zeros(0), none)).item() == 0.0
