"""Open the network of a segmenter for adaptation."""

from __future__ import annotations

from weaksam.config import UserError
from weaksam.recipes.sam_adaptation.networks import AdaptableNano, AdaptableNetwork, AdaptableSam
from weaksam.sam.nano.segmenter import SamNano
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.protocol import Segmenter


def adaptable(segmenter: Segmenter, *, legacy: bool = False) -> AdaptableNetwork:
    """The network of a segmenter; raises `UserError` for one that cannot be adapted.

    ``legacy``: photos in the middle of the input and not normalised, as WeSAM's code has them.
    """
    if isinstance(segmenter, SamNano):
        return AdaptableNano(segmenter.model, legacy=legacy)
    if isinstance(segmenter, SegmentAnything):
        return AdaptableSam(segmenter.sam, legacy=legacy)
    from weaksam.sam.transformers.segmenter import TransformersSam  # here, as transformers takes seconds to import

    if isinstance(segmenter, TransformersSam):
        from weaksam.recipes.sam_adaptation.transformers_network import AdaptableTransformers

        return AdaptableTransformers(segmenter, legacy=legacy)
    raise UserError(
        f"wanted a segmenter with a network to adapt, found {segmenter.name}: set segmenter.weights to segment-"
        "anything's weights or to a model of transformers (SAM, SAM 2), or segmenter.family=nano"
    )
