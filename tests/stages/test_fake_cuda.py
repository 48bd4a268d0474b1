"""Each training step and each path of inference runs on a GPU that is not there, and waits for it where it is listed.

Torch's fake tensors raise where tensors of two devices meet; results are those of the CPU. A new wait fails a test, and
so does one that is listed and gone: take it off the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.fake_cuda import CUDA, FakeCuda, fake_cuda, on_the_host
from tests.helpers import CPU
from tests.inference_paths import PATHS, Answer
from tests.training_steps import STEPS, Bench, take_steps
from weaksam.models.detectors import roi_heads
from weaksam.structures.devices import reading_waits_everywhere

# Six numbers of the colours go to the device once, at the first photo; losses are read once for twenty steps
COLOURS = {"models/backbones/inputs.py:_channels: from the host"}
READ_TOGETHER = {"engine/loss_values.py:fetch: tolist"}
# Regions are sampled, and boxes to ignore left out of the matching: how many there are follows from values
SAMPLED_REGIONS = {
    "models/detectors/faster_rcnn.py:_of_photo: nonzero",
    "models/detectors/ignored_regions.py:assign_targets_to_anchors: index",
    "models/detectors/region_proposals.py:_sampled_losses: index",
    "models/detectors/region_proposals.py:_sampled_losses: nonzero",
}
# The costs of all queries and boxes are copied to the CPU once, where scipy matches them
MATCHING = {"models/query/matching.py:match_queries: to the host"}
# The sizes of the pyramid's levels, as transformers' own decoder takes them
LEVELS = {"models/detectors/mask2former/network.py:predictions: from the host"}
# A photo goes to the device when it has been decoded, and nothing is computed there that would be waited for
PHOTO = {"engine/detectors/detecting.py:_boxes_of: from the host"}
# What is handed on goes to the CPU once a photo
DETECTIONS = {"models/detectors/faster_rcnn.py:instances_from: to the host"}
# The frozen detector keeps features on the device and computes its losses on the CPU, to which each answer goes once
FROZEN_FEATURES = {
    "stages/wsod/photo_features.py:_joined: from the host",
    "stages/wsod/photo_features.py:pool: from the host",
    "stages/wsod/photo_features.py:views_of: to the host",
    "models/wsod/head.py:on: to the host",
}
NANO_DECODER = {  # its answers are measured on the CPU, as it is made for CPUs
    "sam/nano/decoder.py:draw: nonzero",
    "sam/nano/decoder.py:drawing: _local_scalar_dense",
    "sam/nano/decoder.py:merge_padding: _local_scalar_dense",
    "sam/nano/segmenter.py:_answer_fast: to the host",
    "sam/nano/segmenter.py:encode: from the host",
    "sam/nano/segmenter.py:predict: from the host",
}
# Only masks that the predicted IoU leaves are measured; candidates and their packed bits go to the CPU
MEASURED = {"index", "index_put_"}
KEPT_MASKS = {
    "stages/proposals/candidates.py:add: to the host",
    "stages/proposals/candidates.py:candidates_of: from the host",
    "stages/proposals/candidates.py:candidates_of: index",
}
FULL_MASKS = {
    "sam/box_masks.py:_full_masks: to the host",
    "sam/box_masks.py:_order: _local_scalar_dense",  # the area of each chosen mask
    "sam/prompts.py:__getitem__: index from the host",
}

TRAINING: dict[str, set[str]] = {
    "tag network": READ_TOGETHER,
    "WeakTr": READ_TOGETHER,
    "frozen": FROZEN_FEATURES
    | {"engine/loss_values.py:add: to the host", "engine/training.py:_backward: from the host"},
    "end to end": READ_TOGETHER,
    "Faster R-CNN": READ_TOGETHER | COLOURS | SAMPLED_REGIONS,
    "DINO": READ_TOGETHER | COLOURS | MATCHING,
    "Mask R-CNN": READ_TOGETHER | COLOURS | SAMPLED_REGIONS | {"models/detectors/roi_heads.py:_mask_losses: nonzero"},
    "Mask2Former": READ_TOGETHER | COLOURS | MATCHING | LEVELS,
    "sam_nano": READ_TOGETHER,
}
"""What waits in a training step, besides torchvision's own code, by the name of what trains."""
INFERENCE: dict[str, set[str]] = {
    "clues": {f"stages/clues/cam_features.py:_compute: {way} the host" for way in ("to", "from")},
    "clues, WeakTr": {f"stages/clues/weaktr.py:_map_view: {way} the host" for way in ("to", "from")},
    "proposals, sam_nano": NANO_DECODER | {"sam/nano/decoder.py:merge_padding: nonzero"},
    "proposals, sam_nano as trained": {
        "sam/nano/segmenter.py:_answer: to the host",
        "sam/nano/segmenter.py:encode: from the host",
        "sam/nano/segmenter.py:predict: from the host",
    },
    "proposals, official": KEPT_MASKS
    | {f"sam/official/segmenter.py:_answer: {name}" for name in MEASURED}
    | {f"sam/official/segmenter.py:_prompt_embeddings: {name}" for name in MEASURED}  # of segment-anything
    | {"sam/official/segmenter.py:encode_batch: from the host", "sam/official/segmenter.py:predict: to the host"},
    "proposals, SAM 2 of transformers": KEPT_MASKS
    | {f"sam/transformers/segmenter.py:_answer: {name}" for name in MEASURED}
    | {
        "sam/transformers/segmenter.py:encode_batch: from the host",
        "sam/transformers/segmenter.py:predict: to the host",
    },
    "box masks, sam_nano": NANO_DECODER,
    "box masks, official": FULL_MASKS
    | {f"sam/official/segmenter.py:_answer: {name}" for name in MEASURED}
    | {"sam/official/segmenter.py:encode_batch: from the host", "sam/official/segmenter.py:predict: to the host"},
    "box masks, SAM 2 of transformers": FULL_MASKS
    | {f"sam/transformers/segmenter.py:_answer: {name}" for name in MEASURED}
    | {
        "sam/transformers/segmenter.py:encode_batch: from the host",
        "sam/transformers/segmenter.py:predict: to the host",
    },
    "wsod, frozen": FROZEN_FEATURES,
    "wsod, end to end": {"stages/wsod/end_to_end.py:_output: from the host", "models/wsod/head.py:on: to the host"},
    "Faster R-CNN": COLOURS | PHOTO | DETECTIONS,
    "DINO": COLOURS | PHOTO | DETECTIONS | {"models/detectors/dino/detector.py:detections: nonzero"},
    "Mask R-CNN": COLOURS
    | PHOTO
    | DETECTIONS
    | {
        "engine/detectors/detecting.py:_masked: from the host",
        "models/detectors/mask_rcnn.py:paste_masks: to the host",
    },
    "Mask2Former": COLOURS
    | LEVELS
    | {
        "engine/detectors/mask2former.py:segment_views: from the host",
        "models/detectors/mask2former/instances.py:_masks_of: to the host",
        "models/detectors/mask2former/instances.py:segment_photo: _unique2",
        "models/detectors/mask2former/instances.py:segment_photo: index",
        "models/detectors/mask2former/instances.py:segment_photo: to the host",
    },
}
"""What waits while a stage looks at a photo, besides torchvision's own code, by name."""
FAST = {"WeakTr", "Faster R-CNN", "clues, WeakTr"}
"""What is tested always; the others take some seconds each."""


