"""Features of photos: their projection, the cache and the mirrored view."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers import NANO_BACKBONE, draw_discs
from weaksam.models.backbones.colours import IMAGENET
from weaksam.models.backbones.features import build_features
from weaksam.stages.wsod.photo_features import PhotoFeatures, principal_projection


def test_principal_projection_by_hand() -> None:
    positions = torch.tensor([[2.0, 1.0, 0.0], [-2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [-2.0, 1.0, 0.0]])
    projection = principal_projection(positions, 1)
    assert projection.mean.tolist() == [0.0, 1.0, 0.0]
    torch.testing.assert_close(projection.weight, torch.tensor([[0.5, 0.0, 0.0]]))  # unit variance afterwards
    projected = projection(positions.T[None, :, :, None])
    assert projected[0, 0, :, 0].tolist() == pytest.approx([1.0, -1.0, 1.0, -1.0])


def test_cached_features_equal_computed_ones_and_the_mirror_view_is_mirrored(tmp_path: Path) -> None:
    dataset = draw_discs(tmp_path)
    network = build_features(NANO_BACKBONE)
    kept = PhotoFeatures(network, IMAGENET, 128, torch.device("cpu"), max_cache_gib=1.0)
    never = PhotoFeatures(network, IMAGENET, 128, torch.device("cpu"), max_cache_gib=0.0)
    never.projection = kept.fit_projection(dataset, 16)
    sample = dataset.samples[0]
    first, again, fresh = kept.views(sample), kept.views(sample), never.views(sample)
    assert first[0].features is again[0].features
    assert not never.cache
    assert torch.equal(first[0].features, fresh[0].features)
    assert first[0].features.shape == first[1].features.shape == (16, 6, 8)
    assert first[0].scale == (1.0, 1.0)
    assert (first[1].mirrored, first[0].mirrored) == (True, False)
    plain, mirrored = first[0].features.float(), first[1].features.float()
    similar = torch.nn.functional.cosine_similarity
    assert similar(plain, mirrored.flip(2), dim=0).mean() > similar(plain, mirrored, dim=0).mean() + 0.1
