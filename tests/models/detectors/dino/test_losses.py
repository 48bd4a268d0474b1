"""Losses of DINO by hand: divisors, query drop, regions to ignore, batches that hold nothing or too much."""

import math

import pytest
import torch
from torch import Tensor

from tests.helpers import CPU
from tests.models.detectors.dino.toys import SMALL_SHAPE, small_network
from weaksam.models.detectors.dino.denoising import Denoising
from weaksam.models.detectors.dino.losses import QueryLosses, dino_losses, matching_losses
from weaksam.models.detectors.dino.network import DinoNetwork, DinoOutputs
from weaksam.models.query.query_drop import QueryDropSettings
from weaksam.models.query.targets import QueryTargets

NAMES = {"loss_class", "loss_l1", "loss_giou", "loss_auxiliary", "loss_encoder", "loss_denoising"}
UNIT = 0.25 * math.log(2)
"""Of the focal loss at a score of a half: a quarter of it for the label, three quarters for another class."""


def target(boxes: list[list[float]], labels: list[int]) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


def losses_of(targets: list[dict[str, Tensor]], network: DinoNetwork | None = None, **options: object):
    """Losses and network of a training step on noise."""
    torch.manual_seed(3)
    network = small_network() if network is None else network
    sizes = [(64, 64)] * len(targets)
    of_batch = QueryTargets.of(targets, sizes, CPU)
    denoising = network.dn_query_generator(of_batch)
    images = torch.randn(len(targets), 3, 64, 64)
    outputs = network.predictions(images, sizes, denoising)
    return dino_losses(outputs, of_batch, denoising, **options), network


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([value for value in losses.values() if value.requires_grad]).sum()


def check_gradients(losses: dict[str, Tensor], network: DinoNetwork) -> None:
    total(losses).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients) and any(g.any() for g in gradients)


def test_losses_of_one_query_by_hand() -> None:
    logits, boxes = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]]])
    targets = QueryTargets.of([target([[30.0, 30, 70, 70]], [2])], [(100, 100)], CPU)
    queries = matching_losses(logits, boxes, targets)
    # The first query has the box: sides 0.2 short each, a quarter of the area. The second is background.
    assert queries.matched.tolist() == [[[True, False]]]
    assert queries.classification.flatten().tolist() == pytest.approx([UNIT, 1.5 * UNIT])
    assert queries.l1.flatten().tolist() == pytest.approx([5 * 0.4, 0])
    assert queries.giou.flatten().tolist() == pytest.approx([2 * 0.75, 0])
    assert queries.reduced().flatten().tolist() == pytest.approx([2.5 * UNIT, 2, 1.5])


def test_background_in_a_region_to_ignore_teaches_nothing() -> None:
    logits = torch.zeros(1, 1, 3, 2)
    # The second query lies to three quarters in the region, the third to a quarter
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.05, 0.5, 0.1, 0.2], [0.95, 0.5, 0.1, 0.2]]]])
    region = [[0.0, 35, 100, 55], [30, 30, 70, 70.0]]
    targets = QueryTargets.of([target(region, [-1, 2])], [(100, 100)], CPU)
    boxes[0, 0, 2, 1] = 0.35  # from 0.25 to 0.45: half of it
    boxes[0, 0, 2, 1] = 0.30  # from 0.20 to 0.40: a quarter
    queries = matching_losses(logits, boxes, targets)
    assert queries.classification.flatten().tolist() == pytest.approx([UNIT, 0, 1.5 * UNIT])


def query_losses() -> QueryLosses:
    matched = torch.tensor([[[True, True, False]], [[True, True, False]]])
    classification = torch.tensor([[[1.0, 6.0, 2.0]], [[7.0, 1.0, 2.0]]])
    box = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 5.0, 0.0]]])
    return QueryLosses(classification, box, box / 2, matched)


def test_query_drop_works_layer_by_layer_and_keeps_the_divisors() -> None:
    queries = query_losses()
    assert queries.reduced().tolist() == [[4.5, 1, 0.5], [5, 3, 1.5]]
    by_class = queries.dropped(QueryDropSettings(gate="class", threshold="loss", class_limit=4))
    assert by_class["class"].tolist() == by_class["box"].tolist() == [[[False, True, False]], [[True, False, False]]]
    assert queries.without(by_class).reduced().tolist() == [[1.5, 0.5, 0.25], [1.5, 2.5, 1.25]]
    apart = queries.dropped(QueryDropSettings(gate="independent", threshold="loss", class_limit=4, box_limit=4))
    assert apart["box"].tolist() == [[[False] * 3], [[False, True, False]]]  # 5 + 2.5
    half = queries.dropped(QueryDropSettings(gate="class", class_limit=0.5))
    assert half["class"].tolist() == by_class["class"].tolist()


