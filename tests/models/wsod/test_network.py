"""The network that trains along: its trunks, what is frozen, where VGG-16's own layers go, groups, padding."""

from pathlib import Path

import pytest
import torch
from torch import nn

from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.wsod.network import WsodNetwork, load_hidden_layers, pad_together, parameter_groups, wsod_trunk
from weaksam.store.weights import save_weights

NAMES = ("vgg16", "resnet50", "mobilenet_v2")


def bare(name: str, weights: str = "none") -> BackboneSettings:
    torch.manual_seed(0)
    return BackboneSettings(name=name, weights=weights)


def test_vgg_keeps_stride_8_with_conv5_dilated_and_may_end_before_its_last_relu() -> None:
    image = torch.randn(1, 3, 64, 96)
    trunk = wsod_trunk(bare("vgg16"), frozen_stages=2)
    assert trunk.strides == {"last": 8} and trunk(image)["last"].shape == (1, 512, 8, 12)
    assert [trunk.body[index].dilation for index in (21, 24, 26, 28)] == [(1, 1), (2, 2), (2, 2), (2, 2)]
    assert float(trunk(image)["last"].detach().min()) == 0.0
    open_ended = wsod_trunk(bare("vgg16"), frozen_stages=2, last_relu=False)
    assert float(open_ended(image)["last"].detach().min()) < 0.0
    assert torch.equal(open_ended(image)["last"].relu(), trunk(image)["last"])
    assert wsod_trunk(bare("vgg16"), frozen_stages=2, stride8=False)(image)["last"].shape == (1, 512, 4, 6)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_stages_are_really_frozen(name: str) -> None:
    network = WsodNetwork(wsod_trunk(bare(name), frozen_stages=2), 2, roi_size=2, hidden=8, num_branches=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    groups = parameter_groups(
        network, lr=0.1, weight_decay=0.1, bias_lr_factor=2, bias_weight_decay=0.1, branch_lr_factor=1
    )
    optimizer = torch.optim.SGD(groups, lr=0.1)
    output = network.train()(torch.randn(1, 3, 64, 64), [torch.tensor([[0.0, 0, 40, 40], [8, 8, 60, 60]])])[0]
    (output.scores.square().sum() + output.refine[0].square().sum()).backward()
    optimizer.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    held = {"vgg16": range(10), "resnet50": range(5), "mobilenet_v2": range(4)}[name]
    frozen = tuple(f"trunk.body.{index}." for index in held)
    assert not [key for key in changed if key.startswith(frozen)]
    assert [key for key in before if key.startswith(frozen)]
    moving = [key for key, value in network.named_parameters() if value.requires_grad and not key.startswith("hidden.")]
    assert any(key.startswith("trunk.") for key in moving) and set(moving) <= changed


def test_more_frozen_stages_than_there_are_freeze_the_whole_trunk() -> None:
    trunk = wsod_trunk(bare("mobilenet_v2"), frozen_stages=6)
    assert not [1 for one in trunk.parameters() if one.requires_grad]
    assert [1 for one in wsod_trunk(bare("mobilenet_v2"), frozen_stages=0).body[0].parameters() if one.requires_grad]


def test_vggs_own_hidden_layers_are_taken_where_they_fit(tmp_path: Path) -> None:
    """At toy size: 1 cell a side, 8 units, and the convolutions as torchvision names them."""
    trunk = wsod_trunk(bare("vgg16"), frozen_stages=0)
    convolutions = {f"features.{key.removeprefix('body.')}": value for key, value in trunk.state_dict().items()}
    layers = {
        "classifier.0.weight": torch.randn(8, 512),
        "classifier.0.bias": torch.randn(8),
        "classifier.3.weight": torch.randn(8, 8),
        "classifier.3.bias": torch.randn(8),
        "classifier.6.weight": torch.randn(5, 8),
        "classifier.6.bias": torch.randn(5),
    }
    save_weights(tmp_path / "vgg.safetensors", {**convolutions, **layers})
    settings = bare("vgg16", str(tmp_path / "vgg.safetensors"))
    network = WsodNetwork(wsod_trunk(settings, frozen_stages=0), 2, roi_size=1, hidden=8)
    assert load_hidden_layers(network, settings)
    assert torch.equal(network.hidden[0].weight, layers["classifier.0.weight"])
    assert torch.equal(network.hidden[3].bias, layers["classifier.3.bias"])
    assert torch.equal(network.trunk.body[28].weight, convolutions["features.28.weight"])
    other_size = WsodNetwork(wsod_trunk(settings, frozen_stages=0), 2, roi_size=2, hidden=8)
    assert not load_hidden_layers(other_size, settings)
    # Torchvision's features-only file of Caffe's weights has NaN for its classifier
    save_weights(
        tmp_path / "nan.safetensors", {**convolutions, **layers, "classifier.3.bias": torch.full((8,), torch.nan)}
    )
    caffe = bare("vgg16", str(tmp_path / "nan.safetensors"))
    before = network.hidden[0].weight.clone()
    assert not load_hidden_layers(network, caffe) and torch.equal(network.hidden[0].weight, before)
    assert not load_hidden_layers(network, bare("vgg16"))


def test_groups_hold_each_trained_parameter_once_with_the_published_factors() -> None:
    trunk = wsod_trunk(bare("mobilenet_v2"), frozen_stages=2)
    network = WsodNetwork(trunk, 2, roi_size=1, hidden=4, num_branches=2, box_regression=True, drop_rate=0.3)
    groups = parameter_groups(
        network, lr=1.0, weight_decay=5e-4, bias_lr_factor=2, bias_weight_decay=0.0, branch_lr_factor=10
    )
    found = {id(one): (group["lr"], group["weight_decay"]) for group in groups for one in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    wanted = {}
    for name, one in network.named_parameters():
        if one.requires_grad and not name.startswith("drop_block."):
            branch = 10.0 if name.startswith(("streams.refine", "streams.boxes")) else 1.0
            wanted[id(one)] = (2 * branch, 0.0) if name.endswith("bias") else (branch, 5e-4)
    assert found == wanted
    assert {value[0] for value in found.values()} == {1.0, 2.0, 10.0, 20.0}


def test_photos_are_padded_to_the_right_and_below() -> None:
    batch = pad_together([torch.ones(3, 33, 10), torch.full((3, 5, 64), 2.0)])
    assert batch.shape == (2, 3, 64, 64)
    assert batch[0].sum() == 3 * 33 * 10 and batch[1].sum() == 2 * 3 * 5 * 64
    assert (batch[0, :, :33, :10] == 1).all() and (batch[1, :, :5, :] == 2).all()
    assert pad_together([torch.ones(3, 64, 32)]).shape == (1, 3, 64, 32)


def test_each_photo_of_a_batch_gets_its_own_answer_and_none_without_proposals() -> None:
    trunk = wsod_trunk(bare("mobilenet_v2"), frozen_stages=2)
    network = WsodNetwork(
        trunk, 3, roi_size=2, hidden=8, num_branches=2, box_regression=True, roi_pooling="align"
    ).eval()
    images = torch.randn(3, 3, 64, 64)
    boxes = [torch.tensor([[0.0, 0, 30, 30], [10, 10, 60, 50]]), torch.zeros(0, 4), torch.tensor([[5.0, 5, 20, 60]])]
    together = network(images, boxes)
    assert [len(one.scores) for one in together] == [2, 0, 1]
    for place in (0, 2):
        (alone,) = network(images[place : place + 1], [boxes[place]])
        torch.testing.assert_close(together[place].scores, alone.scores)
        torch.testing.assert_close(together[place].refine[1], alone.refine[1])
        assert together[place].deltas[0].shape == (len(boxes[place]), 4, 4)
    assert float(together[2].scores.sum().detach()) == pytest.approx(1.0)  # one RoI: softmax over RoIs is 1


def test_only_the_drop_block_learns_where_that_is_asked() -> None:
    trunk = wsod_trunk(bare("mobilenet_v2"), frozen_stages=2)
    network = WsodNetwork(trunk, 2, roi_size=3, hidden=8, drop_rate=0.9).train()
    assert network.drop_block is not None
    learning = {name for name, one in network.named_parameters() if one.requires_grad}
    images, boxes = torch.randn(1, 3, 64, 64), [torch.tensor([[0.0, 0, 64, 64], [0, 0, 40, 30], [8, 8, 50, 60]])]
    with network.only_drop_block_learns():
        rois = network.pooled(images, boxes)
        assert not rois.requires_grad
        (output,) = network.from_rois(rois, boxes)
    sum(one.square().sum() for one in output.refine).backward()  # type: ignore[union-attr]
    touched = {name for name, one in network.named_parameters() if one.grad is not None}
    assert touched and all(name.startswith("drop_block.") for name in touched)
    assert {name for name, one in network.named_parameters() if one.requires_grad} == learning
    network.zero_grad()
    with network.all_but_drop_block_learn():
        (output,) = network(images, boxes)
    sum(one.square().sum() for one in output.refine).backward()  # type: ignore[union-attr]
    touched = {name for name, one in network.named_parameters() if one.grad is not None}
    assert "trunk.body.17.conv.2.weight" in touched and not any(name.startswith("drop_block.") for name in touched)


def test_streams_with_a_background_column_have_one_more() -> None:
    trunk = wsod_trunk(bare("mobilenet_v2"), frozen_stages=2)
    network = WsodNetwork(trunk, 2, roi_size=1, hidden=4, background_column=True, init_std=0.001)
    (output,) = network(torch.randn(1, 3, 64, 64), [torch.tensor([[0.0, 0, 30, 30]])])
    assert output.scores.shape == (1, 3) and output.class_scores.shape == (1, 2)
    assert torch.equal(output.class_scores, output.scores[:, 1:])
    assert isinstance(network.streams.class_stream, nn.Linear)
    assert float(network.streams.class_stream.weight.detach().std()) < 0.002
