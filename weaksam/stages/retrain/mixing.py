"""Cut the believed objects out of the training photos, where the settings paste them onto others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from weaksam.config import UserError
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.copy_paste import CutOuts
from weaksam.engine.detectors.mixing import Mixing, MixingSettings
from weaksam.engine.pseudo_masks import PromptedMaskSettings, make_pseudo_masks, usable_pseudo_gt
from weaksam.sam.protocol import Segmenter
from weaksam.structures.instances import Instances
from weaksam.terminal import say

PROMPTING = PromptedMaskSettings(mask_choice="combined", min_fragment=0.1, max_hole=0.1)
"""How the segmenter's answers become cut-outs: the mask that it trusts and that agrees with the box, in one piece."""


def mixing_of(
    context: RunContext,
    settings: MixingSettings,
    pseudo_gt: Mapping[str, Instances],
    segmenter: Callable[[], Segmenter] | None,
    name: str,
) -> tuple[Mixing | None, dict[str, str]]:
    """What the photos of a training with these ``settings`` are mixed by, and its fingerprint; by default none.

    The masks of the boxes of ``pseudo_gt`` lie in ``OUT/<name>/store/box_masks-*``; the log says how many objects are
    cut out. Where none is, nothing is pasted, and a sentence says so. Raises:
        UserError: copy-paste without a segmenter, or onto untagged photos where there are none.
    """
    pastes = settings.copy_paste.probability > 0
    if not pastes and settings.mosaic.probability == 0:
        return None, {}
    if not pastes:
        return Mixing(settings), {}
    if segmenter is None:
        raise UserError(
            f"{name}.copy_paste wants the run's segmenter to cut objects out, found none: take "
            f"{name}.copy_paste.probability=0"
        )
    if settings.copy_paste.onto == "untagged" and all(sample.tags for sample in context.train):
        raise UserError(
            f"{name}.copy_paste.onto=untagged wants training photos without tags, found none: take "
            f"{name}.copy_paste.onto=any"
        )
    believed = {image_id: objects.without_crowd() for image_id, objects in pseudo_gt.items()}
    masks = make_pseudo_masks(context, PROMPTING, segmenter(), usable_pseudo_gt(context, believed, name), name)
    cut_outs = CutOuts.of(masks, settings.copy_paste)
    num_boxes = sum(map(len, believed.values()))
    context.log.write("cut-outs", stage=name, objects=cut_outs.count(), boxes=num_boxes)
    if cut_outs.count() == 0:
        say(f"{name}: no pseudo box has a mask good enough to be pasted (copy_paste.min_quality)", error=True)
    return Mixing(settings, cut_outs), {"cut_outs": cut_outs.fingerprint}
