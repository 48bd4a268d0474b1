"""ResNet-50 as detectron2 hands it around: names, colours and strides, against a plain network of Caffe2's arrays."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from tests.helpers import pickled
from weaksam.config import UserError
from weaksam.models.backbones.colours import IMAGENET
from weaksam.models.backbones.detectron2_files import conventions_of_file, from_caffe2, read_arrays, read_resnet
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import backbone_fingerprint, colours_note, input_colours, stride_in

BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}
"""Residual blocks of each of Caffe2's stages of a ResNet-50."""


def caffe2_name(key: str) -> str:
    """Caffe2's name for one of torchvision's, written down from detectron2's logs of MSRA's R-50.pkl."""
    key = re.sub(r"^bn1\.", "res_conv1_bn_", key)
    for module, branch in (("conv1", "2a"), ("conv2", "2b"), ("conv3", "2c"), ("downsample.0", "1")):
        key = re.sub(
            rf"^layer(\d)\.(\d)\.{module}\.weight", lambda m, b=branch: f"res{int(m[1]) + 1}_{m[2]}_branch{b}_w", key
        )
    for module, branch in (("bn1", "2a"), ("bn2", "2b"), ("bn3", "2c"), ("downsample.1", "1")):
        key = re.sub(
            rf"^layer(\d)\.(\d)\.{module}\.", lambda m, b=branch: f"res{int(m[1]) + 1}_{m[2]}_branch{b}_bn_", key
        )
    return {"conv1.weight": "conv1_w", "fc.weight": "fc1000_w", "fc.bias": "fc1000_b"}.get(key, key)


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    """Random arrays of a ResNet-50 by MSRA's names: scales and shifts alone, and a bias before two batch-norms."""
    torch.manual_seed(0)
    state = torchvision.models.resnet50().state_dict()
    found = {}
    for key, value in state.items():
        name = caffe2_name(key)
        if name.endswith("_bn_weight"):
            found[name.replace("_bn_weight", "_bn_s")] = torch.rand_like(value) * 0.4 + 0.2
        elif name.endswith("_bn_bias"):
            found[name.replace("_bn_bias", "_bn_b")] = torch.rand_like(value) * 0.4 - 0.2
        elif not re.search("running|tracked", key):
            found[name] = value
    return found | {"conv1_b": torch.rand(64), "res3_0_branch2b_b": torch.rand(128), "conv1_w_momentum": torch.zeros(1)}


