"""Low-rank updates of image encoders: nothing changes at first, what trains, how many, merging, files."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from tests.helpers import CPU, random_sam
from tests.sam.transformers.toys import write_toy
from weaksam.config import UserError
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.lora import LoraConv, LoraLinear, add_lora, load_lora, lora_state, merge_lora, save_lora
from weaksam.sam.nano.model import Architecture, NanoEncoder
from weaksam.sam.prompts import Prompts
from weaksam.store.weights import save_weights


def vit() -> nn.Module:
    return random_sam(0).image_encoder


def conv() -> nn.Module:
    torch.manual_seed(0)
    return NanoEncoder(Architecture(dim=16, width=8, deep=16, depth=2)).eval()


def nano_vit() -> nn.Module:
    torch.manual_seed(0)
    return NanoEncoder(Architecture("vit", dim=16, width=8, deep=32, depth=1)).eval()


def outputs(encoder: nn.Module) -> torch.Tensor:
    side = encoder.img_size
    answer = encoder(torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1)))
    return answer if isinstance(answer, torch.Tensor) else torch.cat([level.flatten() for level in answer])


def moved(encoder: nn.Module) -> nn.Module:
    """``encoder`` after its updates were given random values."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in lora_state(encoder).values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return encoder


def test_a_linear_layer_by_hand() -> None:
    base = nn.Linear(2, 6)
    layer = LoraLinear(base, 1)
    with torch.no_grad():
        layer.a_q.copy_(torch.tensor([[1.0, 2.0]]))
        layer.b_q.copy_(torch.tensor([[1.0], [-1.0]]))
        layer.a_v.copy_(torch.tensor([[0.0, 1.0]]))
        layer.b_v.copy_(torch.tensor([[3.0], [0.0]]))
    x = torch.tensor([[5.0, 7.0]])  # A_q x = 19, A_v x = 7
    assert torch.allclose(layer(x) - base(x), torch.tensor([[19.0, -19.0, 0.0, 0.0, 21.0, 0.0]]))


def test_a_convolution_by_hand() -> None:
    base = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    layer = LoraConv(base, 1)
    with torch.no_grad():
        layer.a.zero_()
        layer.a[0, 0, 1, 1] = 2.0  # twice the pixel itself
        layer.b.copy_(torch.tensor([[1.0], [-3.0]]))
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert torch.allclose(layer(x) - base(x), torch.cat([2 * x, -6 * x], dim=1), atol=1e-5)


@pytest.mark.parametrize("build", [vit, nano_vit, conv])
def test_nothing_changes_at_first_and_only_updates_train(build) -> None:
    encoder = build()
    before = outputs(encoder)
    names = add_lora(encoder)
    assert torch.equal(outputs(encoder), before)
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained == set(lora_state(encoder)) and all(name.rpartition(".")[0] in names for name in trained)
    outputs(encoder).sum().backward()
    assert all(parameter.grad is not None for name, parameter in lora_state(encoder).items() if ".b" in name)


@pytest.mark.parametrize("build", [vit, nano_vit, conv])
def test_merged_updates_answer_the_same_by_plain_layers(build) -> None:
    encoder = build()
    plain = {type(module) for module in encoder.modules()}
    add_lora(encoder)
    adapted = outputs(moved(encoder))
    merge_lora(encoder)
    assert {type(module) for module in encoder.modules()} == plain and lora_state(encoder) == {}
    torch.testing.assert_close(outputs(encoder), adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dim", "depth", "wanted"), [(768, 12, 147_456), (1024, 24, 393_216), (1280, 32, 655_360)])
def test_the_published_number_of_parameters(dim: int, depth: int, wanted: int) -> None:
    with torch.device("meta"):
        encoder = ImageEncoderViT(embed_dim=dim, depth=depth, num_heads=16 if dim > 768 else 12, window_size=14)
    add_lora(encoder)
    assert sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad) == wanted


def test_updates_are_kept_and_found_again(tmp_path: Path) -> None:
    encoder = vit()
    plain = copy.deepcopy(encoder)
    add_lora(encoder, rank=2, seed=3)
    adapted = outputs(moved(encoder))
    save_lora(tmp_path / "lora.safetensors", encoder, {"photos": 3})
    load_lora(tmp_path / "lora.safetensors", plain)
    assert torch.equal(outputs(plain), adapted)


def test_what_belongs_elsewhere_is_one_sentence(tmp_path: Path) -> None:
    encoder = vit()
    add_lora(encoder)
    save_lora(tmp_path / "lora.safetensors", encoder)
    save_weights(tmp_path / "other.safetensors", {"weight": torch.zeros(2)})
    for path, target, wanted in (
        ("lora.safetensors", random_sam(1).image_encoder, "found those of another one"),
        ("lora.safetensors", conv(), "found those of another one"),
        ("other.safetensors", vit(), "found other weights"),
        ("none.safetensors", vit(), "none.safetensors"),
    ):
        with pytest.raises(UserError, match=wanted) as error:
            load_lora(tmp_path / path, target)
        assert "\n" not in str(error.value)
        assert lora_state(target) == {}


def test_segmenters_take_updates_of_their_own_encoder(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    prompts = Prompts(boxes=torch.tensor([[5.0, 5.0, 30.0, 30.0]]))
    toys = {"nano": None, "official": tmp_path / "sam.pth", "sam": tmp_path / "sam", "sam2": tmp_path / "sam2"}
    torch.save(random_sam(0).state_dict(), toys["official"])
    for model_type in ("sam", "sam2"):
        write_toy(model_type, toys[model_type])
    for name, weights in toys.items():
        settings = SegmenterSettings(family="nano" if weights is None else "auto", weights=weights)
        plain = build_segmenter(settings, CPU)
        network = getattr(plain, {"nano": "model", "official": "sam"}.get(name, "network"))
        kept = copy.deepcopy(network.vision_encoder if name.startswith("sam") else network.image_encoder)
        add_lora(kept)
        save_lora(tmp_path / "lora.safetensors", moved(kept))
        adapted = build_segmenter(settings.model_copy(update={"lora": tmp_path / "lora.safetensors"}), CPU)
        assert adapted.fingerprint != plain.fingerprint
        answers = [segmenter.predict(segmenter.encode(photo), prompts) for segmenter in (plain, adapted)]
        assert not torch.equal(answers[0].iou, answers[1].iou), name
    with pytest.raises(UserError, match="found the region tree"):
        build_segmenter(SegmenterSettings(lora=tmp_path / "lora.safetensors"), CPU)


def test_what_cannot_be_adapted() -> None:
    encoder = vit()
    with pytest.raises(ValueError, match="rank of at least 1, found 0"):
        add_lora(encoder, rank=0)
    add_lora(encoder)
    with pytest.raises(ValueError, match="merge them first"):
        add_lora(encoder)
    with pytest.raises(UserError, match="found Linear: set segmenter"):
        add_lora(nn.Linear(2, 2))
