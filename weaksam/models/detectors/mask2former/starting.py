"""Start Mask2Former from the weights of another, published or trained here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.models.detectors.first_weights import FirstWeights, new_classes_note, refuse_other_sizes
from weaksam.models.detectors.mask2former.bodies import SWIN
from weaksam.models.detectors.mask2former.settings import Mask2FormerSettings
from weaksam.store.weights import load_into

_CLASSES = "decoder.class_predictor."
_LAYERS = {
    "encoder_layers": "decoder.pixel_decoder.encoder.layers.",
    "decoder_layers": "decoder.transformer_module.decoder.layers.",
}
_UNUSED = ("backbone.network.swin.layernorm.",)
"""A norm behind Swin's last block that no map passes: detectron2 has none."""


def load_mask2former_weights(
    model: nn.Module,
    settings: Mask2FormerSettings,
    first: FirstWeights,
    classes: Sequence[str] = (),
    *,
    new_classes: bool = False,
) -> list[str]:
    """Load weights by our names into ``model``, every tensor accounted for; sentences about what was left out.

    With ``new_classes`` the layer that tells the classes stays as it is where their number or names (``classes``)
    differ.

    Raises:
        UserError: weights of another network, size or number of classes.
    """
    state = dict(first.state)
    if f"{_CLASSES}weight" not in state:
        raise UserError(
            f"{first.what} wants the weights of Mask2Former, found those of another network (its first tensor is "
            f"'{next(iter(state), '')[:60]}'): give those of Mask2Former, or choose {first.name}.network=mask_rcnn"
        )
    check_sizes(settings, first)
    given, wanted = (len(tensors[f"{_CLASSES}weight"]) - 1 for tensors in (state, model.state_dict()))
    note = new_classes_note(given, wanted, first, classes, new_classes)
    if note:
        state = {key: value for key, value in state.items() if not key.startswith(_CLASSES)}
    load_into(model, state, first.what, allow_missing=(*_UNUSED, *([_CLASSES] if note else [])))
    return [note] if note else []


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Those settings of `Mask2FormerSettings` that a network's tensors, by our names, show."""
    offsets = state["decoder.pixel_decoder.encoder.layers.0.self_attn.sampling_offsets.bias"]
    sizes = {
        "body": _body_of(state),
        "channels": state[f"{_CLASSES}weight"].shape[1],
        "encoder_width": len(state[f"{_LAYERS['encoder_layers']}0.fc1.bias"]),
        "decoder_width": len(state[f"{_LAYERS['decoder_layers']}0.fc1.bias"]),
        "num_heads": len(offsets) // (3 * 4 * 2),  # levels, points, x and y
        "num_queries": len(state["decoder.transformer_module.queries_features.weight"]),
    }
    for name, beginning in _LAYERS.items():
        sizes[name] = len({key.removeprefix(beginning).split(".")[0] for key in state if key.startswith(beginning)})
    return sizes


def _body_of(state: Mapping[str, Tensor]) -> str:
    """``body`` of the settings: ``backbone`` unless a Swin Transformer's tensors are there, of the nearest size."""
    patches = state.get("backbone.network.swin.embeddings.patch_embeddings.projection.bias")
    if patches is None:
        return "backbone"
    beginning = "backbone.network.swin.encoder.layers.2.blocks."
    depth = len({key.removeprefix(beginning).split(".")[0] for key in state if key.startswith(beginning)})
    of_size = (name for name, swin in SWIN.items() if (swin["embed_dim"], swin["depths"][2]) == (len(patches), depth))
    return next(of_size, "a Swin Transformer of another size")


def check_sizes(settings: Mask2FormerSettings, first: FirstWeights) -> None:
    """`UserError` that names the settings in which the weights differ from ``settings``."""
    try:
        given = sizes_of(first.state)
    except (KeyError, IndexError):
        return  # what lacks is told when the tensors are loaded
    refuse_other_sizes(given, settings, "Mask2Former", first)