def plain_resnet(arrays: dict[str, Tensor], images: Tensor) -> Tensor:
    """The last map, computed from Caffe2's arrays: strides in the first 1x1 convolution, scale and shift after each."""

    def layer(name: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = arrays[f"{name}_w"]
        x = F.conv2d(x, weight, arrays.get(f"{name}_b"), stride, weight.shape[-1] // 2)
        # FrozenBatchNorm2d of mean 0 and variance 1 divides by the root of 1 + 1e-5
        return x * (arrays[f"{norm}_s"] / (1 + 1e-5) ** 0.5)[:, None, None] + arrays[f"{norm}_b"][:, None, None]

    x = F.max_pool2d(layer("conv1", "res_conv1_bn", images, 2).relu(), 3, 2, 1)
    for stage, num in BLOCKS.items():
        for block in range(num):
            stride = 2 if block == 0 and stage > 2 else 1
            name = f"res{stage}_{block}_branch"
            hidden = layer(f"{name}2a", f"{name}2a_bn", x, stride).relu()
            hidden = layer(f"{name}2b", f"{name}2b_bn", hidden).relu()
            hidden = layer(f"{name}2c", f"{name}2c_bn", hidden)
            x = (hidden + (layer(f"{name}1", f"{name}1_bn", x, stride) if block == 0 else x)).relu()
    return x


@pytest.fixture(scope="module")
def msra(arrays: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The arrays as Python 2 pickled them, without a container around."""
    path = tmp_path_factory.mktemp("msra") / "R-50.pkl"
    return pickled(path, {key: value.numpy() for key, value in arrays.items()}, protocol=2)


@torch.inference_mode()
def test_msras_weights_compute_what_caffe2_computes(msra: Path, arrays: dict[str, Tensor]) -> None:
    settings = BackboneSettings(name="resnet50", weights=str(msra))
    assert (input_colours(settings).order, input_colours(settings).mean) == ("bgr", (123.675, 116.28, 103.53))
    assert input_colours(settings).deviation == (1, 1, 1)
    assert stride_in(settings) == "1x1" and colours_note(settings) is None
    images = torch.randn(1, 3, 64, 96)
    expected = plain_resnet(arrays, images)
    network = build_features(settings, dilate=False, maps=("last",))
    torch.testing.assert_close(network(images)["last"], expected, rtol=1e-3, atol=1e-4)
    elsewhere = build_features(settings.model_copy(update={"stride_in": "3x3"}), dilate=False, maps=("last",))
    assert not torch.allclose(elsewhere(images)["last"], expected, rtol=1e-2, atol=1e-2)
    prints = {
        backbone_fingerprint(settings.model_copy(update={"stride_in": place})) for place in ("auto", "1x1", "3x3")
    }
    assert len(prints) == 2


def test_statistics_by_any_of_caffe2s_names(arrays: dict[str, Tensor]) -> None:
    stem = {key: arrays[key] for key in ("conv1_w", "res_conv1_bn_s", "res_conv1_bn_b")}
    mean, variance = torch.rand(64), torch.rand(64) + 0.5
    state = from_caffe2({**stem, "conv1_b": torch.ones(64)}, "it")
    assert torch.equal(state["bn1.running_mean"], torch.full((64,), -1.0))
    assert torch.equal(state["bn1.running_var"], torch.ones(64))
    other = {
        "conv1_w": stem["conv1_w"],
        "res_conv1_bn_gamma": stem["res_conv1_bn_s"],
        "res_conv1_bn_beta": stem["res_conv1_bn_b"],
        "res_conv1_bn_running_mean": mean,
        "res_conv1_bn_running_var": variance,
    }
    short = {key.replace("running_mean", "rm").replace("running_var", "riv"): value for key, value in other.items()}
    for held in (other, short):
        state = from_caffe2({**held, "conv1_b": torch.ones(64)}, "it")
        torch.testing.assert_close(state["bn1.running_mean"], mean - 1)
        assert torch.equal(state["bn1.running_var"], variance)
        assert torch.equal(state["bn1.weight"], stem["res_conv1_bn_s"])


def test_torchvisions_network_in_detectron2s_names_keeps_torchvisions_ways(tmp_path: Path) -> None:
    """As detectron2's own ``convert-torchvision-to-d2.py`` writes it."""
    torch.manual_seed(1)
    network = torchvision.models.resnet50()
    names = {}
    for key in network.state_dict():
        name = key if "layer" in key else f"stem.{key}"
        name = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
        name = re.sub(r"bn(\d)", r"conv\1.norm", name)
        names[key] = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    content = {names[key]: value.numpy() for key, value in network.state_dict().items() if "tracked" not in key}
    path = pickled(tmp_path / "R-50.pkl", {"model": content, "__author__": "torchvision", "matching_heuristics": True})
    settings = BackboneSettings(name="resnet50", weights=str(path))
    assert (input_colours(settings), stride_in(settings)) == (IMAGENET, "3x3")
    state = read_resnet(path, "it").state
    assert {*state} == {key for key in network.state_dict() if "tracked" not in key and not key.startswith("fc.")}
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
    build_features(settings, maps=("c2",))


def test_arrays_lie_at_the_top_or_below_and_momentum_is_left_out(tmp_path: Path) -> None:
    content = {"a_w": np.ones(2), "a_w_momentum": np.ones(2)}
    for number, value in enumerate((content, {"blobs": content, "cfg": "text"}, {"model": content, "__author__": "x"})):
        assert list(read_arrays(pickled(tmp_path / f"{number}.pkl", value), "it")) == ["a_w"]


@pytest.mark.parametrize("key", ["res2_0_branch2d_w", "res2_0_branch2a_bn_x", "conv_body_w", "res_conv1_bn_w"])
def test_a_name_without_a_place(arrays: dict[str, Tensor], tmp_path: Path, key: str) -> None:
    content = {"conv1_w": arrays["conv1_w"].numpy(), key: np.ones(1)}
    path = pickled(tmp_path / "R-50.pkl", content)
    with pytest.raises(UserError, match=f"found the tensor '{key}', which has no place in one") as caught:
        build_features(BackboneSettings(name="resnet50", weights=str(path)))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_states_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.pkl").write_bytes(b"\x80\x04broken")
    (tmp_path / "weights.pth").write_bytes(b"PK")
    for path in (tmp_path / "broken.pkl", tmp_path / "weights.pth", tmp_path / "absent.pkl"):
        assert conventions_of_file(path) is None
        settings = BackboneSettings(name="resnet50", weights=str(path))
        assert (input_colours(settings), stride_in(settings)) == (IMAGENET, "3x3")
    assert stride_in(BackboneSettings(name="vgg16", stride_in="1x1")) == "3x3"
