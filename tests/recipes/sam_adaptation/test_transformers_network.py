"""Adaptation of the SAM families of transformers at toy size: the plain network at first, gradients, files, merging."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import CPU
from tests.recipes.sam_adaptation.toys import settings
from tests.sam.transformers.toys import write_toy
from weaksam.recipes.sam_adaptation import adapt, evaluate
from weaksam.recipes.sam_adaptation.adaptable import adaptable
from weaksam.recipes.sam_adaptation.prompts import InstancePrompts
from weaksam.recipes.sam_adaptation.views import network_view
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.lora import add_lora, lora_state, merge_lora
from weaksam.structures.boxes import inclusive_from_xyxy

BOXES = torch.tensor([[5.0, 6.0, 40.0, 30.0], [0.0, 0.0, 20.0, 20.0]])
POINTS = torch.tensor([[[10.5, 12.5], [30.5, 8.5]]])


@pytest.mark.parametrize("family", ["sam", "sam_hq", "sam2"])
def test_at_first_it_answers_as_the_plain_network(family: str, tmp_path: Path) -> None:
    segmenter = build_segmenter(SegmenterSettings(weights=write_toy(family, tmp_path / family)), CPU)
    network = adaptable(segmenter)
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)  # as large as the input
    view = network_view(photo, torch.zeros(0, 64, 64, dtype=torch.bool), network.side, network.fit)
    # The family's own preprocessing and network, as its documentation calls them
    pixels = segmenter.model.processor(images=[photo], return_tensors="pt")["pixel_values"]
    given = {"input_boxes": inclusive_from_xyxy(BOXES)[None]}
    with torch.no_grad():
        plain = segmenter.network(pixel_values=pixels, **given, multimask_output=family == "sam_hq")
        logits, _ = network.decode(network.encode([view.pixels]), 0, InstancePrompts(boxes=BOXES))
    best = plain.iou_scores[0].argmax(dim=1)
    torch.testing.assert_close(logits, plain.pred_masks[0, torch.arange(2), best], rtol=1e-4, atol=1e-4)
    names = add_lora(network.encoder)
    assert names and all(name.endswith("qkv") for name in names)
    with torch.no_grad():
        added, _ = network.decode(network.encode([view.pixels]), 0, InstancePrompts(boxes=BOXES))
    assert torch.equal(added, logits)
    seen = network.encode([view.pixels])
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[:, 10:30, 5:40] = True
    answers = []
    for prompts in (
        InstancePrompts(boxes=BOXES),
        InstancePrompts(points=POINTS, labels=torch.tensor([[1, 0]])),
        InstancePrompts(masks=masks),
        InstancePrompts(boxes=torch.zeros(0, 4)),
    ):
        low, predicted = network.decode(seen, 0, prompts)
        assert len(low) == len(predicted) == len(prompts)
        answers.append(low)
    torch.cat(answers).square().sum().backward()
    updates = lora_state(network.encoder)
    assert all(value.grad is not None and value.grad.any() for name, value in updates.items() if ".b_" in name)
    with torch.no_grad():
        for value in updates.values():
            value.add_(0.05)
        moved, _ = network.decode(network.encode([view.pixels]), 0, InstancePrompts(boxes=BOXES))
        merge_lora(network.encoder)
        merged, _ = network.decode(network.encode([view.pixels]), 0, InstancePrompts(boxes=BOXES))
    assert not torch.equal(moved, logits)
    torch.testing.assert_close(merged, moved, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_an_adaptation_writes_updates_that_the_segmenter_takes(family: str, scenes: Path, tmp_path: Path) -> None:
    weights = write_toy(family, tmp_path / family)
    wanted = settings(scenes, tmp_path / "out", f"segmenter.weights={weights}", "segmenter.family=auto", "lr=0.01")
    figures = adapt(wanted)
    lora = tmp_path / "out" / "lora.safetensors"
    assert set(figures["adapted"]) == {"box", "point", "coarse_box", "coarse_mask"}
    assert evaluate(wanted, lora) == figures["adapted"]
    plain = build_segmenter(SegmenterSettings(weights=weights), CPU)
    adapted = build_segmenter(SegmenterSettings(weights=weights, lora=lora), CPU)
    assert adapted.fingerprint != plain.fingerprint
