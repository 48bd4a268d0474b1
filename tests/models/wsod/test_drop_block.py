"""Concrete DropBlock: blocks by hand, who gets which gradient, and how often a cell is hidden."""

import math

import pytest
import torch
from torch import Tensor

from weaksam.models.wsod.drop_block import ConcreteDropBlock, drop_log_odds, grow_blocks, rescale, sample_blocks


def block(channels: int = 4, **options) -> ConcreteDropBlock:
    torch.manual_seed(0)
    return ConcreteDropBlock(channels, **options)


def always_dropping(drop_block: ConcreteDropBlock) -> ConcreteDropBlock:
    torch.nn.init.constant_(drop_block.shortcut.bias, 1e4)
    return drop_block


def hidden(before: Tensor, after: Tensor) -> Tensor:
    return (after == 0) & (before != 0)


def test_evaluation_changes_nothing() -> None:
    rois = torch.randn(5, 4, 7, 7)
    assert block().eval()(rois) is rois


def test_nothing_to_normalise_changes_nothing() -> None:
    assert block()(torch.zeros(0, 4, 7, 7)).shape == (0, 4, 7, 7)
    cell = torch.randn(1, 4, 1, 1)
    assert torch.equal(block()(cell), cell)
    assert block()(torch.randn(1, 4, 7, 7)).isfinite().all()
    assert block()(torch.randn(2, 4, 1, 1)).isfinite().all()


def test_a_dropped_cell_drops_nine_and_four_in_a_corner() -> None:
    log_odds = torch.full((2, 1, 5, 5), -1e4)
    log_odds[0, 0, 2, 3] = log_odds[1, 0, 0, 0] = 1e4
    mask = sample_blocks(log_odds, block_size=3, temperature=0.01)
    middle, corner = torch.zeros(5, 5), torch.zeros(5, 5)
    middle[1:4, 2:5] = 1
    corner[:2, :2] = 1
    assert torch.equal(mask[:, 0], torch.stack([middle, corner]))
    assert mask.sum(dim=(1, 2, 3)).tolist() == [9, 4]
    assert torch.equal(sample_blocks(log_odds, block_size=1, temperature=0.01), (log_odds > 0).float())


def test_growing_equals_a_plain_loop() -> None:
    values = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    for size in (1, 3, 5):
        reach = size // 2
        grown = grow_blocks(values, size)
        for roi in range(3):
            for row in range(6):
                for column in range(6):
                    around = values[
                        roi, 0, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1
                    ]
                    assert grown[roi, 0, row, column] == around.max()


def test_the_probability_by_hand() -> None:
    log_odds = drop_log_odds(torch.tensor([0.0, math.log(3.0), 1e4, -1e4]), most=0.3 / 9)
    wanted = [0.5 * 0.3 / 9, 0.75 * 0.3 / 9, 0.3 / 9]
    assert log_odds[:3].sigmoid().tolist() == pytest.approx(wanted, rel=1e-5)
    assert log_odds.isfinite().all() and log_odds[3] < -9000
    assert drop_log_odds(torch.tensor([1e4]), most=1.0).isfinite().all()


def test_a_cell_is_dropped_as_often_as_its_probability_says() -> None:
    torch.manual_seed(2)
    log_odds = torch.tensor([0.01, 0.2, 0.7]).logit().reshape(3, 1, 1, 1).expand(3, 1, 200, 200)
    share = sample_blocks(log_odds, block_size=1, temperature=0.01).mean(dim=(1, 2, 3))
    assert share.tolist() == pytest.approx([0.01, 0.2, 0.7], abs=4 * math.sqrt(0.25 / 40000))


def test_the_block_hides_no_more_than_its_rate() -> None:
    rois = torch.randn(400, 4, 7, 7, generator=torch.Generator().manual_seed(3))
    ample = always_dropping(block(drop_rate=0.3))(rois)
    share = hidden(rois, ample)[:, 0, 2:5, 2:5].float().mean().item()
    # A cell away from the border is hidden unless none of nine cells with p = 0.3 / 9 starts a block.
    assert share == pytest.approx(1 - (1 - 0.3 / 9) ** 9, abs=0.03)


def test_a_cell_is_hidden_in_all_channels_and_the_rest_is_scaled_alike() -> None:
    rois = torch.rand(60, 4, 7, 7, generator=torch.Generator().manual_seed(4)) + 1
    found = block()(rois)
    gone = hidden(rois, found)
    assert gone.any() and torch.equal(gone, gone[:, :1].expand_as(gone))
    factor = gone[:, 0].numel() / (~gone[:, 0]).sum().item()
    torch.testing.assert_close(found[~gone], rois[~gone] * factor)


