"""The moving average of weights: by hand, in the optimizer's state, and the same after resuming."""

import pytest
import torch
from torch import nn

from weaksam.engine.training import Objective, fit
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.weight_average import WeightAverage


def test_the_average_by_hand_and_weights_that_do_not_train_stay():
    weight, other = nn.Parameter(torch.tensor([4.0])), nn.Parameter(torch.tensor([7.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    average = WeightAverage(optimizer, decay=0.2)
    average.put_in()
    assert weight.item() == 4
    for _ in range(2):
        weight.grad = torch.ones(1)
        optimizer.step()  # 3, then 2; 2 / 11 of the average stay after step 1, a fifth after step 2
    average.put_in()
    first = 3.0  # the average starts at the weights after the first step
    assert weight.item() == pytest.approx(0.2 * first + 0.8 * 2.0) and other.item() == 7


class Stop(Exception):
    pass


def trained(folder, fused, stop_at=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 1)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    average = WeightAverage(optimizer, 0.9)
    steps = iter(range(10**6))

    def losses(batch):
        if next(steps) == stop_at:
            raise Stop
        return {"loss": (model(batch) ** 2).mean()}

    def end(epoch):
        if epoch == 1:
            average.put_in()

    inputs = [torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    job = TrainingJob(folder, "f" * 64, "test", 0, num_epochs=2, save_every_steps=1)
    objective = Objective(losses, optimizer, lambda step, total: 1.0)
    fit(model, [objective], lambda epoch: inputs, job, num_steps_per_epoch=3, on_epoch_end=end)
    return (folder / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("fused", [False, True])
def test_a_resumed_training_has_the_same_average(tmp_path, fused):
    whole = trained(tmp_path / "whole", fused)
    with pytest.raises(Stop):
        trained(tmp_path / "killed", fused, stop_at=4)
    assert trained(tmp_path / "killed", fused) == whole
