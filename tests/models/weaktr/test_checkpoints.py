"""Checkpoints of WeakTr, DeiT and transformers load with every tensor accounted for, or are refused in one sentence."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from weaksam.config import UserError
from weaksam.models.weaktr.build import build_weaktr
from weaksam.models.weaktr.checkpoints import save_weaktr, weaktr_fingerprint
from weaksam.models.weaktr.fusion import FusionShape
from weaksam.models.weaktr.network import WeakTr, WeakTrSettings
from weaksam.models.weaktr.vit import VitShape

SHAPE = VitShape(width=24, depth=2, num_heads=3, patch_size=16, grid=3, mlp_width=48)
PLAIN = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=48, patch_size=16)
FAMILIES = {
    "vit": ("ViT", dict(intermediate_size=48)),
    "vit_without_bias": ("ViT", dict(intermediate_size=48, qkv_bias=False, layer_norm_eps=1e-3)),
    "deit": ("DeiT", dict(intermediate_size=48)),
    "dinov2": ("Dinov2", dict(mlp_ratio=2, image_size=42, patch_size=14)),
    "dinov2_giant": ("Dinov2", dict(mlp_ratio=4, use_swiglu_ffn=True)),
    "dinov2_registers": ("Dinov2WithRegisters", dict(mlp_ratio=2, num_register_tokens=4)),
    "dinov3": ("DINOv3ViT", dict(intermediate_size=48, num_register_tokens=4, rope_theta=50.0)),
    "dinov3_without_bias": ("DINOv3ViT", dict(intermediate_size=48, query_bias=False, proj_bias=False, mlp_bias=False)),
    "dinov3_plus": ("DINOv3ViT", dict(intermediate_size=40, use_gated_mlp=True, hidden_act="silu")),
}


def make(fusion: str = "feature_max", num_classes: int = 4, shape: VitShape = SHAPE) -> WeakTr:
    torch.manual_seed(3)
    return shaken(WeakTr(shape, num_classes, FusionShape.of(fusion, shape, 2, 2), drop_path=0.0))


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter moved away from where it starts, so that none may be forgotten."""
    torch.manual_seed(4)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    return model.eval()


def saved_model(folder: Path, family: str, **changes) -> torch.nn.Module:
    name, options = FAMILIES[family]
    transformers = importlib.import_module("transformers")
    config = getattr(transformers, f"{name}Config")(**(PLAIN | options | changes))
    model = shaken(getattr(transformers, f"{name}Model")(config))
    model.save_pretrained(folder)
    return model


def refusal(path: Path, num_classes: int = 4, **settings) -> str:
    with pytest.raises(UserError) as caught:
        build_weaktr(WeakTrSettings(weights=str(path), **settings), num_classes)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 420
    return message


# transformers


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_transformers(tmp_path, family):
    """With one class the network is the model itself; its last normalisation is kept, though WeakTr skips it."""
    theirs = saved_model(tmp_path, family)
    ours = build_weaktr(WeakTrSettings(weights=str(tmp_path)), 1).eval()
    tokens = []
    ours.blocks[-1].register_forward_hook(lambda module, args, out: tokens.append(out.tokens))
    size = 42 if family == "dinov2" else 48
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        wanted = theirs(image).last_hidden_state
        ours(image)
        torch.testing.assert_close(ours.norm(tokens[0]), wanted, atol=1e-4, rtol=1e-4)


def test_rotary_positions_fit_any_grid_as_in_transformers(tmp_path):
    theirs = saved_model(tmp_path, "dinov3")
    ours, tokens = build_weaktr(WeakTrSettings(weights=str(tmp_path)), 1).eval(), []
    ours.blocks[-1].register_forward_hook(lambda module, args, out: tokens.append(out.tokens))
    image = torch.randn(1, 3, 80, 32)
    with torch.no_grad():
        assert ours(image).fine.shape == (1, 1, 5, 2)
        torch.testing.assert_close(ours.norm(tokens[0]), theirs(image).last_hidden_state, atol=1e-4, rtol=1e-4)