def test_rescaling_keeps_the_mean() -> None:
    found = block()(torch.ones(60, 4, 7, 7))
    assert hidden(torch.ones_like(found), found).any()
    assert found.mean().item() == pytest.approx(1.0, abs=1e-5)


def test_dropping_everything_is_finite() -> None:
    assert rescale(torch.zeros(2, 1, 3, 3)) == 18
    drop_block = always_dropping(block(block_size=1, drop_rate=1.0))
    rois = torch.randn(3, 4, 2, 2, requires_grad=True)
    found = drop_block(rois)
    found.square().sum().backward()
    assert not found.any()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in [rois, *drop_block.parameters()])


def test_the_sample_passes_the_gradient_of_its_relaxation() -> None:
    torch.manual_seed(5)
    log_odds = torch.randn(4, 1, 3, 3, requires_grad=True)
    torch.manual_seed(6)
    mask = sample_blocks(log_odds, block_size=1, temperature=0.5)
    torch.manual_seed(6)
    noise = torch.rand(4, 1, 3, 3)
    soft = ((log_odds + (noise / (1 - noise)).log()) / 0.5).sigmoid()
    assert torch.equal(mask, (soft > 0.5).float())
    found, wanted = (torch.autograd.grad(one.sum(), log_odds)[0] for one in (mask, soft))
    torch.testing.assert_close(found, wanted)


def test_the_gradient_of_a_block_reaches_the_cell_that_made_it() -> None:
    torch.manual_seed(7)
    log_odds = torch.full((1, 1, 5, 5), -40.0)
    log_odds[0, 0, 2, 2] = 3.0
    log_odds.requires_grad_()
    sample_blocks(log_odds, block_size=3, temperature=5.0)[0, 0, 1, 1].backward()
    assert log_odds.grad is not None and log_odds.grad.nonzero().tolist() == [[0, 0, 2, 2]]


def test_gradients_reach_the_weights_and_the_features_but_not_through_the_block() -> None:
    drop_block = block(temperature=1.0)
    rois = torch.randn(40, 4, 7, 7, requires_grad=True)
    found = drop_block(rois)
    found.sum().backward()
    assert all(one.grad is not None and one.grad.any() for one in drop_block.shortcut.parameters())
    assert drop_block.residual[0].weight.grad is not None and drop_block.residual[0].weight.grad.any()
    # The features feel the mask as a number: 0 where hidden, the same factor elsewhere.
    gone = hidden(rois, found)
    factor = gone[:, 0].numel() / (~gone[:, 0]).sum()
    torch.testing.assert_close(rois.grad, torch.where(gone, torch.zeros(()), factor))


def test_an_adversarial_step_raises_the_loss() -> None:
    # The loss is high where the telling cells, those with a high first channel, are hidden.
    generator = torch.Generator().manual_seed(8)
    rois = torch.randn(200, 4, 7, 7, generator=generator)
    telling = rois[:, :1] > 1
    drop_block = block(temperature=0.5)
    optimiser = torch.optim.Adam(drop_block.parameters(), lr=0.02)

    def detector_loss() -> Tensor:
        return -(drop_block(rois)[:, :1] * telling).mean()

    def mean_loss() -> float:
        torch.manual_seed(9)
        with torch.no_grad():
            return sum(detector_loss().item() for _ in range(20)) / 20

    before = mean_loss()
    for step in range(30):
        torch.manual_seed(100 + step)
        optimiser.zero_grad()
        (-0.01 * detector_loss()).backward()
        optimiser.step()
    assert mean_loss() > before + 0.005


def test_the_same_seed_hides_the_same_cells() -> None:
    drop_block, rois = block(), torch.randn(30, 4, 7, 7)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(drop_block(rois))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_nothing_but_weights_is_remembered() -> None:
    drop_block = block()
    before = {name: value.clone() for name, value in drop_block.state_dict().items()}
    drop_block(torch.randn(30, 4, 7, 7))
    assert set(before) == {name for name, _ in drop_block.named_parameters()}
    assert all(torch.equal(value, before[name]) for name, value in drop_block.state_dict().items())


def test_sixteen_bits_in_sixteen_bits_out() -> None:
    drop_block, rois = block(), torch.randn(400, 4, 7, 7, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = drop_block(rois.bfloat16())
    assert found.dtype == torch.bfloat16 and found.isfinite().all()
    found.float().square().sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in [rois, *drop_block.parameters()])


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="block_size must be odd"):
        ConcreteDropBlock(4, block_size=2)
    with pytest.raises(ValueError, match="drop_rate must be in"):
        ConcreteDropBlock(4, drop_rate=0.0)
    with pytest.raises(ValueError, match="temperature above 0"):
        ConcreteDropBlock(4, temperature=0.0)
