"""Build the weakly supervised detector that is trained end to end: trunk, RoI pooling, hidden layers and head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weaksam.models.backbones.architectures import first_modules_of_stages
from weaksam.models.backbones.features import FeatureExtractor, build_features
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import published_state
from weaksam.models.roi.pooling import pool_rois
from weaksam.models.wsod.drop_block import ConcreteDropBlock
from weaksam.models.wsod.head import HeadOutput, WsodStreams, hidden_layers

_VGG_POOL4, _VGG_CONV5, _VGG_LAST_RELU = 23, (24, 26, 28), 29


def wsod_trunk(
    settings: BackboneSettings, *, frozen_stages: int, stride8: bool = True, last_relu: bool = True
) -> FeatureExtractor:
    """The convolutions of a detector that trains, as one map ``last``; batch-norm keeps its ImageNet statistics.

    VGG-16 with ``stride8`` loses its fourth pooling and has conv5 dilated (``docs/method.md, OICR``), else its
    stride is 16; MobileNetV2 and ResNet-50 are dilated to stride 16. Without ``last_relu`` VGG-16 ends before its last
    ReLU, as MIST has it. The first ``frozen_stages`` stages get no gradient: their weights stay what they are, bit for
    bit (the released OICR meant this and did not do it).
    """
    trunk = build_features(settings, dilate=True, maps=("last",), frozen=False)
    if settings.name == "vgg16":
        _as_in_wsod(trunk, stride8, last_relu)
    starts = (*first_modules_of_stages(settings.name), len(trunk.body))
    for module in trunk.body[: starts[min(frozen_stages, len(starts) - 1)]]:
        module.requires_grad_(False)
    return trunk


def _as_in_wsod(trunk: FeatureExtractor, stride8: bool, last_relu: bool) -> None:
    """Change VGG-16's end in place."""
    if stride8:
        trunk.body[_VGG_POOL4] = nn.Identity()
        for index in _VGG_CONV5:
            convolution: Any = trunk.body[index]
            convolution.dilation, convolution.padding = (2, 2), (2, 2)
        trunk.strides["last"] = 8
    if not last_relu:
        trunk.body[_VGG_LAST_RELU] = nn.Identity()


class WsodNetwork(nn.Module):
    """Photos and their proposals in, each photo's `HeadOutput` out.

    ``trunk`` as `wsod_trunk` makes it; RoIs are pooled to ``roi_size`` cells a side by RoIPool or RoIAlign;
    ``drop_block`` is MIST's adversary, if there is one.
    """

    def __init__(
        self,
        trunk: FeatureExtractor,
        num_classes: int,
        *,
        roi_size: int = 7,
        hidden: int = 4096,
        dropout: float = 0.5,
        roi_pooling: Literal["align", "pool"] = "pool",
        deterministic: bool = False,
        drop_rate: float | None = None,
        **streams: Any,
    ) -> None:
        super().__init__()
        self.trunk, self.stride = trunk, trunk.strides["last"]
        channels = trunk.channels["last"]
        self.roi_size, self.roi_pooling, self.deterministic = roi_size, roi_pooling, deterministic
        self.drop_block = None if drop_rate is None else ConcreteDropBlock(channels, drop_rate=drop_rate)
        self.hidden = hidden_layers(channels * roi_size**2, hidden, dropout)
        self.streams = WsodStreams(hidden, num_classes, **streams)

    def forward(self, images: Tensor, boxes: Sequence[Tensor]) -> list[HeadOutput]:
        """The answer for each photo: ``images`` (B, 3, H, W) normalised, ``boxes`` B times (R, 4) xyxy in its pixels.

        A photo without proposals gets empty tensors.
        """
        return self.from_rois(self.pooled(images, boxes), boxes)

    def pooled(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Features ``(sum R, C, roi_size, roi_size)`` of the RoIs of all photos, one photo after the other."""
        return self.pool(self.trunk(images)["last"], boxes)

    def pool(self, features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The same from the trunk's map ``(B, C, h, w)``."""
        return pool_rois(
            features,
            boxes,
            size=self.roi_size,
            stride=self.stride,
            method=self.roi_pooling,
            deterministic=self.deterministic,
        )

    def from_rois(self, rois: Tensor, boxes: Sequence[Tensor]) -> list[HeadOutput]:
        """The answer for each photo from features ``(R, C, p, p)`` of all RoIs; ``boxes (N, 4)`` are of each photo."""
        counts = [len(of_photo) for of_photo in boxes]
        if self.drop_block is not None:
            rois = self.drop_block(rois, counts)
        return self.streams(self.hidden(rois.flatten(1), counts), counts)

    def all_but_drop_block_learn(self) -> AbstractContextManager[None]:
        """What is computed inside sends no gradient to the drop block's weights, which saves computing it."""
        return _not_learning(
            [parameter for name, parameter in self.named_parameters() if name.startswith("drop_block.")]
        )

    def only_drop_block_learns(self) -> AbstractContextManager[None]:
        """What is computed inside sends gradients to the drop block's weights alone."""
        return _not_learning(
            [parameter for name, parameter in self.named_parameters() if not name.startswith("drop_block.")]
        )


@contextmanager
def _not_learning(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """The parameters get no gradient from what is computed inside; those that got one before get it again after."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def load_hidden_layers(network: WsodNetwork, settings: BackboneSettings) -> bool:
    """Start the two hidden layers from VGG-16's own, fc6 and fc7; whether that could be done.

    It can where the backbone is VGG-16, its weights hold finite ones of that size (7 cells a side, 4,096 units), as
    torchvision's ``classifier.0`` and ``classifier.3``; else the layers stay as they are.
    """
    state = published_state(settings) if settings.name == "vgg16" else None
    own = network.hidden.state_dict()
    published = {name: state[f"classifier.{name}"] for name in own if state and f"classifier.{name}" in state}
    fits = all(name in published and published[name].shape == value.shape for name, value in own.items())
    if not fits or not all(bool(value.isfinite().all()) for value in published.values()):
        return False
    network.hidden.load_state_dict(published)
    return True


def parameter_groups(
    network: WsodNetwork,
    *,
    lr: float,
    weight_decay: float,
    bias_lr_factor: float,
    bias_weight_decay: float,
    branch_lr_factor: float,
) -> list[dict[str, Any]]:
    """The parameters that train, for an optimiser, in groups by learning rate and weight decay; the drop block's not.

    Biases and the refinement branches may have their own (``docs/method.md, OICR`` and ``MIST``); a branch's bias has
    both factors.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not name.startswith("drop_block."):
            is_branch = name.startswith(("streams.refine.", "streams.boxes."))
            groups.setdefault((name.endswith("bias"), is_branch), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (bias_lr_factor if is_bias else 1.0) * (branch_lr_factor if is_branch else 1.0),
            "weight_decay": bias_weight_decay if is_bias else weight_decay,
        }
        for (is_bias, is_branch), parameters in sorted(groups.items())
    ]


def pad_together(images: Sequence[Tensor], canvas: tuple[int, int] = (0, 0), multiple: int = 32) -> Tensor:
    """Normalised photos ``(3, h, w)`` as one batch ``(B, 3, H, W)``, zeros to the right of and below each.

    H and W are the least multiples of ``multiple`` that hold them all, and one of the height and width ``canvas``.
    """
    sides = [max(canvas[axis], *(image.shape[1 + axis] for image in images)) for axis in (0, 1)]
    height, width = (-(-side // multiple) * multiple for side in sides)
    batch = images[0].new_zeros(len(images), 3, height, width)
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return batch.to(memory_format=torch.channels_last)
