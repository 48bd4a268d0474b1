"""The fingerprint of a backbone follows its weights, published or given."""

import pytest
import torch
from torchvision.models import mobilenet_v2

from weaksam.config import UserError
from weaksam.models.backbones.colours import IMAGENET, CaffeColours
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import backbone_fingerprint, colours_note, input_colours, pinned_backbone
from weaksam.store.files import ChangedFile, file_sha256
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


def test_colours_are_those_set_else_those_that_torchvision_states_for_its_weights(tmp_path):
    def colours(**values):
        return input_colours(BackboneSettings(**values))

    amdegroot = "vgg16_features-amdegroot-88682ab5.pth"
    assert colours() == colours(name="sam_nano") == colours(name="vgg16") == IMAGENET
    assert colours(name="vgg16", weights="some/vgg16-397923af.pth") == IMAGENET
    assert colours(name="vgg16", weights="some/other.pth") == IMAGENET
    for weights in ("IMAGENET1K_FEATURES", f"some/{amdegroot}"):
        levels = colours(name="vgg16", weights=weights)
        assert levels.order == "rgb" and levels.deviation == pytest.approx((1, 1, 1))
        assert levels.mean == pytest.approx((123, 117, 104), abs=1e-2)
        assert colours(name="vgg16", weights=weights, colours="caffe") == CaffeColours()
    assert colours(colours={"kind": "caffe", "mean": [124, 117, 104]}).mean == (124, 117, 104)


def test_a_guess_about_colours_is_said():
    def note(**values):
        return colours_note(BackboneSettings(**values))

    said = note(name="vgg16", weights="mine.pth")
    assert said is not None and "mine.pth" in said and "backbone.colours=caffe" in said
    assert note(name="vgg16", weights="mine.pth", colours="imagenet") is None
    assert note(name="vgg16") is note(name="vgg16", weights="vgg16-397923af.pth") is note(weights="mine.pth") is None


def test_other_colours_are_another_backbone(tmp_path):
    prints = [
        backbone_fingerprint(BackboneSettings(weights="none", colours=colours))
        for colours in ("auto", "imagenet", "caffe", {"kind": "caffe", "mean": (124, 117, 104)})
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_a_file_of_weights_that_changes_under_a_run_is_refused(tmp_path):
    path = tmp_path / "mobilenet.safetensors"
    save_weights(path, mobilenet_v2(weights=None).state_dict())
    given = BackboneSettings(weights=str(path))
    pinned = pinned_backbone(given)
    assert pinned.weights_sha256 == file_sha256(path) and backbone_fingerprint(pinned) == backbone_fingerprint(given)
    whole = path.read_bytes()
    save_weights(path, mobilenet_v2(weights=None).state_dict())
    for read in (backbone_fingerprint, build_features):
        with pytest.raises(ChangedFile, match=r"mobilenet\.safetensors as it was, found other bytes"):
            read(pinned)
    path.write_bytes(whole)
    assert build_features(pinned).channels == build_features(given).channels
    for untouched in (BackboneSettings(weights="none"), BackboneSettings(), BackboneSettings(name="sam_nano")):
        assert pinned_backbone(untouched) is untouched
