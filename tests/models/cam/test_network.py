"""The deepest map of torchvision's CNNs."""

from __future__ import annotations

import pytest
import torch

from weaksam.config import UserError
from weaksam.models.cam.network import CamNetwork


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 512), ("squeezenet1_1", 1000), ("mnasnet0_5", 1280)])
def test_the_deepest_map_of_any_cnn(name: str, channels: int) -> None:
    network = CamNetwork(name, "none")
    features = network(torch.zeros(2, 3, 64, 96))["cam"]
    assert network.num_channels == channels and features.shape[:2] == (2, channels)
    assert min(features.shape[2:]) > 1


@pytest.mark.parametrize(("name", "said"), [("resnet19", "did you mean resnet1"), ("vit_b_16", "clues.source=weaktr")])
def test_a_name_of_no_cnn_is_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        CamNetwork(name, "none")
