"""Start DINO from the weights of another, published or trained here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from weaksam.config import UserError
from weaksam.models.detectors.dino.network import DinoNetwork
from weaksam.models.detectors.dino.settings import DinoShape
from weaksam.models.detectors.first_weights import FirstWeights, new_classes_note, refuse_other_sizes
from weaksam.store.weights import load_into

_CLASS_KEYS = ("bbox_head.cls_branches.", "dn_query_generator.label_embedding.")
"""Begin the names of the tensors that have rows for each class."""


def load_dino_weights(
    model: DinoNetwork, first: FirstWeights, classes: Sequence[str] = (), *, new_classes: bool = False
) -> list[str]:
    """Load weights into ``model``, every tensor accounted for; sentences about what was left out.

    With ``new_classes`` the layers that have rows for each class stay as they are where their number or the names
    ``classes`` differ.

    Raises:
        UserError: weights of another network, shape or number of classes.
    """
    state = dict(first.state)
    if "bbox_head.cls_branches.0.weight" not in state:
        raise UserError(
            f"{first.what} wants the weights of DINO, found those of another network (its first tensor is "
            f"'{next(iter(state))[:60]}'): give the weights of DINO, or choose {first.name}.detector=faster_rcnn"
        )
    _refuse_other_shapes(state, model.shape, first)
    given, wanted = (len(tensors["bbox_head.cls_branches.0.weight"]) for tensors in (state, model.state_dict()))
    note = new_classes_note(given, wanted, first, classes, new_classes)
    if note:
        state = {key: value for key, value in state.items() if not key.startswith(_CLASS_KEYS)}
    load_into(model, state, first.what, allow_missing=_CLASS_KEYS if note else ())
    return [note] if note else []


def shape_of(state: Mapping[str, Tensor]) -> dict[str, int | str]:
    """Those settings of `DinoShape` that a detector's tensors show."""
    return {
        "implementation": "detrex" if "neck.convs.0.conv.bias" in state else "mmdet",
        "num_levels": state["level_embed"].shape[0],
        "embed_dims": state["level_embed"].shape[1],
        "num_queries": state["query_embedding.weight"].shape[0],
        "ffn_dims": state["encoder.layers.0.ffn.layers.0.0.bias"].shape[0],
        "encoder_layers": _num_layers(state, "encoder"),
        "decoder_layers": _num_layers(state, "decoder"),
    }


def _num_layers(state: Mapping[str, Tensor], part: str) -> int:
    return len({key.split(".")[2] for key in state if key.startswith(f"{part}.layers.")})


def _refuse_other_shapes(state: Mapping[str, Tensor], shape: DinoShape, first: FirstWeights) -> None:
    """`UserError` that names the settings in which a file differs from ``shape``."""
    try:
        given = shape_of(state)
    except (KeyError, IndexError):
        return  # what lacks is told when the tensors are loaded
    refuse_other_sizes(given, shape, "DINO", first)
