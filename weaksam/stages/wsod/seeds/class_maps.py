"""Choose regions from class maps: those that best split a class map into object and rest."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from weaksam.stages.wsod.seeds.scores import ScoreSeedSettings


class ClassMapSeedSettings(ScoreSeedSettings):
    """The rule ``class_maps``: the first branch is seeded by the regions that best split the photo's class maps."""

    rule: Literal["class_maps"] = "class_maps"
    share: float = Field(
        0.5, gt=0, le=1, description="least contrast of a further instance, relative to the first one's"
    )
    max_seeds: int = Field(5, ge=1, description="most seeds of a class in a photo")


def region_contrast(class_maps: Tensor, masks: Tensor) -> Tensor:
    """How well each region splits each class map into a high inside and a low outside, ``(N, L)`` >= 0.

    ``class_maps`` (L, h, w) real, ``masks`` (N, H, W) bool; the maps are resized to the masks. With a region's share
    ``q`` of the photo and the map's mean ``m1`` inside and ``m0`` outside, the value is
    ``max(0, m1 - m0) * sqrt(q (1 - q))``: the square root of the between-class variance that Otsu's threshold
    (IEEE SMC 1979) maximises, here over the segmenter's regions instead of grey levels (ours). There is no threshold
    to set: a part leaves high values outside (``m0`` grows), a region too large dilutes ``m1``, both lower it. It is
    unchanged when a constant is added to the map. A region that is empty or the whole photo gets 0; no region or no
    class gives an empty tensor.
    """
    if len(masks) == 0 or len(class_maps) == 0:
        return torch.zeros(len(masks), len(class_maps))
    maps = F.interpolate(class_maps[None], size=masks.shape[-2:], mode="bilinear", align_corners=False)[0]
    flat, regions = maps.flatten(1), masks.flatten(1).float()  # (L, P), (N, P)
    num_pixels = regions.shape[1]
    count = regions.sum(dim=1, keepdim=True)  # (N, 1)
    inside = regions @ flat.T  # (N, L) sums
    outside = flat.sum(dim=1) - inside
    gap = inside / count.clamp(min=1) - outside / (num_pixels - count).clamp(min=1)
    share = count / num_pixels
    return gap.clamp(min=0) * (share * (1 - share)).sqrt()


def region_support(contrast: Tensor, pairwise_iou: Tensor) -> Tensor:
    """How much contrast a region and those that overlap it have between them, ``(N, L)`` >= 0.

    ``contrast`` (N, L) as from :func:`region_contrast`; ``pairwise_iou`` (N, N) weighs each neighbour, 1 the region
    itself. Ours: a segmenter finds an object many times over, a little larger and a little smaller, where a chance cut
    through it or through several things is found once. The sum is highest in the middle of what they agree on.
    """
    return pairwise_iou @ contrast


def instance_seeds(
    class_maps: Tensor, masks: Tensor, *, share: float = 0.5, max_seeds: int = 5
) -> tuple[Tensor, Tensor, Tensor]:
    """Regions that hold the instances of each class: ``index`` (S,) of the region, ``which`` (S,) map, ``weight`` (S,).

    Per map of ``class_maps`` (L, h, w): take the region of ``masks`` (N, H, W) with the greatest contrast, set the map
    inside it to the mean outside, and look again, as long as a region still reaches ``share`` of the first contrast and
    there are fewer than ``max_seeds``. Explained regions lose their contrast, so neither a part of a taken region nor
    one that contains it comes back. ``weight`` is the contrast relative to the class's first, in (0, 1]. Ours; no
    region, no class or a flat map gives no seed.
    """
    picks: list[tuple[int, int, float]] = []
    if len(masks) and len(class_maps):
        maps = F.interpolate(class_maps[None], size=masks.shape[-2:], mode="bilinear", align_corners=False)[0]
        for which, remaining in enumerate(maps):
            picks += _greedy_regions(remaining, masks, which, share, max_seeds)
    index, owner, weight = zip(*picks, strict=True) if picks else ((), (), ())
    return (
        torch.tensor(index, dtype=torch.int64),
        torch.tensor(owner, dtype=torch.int64),
        torch.tensor(weight, dtype=torch.float32),
    )


def _greedy_regions(
    remaining: Tensor, masks: Tensor, which: int, share: float, max_seeds: int
) -> list[tuple[int, int, float]]:
    """(region, map, weight) of one map ``(H, W)``, the strongest first."""
    picks: list[tuple[int, int, float]] = []
    first = 0.0
    for _ in range(max_seeds):
        contrast = region_contrast(remaining[None], masks)[:, 0]
        best = int(contrast.argmax())
        value = float(contrast[best])
        first = first or value
        if value <= 0 or value < share * first or any(best == region for region, _, _ in picks):
            break
        picks.append((best, which, value / first))
        remaining = torch.where(masks[best], remaining[~masks[best]].mean(), remaining)
    return picks
