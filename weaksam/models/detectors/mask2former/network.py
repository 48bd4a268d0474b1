"""Build Mask2Former on any backbone, and run it on a batch of photos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weaksam.models.backbones.colours import IMAGENET, ColourSettings
from weaksam.models.backbones.inputs import normalise
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import input_colours
from weaksam.models.detectors.mask2former.bodies import backbone_maps, swin_maps
from weaksam.models.detectors.mask2former.decoder import MaskDecoder, UnusedProjection, mask_decoder
from weaksam.models.detectors.mask2former.losses import QueryPredictions
from weaksam.models.detectors.mask2former.settings import Mask2FormerSettings
from weaksam.models.full_precision import full_precision

_STRIDE = 32
"""Sides of a batch are multiples of it, so that the maps' sides are each half of the one before."""


class Mask2Former(nn.Module):
    """Mask2Former (Cheng et al., CVPR 2022): queries that attend to a photo inside their own masks.

    ``backbone.`` begins the names of the backbone's tensors, ``decoder.`` all others.
    """

    def __init__(self, backbone: nn.Module, decoder: MaskDecoder, colours: ColourSettings) -> None:
        """``backbone`` gives four maps, of stride 4 to 32; ``colours`` are those that it wants."""
        super().__init__()
        self.backbone, self.decoder, self.colours = backbone, decoder, colours

    def forward(self, images: Sequence[Tensor], canvas: tuple[int, int] = (0, 0)) -> QueryPredictions:
        """Predictions of photos, float ``(3, h, w)`` in 0..1 or uint8, in one frame padded at the right and bottom.

        The frame is at least ``canvas`` pixels high and wide. The pixel decoder computes in float32 under autocast,
        too, as its places lie between cells.
        """
        return self.predictions(self._batch(images, canvas))

    def predictions(self, batch: Tensor) -> QueryPredictions:
        """The same of normalised photos ``(B, 3, H, W)``, H and W multiples of 32, with zeros where they are padded."""
        maps = self.backbone(batch)
        with torch.autocast(batch.device.type, enabled=False):
            pixels = self.decoder.pixel_decoder([full_precision(level) for level in maps])
        decoded = self.decoder.transformer_module(
            multi_scale_features=pixels.multi_scale_features, mask_features=pixels.mask_features
        )
        hidden = torch.stack(decoded.intermediate_hidden_states).transpose(1, 2)  # (L, B, Q, D)
        embeddings = torch.stack(decoded.masks_queries_logits)
        height, width = batch.shape[-2:]
        classes, frame = self.decoder.class_predictor(hidden), (height, width)
        if isinstance(self.decoder.pixel_decoder.mask_projection, UnusedProjection):
            return QueryPredictions(classes, embeddings[..., :-1], pixels.mask_features, frame, embeddings[..., -1])
        return QueryPredictions(classes, embeddings, pixels.mask_features, frame)

    def train(self, mode: bool = True) -> Mask2Former:
        """As usual, but for the encoder's layers: which without dropout would only look for infinities."""
        super().train(mode)
        for layer in self.decoder.pixel_decoder.encoder.layers:
            layer.eval()
        return self

    def _batch(self, images: Sequence[Tensor], canvas: tuple[int, int]) -> Tensor:
        """Normalised photos ``(B, 3, H, W)``, channels last, with zeros at the right and bottom."""
        sides = [max(canvas[axis], *(image.shape[1 + axis] for image in images)) for axis in (0, 1)]
        height, width = (-(-side // _STRIDE) * _STRIDE for side in sides)
        batch = full_precision(images[0]).new_zeros(len(images), 3, height, width)
        batch = batch.contiguous(memory_format=torch.channels_last)
        for place, image in zip(batch, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]].copy_(normalise(image, self.colours))
        return batch


def build_mask2former(
    backbone: BackboneSettings, settings: Mask2FormerSettings, num_classes: int, *, plain: bool = False
) -> Mask2Former:
    """The network with the weights that ``backbone`` names, all else random (drawn from torch's current seed).

    ``plain``: the decoder's modules stay transformers' own, a twin for tests that gives masks instead of embeddings.
    """
    if settings.body == "backbone":
        body: nn.Module = backbone_maps(backbone, settings.trainable_layers)
        colours = input_colours(backbone)
    else:
        body, colours = swin_maps(settings.body, settings.trainable_layers), IMAGENET
    channels: list[int] = body.channels  # type: ignore[assignment]
    decoder = mask_decoder(settings, channels, num_classes, plain=plain)
    return Mask2Former(body, decoder, colours).to(memory_format=torch.channels_last)
