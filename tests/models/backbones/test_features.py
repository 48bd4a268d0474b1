"""Backbones equal torchvision's networks, dilation included, and every wrong weight file is one sentence."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.ops.misc import FrozenBatchNorm2d

from weaksam.config import UserError
from weaksam.models.backbones.batch_norm import fold_batch_norm
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.inputs import normalise
from weaksam.models.backbones.pyramid import fpn_backbone
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.store.weights import load_state, save_weights

MOBILENET = "weights/mobilenet_v2_imagenet.safetensors"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A MobileNetV2 file with random weights and batch-norm statistics, and the network it came from."""
    torch.manual_seed(3)
    network = torchvision.models.mobilenet_v2().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.5)):
                torch.nn.init.uniform_(tensor, low, low + 1.0)
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.safetensors"
    save_weights(path, network.state_dict())
    return path, network


def test_normalise_is_the_imagenet_one_for_both_kinds_of_numbers():
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalise(white).flatten().tolist() == pytest.approx(expected)
    assert torch.equal(normalise(white), normalise(torch.ones(1, 3, 1, 1)))


@torch.inference_mode()
def test_maps_equal_torchvisions_layers(written):
    path, network = written
    images = torch.randn(2, 3, 64, 96)
    extractor = build_features(
        BackboneSettings(weights=str(path)), dilate=False, maps=("c2", "c3", "c4", "mid", "last", "head")
    )
    maps = extractor(images)
    hidden, expected = images, {}
    for index, layer in enumerate(network.features):
        if index == 14:
            expected["mid"] = layer.conv[0](hidden)
        hidden = layer(hidden)
        expected[{3: "c2", 6: "c3", 13: "c4", 17: "last", 18: "head"}.get(index, "-")] = hidden
    for name, found in maps.items():
        torch.testing.assert_close(found, expected[name], rtol=1e-3, atol=1e-3)
        assert found.shape[1] == extractor.channels[name]
        assert found.shape[2] == 64 // extractor.strides[name]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
@torch.inference_mode()
def test_dilated_map_holds_the_strided_one_at_every_second_place(name):
    strided = build_features(BackboneSettings(name=name, weights="none"), dilate=False, maps=("last",))
    dilated = build_features(BackboneSettings(name=name, weights="none"), dilate=True, maps=("last",))
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 96, 64)
    small, large = strided(images)["last"], dilated(images)["last"]
    assert large.shape[2:] == (6, 4) and dilated.strides["last"] == 16
    size = small.abs().max()
    assert 0.1 < float(size) < 1e4  # random weights pass a signal on, frozen batch-norm or not
    torch.testing.assert_close(large[..., ::2, ::2] / size, small / size, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(large[..., 1::2, 1::2] / size, small / size, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "vgg16"])
def test_strides_and_channels_are_those_of_the_maps_and_nothing_trains(name):
    names = ("c2", "c3", "mid", "last")
    for dilate in (True, False):
        extractor = build_features(BackboneSettings(name=name, weights="none"), dilate=dilate, maps=names)
        for key, found in extractor(torch.randn(1, 3, 64, 64)).items():
            assert found.shape == (1, extractor.channels[key], *2 * (64 // extractor.strides[key],))
        assert not any(parameter.requires_grad for parameter in extractor.parameters())
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in extractor.modules())


@torch.inference_mode()
def test_folding_changes_nothing_but_the_number_of_modules():
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(4)
    for buffer in norm.buffers():
        torch.nn.init.uniform_(buffer, 0.5, 2.0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), norm, torch.nn.ReLU())
    images = torch.randn(1, 3, 9, 9)
    before = plain(images)
    folded = fold_batch_norm(plain)
    torch.testing.assert_close(folded(images), before, rtol=1e-5, atol=1e-5)
    assert isinstance(folded[1], torch.nn.Identity) and folded[0].bias is not None


def test_the_bundled_test_weights_recognise_a_cat(shared_data):
    path = shared_data / MOBILENET
    photo = Image.open(shared_data / "coral_samples" / "cat.bmp").convert("RGB").resize((224, 224))
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    extractor = build_features(BackboneSettings(weights=str(path)), dilate=False, maps=("head",))
    state = load_state(path)
    pooled = extractor(normalise(image))["head"].mean((2, 3))
    scores = (pooled @ state["classifier.1.weight"].T + state["classifier.1.bias"]).softmax(1)[0]
    assert int(scores.argmax()) == 285  # Egyptian cat
    assert float(scores[285]) > 0.6


@pytest.mark.parametrize(("name", "levels"), [("mobilenet_v2", 4), ("resnet50", 4), ("vgg16", 3)])
def test_the_pyramid_halves_at_every_level_and_trains_only_what_was_asked(name, levels):
    settings = BackboneSettings(name=name, weights="none")
    pyramid = fpn_backbone(settings, out_channels=16, trainable_layers=0)
    maps = pyramid(torch.randn(1, 3, 128, 64))
    assert [tuple(found.shape) for found in maps.values()] == [(1, 16, 16 >> i, 8 >> i) for i in range(levels)]
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


def test_wrong_weights_are_one_sentence_each(tmp_path, written):
    path, network = written
    page = tmp_path / "page.pth"
    page.write_text("<!DOCTYPE html><html>sign in</html>")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:5000])
    extra = tmp_path / "extra.safetensors"
    save_weights(extra, {**network.state_dict(), "neck.weight": torch.zeros(1)})
    cases = [
        ("mobilenet_v2", tmp_path / "absent.pth", "is not a file"),
        ("mobilenet_v2", page, "web page"),
        ("mobilenet_v2", cut, "not a readable"),
        ("mobilenet_v2", extra, "neck.weight"),
        ("resnet50", path, "backbone resnet50"),
        ("vgg16", path, "backbone vgg16"),
    ]
    for name, file, said in cases:
        with pytest.raises(UserError, match=said) as caught:
            build_features(BackboneSettings(name=name, weights=str(file)))
        assert "\n" not in str(caught.value)


def test_torch_files_load_like_safetensors_and_without_the_classifier(tmp_path, written):
    path, network = written
    torch_file = tmp_path / "features.pth"
    torch.save({k: v for k, v in network.state_dict().items() if k.startswith("features.")}, torch_file)
    images = torch.randn(1, 3, 32, 32)
    from_torch = build_features(BackboneSettings(weights=str(torch_file)))(images)
    from_safetensors = build_features(BackboneSettings(weights=str(path)))(images)
    assert torch.equal(from_torch["last"], from_safetensors["last"])


def test_no_network_for_the_download_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"set backbone\.weights to its path") as caught:
        build_features(BackboneSettings(weights="imagenet"))
    assert "\n" not in str(caught.value)


def test_an_unknown_map_or_stage_names_what_there_is():
    settings = BackboneSettings(name="vgg16", weights="none")
    with pytest.raises(UserError, match="c2, c3, mid, last"):
        build_features(settings, maps=("head",))
    with pytest.raises(UserError, match="0 to 5"):
        fpn_backbone(settings, out_channels=8, trainable_layers=9)


def test_the_fingerprint_follows_the_bytes_and_the_name(tmp_path, written):
    path, _ = written
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