def test_the_class_token_is_repeated_for_every_class(tmp_path):
    theirs = saved_model(tmp_path, "vit").state_dict()
    ours = build_weaktr(WeakTrSettings(weights=str(tmp_path)), 5)
    assert torch.equal(ours.cls_token, theirs["embeddings.cls_token"].expand(1, 5, -1))
    assert torch.equal(ours.pos_embed[:, :5], theirs["embeddings.position_embeddings"][:, :1].expand(1, 5, -1))
    assert torch.equal(ours.pos_embed[:, 5:], theirs["embeddings.position_embeddings"][:, 1:])
    assert ours(torch.randn(1, 3, 48, 48)).class_logits.shape == (1, 5)


def test_a_distillation_token_stays_in_as_a_register(tmp_path):
    saved_model(tmp_path, "deit")
    ours = build_weaktr(WeakTrSettings(weights=str(tmp_path)), 3)
    assert ours.shape.num_registers == 1 and ours.pos_embed.shape == (1, 12, 24)
    assert ours(torch.randn(1, 3, 48, 64)).affinity.shape == (1, 12, 12)  # patches alone


def test_a_classifier_and_a_pooler_are_left_out(tmp_path):
    transformers = importlib.import_module("transformers")
    config = transformers.ViTConfig(**PLAIN, intermediate_size=48, num_labels=7)
    theirs = shaken(transformers.ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    ours = build_weaktr(WeakTrSettings(weights=str(tmp_path)), 2)
    assert torch.equal(ours.norm.weight, theirs.vit.layernorm.weight)


def test_another_normalisation_is_folded_into_the_first_layer(tmp_path):
    """A model that wants (x - 1/2) / (1/2) sees the same photo when it is given ImageNet-normalised pixels."""
    theirs = saved_model(tmp_path, "vit")
    settings = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    ours, tokens = build_weaktr(WeakTrSettings(weights=str(tmp_path)), 1).eval(), []
    ours.blocks[-1].register_forward_hook(lambda module, args, out: tokens.append(out.tokens))
    photo = torch.rand(1, 3, 48, 48)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        ours((photo - mean[:, None, None]) / deviation[:, None, None])
        wanted = theirs(2 * photo - 1).last_hidden_state
        torch.testing.assert_close(ours.norm(tokens[0]), wanted, atol=1e-4, rtol=1e-4)


def test_models_that_do_not_fit_are_named(tmp_path):
    saved_model(tmp_path / "vit", "vit")
    config, weights = tmp_path / "vit" / "config.json", tmp_path / "vit" / "model.safetensors"
    state, values = load_file(weights), json.loads(config.read_text())
    lost = next(key for key in state if "mlp.fc1.weight" in key or "intermediate.dense.weight" in key)
    save_file({key: value for key, value in state.items() if key != lost}, weights)
    assert "1 tensors missing, 0 unknown and 0 of another shape" in refusal(tmp_path / "vit")
    save_file(state | {"surprise": torch.zeros(1)}, weights)
    assert "0 tensors missing, 1 unknown" in refusal(tmp_path / "vit")
    save_file(state, weights)
    config.write_text(json.dumps(values | {"hidden_act": "relu"}))
    assert "gelu or silu layers" in refusal(tmp_path / "vit")
    config.write_text(json.dumps(values | {"model_type": "swin"}))
    assert "found model_type 'swin'" in refusal(tmp_path / "vit")
    config.write_text(json.dumps(values))
    weights.write_text("<!doctype html><title>404</title>")
    assert "is a web page" in refusal(tmp_path / "vit")
    weights.unlink()
    assert "neither model.safetensors nor" in refusal(tmp_path / "vit")
    config.unlink()
    assert "holds no config.json" in refusal(tmp_path / "vit")


def test_a_model_that_the_hub_does_not_give_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal(Path("weaksam-tests/no-such-model"))
    assert message.startswith("wanted a vision transformer at weaksam-tests/no-such-model, which is no file or folder")


# DeiT


def test_a_deit_file_fills_the_transformer_alone(tmp_path):
    plain = make(num_classes=1)
    state = {key: value for key, value in plain.state_dict().items() if not key.startswith(("head", "adaptive"))}
    published = {"model": state | {"head.weight": torch.zeros(1000, 24), "head.bias": torch.zeros(1000)}}
    torch.save(published, tmp_path / "deit.pth")
    settings = WeakTrSettings(weights=str(tmp_path / "deit.pth"), num_heads=3)
    ours = build_weaktr(settings, 1)
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in state.items())
    assert (ours.shape, ours.head.weight.shape) == (SHAPE, (1, 24, 3, 3))
    state["surprise"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "deit.pth")
    assert "bring 1 unknown ones" in refusal(tmp_path / "deit.pth", num_heads=3)


