"""SegFormer in its sizes and any segmenter of transformers behind one door: sizes, features, files, errors."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from weaksam.config import UserError
from weaksam.models.semantic.network import VARIANTS, build_segformer, read_semantic


def test_the_student_of_the_paper_has_3_7_million_parameters() -> None:
    network = build_segformer("b0", 19, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_719_027
    assert network.num_classes == 19 and network.feature_channels() == [32, 64, 160, 256]


def test_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(7)
    before = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (build_segformer("nano", 3, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), before)  # other random numbers are untouched
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("size", [(32, 64), (33, 66)])
def test_logits_are_a_quarter_of_the_photo(size: tuple[int, int]) -> None:
    network = build_segformer("nano", 5, seed=0).eval()
    photo = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    answer = network(photo, features=True)
    assert answer.logits.shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))
    assert [feature.shape[1] for feature in answer.features] == VARIANTS["nano"]["hidden_sizes"]
    assert network(photo).features == () and torch.equal(network(photo.float()).logits, answer.logits)
    grey = torch.tensor([123.675, 116.28, 103.53]).reshape(1, 3, 1, 1).expand(1, 3, *size)  # ImageNet's mean
    wanted = network.network(pixel_values=torch.zeros(1, 3, *size)).logits
    assert torch.allclose(network(grey).logits, wanted, atol=1e-4)


def test_a_folder_of_transformers_is_read(tmp_path: Path) -> None:
    config = SegformerConfig(num_labels=4, **VARIANTS["nano"])
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    )
    network = read_semantic(tmp_path / "model", "assistant.weights")
    assert network.is_segformer and network.num_classes == 4 and network.mean.flatten().tolist() == [0.5] * 3
    assert network.std.flatten().tolist() == [0.25] * 3
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    assert network.architecture() == read_semantic(tmp_path / "model", "assistant.weights").architecture()
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        read_semantic(tmp_path / "model", "assistant.weights")
    with pytest.raises(UserError, match=r"as assistant\.weights, found"):
        read_semantic(weights, "assistant.weights")


def test_a_segmenter_of_another_family_is_read_too(tmp_path: Path) -> None:
    config = MobileNetV2Config(num_labels=3, depth_multiplier=0.35, image_size=64)
    MobileNetV2ForSemanticSegmentation(config).save_pretrained(tmp_path)
    network = read_semantic(tmp_path, "assistant.weights").eval()
    answer = network(torch.zeros(1, 3, 64, 64))
    assert not network.is_segformer and network.num_classes == 3
    assert answer.logits.shape == (1, 3, 16, 16) and answer.features == ()
