"""Backbones equal torchvision's networks, dilation included, and every wrong weight file is one sentence."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from weaksam.config import UserError
from weaksam.models.backbones.colours import IMAGENET
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.inputs import normalise
from weaksam.models.backbones.settings import BackboneSettings
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
    for name, feature_map in maps.items():
        torch.testing.assert_close(feature_map, expected[name], rtol=1e-3, atol=1e-3)
        assert feature_map.shape[1] == extractor.channels[name]
        assert feature_map.shape[2] == 64 // extractor.strides[name]


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
        for key, feature_map in extractor(torch.randn(1, 3, 64, 64)).items():
            assert feature_map.shape == (1, extractor.channels[key], *2 * (64 // extractor.strides[key],))
        assert not any(parameter.requires_grad for parameter in extractor.parameters())
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in extractor.modules())


def test_the_bundled_test_weights_recognise_a_cat(shared_data):
    path = shared_data / MOBILENET
    photo = Image.open(shared_data / "coral_samples" / "cat.bmp").convert("RGB").resize((224, 224))
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    extractor = build_features(BackboneSettings(weights=str(path)), dilate=False, maps=("head",))
    state = load_state(path)
    pooled = extractor(normalise(image, IMAGENET))["head"].mean((2, 3))
    scores = (pooled @ state["classifier.1.weight"].T + state["classifier.1.bias"]).softmax(1)[0]
    assert int(scores.argmax()) == 285  # Egyptian cat
    assert float(scores[285]) > 0.6


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
    for name, file, message in cases:
        with pytest.raises(UserError, match=message) as caught:
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


def test_an_unknown_map_names_what_there_is():
    with pytest.raises(UserError, match="c2, c3, mid, last"):
        build_features(BackboneSettings(name="vgg16", weights="none"), maps=("head",))
