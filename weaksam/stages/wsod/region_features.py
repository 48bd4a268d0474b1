"""Compute frozen features of regions in a few hundred principal components."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weaksam.stages.wsod.photo_features import PhotoFeatures
from weaksam.store.progress import progress
from weaksam.structures.dataset import Sample

_SAMPLED_PHOTOS, _SAMPLED_EVERY = 60, 4


def region_features(
    photos: PhotoFeatures, samples: Sequence[Sample], boxes: Sequence[Tensor], *, roi_size: int, num_components: int
) -> list[Tensor]:
    """Features ``(2, R, D)`` float16 of each photo's ``boxes`` (R, 4), in the photo and in its mirror image.

    RoIAlign on the frozen maps, ``roi_size`` cells a side, in at most ``num_components`` principal components of every
    fourth region of about sixty photos that have one (randomised, from fixed random numbers: the same every time). D is
    the same for all photos, 0 where no photo has a region.
    """
    filled = [(sample, regions) for sample, regions in zip(samples, boxes, strict=True) if len(regions)]
    if not filled:
        return [torch.zeros(2, 0, 0, dtype=torch.float16) for _ in boxes]
    sampled = [
        photos.pooled(sample, regions, roi_size)[:, ::_SAMPLED_EVERY].flatten(0, 1).float().cpu()
        for sample, regions in filled[:: max(1, len(filled) // _SAMPLED_PHOTOS)]
    ]
    rows = torch.cat(sampled)
    mean, directions = rows.mean(dim=0), _directions(rows, num_components)
    pairs = progress(zip(samples, boxes, strict=True), len(samples), "wsod: reading regions")
    return [
        ((photos.pooled(sample, regions, roi_size).float().cpu() - mean) @ directions).half()
        for sample, regions in pairs
    ]


def _directions(rows: Tensor, num_components: int) -> Tensor:
    """The strongest principal directions ``(D, K)`` of ``rows`` (N, D), K at most ``num_components``, N and D."""
    centred = rows - rows.mean(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, directions = torch.svd_lowrank(centred, q=min(num_components, *rows.shape), niter=2)
    return directions
