"""Cut the believed objects out of the training photos, where the settings paste them onto others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from weaksam.config import UserError
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.copy_paste import CopyPasteSettings, CutOuts, photos_to_cut
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
    log says how many objects are cut out. Where none is, or there are no proposals to cut by, nothing is pasted, and a
    sentence says so. Raises:
        UserError: masks of a segmenter without one, or objects onto untagged photos where there are none.
    """
    cut_outs = None
    if settings.copy_paste.probability > 0:
        cut_outs = _cut_outs(context, settings.copy_paste, pseudo_gt, proposals, segmenter, name)
    if cut_outs is None and settings.mosaic.probability == 0:
        return None, {}
    return Mixing(settings, cut_outs), {} if cut_outs is None else {"cut_outs": cut_outs.fingerprint}


def _cut_outs(
    context: RunContext,
    settings: CopyPasteSettings,
    pseudo_gt: Mapping[str, Instances],
    proposals: Store | None,
    segmenter: Callable[[], Segmenter] | None,
    name: str,
) -> CutOuts | None:
    """The objects of the believed boxes that may be pasted, see `mixing_of`; None without proposals to cut by."""
    if settings.onto == "untagged" and all(sample.tags for sample in context.train):
        raise UserError(
            f"{name}.copy_paste.onto=untagged wants training photos without tags, found none: take "
            f"{name}.copy_paste.onto=any"
        )
    believed = {image_id: objects.without_crowd() for image_id, objects in pseudo_gt.items()}
    believed = photos_to_cut(believed, settings.most_cut_outs, context.seed)
    sizes = {sample.image_id: sample.size for sample in context.train}
    if settings.masks == "proposals":
        if proposals is None:
            say(f"{name}: nothing is pasted, for there are no proposals to cut objects out by", error=True)
            return None
        cut_outs = CutOuts.of_proposals(proposals, believed, sizes, settings)
    elif segmenter is None:
        raise UserError(
            f"{name}.copy_paste.masks=segmenter wants a segmenter to cut objects out, found none: take "
            f"{name}.copy_paste.masks=proposals"
        )
    else:
        masks = make_pseudo_masks(context, PROMPTING, segmenter(), usable_pseudo_gt(context, believed, name), name)
        cut_outs = CutOuts.of_masks(masks, sizes, settings)
    num_boxes = sum(map(len, believed.values()))
    context.log.write("cut-outs", stage=name, objects=cut_outs.count(), boxes=num_boxes)
    if cut_outs.count() == 0:
        say(
            f"{name}: no pseudo box has a mask good enough to be pasted (min_quality, or, where the proposals have no "
            f"masks, masks=segmenter, of {name}.copy_paste)",
            error=True,
        )
    return cut_outs
