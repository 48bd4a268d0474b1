"""The fingerprint of a backbone follows its weights, published or given."""

import pytest
import torch

from weaksam.config import UserError
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.store.weights import save_weights


def test_the_fingerprint_follows_the_bytes_and_the_name(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"weight": torch.ones(3)})
    first = backbone_fingerprint(BackboneSettings(weights=str(path)))
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    assert backbone_fingerprint(BackboneSettings(weights=str(copy))) == first
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    copy.write_bytes(bytes(changed))
    assert backbone_fingerprint(BackboneSettings(weights=str(copy))) != first
    names = {backbone_fingerprint(BackboneSettings(name=n, weights="none")) for n in ("mobilenet_v2", "vgg16")}
    assert len(names) == 2
    with pytest.raises(UserError, match="not a file"):
        backbone_fingerprint(BackboneSettings(weights=str(tmp_path / "absent")))


def test_torchvisions_other_weights_are_taken_by_name() -> None:
    def fingerprint(name: str, weights: str) -> str:
        return backbone_fingerprint(BackboneSettings(name=name, weights=weights))

    first, second = (fingerprint("resnet50", f"IMAGENET1K_V{number}") for number in (1, 2))
    assert first == fingerprint("resnet50", "imagenet") != second
    assert fingerprint("vgg16", "imagenet1k_features") not in {first, second, fingerprint("vgg16", "imagenet")}
    with pytest.raises(UserError, match="IMAGENET1K_V9, which is not a file"):
        fingerprint("resnet50", "IMAGENET1K_V9")
