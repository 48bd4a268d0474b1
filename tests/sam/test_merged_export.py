"""A segmenter with merged updates, written as a plain checkpoint, answers as the one with the file of updates."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import CPU, random_sam
from tests.sam.transformers.toys import write_toy
from weaksam.config import UserError
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.lora import add_lora, lora_state, save_lora
from weaksam.sam.merged_export import write_checkpoint
from weaksam.sam.prompts import Prompts

PROMPTS = Prompts(boxes=torch.tensor([[5.0, 5.0, 30.0, 30.0]]))
PHOTO = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def updates(encoder: torch.nn.Module, path: Path) -> Path:
    """A file of random updates for ``encoder``."""
    kept = copy.deepcopy(encoder)
    add_lora(kept)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in lora_state(kept).values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_lora(path, kept)
    return path


@pytest.mark.parametrize("family", ["nano", "official", "sam", "sam2"])
def test_a_plain_checkpoint_answers_the_same(family: str, tmp_path: Path) -> None:
    weights = {"nano": None, "official": tmp_path / "sam.pth"}.get(family, tmp_path / family)
    if family == "official":
        torch.save(random_sam(0).state_dict(), weights)
    elif weights is not None:
        write_toy(family, weights)
    settings = SegmenterSettings(family="nano" if weights is None else "auto", weights=weights)
    plain = build_segmenter(settings, CPU)
    network = getattr(plain, {"nano": "model", "official": "sam"}.get(family, "network"))
    lora = updates(getattr(network, "vision_encoder", None) or network.image_encoder, tmp_path / "lora.safetensors")
    adapted = build_segmenter(settings.model_copy(update={"lora": lora}), CPU)
    path = tmp_path / {"nano": "out.safetensors", "official": "out.pth"}.get(family, "out")
    write_checkpoint(adapted, path)
    exported = build_segmenter(settings.model_copy(update={"weights": path}), CPU)
    answers = [segmenter.predict(segmenter.encode(PHOTO), PROMPTS) for segmenter in (adapted, exported, plain)]
    assert torch.equal(answers[0].iou, answers[1].iou) and torch.equal(answers[0].masks, answers[1].masks)
    assert not torch.equal(answers[0].iou, answers[2].iou)
    if family == "official":  # as segment-anything itself reads it
        random_sam(1).load_state_dict(torch.load(path, weights_only=True), strict=True)
    with pytest.raises(UserError, match="which is there"):
        write_checkpoint(adapted, path)


def test_another_ending_and_no_network_are_one_sentence(tmp_path: Path) -> None:
    nano = build_segmenter(SegmenterSettings(family="nano"), CPU)
    for segmenter, name, wanted in (
        (nano, "out.pth", r"ends in \.safetensors"),
        (build_segmenter(SegmenterSettings(family="tree"), CPU), "out", "with a network to export"),
    ):
        with pytest.raises(UserError, match=wanted):
            write_checkpoint(segmenter, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
