"""The network for concealed objects: published size, shapes for any input, grouping, gate, and what trains."""

import pytest
import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.concealed.blocks import TextureBlock, TopDownFusion
from weaksam.models.concealed.global_prior import PositionAttention
from weaksam.models.concealed.grouping import MultiScaleGrouping, SlotAttention, SoftPosition
from weaksam.models.concealed.network import ConcealedNetwork, ConcealedNetworkSettings, build_concealed_network

SMALL = ConcealedNetworkSettings(channels=16)


def toy(seed: int = 0, settings: ConcealedNetworkSettings = SMALL) -> ConcealedNetwork:
    torch.manual_seed(seed)
    return build_concealed_network(BackboneSettings(name="mobilenet_v2", weights="none"), settings)


def num_numbers(module: nn.Module) -> int:
    """Parameters, and scale and shift of frozen batch-norms, which are buffers."""
    frozen = sum(norm.weight.numel() * 2 for norm in module.modules() if isinstance(norm, FrozenBatchNorm2d))
    return sum(parameter.numel() for parameter in module.parameters()) + frozen


def test_the_published_size_by_its_parts() -> None:
    torch.manual_seed(0)
    network = build_concealed_network(BackboneSettings(name="resnet50", weights="none"), ConcealedNetworkSettings())
    parts = {
        "backbone": num_numbers(network.backbone),
        "grouping": num_numbers(network.grouping),
        "neck": sum(map(num_numbers, (network.textures, network.grouping, network.fusions))),
        "prior": num_numbers(network.prior),
        "decoder": num_numbers(network.stages),
    }
    published = {"backbone": 23.51e6, "grouping": 0.566e6, "neck": 10.12e6, "prior": 9.32e6, "decoder": 3.56e6}
    for name, number in published.items():
        assert parts[name] == pytest.approx(number, rel=2e-3), name
    assert num_numbers(network) == pytest.approx(46.52e6, rel=1e-3)
    assert parts["grouping"] == 566_144 and parts["decoder"] == 3_564_100  # by hand from the layers


@pytest.mark.parametrize("size", [(64, 64), (70, 97), (33, 128)])
def test_five_maps_at_the_size_of_any_input(size: tuple[int, int]) -> None:
    network = toy().eval()
    with torch.no_grad():
        outputs = network(torch.randn(2, 3, *size))
    assert [tuple(logits.shape) for logits in outputs] == [(2, 1, *size)] * 5


def test_one_photo_of_one_cell_trains() -> None:
    network = toy().train()
    outputs = network(torch.randn(1, 3, 64, 64))
    torch.stack([logits.mean() for logits in outputs]).sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []


def test_the_network_on_resnet_maps_is_any_size_too() -> None:
    torch.manual_seed(0)
    network = build_concealed_network(BackboneSettings(name="resnet50", weights="none"), SMALL).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 45, 64))[-1].shape == (1, 1, 45, 64)


def test_without_grouping_the_deepest_texture_flows_on() -> None:
    network = toy(settings=ConcealedNetworkSettings(channels=16, grouping=False))
    assert isinstance(network.grouping, nn.Identity)
    assert network.eval()(torch.randn(1, 3, 64, 64))[-1].shape == (1, 1, 64, 64)


def test_slots_share_every_cell() -> None:
    torch.manual_seed(0)
    attention = SlotAttention(4, 8)
    cells = torch.randn(2, 15, 8)
    shares = attention.shares(attention.start.expand(2, -1, -1), attention.key(attention.norm_input(cells)))
    assert shares.shape == (2, 4, 15) and torch.allclose(shares.sum(dim=1), torch.ones(2, 15))
    assert attention(cells).shape == (2, 4, 8)
    order = torch.randperm(15)
    assert torch.allclose(attention(cells[:, order]), attention(cells), atol=1e-5)  # a set of cells, no order


@torch.no_grad()
def test_a_round_of_slots_by_a_plain_loop() -> None:
    torch.manual_seed(1)
    attention = SlotAttention(2, 8, iterations=1)
    cells = torch.randn(1, 5, 8)
    normed = attention.norm_input(cells[0])
    query = attention.query(attention.norm_slots(attention.start))
    logits = torch.stack([torch.stack([q @ attention.key(cell) / 8**0.5 for cell in normed]) for q in query])
    for slot in range(2):
        shares = torch.tensor([float(logits[:, cell].softmax(0)[slot]) + 1e-8 for cell in range(5)])
        mean = sum(share * attention.value(cell) for share, cell in zip(shares / shares.sum(), normed, strict=True))
        updated = attention.update(mean[None], attention.start[slot][None])[0]
        wanted = updated + attention.mlp(attention.norm_mlp(updated))
        assert torch.allclose(attention(cells)[0, slot], wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (12, 12)])
def test_grouping_keeps_the_shape_and_gates_between(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    grouping = MultiScaleGrouping(8)
    maps = torch.randn(3, 8, *size)
    grouped = grouping.grouped(maps)
    assert grouped.maps.shape == maps.shape and grouped.gate.shape == (3, 1, 1, 1)
    assert ((grouped.gate > 0) & (grouped.gate < 1)).all()
    first = grouping.first(maps)
    second = grouping.second(maps + first)
    assert torch.allclose(grouped.maps, maps + grouped.gate * first + (1 - grouped.gate) * second)


def test_places_are_shares_of_the_map() -> None:
    position = SoftPosition(1)
    with torch.no_grad():
        position.linear.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        position.linear.bias.zero_()
    values = position(torch.zeros(1, 1, 2, 3))[0, 0]
    assert values.tolist() == [[1100.0, 605.0, 110.0], [1001.0, 506.0, 11.0]]


def test_blocks_keep_sizes_and_attention_starts_as_nothing() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 6, 9, 11)
    assert TextureBlock(6, 16)(maps).shape == (2, 16, 9, 11)
    assert torch.equal(PositionAttention(6)(maps), maps)
    flow, read = TopDownFusion(6)(torch.randn(2, 6, 4, 5), maps)
    assert flow.shape == read.shape == maps.shape