def outputs_of(queries: int, denoising: int) -> DinoOutputs:
    """Outputs at scores of a half: two layers, one photo, two classes, boxes in the middle."""
    box = torch.tensor([0.5, 0.5, 0.2, 0.2])
    return DinoOutputs(
        torch.zeros(2, 1, denoising + queries, 2, requires_grad=True),
        box.expand(2, 1, denoising + queries, 4).clone().requires_grad_(),
        torch.zeros(1, queries, 2, requires_grad=True),
        box.expand(1, queries, 4).clone().requires_grad_(),
        denoising,
    )


def test_denoising_queries_are_never_dropped() -> None:
    denoising = Denoising(torch.tensor([[1, 1]]), torch.zeros(1, 2, 4), torch.tensor([[0, -1]]), 1)
    targets = QueryTargets.of([target([[30.0, 30, 70, 70]], [2])], [(100, 100)], CPU)
    everything = QueryDropSettings(gate="class", class_limit=1.0)
    kept, dropped = (
        {
            name: value.detach()
            for name, value in dino_losses(outputs_of(1, 2), targets, denoising, everything, on).items()
        }
        for on in (False, True)
    )
    one_layer = UNIT + 5 * 0.4 + 2 * 0.75
    assert kept["loss_auxiliary"].item() == pytest.approx(one_layer) == kept["loss_encoder"].item()
    assert all(dropped[name].item() == 0 for name in NAMES - {"loss_denoising"})
    assert (
        dropped["loss_denoising"].item() == pytest.approx(2 * (one_layer + 1.5 * UNIT)) == kept["loss_denoising"].item()
    )
    assert [losses["dropped_class"].item() for losses in (kept, dropped)] == [0, 1]
    assert not dino_losses(outputs_of(1, 2), targets, denoising, everything)["dropped_box"].requires_grad


def test_photos_without_a_box() -> None:
    losses, network = losses_of([target([[10, 10, 40, 40]], [1]), target([], [])])
    assert losses.keys() == NAMES
    check_gradients(losses, network)
    losses, network = losses_of([target([], []), target([], [])])
    assert losses.keys() == NAMES - {"loss_denoising"}
    assert losses["loss_l1"].item() == 0 == losses["loss_giou"].item() and losses["loss_class"].item() > 0
    check_gradients(losses, network)


def test_boxes_without_area_and_more_boxes_than_queries() -> None:
    many = [[float(x), 4, x, 4 + x] for x in range(1, 31)]
    losses, network = losses_of([target(many, [1] * 30), target([[5, 5, 5, 5]], [2])])
    assert SMALL_SHAPE.num_queries < 30 and all(math.isfinite(value.item()) for value in losses.values())
    check_gradients(losses, network)


def test_a_batch_of_nothing_but_regions_to_ignore() -> None:
    losses, _ = losses_of([target([[0, 0, 64, 64]], [-1])])
    assert losses["loss_class"].item() < 0.01 * losses_of([target([], [])])[0]["loss_class"].item()
    assert all(math.isfinite(value.item()) for value in losses.values())


def test_half_precision_gives_nearly_the_same_losses() -> None:
    targets = [target([[10, 10, 40, 40], [20, 5, 60, 50]], [1, 3])]
    exact, _ = losses_of(targets)
    with torch.autocast("cpu", torch.bfloat16):
        half, network = losses_of(targets)
    assert all(half[name].dtype == torch.float32 for name in NAMES)
    assert total(half).item() == pytest.approx(total(exact).item(), rel=0.05)
    check_gradients(half, network)


def test_broken_weights_give_a_loss_that_is_no_number() -> None:
    network = small_network()
    with torch.no_grad():
        network.decoder.layers[0].ffn.layers[1].weight[0, 0] = torch.nan
    losses, _ = losses_of([target([[10, 10, 40, 40]], [1])], network)
    assert math.isnan(total(losses).item())
