"""Say how far each pseudo mask counts in the training of masks."""

from __future__ import annotations

from torch import Tensor

from weaksam.data.detection_stores import instances_of
from weaksam.engine.pseudo_masks import stored_qualities
from weaksam.stages.wsis.settings import PseudoMaskSettings
from weaksam.store.store import Store
from weaksam.structures.instances import Instances


def training_masks(store: Store, settings: PseudoMaskSettings) -> dict[str, Instances]:
    """The instances of every photo in a sealed ``store`` of pseudo masks, with the weight of each mask.

    Weights are there where ``settings`` or the store's agreement give any; without, all count alike.
    """
    masks, qualities = instances_of(store), stored_qualities(store)
    agreements = store.column("agreement") if "agreement" in store.columns else {}
    instances: dict[str, Instances] = {}
    for image_id, objects in masks.items():
        weights = mask_weights(qualities[image_id], agreements[image_id] if agreements else None, settings)
        instances[image_id] = objects.replace(mask_weights=weights)
    return instances


def mask_weights(quality: Tensor, agreement: Tensor | None, settings: PseudoMaskSettings) -> Tensor | None:
    """The weight ``(N,)`` in [0, 1] of masks of this ``quality`` (N,) and, in later rounds, ``agreement`` (N,).

    Their product as far as ``settings`` want them, and 0 below ``settings.min_mask_quality``; None where nothing is
    weighed.
    """
    if settings.mask_weights == "off" and settings.min_mask_quality == 0 and agreement is None:
        return None
    weights = quality if settings.mask_weights == "quality" else quality.new_ones(len(quality))
    weights = weights if agreement is None else weights * agreement
    return weights.masked_fill(quality < settings.min_mask_quality, 0.0)