def test_a_distilled_deit_file_equals_the_folder_of_transformers(tmp_path):
    saved_model(tmp_path / "deit", "deit")
    ours = build_weaktr(WeakTrSettings(weights=str(tmp_path / "deit")), 1).state_dict()
    state = {key: value for key, value in ours.items() if not key.startswith(("head", "adaptive"))}
    positions = torch.randn(1, 1, 24)
    state["dist_token"] = state.pop("reg_token") - positions
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], positions, state["pos_embed"][:, 1:]], dim=1)
    state |= {"head.weight": torch.zeros(9, 24), "head_dist.weight": torch.zeros(9, 24)}
    torch.save(state, tmp_path / "deit.pth")
    again = build_weaktr(WeakTrSettings(weights=str(tmp_path / "deit.pth"), num_heads=3), 1).state_dict()
    for key in set(ours) - {key for key in ours if key.startswith(("head", "adaptive"))}:
        torch.testing.assert_close(again[key], ours[key])


def test_weights_of_no_transformer_are_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "vgg.pth")
    assert "found weights without 'cls_token'" in refusal(tmp_path / "vgg.pth")
    tokens = {key: value for key, value in make().state_dict().items() if not key.startswith("adaptive")}
    torch.save(tokens, tmp_path / "half.pth")
    assert "one class token" in refusal(tmp_path / "half.pth")


# WeakTr


@pytest.mark.parametrize("fusion", ["feature_max", "map_max"])
def test_a_published_file_loads_whole_with_what_lies_beside_it(tmp_path, fusion):
    model = make(fusion)
    extras = {"epoch": 59, "miou": np.float64(69.4), "args": argparse.Namespace(lr=4e-4)}
    torch.save({"model": model.state_dict(), **extras}, tmp_path / "weaktr.pth")
    ours = build_weaktr(WeakTrSettings(weights=str(tmp_path / "weaktr.pth"), fusion=fusion), 4, trained=True).eval()
    assert ours.shape == SHAPE  # the heads are counted in the fusion
    image = torch.randn(1, 3, 48, 80)
    assert torch.equal(ours(image).fine, model(image).fine)


@pytest.mark.parametrize(
    ("held", "wanted", "named"), [("feature", "map", "feature_max"), ("map", "feature", "map_max")]
)
def test_the_other_fusion_is_named(tmp_path, held, wanted, named):
    torch.save(make(f"{held}_max").state_dict(), tmp_path / "weaktr.pth")
    message = refusal(tmp_path / "weaktr.pth", fusion=f"{wanted}_mean")
    assert f"found weights of the {held} pooling variant" in message and f"set fusion={held}_max" in message


def test_another_number_of_classes_is_one_sentence(tmp_path):
    torch.save(make(num_classes=4).state_dict(), tmp_path / "weaktr.pth")
    message = refusal(tmp_path / "weaktr.pth", num_classes=7)
    assert message.startswith("wanted a WeakTr of 7 classes, found one of 4 in ")
    assert "wants a WeakTr of 90 classes, found one of 4" in refusal(tmp_path / "weaktr.pth", class_slots="coco")


@pytest.mark.parametrize("lost", ["adaptive_attention_fusion.attn_feat_ffn.0.weight", "head.bias", "pos_embed"])
def test_no_key_may_be_missing(tmp_path, lost):
    state = make().state_dict()
    del state[lost]
    torch.save(state, tmp_path / "weaktr.pth")
    assert lost in refusal(tmp_path / "weaktr.pth")
    torch.save(make().state_dict() | {"surprise": torch.zeros(1)}, tmp_path / "weaktr.pth")
    assert "'surprise'" in refusal(tmp_path / "weaktr.pth")


