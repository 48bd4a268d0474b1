"""Votes of masks by hand, against the sequential rule from large to small, and where there is nothing to vote on."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.recipes.panorama.fusion import DOUBTFUL, FusionSettings, fuse, pixel_certainty, winners
from weaksam.structures.mask_runs import MaskRuns
from weaksam.structures.masks import rle_from_mask


def runs_of(masks: Tensor) -> MaskRuns:
    return MaskRuns.of_rles([rle_from_mask(mask) for mask in masks], (masks.shape[1], masks.shape[2]))


def sure(classes: Tensor, num_classes: int, logit: float = 9.0) -> Tensor:
    """Logits that are sure of ``classes (H, W)``."""
    return logit * F.one_hot(classes, num_classes).permute(2, 0, 1).float()


def fused_in_turn(logits: Tensor, masks: Tensor, settings: FusionSettings) -> tuple[Tensor, Tensor]:
    """Pseudo map and ensemble logits by the rule as it is told: mask after mask, from large to small."""
    probs = logits.double().softmax(dim=0)
    entropy = torch.special.entr(probs).sum(dim=0) / math.log(len(logits))
    weights = ((1 - entropy) * 1024).round()  # votes are counted in steps
    own, confidence = probs.argmax(dim=0), probs.amax(dim=0)
    ensemble = logits.clone()
    areas = [int(mask.sum()) for mask in masks]
    for row in sorted(range(len(masks)), key=lambda row: -areas[row]):
        mask = masks[row]
        votes = [float(weights[mask & (own == number)].sum()) for number in range(len(logits))]
        label = int(np.argmax(votes))
        share = votes[label] / sum(votes) if sum(votes) else 0.0
        rewritten = mask if share >= settings.whole_share else mask & (confidence < settings.unsure_below)
        if share >= settings.part_share:
            added = settings.gamma * share * F.one_hot(torch.tensor(label), len(logits))
            ensemble[:, rewritten] = logits[:, rewritten] + added[:, None].float()
    spread = torch.special.entr(ensemble.double().softmax(dim=0)).sum(dim=0) / math.log(len(logits))
    labels = ensemble.argmax(dim=0)
    labels[spread > settings.max_entropy] = DOUBTFUL
    return labels, ensemble


def test_a_mask_overrules_what_is_unsure_in_it() -> None:
    classes = torch.zeros(2, 5, dtype=torch.int64)
    logits = sure(classes, 3)
    logits[:, 0, 0] = torch.tensor([0.0, 0.5, 0.0])  # the assistant hardly prefers class 1
    masks = torch.ones(1, 2, 5, dtype=torch.bool)
    result = fuse(logits, runs_of(masks), FusionSettings())
    # The unsure pixel has next to no vote: the mask's share of class 0 is nearly 1, so is what it adds, over 2
    probs = torch.tensor([1.0, math.exp(0.5), 1.0]) / (2 + math.exp(0.5))
    weight = 1 + float((probs * probs.log()).sum()) / math.log(3)
    certain = sure(torch.zeros(1, 1, dtype=torch.int64), 3)[:, 0, 0].softmax(dim=0)
    of_sure = 9 * (1 + float((certain * certain.log()).sum()) / math.log(3))
    share = of_sure / (of_sure + weight)
    assert result.classes.tolist() == [0] and result.boost.tolist() == [pytest.approx(2 * share, abs=1e-3)]
    assert result.writer.eq(0).all()
    assert result.labels.tolist() == [[DOUBTFUL, 0, 0, 0, 0], [0] * 5]  # class 0 wins there, but not by enough
    ensemble = result.ensemble(logits)
    assert ensemble[:, 0, 0].tolist() == pytest.approx([2 * share, 0.5, 0.0], abs=1e-3)
    assert fuse(logits, runs_of(masks), FusionSettings(max_entropy=1.0)).labels.eq(0).all()
    assert fuse(logits, runs_of(masks), FusionSettings(max_entropy=1.0, gamma=0.0)).labels[0, 0] == 1


def test_a_middling_share_rewrites_the_unsure_alone() -> None:
    logits = sure(torch.tensor([[0, 0, 0, 1, 1, 2]]), 3)
    logits[:, 0, 5] = torch.tensor([0.0, 0.0, 0.1])
    masks = torch.ones(1, 1, 6, dtype=torch.bool)
    result = fuse(logits, runs_of(masks), FusionSettings())
    assert result.writer.tolist() == [[-1, -1, -1, -1, -1, 0]]
    assert fuse(logits, runs_of(masks), FusionSettings(part_share=0.65)).writer.eq(-1).all()
    assert fuse(logits, runs_of(masks), FusionSettings(unsure_below=0.0)).writer.eq(-1).all()
    assert fuse(logits, runs_of(masks), FusionSettings(whole_share=0.5)).writer.eq(0).all()


def test_the_smaller_mask_has_the_last_word() -> None:
    logits = sure(torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0, 1, 1]]), 2, logit=1.5)
    masks = torch.zeros(2, 1, 10, dtype=torch.bool)
    masks[0, 0, 8:], masks[1] = True, True
    result = fuse(logits, runs_of(masks), FusionSettings(max_entropy=1.0))
    assert result.writer.tolist() == [[1] * 8 + [0, 0]]
    assert result.labels.tolist() == [[0] * 8 + [1, 1]]
    assert fuse(logits, runs_of(masks[1:]), FusionSettings(max_entropy=1.0)).labels.eq(0).all()


@pytest.mark.parametrize("seed", range(6))
def test_all_masks_at_once_are_the_masks_in_turn(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size, num_classes = (16, 24), 2 + seed
    coarse = torch.randn(1, num_classes, 3, 4, generator=generator) * 4
    logits = F.interpolate(coarse, size=size, mode="bilinear")[0] + torch.randn(num_classes, *size, generator=generator)
    y, x = torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")
    draws = torch.rand(90, 4, generator=generator)
    masks = torch.stack(
        [((y - 16 * a) ** 2 + (x - 24 * b) ** 2) < (9 * c) ** 2 + 9 * d for a, b, c, d in draws.tolist()]
    )
    settings = FusionSettings(whole_share=0.6, part_share=0.35)
    result = fuse(logits, runs_of(masks), settings)
    labels, ensemble = fused_in_turn(logits, masks, settings)
    assert torch.equal(result.labels, labels)
    assert torch.allclose(result.ensemble(logits), ensemble, atol=1e-4)
    assert 0 < (labels == DOUBTFUL).float().mean() < 1 and (result.writer >= 0).any()


def test_certainty_is_that_of_the_softmax() -> None:
    logits = torch.randn(5, 6, 7)
    logits[:, 0, 0] = 0.0
    certainty, probs = pixel_certainty(logits), logits.softmax(dim=0)
    assert torch.allclose(certainty.entropy, torch.special.entr(probs).sum(dim=0), atol=1e-6)
    assert torch.allclose(certainty.confidence, probs.amax(dim=0), atol=1e-6)
    assert torch.equal(certainty.classes.long(), logits.argmax(dim=0)) and certainty.classes[0, 0] == 0


def test_no_mask_leaves_what_the_assistant_is_sure_of() -> None:
    logits = sure(torch.tensor([[2, 1]]), 3)
    logits[:, 0, 1] = 0.0
    result = fuse(logits, runs_of(torch.zeros(0, 1, 2, dtype=torch.bool)), FusionSettings())
    assert result.labels.tolist() == [[2, DOUBTFUL]] and result.writer.eq(-1).all()
    assert torch.equal(result.ensemble(logits), logits)


def test_an_assistant_of_one_class_and_an_empty_mask_are_defined() -> None:
    masks = torch.zeros(2, 2, 3, dtype=torch.bool)
    masks[1, 0] = True
    assert fuse(torch.zeros(1, 2, 3), runs_of(masks), FusionSettings()).labels.eq(0).all()
    everywhere = fuse(sure(torch.full((2, 3), 1), 3), runs_of(masks), FusionSettings())
    assert everywhere.labels.eq(1).all() and everywhere.boost[0] == 0
    assert winners(torch.zeros(0, 3, dtype=torch.int64))[0].shape == (0,)
