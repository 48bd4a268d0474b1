"""Cut the believed objects out of the training photos, where the settings paste them onto others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from weaksam.config import UserError
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.copy_paste import CopyPasteSettings, CutOuts
from weaksam.engine.detectors.mixing import Mixing, MixingSettings
from weaksam.engine.pseudo_masks import PromptedMaskSettings, make_pseudo_masks, usable_pseudo_gt
from weaksam.sam.protocol import Segmenter
from weaksam.store.store import Store
from weaksam.structures.instances import Instances
from weaksam.terminal import say

PROMPTING = PromptedMaskSettings(mask_choice="combined", min_fragment=0.1, max_hole=0.1)
"""How the segmenter's answers become cut-outs: the mask that it trusts and that agrees with the box, in one piece."""


def mixing_of(
    context: RunContext,
    settings: MixingSettings,
    pseudo_gt: Mapping[str, Instances],
    proposals: Store | None,
    segmenter: Callable[[], Segmenter] | None,
    name: str,
) -> tuple[Mixing | None, dict[str, str]]:
    """What the photos of a training with these ``settings`` are mixed by, and its fingerprint; None where by nothing.

    ``proposals`` are those of the training photos. Masks of the segmenter lie in ``OUT/<name>/store/box_masks-*``. The
    log says how many objects are cut out. Where none is, nothing is pasted, and a sentence says so. Raises:
        UserError: copy-paste without the proposals or the segmenter that it wants, or onto untagged photos where there
            are none.
    """
    pastes = settings.copy_paste.probability > 0
    if not pastes and settings.mosaic.probability == 0:
        return None, {}
    if not pastes:
        return Mixing(settings), {}
    if settings.copy_paste.onto == "untagged" and all(sample.tags for sample in context.train):
        raise UserError(
            f"{name}.copy_paste.onto=untagged wants training photos without tags, found none: take "
            f"{name}.copy_paste.onto=any"
        )
    believed = {image_id: objects.without_crowd() for image_id, objects in pseudo_gt.items()}
    cut_outs = _cut_outs(context, settings.copy_paste, believed, proposals, segmenter, name)
    num_boxes = sum(map(len, believed.values()))
    context.log.write("cut-outs", stage=name, objects=cut_outs.count(), boxes=num_boxes)
    if cut_outs.count() == 0:
        say(
            f"{name}: no pseudo box has a mask good enough to be pasted ({name}.copy_paste.min_quality, and "
            f"{name}.copy_paste.masks=segmenter where the proposals have no masks)",
            error=True,
        )
    return Mixing(settings, cut_outs), {"cut_outs": cut_outs.fingerprint}


def _cut_outs(
    context: RunContext,
    settings: CopyPasteSettings,
    believed: Mapping[str, Instances],
    proposals: Store | None,
    segmenter: Callable[[], Segmenter] | None,
    name: str,
) -> CutOuts:
    """The objects of the ``believed`` boxes that may be pasted; `UserError` without what gives their masks."""
    sizes = {sample.image_id: sample.size for sample in context.train}
    if settings.masks == "proposals" and proposals is not None:
        return CutOuts.of_proposals(proposals, believed, sizes, settings)
    if settings.masks == "proposals" or segmenter is None:
        raise UserError(
            f"{name}.copy_paste.masks={settings.masks} wants the run's {settings.masks} to cut objects out, found "
            f"none: take {name}.copy_paste.probability=0"
        )
    masks = make_pseudo_masks(context, PROMPTING, segmenter(), usable_pseudo_gt(context, believed, name), name)
    return CutOuts.of_masks(masks, sizes, settings)
