"""Make the pseudo map of every panorama once, and keep it in a sealed store (GoodSAM-style CTCF)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weaksam.models.semantic.network import STRIDE, SemanticNetwork
from weaksam.recipes.panorama.assistant import stitched_logits
from weaksam.recipes.panorama.fusion import DOUBTFUL, Fusion, FusionSettings, boosted, fuse
from weaksam.recipes.panorama.windows import WindowMasks, enlarged
from weaksam.store.store import Store, stage_fingerprint
from weaksam.structures.masks import Rle, mask_from_rle, rle_from_mask

COLUMNS = {"labels": "rles", "written": "rles", "classes": "ints", "boost": "floats"}
"""Of each panorama the mask of every class of its pseudo map, and what each mask that rewrote pixels rewrote, what it
voted for and what it added."""


def fused(network: SemanticNetwork, masks: WindowMasks, row: int, settings: FusionSettings) -> Fusion:
    """Panorama ``row`` fused from the assistant's logits on windows and the masks of all windows."""
    size = masks.photos.size(row)
    with torch.no_grad():
        logits = stitched_logits(network, masks.photos.pixels(row), masks.windows)
        return fuse(enlarged(logits[None], size)[0], masks.on_panorama(row).to(logits.device), settings)


def as_row(fusion: Fusion, num_classes: int) -> dict[str, Any]:
    """A fusion as the values of a store's row, see `COLUMNS`."""
    writer = fusion.writer.cpu()
    wrote = writer[writer >= 0].unique()
    labels = fusion.labels.cpu()
    return {
        "labels": [rle_from_mask(labels == label) for label in range(num_classes)],
        "written": [rle_from_mask(writer == mask) for mask in wrote.tolist()],
        "classes": fusion.classes.cpu()[wrote],
        "boost": fusion.boost.cpu()[wrote],
    }


def from_row(row: Mapping[str, Any], size: tuple[int, int]) -> Fusion:
    """The way back of `as_row`, with the masks that rewrote nothing left out."""
    return Fusion(
        _painted(row["labels"], size, DOUBTFUL), _painted(row["written"], size, -1), row["classes"], row["boost"]
    )


def _painted(rles: list[Rle], size: tuple[int, int], nothing: int) -> Tensor:
    """The number of the mask at each pixel, int64 ``(H, W)``; ``nothing`` where none is."""
    numbers = torch.full(size, nothing, dtype=torch.int64)
    for number, rle in enumerate(rles):
        numbers[mask_from_rle(rle)] = number
    return numbers


def pseudo_maps(
    network: SemanticNetwork, masks: WindowMasks, settings: FusionSettings, out: Path, assistant: str
) -> Store:
    """The sealed store of the pseudo maps of all panoramas in ``out``; ``assistant``: hex of its weights.

    A killed run goes on with the panoramas that are missing.
    """
    photos = masks.photos
    inputs = {"assistant": assistant, "masks": masks.store.fingerprint, "panoramas": photos.fingerprint}
    inputs |= {"windows": masks.settings.model_dump_json(), "most": str(masks.most)}
    fingerprint = stage_fingerprint("panorama_pseudo_maps", settings, inputs)
    row_of = {sample.image_id: row for row, sample in enumerate(photos.dataset)}
    store = Store(
        out / f"pseudo_maps-{fingerprint[:12]}",
        stage="panorama_pseudo_maps",
        fingerprint=fingerprint,
        image_ids=photos.dataset.image_ids,
        columns=COLUMNS,
        part_size=16,
        command="weaksam panorama run",
    )
    network.eval()
    return store.fill(
        lambda image_id: as_row(fused(network, masks, row_of[image_id], settings), network.num_classes),
        progress="pseudo maps",
        cheap=True,
    )


def ensemble_on_grid(logits: Tensor, fusion: Fusion) -> Tensor:
    """The ensemble logits ``(C, H / 4, W / 4)`` of the assistant's; the middle pixel decides for each of the grid."""
    half = STRIDE // 2
    writer = fusion.writer[half::STRIDE, half::STRIDE].to(logits.device)
    return boosted(logits, writer, fusion.classes.to(logits.device), fusion.boost.to(logits.device))
