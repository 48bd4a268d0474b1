"""Correct transformers' SAM-HQ decoder where it differs from the original and from the segmenter protocol."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def repair_sam_hq(decoder: Any) -> None:
    """Make transformers' SAM-HQ decoder draw from the image its transformer attended to, masks in SAM's own order.

    transformers (5.17 to 5.23 at least) discards the image that the two-way transformer returns and upscales the one
    that went in, with rows and columns swapped; the original decoder upscales the returned one, and so does this. It
    also sorts the three masks by predicted IoU; here they come as in SAM, small to large. Where a later version does
    either by itself, this changes nothing.
    """
    seen: dict[str, Tensor] = {}

    def keep_image(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        seen["image"] = output[1]  # (1 or P, P or 1, positions, C)

    def put_back(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (seen.pop("image").transpose(2, 3).reshape(inputs[0].shape),)

    def keep_iou(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen["iou"] = output[..., 1:]  # (1, P, 3): the first token is for a single mask

    def unsort(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        masks, iou = output
        own = seen.pop("iou")
        if torch.equal(iou, own):
            return masks, iou
        rank = own.sort(dim=2, descending=True).indices.argsort(dim=2)  # where the mask of each token went
        return masks.gather(2, rank[..., None, None].expand_as(masks)), own

    decoder.transformer.register_forward_hook(keep_image)
    decoder.upscale_conv1.register_forward_pre_hook(put_back)
    decoder.iou_prediction_head.register_forward_hook(keep_iou)
    decoder.register_forward_hook(unsort)
