"""The truth of a split: when there is one, and when it has masks."""

import torch

from weaksam.evaluation.truth import Truth
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import rle_from_mask


def test_truth_of_a_dataset_without_any_is_none():
    sample = Sample("a", "a", (4, 4), (0,), None, 1)
    assert Truth.of(None) is None and Truth.of(Dataset("d", ("cat",), (1,), (sample,))) is None


def test_has_masks_needs_one_for_every_object(truth):
    assert not truth.has_masks
    mask = rle_from_mask(torch.ones(40, 40, dtype=torch.bool))
    with_masks = {i: objects.replace(masks=(mask,) * len(objects)) for i, objects in truth.instances.items()}
    assert Truth(with_masks, truth.tags, truth.sizes, 2).has_masks
    half = {**with_masks, "a": truth.instances["a"], "c": Instances.empty()}
    assert not Truth(half, truth.tags, truth.sizes, 2).has_masks