def marked(names: Any) -> list[Any]:
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def gpu() -> Iterator[FakeCuda]:
    with fake_cuda() as mode:
        yield mode


def own_waits(mode: FakeCuda) -> set[str]:
    """Waits that do not stand in torchvision's code."""
    return {wait for wait in mode.waits if "(torchvision)" not in wait}


def step_of(name: str, bench: Bench, device: torch.device, mode: FakeCuda | None = None) -> list[torch.Tensor]:
    """The losses of a step in float32, and the gradients before the step of every optimizer."""
    torch.manual_seed(0)
    step, gradients = STEPS[name](bench, device, "float32"), []

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        held = (parameter for group in optimizer.param_groups for parameter in group["params"])
        gradients.extend(on_the_host(parameter.grad) for parameter in held if parameter.grad is not None)

    with torch.no_grad():
        for key, parameter in step.model.named_parameters():
            if "sampling_offsets" in key:  # at first they point at the edges of cells, where the gradient jumps
                parameter.add_(0.05 * torch.randn_like(parameter))
    for objective in step.objectives:
        objective.optimizer.register_step_pre_hook(keep)
    if mode is not None:
        mode.waits.clear()
    with reading_waits_everywhere() if device.type == "cpu" else nullcontext():
        losses = take_steps(step, num_steps=1)
    return [torch.tensor([losses[key] for key in sorted(losses)]), *gradients]


