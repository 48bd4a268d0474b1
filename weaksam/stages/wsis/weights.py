"""Say how far each pseudo mask counts in the training of masks."""

from __future__ import annotations

from torch import Tensor

from weaksam.data.detection_stores import instances_of
from weaksam.engine.pseudo_masks import stored_certainties, stored_qualities
from weaksam.stages.wsis.settings import PseudoMaskSettings
from weaksam.store.store import Store
from weaksam.structures.instances import Instances


def training_masks(store: Store, settings: PseudoMaskSettings) -> dict[str, Instances]:
    """The instances of every photo in a sealed ``store`` of pseudo masks, with the weight of each mask.

    Weights are there where ``settings`` or the store's agreement give any; without, all count alike.
    """
    masks, qualities = instances_of(store), stored_qualities(store)
    trusts = stored_certainties(store) if settings.mask_weights == "certainty" else qualities
    agreements = store.column("agreement") if "agreement" in store.columns else {}
    instances: dict[str, Instances] = {}
    for image_id, objects in masks.items():
        agreement = agreements[image_id] if agreements else None
        weights = mask_weights(qualities[image_id], agreement, settings, trusts[image_id])
        instances[image_id] = objects.replace(mask_weights=weights)
    return instances


def mask_weights(
    quality: Tensor, agreement: Tensor | None, settings: PseudoMaskSettings, trust: Tensor | None = None
) -> Tensor | None:
    """The weight ``(N,)`` in [0, 1] of masks of this ``quality`` (N,) and, in later rounds, ``agreement`` (N,).

    ``trust``: what weighs them where the settings want that, their certainty or, by default, their quality.

    Their product as far as ``settings`` want them, and 0 below ``settings.min_mask_quality``; None where nothing is
    weighed.
    """
    if settings.mask_weights == "off" and settings.min_mask_quality == 0 and agreement is None:
        return None
    trust = quality if trust is None else trust
    weights = quality.new_ones(len(quality)) if settings.mask_weights == "off" else trust
    weights = weights if agreement is None else weights * agreement
    return weights.masked_fill(quality < settings.min_mask_quality, 0.0)
