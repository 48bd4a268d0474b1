"""Turn mmdet's names of a published DINO with a ResNet into ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from weaksam.config import UserError

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


def is_mmdet_dino(state: Mapping[str, Tensor]) -> bool:
    """Whether names are those of mmdet's DINO."""
    return any(key.startswith("dn_query_generator.") for key in state) and "backbone.conv1.weight" in state


def our_names(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The tensors of mmdet's DINO with a ResNet by our names; every name is accounted for.

    ``what`` names the weights in the error. Raises:
        UserError: a name that has no place in such a detector.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if _LEFT_OUT.fullmatch(key):
            continue
        name = _our_name(key)
        if name is None:
            raise UserError(
                f"{what} wants mmdet's DINO with a ResNet, found the tensor '{key}', which has no place in one: "
                "give the weights of such a detector"
            )
        renamed[name] = value
    return renamed


def _our_name(key: str) -> str | None:
    """Our name for one of mmdet's; None where it has none."""
    if _SAME.fullmatch(key):
        return key
    for pattern, beginning in _BACKBONE.items():
        if re.match(pattern, key):
            return re.sub(f"^{pattern}", beginning, key)
    return None