def test_cocos_90_slots_become_its_80_classes_unchanged(tmp_path):
    """Category numbers skip 12, 26, ...: class 11 of 80 is category 13, slot 12; the last is category 90, slot 89."""
    published = make(num_classes=90)
    torch.save(published.state_dict(), tmp_path / "coco.pth")
    assert "or set class_slots=coco" in refusal(tmp_path / "coco.pth", num_classes=80)
    settings = WeakTrSettings(weights=str(tmp_path / "coco.pth"), class_slots="coco")
    ours = build_weaktr(settings, 80, trained=True).eval()
    image = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        all_slots, coco = published(image), ours(image)
    for label, slot in ((0, 0), (10, 10), (11, 12), (79, 89)):
        torch.testing.assert_close(coco.class_logits[:, label], all_slots.class_logits[:, slot])
        torch.testing.assert_close(coco.fine[:, label], all_slots.fine[:, slot])
    torch.testing.assert_close(coco.affinity, all_slots.affinity)


@pytest.mark.parametrize("family", ["dinov3_plus", "dinov2_registers", "vit"])
def test_our_own_file_tells_its_whole_shape(tmp_path, family):
    saved_model(tmp_path / "model", family)
    model = build_weaktr(WeakTrSettings(weights=str(tmp_path / "model")), 3).eval()
    save_weaktr(model, tmp_path / "weaktr.safetensors", "f" * 64)
    again = build_weaktr(WeakTrSettings(weights=str(tmp_path / "weaktr.safetensors")), 3, trained=True).eval()
    assert again.shape == model.shape
    image = torch.randn(1, 3, 48, 48)
    assert torch.equal(again(image).fine, model(image).fine)


@pytest.mark.parametrize(
    ("trained", "wanted"),
    [("feature_max", "feature_mean"), ("map_max", "map_mean"), ("map_mean", "map_max"), ("feature_mean", "map_max")],
)
def test_our_own_file_tells_its_fusion(tmp_path, trained, wanted):
    model = make(trained)
    save_weaktr(model, tmp_path / "weaktr.safetensors", "f" * 64)
    message = refusal(tmp_path / "weaktr.safetensors", fusion=wanted)
    assert f"wanted a WeakTr that fuses attention by {wanted}, found" in message and f"set fusion={trained}" in message
    again = build_weaktr(WeakTrSettings(weights=str(tmp_path / "weaktr.safetensors"), fusion=trained), 4, trained=True)
    assert again.fusion.kind == trained


@pytest.mark.parametrize("weights", ["none", "deit.pth", "folder"])
def test_a_trained_network_is_wanted_where_none_is_trained(tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = make(num_classes=1).state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith("adaptive")}, "deit.pth")
    Path("folder").mkdir()
    with pytest.raises(UserError, match=f"wanted a trained WeakTr, found other weights in {weights}: "):
        build_weaktr(WeakTrSettings(weights=weights), 1, trained=True)


def test_files_that_are_no_weights_are_refused(tmp_path):
    (tmp_path / "page.pth").write_text("<html><body>Google Drive: virus scan warning</body></html>")
    assert "which is a web page and not weights" in refusal(tmp_path / "page.pth")
    torch.save(make().state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    assert "not a readable safetensors or torch file" in refusal(tmp_path / "cut.pth")
    assert "which is not a file" in refusal(tmp_path / "absent.pth")


def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"cls_token": torch.zeros(1, 1, 24), "trap": Trap()}, tmp_path / "trap.pth")
    assert "not a readable safetensors or torch file" in refusal(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_the_fingerprint_follows_settings_and_bytes_not_the_path(tmp_path):
    torch.save(make().state_dict(), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    first, other = (WeakTrSettings(weights=str(tmp_path / name)) for name in ("a.pth", "b.pth"))
    assert weaktr_fingerprint(first) == weaktr_fingerprint(other)
    assert weaktr_fingerprint(first) != weaktr_fingerprint(first.model_copy(update={"fusion": "map_max"}))
    (tmp_path / "b.pth").write_bytes(b"other")
    assert weaktr_fingerprint(first) != weaktr_fingerprint(other)
    saved_model(tmp_path / "vit", "vit")
    folder = WeakTrSettings(weights=str(tmp_path / "vit"))
    before = weaktr_fingerprint(folder)
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    assert before != weaktr_fingerprint(folder)
