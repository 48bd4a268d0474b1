"""Turn mmdet's or detrex's names of a published DINO with a ResNet into ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from weaksam.config import UserError
from weaksam.models.backbones.detectron2_files import resnet_name

_BACKBONE = {
    r"backbone\.conv1\.": "backbone.body.0.0.",
    r"backbone\.bn1\.": "backbone.body.0.1.",
    **{rf"backbone\.layer{stage}\.": f"backbone.body.{stage + 3}." for stage in range(1, 5)},
}
"""Beginnings of a ResNet's names and of ours, which count its modules."""
_SAME = re.compile(
    r"(neck|encoder|decoder|bbox_head|dn_query_generator|memory_trans_fc|memory_trans_norm|query_embedding)\..+|level_embed"
)
"""Names that are ours, too."""
_LEFT_OUT = re.compile(r".*\.num_batches_tracked")
"""Counts of batches, which frozen batch-norm has not."""

_DETREX = {
    r"neck\.(convs|extra_convs)\.(\d+)\.conv": r"neck.\1.\2.conv",
    r"neck\.(convs|extra_convs)\.(\d+)\.norm": r"neck.\1.\2.gn",
    r"transformer\.(encoder|decoder)\.layers\.(\d+)\.norms": r"\1.layers.\2.norms",
    r"transformer\.(encoder|decoder)\.layers\.(\d+)\.ffns\.0": r"\1.layers.\2.ffn",
    r"transformer\.(encoder|decoder)\.layers\.(\d+)\.attentions\.0": r"\1.layers.\2.self_attn",
    r"transformer\.decoder\.layers\.(\d+)\.attentions\.1": r"decoder.layers.\1.cross_attn",
    r"transformer\.decoder\.(norm|ref_point_head)": r"decoder.\1",
    r"transformer\.level_embeds": "level_embed",
    r"transformer\.tgt_embed": "query_embedding",
    r"transformer\.enc_output": "memory_trans_fc",
    r"transformer\.enc_output_norm": "memory_trans_norm",
    r"label_enc": "dn_query_generator.label_embedding",
    # The decoder holds the predictions, too: a file names each of their tensors twice
    r"(?:transformer\.decoder\.)?class_embed\.(\d+)": r"bbox_head.cls_branches.\1",
    r"(?:transformer\.decoder\.)?bbox_embed\.(\d+)\.layers\.(\d)": (
        lambda match: f"bbox_head.reg_branches.{match[1]}.{2 * int(match[2])}"
    ),
}
"""Beginnings of detrex's names (``projects/dino``) outside the ResNet and of ours; what follows is the same."""


def is_mmdet_dino(state: Mapping[str, Tensor]) -> bool:
    """Whether names are those of mmdet's DINO."""
    return any(key.startswith("dn_query_generator.") for key in state) and "backbone.conv1.weight" in state


def is_detrex_dino(state: Mapping[str, Tensor]) -> bool:
    """Whether names are those of detrex's DINO."""
    return "label_enc.weight" in state and any(
        key.startswith("transformer.encoder.layers.0.attentions.") for key in state
    )


def our_names(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors of mmdet's or detrex's DINO with a ResNet by our names; every name is accounted for.

    ``what`` names the weights in the error. Raises:
        UserError: a name that has no place in such a detector, or two names of one tensor whose numbers differ.
    """
    theirs, our_name = ("detrex", _from_detrex) if is_detrex_dino(state) else ("mmdet", _from_mmdet)
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if _LEFT_OUT.fullmatch(key):
            continue
        name = our_name(key)
        if name is None:
            raise UserError(
                f"{what} wants {theirs}'s DINO with a ResNet, found the tensor '{key}', which has no place in one: "
                "give the weights of such a detector"
            )
        if name in renamed and not renamed[name].equal(value):
            raise UserError(
                f"{what} wants the tensor '{key}' to be the same under its second name, as {theirs} writes it, found "
                "other numbers: give an undamaged file"
            )
        renamed[name] = value
    return renamed


def _from_mmdet(key: str) -> str | None:
    """Our name for one of mmdet's; None where it has none."""
    if _SAME.fullmatch(key):
        return key
    for pattern, beginning in _BACKBONE.items():
        if re.match(pattern, key):
            return re.sub(f"^{pattern}", beginning, key)
    return None


def _from_detrex(key: str) -> str | None:
    """Our name for one of detrex's; None where it has none."""
    if re.match(r"backbone\.(stem|res\d)\.", key):
        return _from_mmdet(f"backbone.{resnet_name(key.removeprefix('backbone.'))}")
    for pattern, replacement in _DETREX.items():
        name, number = re.subn(rf"^{pattern}(?=\.|$)", replacement, key)
        if number:
            return name
    return None
