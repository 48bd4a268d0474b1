"""Mask2Former's losses: by hand, against transformers' own, with no objects, with regions to ignore."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import Mask2FormerConfig, ResNetConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from weaksam.models.detectors.mask2former.losses import (
    PhotoObjects,
    QueryPredictions,
    class_loss,
    mask2former_losses,
    mask_losses,
    match_photos,
    photo_costs,
    point_losses,
)
from weaksam.models.detectors.mask2former.points import LossPoints, at_points, loss_points
from weaksam.models.detectors.mask2former.settings import MaskLossSettings
from weaksam.models.query.matching import NO_QUERY

SETTINGS = MaskLossSettings(num_points=64)
CLASSES, CHANNELS, QUERIES, LAYERS = 3, 5, 6, 2
SIZES = ((32, 48), (40, 24))


def predictions(seed: int, sizes: tuple[tuple[int, int], ...] = SIZES, dtype: torch.dtype = torch.float32):
    """Random predictions of photos of these sizes, in a frame of multiples of 32."""
    draw = torch.Generator().manual_seed(seed)
    frame = tuple(-(-max(size[axis] for size in sizes) // 32) * 32 for axis in range(2))
    batch = len(sizes)
    values = (
        torch.randn(LAYERS, batch, QUERIES, CLASSES + 1, generator=draw),
        torch.randn(LAYERS, batch, QUERIES, CHANNELS, generator=draw),
        torch.randn(batch, CHANNELS, frame[0] // 4, frame[1] // 4, generator=draw),
    )
    return QueryPredictions(*(value.to(dtype).requires_grad_() for value in values), frame)


def objects(size: tuple[int, int], labels: list[int], seed: int = 0, ignored: Tensor | None = None) -> PhotoObjects:
    """Rectangles with these labels in a photo of this size."""
    draw = torch.Generator().manual_seed(seed)
    masks = torch.zeros(len(labels), *size)
    for mask in masks:
        top, left = (int(torch.randint(0, side // 2, (), generator=draw)) for side in size)
        mask[top : top + size[0] // 2, left : left + size[1] // 2] = 1
    return PhotoObjects(torch.tensor(labels, dtype=torch.int64), masks, size, ignored)


def test_point_losses_by_hand():
    # Probabilities 3/4 and 1/4, the first inside the mask; the third point is not counted
    logits = torch.tensor([[math.log(3), -math.log(3), 5.0]])
    entropy, dice = point_losses(logits, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert entropy.item() == pytest.approx(-math.log(0.75))
    assert dice.item() == pytest.approx(1 - (2 * 0.75 + 1) / (0.75 + 0.25 + 1 + 1))
    entropy, dice = point_losses(logits, torch.ones(1, 3), torch.zeros(1, 3))
    assert entropy.item() == dice.item() == 0


def test_costs_by_hand():
    # One cell, one query: the logit is log 3 everywhere, and the mask covers the whole photo
    classes = torch.tensor([[[[math.log(2), 0.0, 0.0]]]])  # probabilities 1/2, 1/4, and 1/4 of none
    told = QueryPredictions(classes, torch.ones(1, 1, 1, 1), torch.full((1, 1, 8, 8), math.log(3)), (32, 32))
    whole = PhotoObjects(torch.tensor([1]), torch.ones(1, 32, 32), (32, 32))
    points = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
    cost, _ = photo_costs(told, 0, whole, points, SETTINGS)
    expected = 5 * -math.log(0.75) + 5 * (1 - (2 * 1.5 + 1) / (1.5 + 2 + 1)) - 2 * 0.25
    assert cost.shape == (1, 1, 1) and cost.item() == pytest.approx(expected, rel=1e-6)


def test_a_photo_smaller_than_the_frame_has_its_masks_in_its_own_corner():
    # The photo is the left half of the frame and its object the photo's right half: x from 1/4 to 1/2 of the frame
    mask = torch.zeros(1, 32, 32)
    mask[..., 16:] = 1
    half = PhotoObjects(torch.tensor([0]), mask, (32, 32))
    told = QueryPredictions(torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 1), torch.full((1, 1, 8, 16), 3.0), (32, 64))
    inside, outside = torch.tensor([[0.375, 0.5]]), torch.tensor([[0.125, 0.5], [0.75, 0.5]])
    entropy = {}
    for name, points in (("inside", inside), ("outside", outside)):
        cost, _ = photo_costs(told, 0, half, points, MaskLossSettings(class_weight=0, mask_weight=1, dice_weight=0))
        entropy[name] = cost.item()
    assert entropy["inside"] == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-5)
    assert entropy["outside"] == pytest.approx(math.log(1 + math.exp(3)), rel=1e-5)


def test_class_loss_by_hand():
    # Query 0 is matched to class 1, query 1 is background of weight 0.1, query 2 lies in an ignored region
    classes = torch.zeros(1, 1, 3, 3)
    classes[0, 0, 0, 1], classes[0, 0, 1, 2] = math.log(2), math.log(2)
    truth = [PhotoObjects(torch.tensor([1, 0]), torch.ones(2, 8, 8), (8, 8))]
    matched = [torch.tensor([[0, NO_QUERY]])]
    ignored = torch.tensor([[[False, False, True]]])
    loss = class_loss(classes, truth, matched, ignored, 0.1)
    assert loss.item() == pytest.approx((math.log(2) * 1 + math.log(2) * 0.1) / 1.1)
    everywhere = class_loss(classes, truth, [torch.tensor([[NO_QUERY, NO_QUERY]])], torch.ones(1, 1, 3, dtype=bool), 1)
    assert everywhere.item() == 0


def test_uncertain_points_are_those_nearest_the_border():
    # Logits from -4 to 3 along x: the border of the mask is at x = 0.5625
    logits = torch.arange(-4.0, 4.0).expand(1, 1, 8, 8)
    candidates = torch.stack([torch.linspace(0.05, 0.95, 19), torch.full((19,), 0.5)], dim=1)[None]
    anywhere = torch.tensor([[[0.1, 0.1]]])
    points = loss_points(logits, LossPoints(candidates, anywhere), 3)
    assert points[0, :3, 0].sort().values.tolist() == pytest.approx([0.5, 0.55, 0.6])
    assert points[0, 3].tolist() == pytest.approx([0.1, 0.1])


def test_the_plain_twin():
    """Every loss of the batch, in loops over layers, photos, objects and points."""
    told = predictions(0)
    truth = [objects(SIZES[0], [2, 0]), objects(SIZES[1], [1], seed=1)]
    torch.manual_seed(3)
    losses = mask2former_losses(told, truth, SETTINGS)
    torch.manual_seed(3)
    expected = plain_losses(told, truth, SETTINGS)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5), name


def test_offsets_are_embeddings_of_a_channel_that_is_1_everywhere():
    told = predictions(7)
    offsets = torch.randn(LAYERS, len(SIZES), QUERIES, generator=torch.Generator().manual_seed(8)).requires_grad_()
    ours = QueryPredictions(told.classes, told.embeddings, told.features, told.frame, offsets)
    ones = torch.ones_like(told.features[:, :1])
    channels = torch.cat([told.features, ones], dim=1)
    whole = QueryPredictions(told.classes, torch.cat([told.embeddings, offsets[..., None]], -1), channels, told.frame)
    ignored = torch.zeros(SIZES[0])
    ignored[:9] = 1
    truth = [objects(SIZES[0], [2, 0], ignored=ignored), objects(SIZES[1], [1], seed=1)]
    torch.testing.assert_close(ours.masks(1), whole.masks(1))
    torch.testing.assert_close(ours.masks(0, -1), whole.masks(0)[-1])
    points = torch.rand(64, 2, generator=torch.Generator().manual_seed(9))
    points[:8] *= 0.02  # so near the border that an interpolated map fades
    for photo, of_photo in enumerate(truth):
        pairs = (photo_costs(told, photo, of_photo, points, SETTINGS) for told in (ours, whole))
        (cost, inside), (expected, expected_inside) = pairs
        torch.testing.assert_close(cost, expected)
        assert torch.equal(inside, expected_inside)
    values = []
    for told in (ours, whole):
        torch.manual_seed(3)
        losses = mask2former_losses(told, truth, SETTINGS)
        values.append([*losses.values(), *torch.autograd.grad(sum(losses.values()), [offsets, ours.features])])
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-6)
    assert values[0][3].abs().max() > 0.01


def plain_losses(told: QueryPredictions, truth: list[PhotoObjects], settings: MaskLossSettings) -> dict[str, float]:
    """The same losses from whole masks of every query and one pair at a time."""
    masks = torch.einsum("lbqc,bchw->lbqhw", told.embeddings, told.features).detach()
    shared = torch.rand(len(truth), settings.num_points, 2)
    query_of, _ = match_photos(told, truth, shared, settings)
    sums = {"loss_class": 0.0, "loss_mask": 0.0, "loss_dice": 0.0}
    num_objects = sum(len(of_photo.labels) for of_photo in truth)
    for photo, of_photo in enumerate(truth):
        padded = torch.zeros(len(of_photo.labels), *told.frame)
        padded[:, : of_photo.size[0], : of_photo.size[1]] = of_photo.masks
        num_pairs = query_of[photo].numel()
        candidates = torch.rand(num_pairs, int(settings.num_points * settings.oversampling), 2)
        num_uncertain = int(settings.num_points * settings.uncertain_share)
        anywhere = torch.rand(num_pairs, settings.num_points - num_uncertain, 2)
        for number in range(len(of_photo.labels)):
            for layer in range(LAYERS):
                pair = number * LAYERS + layer
                logits = masks[layer, photo, query_of[photo][layer, number]][None, None]
                drawn = LossPoints(candidates[pair : pair + 1], anywhere[pair : pair + 1])
                points = loss_points(logits, drawn, num_uncertain)
                values = at_points(logits, points)[0, 0].tolist()
                wanted = at_points(padded[number][None, None], points)[0, 0].tolist()
                probability = [1 / (1 + math.exp(-value)) for value in values]
                pairs = list(zip(probability, wanted, strict=True))
                entropy = [-t * math.log(p) - (1 - t) * math.log(1 - p) for p, t in pairs]
                sums["loss_mask"] += 5 * sum(entropy) / len(entropy) / num_objects
                overlap = sum(p * t for p, t in pairs)
                dice = 1 - (2 * overlap + 1) / (sum(probability) + sum(wanted) + 1)
                sums["loss_dice"] += 5 * dice / num_objects
    for layer in range(LAYERS):
        total, weights = 0.0, 0.0
        for photo, of_photo in enumerate(truth):
            label_of = dict(zip(query_of[photo][layer].tolist(), of_photo.labels.tolist(), strict=True))
            for query in range(QUERIES):
                label = label_of.get(query, CLASSES)
                weight = 0.1 if label == CLASSES else 1.0
                total -= weight * told.classes[layer, photo, query].log_softmax(-1)[label].item()
                weights += weight
        sums["loss_class"] += 2 * total / weights
    return sums


def test_transformers_losses_at_equal_points():
    """One photo, one layer: transformers draws the points of the matching, the candidates, and the rest."""
    size = (32, 64)
    told = predictions(1, (size,))
    last = QueryPredictions(told.classes[-1:], told.embeddings[-1:], told.features, told.frame)
    truth = objects(size, [2, 0, 1], seed=4)
    stages = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    config = Mask2FormerConfig(backbone_config=stages, num_labels=CLASSES, train_num_points=SETTINGS.num_points)
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    theirs = Mask2FormerLoss(config, weights)
    masks = torch.einsum("qc,chw->qhw", last.embeddings[0, 0], last.features[0])[None]
    torch.manual_seed(5)
    expected = theirs(masks, last.classes[0], [truth.masks], [truth.labels])

    torch.manual_seed(5)
    points = torch.rand(1, SETTINGS.num_points, 2)
    query_of, in_ignored = match_photos(last, [truth], points, SETTINGS)
    # Transformers orders its pairs by query, ours are ordered by object
    order = query_of[0][0].argsort()
    candidates = torch.rand(3, 3 * SETTINGS.num_points, 2)[order.argsort()]
    anywhere = torch.rand(3, SETTINGS.num_points // 4, 2)[order.argsort()]
    entropy, dice = mask_losses(last, 0, truth, query_of[0], LossPoints(candidates, anywhere), 48)
    assert entropy.sum().item() / 3 == pytest.approx(expected["loss_mask"].item(), rel=1e-5)
    assert dice.sum().item() / 3 == pytest.approx(expected["loss_dice"].item(), rel=1e-5)
    of_classes = class_loss(last.classes, [truth], query_of, in_ignored, 0.1)
    assert of_classes.item() == pytest.approx(expected["loss_cross_entropy"].item(), rel=1e-5)

    (ours,) = torch.autograd.grad(entropy.sum() / 3 + dice.sum() / 3, told.embeddings)
    (wanted,) = torch.autograd.grad(expected["loss_mask"] + expected["loss_dice"], told.embeddings)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)


def test_photos_without_objects_teach_that_there_are_none():
    told = predictions(2)
    nothing = [objects(size, []) for size in SIZES]
    losses = mask2former_losses(told, nothing, SETTINGS)
    assert losses["loss_mask"].item() == losses["loss_dice"].item() == 0
    expected = -told.classes.log_softmax(-1)[..., -1].mean((1, 2)).sum() * 2
    assert losses["loss_class"].item() == pytest.approx(expected.item(), rel=1e-5)
    sum(losses.values()).backward()
    assert told.classes.grad.abs().sum() > 0 and told.embeddings.grad.abs().sum() == 0


def test_more_objects_than_queries():
    told = predictions(3, ((32, 32),))
    crowd = objects((32, 32), [0, 1, 2, 0, 1, 2, 0, 1])
    query_of, _ = match_photos(told, [crowd], torch.rand(1, 64, 2), SETTINGS)
    assert [(layer == NO_QUERY).sum().item() for layer in query_of[0]] == [2, 2]
    losses = mask2former_losses(told, [crowd], SETTINGS)
    assert all(loss.isfinite() for loss in losses.values())
    left = query_of[0] == NO_QUERY
    drawn = LossPoints(torch.rand(16, 192, 2), torch.rand(16, 16, 2))
    entropy, _ = mask_losses(told, 0, crowd, query_of[0], drawn, 48)
    assert (entropy.T[left] == 0).all() and (entropy.T[~left] > 0).all()


def test_points_in_ignored_regions_teach_nothing():
    """What is predicted inside an ignored region changes no mask loss, no cost and no gradient."""
    size = (32, 64)
    ignored = torch.zeros(size)
    ignored[:, 40:] = 1
    truth = objects(size, [1, 2], seed=6, ignored=ignored)
    told = predictions(4, (size,))
    changed = told.features.detach().clone()
    changed[..., 11:] += 3 * torch.randn_like(changed[..., 11:])  # cells right of x = 44 pixels
    other = QueryPredictions(told.classes, told.embeddings, changed, told.frame)
    anywhere = MaskLossSettings(num_points=64, uncertain_share=0)
    points = torch.rand(1, 64, 2)
    costs = [photo_costs(of, 0, truth, points[0], anywhere)[0] for of in (told, other)]
    torch.testing.assert_close(*costs)
    drawn = LossPoints(torch.rand(4, 192, 2), torch.rand(4, 64, 2))
    query_of = torch.tensor([[0, 1], [2, 3]])
    losses = [torch.stack(mask_losses(of, 0, truth, query_of, drawn, 0)) for of in (told, other)]
    torch.testing.assert_close(*losses)
    plain = PhotoObjects(truth.labels, truth.masks, size)
    counted = [torch.stack(mask_losses(of, 0, plain, query_of, drawn, 0)) for of in (told, other)]
    assert (counted[0] - counted[1]).abs().min() > 1e-4


def test_a_query_on_an_ignored_region_is_no_background():
    size = (32, 32)
    region = torch.zeros(size)
    region[:, :24] = 1
    nobody = PhotoObjects(torch.zeros(0, dtype=torch.int64), torch.zeros(0, *size), size, region)
    # Two queries: the mask of the first is three quarters of the photo, nearly all of it ignored; that of the second
    # is its right quarter
    features = torch.ones(1, 1, 8, 8)
    features[..., 6:] = -1
    embeddings = torch.tensor([1.0, -1.0]).view(1, 1, 2, 1)
    told = QueryPredictions(torch.zeros(1, 1, 2, 2, requires_grad=True), embeddings, features, size)
    _, in_ignored = match_photos(told, [nobody], torch.rand(1, 500, 2), SETTINGS)
    assert in_ignored[0, 0].tolist() == [True, False]
    mask2former_losses(told, [nobody], SETTINGS)["loss_class"].backward()
    assert told.classes.grad[0, 0, 0].abs().sum() == 0 and told.classes.grad[0, 0, 1].abs().sum() > 0


def test_bfloat16_predictions_are_compared_in_float32():
    truth = [objects(SIZES[0], [2, 0]), objects(SIZES[1], [1], seed=1)]
    torch.manual_seed(0)
    full = mask2former_losses(predictions(5), truth, SETTINGS)
    torch.manual_seed(0)
    half = mask2former_losses(predictions(5, dtype=torch.bfloat16), truth, SETTINGS)
    for name, value in half.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(full[name].item(), rel=0.05)


def test_masks_count_by_their_weights():
    """The losses of the masks, not that of the classes, are sums over objects times their weights."""
    told, truth = predictions(7, (SIZES[0],)), objects(SIZES[0], [1])
    twice = replace(truth, labels=truth.labels.repeat(2), masks=truth.masks.repeat(2, 1, 1))
    results = []
    for weights in (None, torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.25, 1.0])):
        torch.manual_seed(3)
        results.append(mask2former_losses(told, [replace(twice, weights=weights)], SETTINGS))
    plain, whole, half, uneven = results
    for name in ("loss_mask", "loss_dice"):
        assert whole[name].item() == pytest.approx(plain[name].item())
        assert half[name].item() == pytest.approx(plain[name].item() / 2)
        assert plain[name] / 4 < uneven[name] < plain[name]
    assert all(result["loss_class"].item() == pytest.approx(plain["loss_class"].item()) for result in results)