@pytest.mark.parametrize("name", marked(STEPS))
def test_a_training_step_on_a_gpu_gives_what_the_cpu_gives_and_waits_where_it_is_listed(
    name: str, bench: Bench
) -> None:
    on_cpu = step_of(name, bench, CPU)
    with fake_cuda() as mode:
        there = step_of(name, bench, CUDA, mode)
    assert len(there) == len(on_cpu) > 1
    greatest = max(float(wanted.abs().max()) for wanted in on_cpu[1:])
    for value, wanted in zip(there, on_cpu, strict=True):
        assert (value - wanted).abs().max() <= 1e-3 * max(float(wanted.abs().max()), 1e-3 * greatest)
    assert own_waits(mode) == TRAINING[name]


@pytest.mark.parametrize("name", marked(PATHS))
def test_inference_on_a_gpu_gives_what_the_cpu_gives_and_waits_where_it_is_listed(name: str, bench: Bench) -> None:
    on_cpu: Answer = PATHS[name](bench, CPU)()
    with fake_cuda() as mode:
        call = PATHS[name](bench, CUDA)
        mode.waits.clear()
        there = {key: on_the_host(value) for key, value in call().items()}
    assert set(there) == set(on_cpu)
    for key, value in on_cpu.items():
        torch.testing.assert_close(there[key], value.to(there[key]), rtol=1e-4, atol=1e-4)
    assert own_waits(mode) == INFERENCE[name]


def test_every_step_and_path_has_a_list() -> None:
    assert set(TRAINING) == set(STEPS) and set(INFERENCE) == set(PATHS)


def test_a_planted_constant_of_the_cpu_is_met(bench: Bench, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = roi_heads.box_losses
    monkeypatch.setattr(roi_heads, "box_losses", lambda *given: losses(*given) * torch.ones(len(given[1])).cpu())
    with pytest.raises(RuntimeError, match=r"at least two devices, cuda:0 and cpu|at least two devices, cpu and cuda"):
        take_steps(STEPS["Faster R-CNN"](bench, CUDA, "float32"), num_steps=1)


class _GradientOnTheHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0].cpu()


def test_a_gradient_on_another_device_is_met(gpu: FakeCuda) -> None:
    values = torch.ones(3, device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match="wanted a gradient on cuda:0, found one on cpu"):
        _GradientOnTheHost.apply(values).square().sum().backward()


def test_a_generator_of_another_device_is_met(gpu: FakeCuda) -> None:
    with pytest.raises(RuntimeError, match="wanted a generator of cuda"):
        torch.rand(2, device="cuda", generator=torch.Generator().manual_seed(0))


WAITS: dict[str, Any] = {
    "_local_scalar_dense": lambda values: values[0].item(),
    "nonzero": lambda values: values.nonzero(),
    "masked_select": lambda values: values.masked_select(values > 0),
    "index": lambda values: values[values > 0],
    "index_put_": lambda values: values.__setitem__(values > 0, torch.ones(2, device="cuda")),
    "index from the host": lambda values: values[torch.tensor([0, 2])],
    "equal": lambda values: torch.equal(values, values),
    "tolist": lambda values: values.tolist(),
    "to the host": lambda values: values.cpu(),
    "from the host": lambda values: torch.ones(3).to(values.device, non_blocking=True),
    "nms": lambda values: torch.ops.torchvision.nms(values[:, None].expand(-1, 4), values, 0.5),
}


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("inference", [False, True])
def test_the_recorder_sees_every_way_to_wait(name: str, inference: bool, gpu: FakeCuda) -> None:
    with torch.inference_mode(inference):
        values = torch.linspace(0, 2, 3, device="cuda")
        gpu.waits.clear()
        WAITS[name](values)
    assert [wait.split(": ")[-1] for wait in gpu.waits] == [name]


def test_what_does_not_wait_is_not_recorded(gpu: FakeCuda) -> None:
    values = torch.linspace(0, 2, 3, device="cuda")
    there = torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    values[values > 1] = 0.5
    assert (values[torch.arange(2, device="cuda")] + there[:2]).shape == (2,)
    assert not gpu.waits and isinstance(gpu, FakeTensorMode)
