"""The feature pyramid: its levels, what trains, and a refusal."""

import pytest
import torch

from weaksam.config import UserError
from weaksam.models.backbones.pyramid import fpn_backbone, pyramid_strides
from weaksam.models.backbones.settings import BackboneSettings


@pytest.mark.parametrize(("name", "levels"), [("mobilenet_v2", 4), ("resnet50", 4), ("vgg16", 3)])
def test_the_pyramid_halves_at_every_level_and_trains_only_what_was_asked(name, levels):
    settings = BackboneSettings(name=name, weights="none")
    pyramid = fpn_backbone(settings, out_channels=16, trainable_layers=0)
    maps = pyramid(torch.randn(1, 3, 128, 64))
    assert [tuple(level.shape) for level in maps.values()] == [(1, 16, 16 >> i, 8 >> i) for i in range(levels)]
    assert not any(p.requires_grad for p in pyramid.body.parameters())
    assert all(p.requires_grad for p in pyramid.fpn.parameters())
    trained = [
        sum(
            p.numel()
            for p in fpn_backbone(settings, out_channels=16, trainable_layers=n).body.parameters()
            if p.requires_grad
        )
        for n in (0, 1, 2, 3)
    ]
    assert trained == sorted(set(trained)) and trained[0] == 0


@pytest.mark.parametrize(("name", "levels"), [("mobilenet_v2", 5), ("resnet50", 5), ("vgg16", 4), ("sam_nano", 4)])
def test_a_full_pyramid_begins_at_stride_4(name, levels):
    pyramid = fpn_backbone(
        BackboneSettings(name=name, weights="none"), out_channels=16, trainable_layers=0, pyramid="full"
    )
    maps = pyramid(torch.randn(1, 3, 128, 64))
    assert [tuple(level.shape) for level in maps.values()] == [(1, 16, 32 >> i, 16 >> i) for i in range(levels)]
    assert pyramid_strides(name, "full") == (4, *pyramid_strides(name)) == (4, 8, 16, 32, 64)[:levels]


def test_more_stages_than_there_are_is_one_sentence():
    with pytest.raises(UserError, match="0 to 5"):
        fpn_backbone(BackboneSettings(name="vgg16", weights="none"), out_channels=8, trainable_layers=9)
