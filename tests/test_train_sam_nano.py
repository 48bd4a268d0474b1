"""sam_nano trains on one and on two ranks alike, by the loop of every training, and goes on where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import CPU, TOY_NANO
from tests.ranks import Trained, assert_same_training, on_ranks, trained
from tests.tools import tool
from weaksam.models.backbones.shared_batch_norm import SharedBatchNorm2d, share_batch_norm
from weaksam.models.ranks import ranks

STEPS = ["--steps", "4", "--measure-steps", "2", "--prompts", "2", "--scenes", "3", "--held-out", "2"]
IMAGES = (3, 1)
"""Images of a batch: one and two for two ranks, and one that the second rank computes too, for nothing."""


def train_in_float64(out: Path, num_images: int) -> Trained:
    """Two steps at toy size."""
    nano = tool("train_sam_nano")
    args = nano.parse_arguments([*STEPS, "--images", str(num_images), "--precision", "float32"])
    training = nano.NanoTraining(args, CPU, TOY_NANO)
    positions = training.model.double().prompt_encoder.pe_layer
    encode = positions._pe_encoding  # before which segment-anything makes coordinates float32
    positions._pe_encoding = lambda coords: encode(coords.double())

    def batches(epoch: int) -> list[Any]:
        return [replace(b, images=b.images.double(), coords=b.coords.double()) for b in training.batches(epoch)]

    return trained(out, training.model, [training.objective()], batches, 2)


def train_all(out: Path) -> dict[int, Trained]:
    return {num: train_in_float64(out / f"{num} {ranks().size}", num) for num in IMAGES}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, Trained]]:
    """Of one process, then of the two ranks."""
    out = tmp_path_factory.mktemp("ranks")
    return [*on_ranks(1, out, train_all, out), *on_ranks(2, out, train_all, out)]


@pytest.mark.slow
@pytest.mark.parametrize("num_images", IMAGES)
def test_two_ranks_train_as_one_process_does(num_images: int, results: list[dict[int, Trained]]) -> None:
    alone, first, second = (of_rank[num_images] for of_rank in results)
    assert_same_training(alone, first, 1e-8)
    assert all(np.array_equal(value, second.weights[key]) for key, value in first.weights.items())
    assert set(first.losses) == {"mask", "spare", "iou"} and first.losses["mask"] > 0


def test_a_stopped_training_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nano = tool("train_sam_nano")

    def run(name: str) -> bytes:
        args = nano.parse_arguments([*STEPS, "--images", "2", "--out", str(tmp_path / name)])
        nano.NanoTraining(args, CPU, TOY_NANO).run()
        return b"".join(
            (tmp_path / name / file).read_bytes() for file in ("sam_nano.safetensors", "training/weights.safetensors")
        )

    unbroken, measured = run("unbroken"), nano.evaluate
    calls: list[None] = []

    def stopping(*given: Any) -> dict[str, float]:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return dict(measured(*given))

    monkeypatch.setattr(nano, "evaluate", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    assert (tmp_path / "stopped/training/state.safetensors").is_file()
    assert run("stopped") == unbroken and len(calls) == 3


def test_the_rate_rises_over_a_hundredth_and_falls_to_a_fiftieth() -> None:
    nano = tool("train_sam_nano")
    assert nano.lr_factor(0, 1000) == 0.05
    assert nano.lr_factor(10, 1000) == pytest.approx(1.0, abs=1e-3)
    assert nano.lr_factor(1000, 1000) == pytest.approx(0.02)


def test_a_shared_batch_norm_alone_is_that_of_torch() -> None:
    torch.manual_seed(0)
    own, shared = nn.BatchNorm2d(3), share_batch_norm(nn.Sequential(nn.BatchNorm2d(3)))
    images = torch.randn(2, 3, 4, 5)
    assert isinstance(shared[0], SharedBatchNorm2d) and torch.equal(own(images), shared(images))
    assert torch.equal(own.running_var, shared[0].running_var)
