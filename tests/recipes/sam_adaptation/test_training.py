"""Trainings of WeSAM that others share or interrupt: several ranks, an average of the updates, the released code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import StopAfterFirstEpoch, Stopped, random_sam
from tests.ranks import Trained, assert_same_training, on_ranks, trained
from tests.recipes.sam_adaptation.toys import adaptation, settings
from weaksam.engine.training import Objective
from weaksam.models.ranks import ranks
from weaksam.recipes.sam_adaptation import adapt
from weaksam.recipes.sam_adaptation.training import train
from weaksam.recipes.sam_adaptation.views import network_view


def gradients(ours: Any, batch: Any) -> list[torch.Tensor]:
    ours.weights.zero_grad()
    torch.stack(list(ours.losses(batch).values())).sum().backward()
    return [parameter.grad.clone() for parameter in ours.weights.parameters()]


@pytest.mark.slow
def test_an_average_makes_the_pseudo_labels_and_survives_a_kill(scenes: Path, tmp_path: Path) -> None:
    more = ["ema=0.5", "lr=0.05", "steps=8"]  # two epochs of four photos
    train(whole := adaptation(settings(scenes, tmp_path, *more)), tmp_path / "whole", ["x"])
    killed = adaptation(settings(scenes, tmp_path, *more))
    with pytest.raises(Stopped):
        train(killed, tmp_path / "killed", ["x"], StopAfterFirstEpoch(None))
    train(resumed := adaptation(settings(scenes, tmp_path, *more)), tmp_path / "killed", ["x"])
    for first, second in zip(whole.weights.parameters(), resumed.weights.parameters(), strict=True):
        assert torch.equal(first, second)
        assert whole.average is not None and resumed.average is not None
        assert torch.equal(whole.average.of(first), resumed.average.of(second))
        assert not torch.equal(whole.average.of(first), first) or not first.any()
    # The labels are those of the average, not of the trained weights, which stay as they are
    photo = whole.photo(0, 0)
    before = [parameter.detach().clone() for parameter in whole.weights.parameters()]
    (labels,) = whole._averaged_labels([photo])
    assert all(torch.equal(old, new) for old, new in zip(before, whole.weights.parameters(), strict=True))
    whole.average.put_in()
    with torch.no_grad():
        low, _ = whole.network.decode(whole.network.encode([photo.weak.pixels]), 0, photo.prompts)
    size = labels.shape[-2:]
    wanted = torch.nn.functional.interpolate(low[:, None], size=size, mode="bilinear", align_corners=False)[:, 0] > 0
    assert torch.equal(labels, wanted)


def train_on_ranks(scenes: Path, out: Path) -> Trained:
    """Two batches: of three photos, and of one, which one rank computes for nothing."""
    ours = adaptation(settings(scenes, out, "batch_size=3"))
    optimizer = torch.optim.Adam(ours.weights.parameters(), lr=1e-3)
    objective = Objective(ours.losses, optimizer, lambda step, total: 1.0)
    return trained(
        out / f"trained {ranks().size}", ours.weights, [objective], lambda epoch: list(ours.batches(epoch)), 2
    )


@pytest.mark.slow
def test_two_ranks_adapt_as_one_process_does(scenes: Path, tmp_path: Path) -> None:
    (alone,) = on_ranks(1, tmp_path, train_on_ranks, scenes, tmp_path)
    first, second = on_ranks(2, tmp_path, train_on_ranks, scenes, tmp_path)
    assert_same_training(alone, first, 1e-3)
    assert all(np.array_equal(value, second.weights[key]) for key, value in first.weights.items())


def test_a_step_without_kept_anchor_is_three_passes(scenes: Path, tmp_path: Path) -> None:
    """The kept answers and the two views in one batch give the gradient of the plain formula, pass by pass."""
    from weaksam.recipes.sam_adaptation.losses import prototypes, step_losses
    from weaksam.recipes.sam_adaptation.networks import enlarged

    ours = adaptation(settings(scenes, tmp_path))
    for batch in (next(iter(ours.batches(0))),) * 2:
        fast = gradients(ours, batch)
    (photo,) = batch.photos
    side, network = ours.network.side, ours.network
    seen = [network.encode([view.pixels]) for view in (photo.strong, photo.weak)]
    with torch.no_grad():
        anchored = ours.anchor.network.encode([photo.weak.pixels])
        kept, _ = ours.anchor.network.decode(anchored, 0, photo.prompts)
    (student, iou), (teacher, _) = (network.decode(of_view, 0, photo.prompts) for of_view in seen)
    losses = step_losses(
        enlarged(student, side),
        iou,
        enlarged(teacher, side),
        enlarged(kept, side),
        prototypes(network.embedding(seen[1], 0), teacher),
        prototypes(network.embedding(anchored, 0), kept),
        len(photo.prompts),
    )
    ours.weights.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    for quick, parameter in zip(fast, ours.weights.parameters(), strict=True):
        torch.testing.assert_close(quick, parameter.grad, rtol=1e-3, atol=1e-5)


def test_recomputed_blocks_give_the_same_gradients(scenes: Path, tmp_path: Path) -> None:
    torch.save(random_sam(0).state_dict(), tmp_path / "sam.pth")
    more = ["segmenter.family=segment_anything", f"segmenter.weights={tmp_path / 'sam.pth'}"]
    both = []
    for recompute in ("false", "true"):
        ours = adaptation(settings(scenes, tmp_path, *more, f"recompute={recompute}"))
        calls: list[int] = []
        ours.network.encoder.get_submodule("blocks.0.attn").register_forward_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        both.append(gradients(ours, next(iter(ours.batches(0)))))
        assert len(calls) == 1 + (recompute == "true")
    assert all(torch.equal(kept, again) for kept, again in zip(*both, strict=True))
    assert any(gradient.any() for gradient in both[0])


def test_the_released_code_pads_around_and_normalises_nothing(scenes: Path, tmp_path: Path) -> None:
    image = np.full((2, 4, 3), 255, dtype=np.uint8)
    view = network_view(image, torch.ones(1, 2, 4, dtype=torch.bool), 8, "centred")
    assert view.covered == (8, 8) and view.pixels[:, 2:6].eq(255).all() and not view.pixels[:, :2].any()
    assert view.masks[0, 2:6].all() and view.masks.sum() == 32
    stretched = network_view(image, torch.ones(1, 2, 4, dtype=torch.bool), 8, "stretched")
    assert stretched.covered == (8, 8) and stretched.masks.all()
    ours = adaptation(settings(scenes, tmp_path, "legacy=true"))
    seen: list[torch.Tensor] = []
    ours.network.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses = ours.losses(next(iter(ours.batches(0))))
    assert seen[0].min() >= 0 and seen[0].max() <= 1 and set(losses) >= {"focal", "anchor"}


def test_a_mask_prompts_sam_and_never_sam_nano(scenes: Path, tmp_path: Path) -> None:
    torch.save(random_sam(0).state_dict(), tmp_path / "sam.pth")
    more = ["segmenter.family=segment_anything", f"segmenter.weights={tmp_path / 'sam.pth'}", "prompt=coarse_mask"]
    figures = adapt(settings(scenes, tmp_path / "out", *more, "measured=[coarse_mask]"))
    assert set(figures["adapted"]) == {"coarse_mask"}
    figures = adapt(settings(scenes, tmp_path / "nano", "measured=[box, coarse_mask]", "steps=1"))
    assert set(figures["adapted"]) == {"box"}
