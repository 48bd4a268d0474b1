"""Published Mask2Former: transformers' folders and detectron2's files load whole, and compute what transformers' do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

from tests.helpers import CPU, context, pickled
from weaksam.config import UserError
from weaksam.engine.detectors.initial_weights import given_inputs
from weaksam.engine.detectors.mask2former import first_network
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.first_weights import FirstWeights
from weaksam.models.detectors.mask2former import bodies
from weaksam.models.detectors.mask2former.network import build_mask2former
from weaksam.models.detectors.mask2former.published import read_published_file, read_published_folder
from weaksam.models.detectors.mask2former.starting import load_mask2former_weights, sizes_of
from weaksam.stages.wsis import Mask2FormerWsisSettings
from weaksam.store.weights import save_weights
from weaksam.structures.dataset import Dataset

SIZES = {
    "channels": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_width": 16, "decoder_width": 24, "num_heads": 4,
    "num_queries": 5,
}  # fmt: skip
RESNET = BackboneSettings(name="resnet50", weights="none")
STAGES = ["stage1", "stage2", "stage3", "stage4"]
TINY_SWIN = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
NUM_CLASSES = 3


def settings(**changes: object) -> Mask2FormerWsisSettings:
    return Mask2FormerWsisSettings(**{**SIZES, "trainable_layers": 6, **changes})


def theirs(body: str, seed: int = 0) -> Mask2FormerForUniversalSegmentation:
    """transformers' own network of the toy sizes, with random weights and batch-norm statistics."""
    backbone = ResNetConfig(out_features=STAGES)
    if body == "swin":
        backbone = SwinConfig(**TINY_SWIN, drop_path_rate=0.0, out_features=STAGES)
    torch.manual_seed(seed)
    config = Mask2FormerConfig(
        backbone_config=backbone, num_labels=NUM_CLASSES, feature_size=32, hidden_dim=32, mask_feature_size=32,
        encoder_layers=1, decoder_layers=3, encoder_feedforward_dim=16, dim_feedforward=24, num_attention_heads=4,
        num_queries=5,
    )  # fmt: skip
    network = Mask2FormerForUniversalSegmentation(config).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1)
    return network


@pytest.fixture(scope="module")
def resnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "resnet"
    theirs("resnet").save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_swin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swin tiny in toy size."""
    monkeypatch.setitem(bodies.SWIN, "swin_tiny", TINY_SWIN)


def check_same(network: torch.nn.Module, published: Mask2FormerForUniversalSegmentation) -> None:
    """Ours computes what transformers' own network does."""
    image = torch.rand(3, 64, 96)
    network.eval()
    with torch.no_grad():
        told = network([image])
        batch = network._batch([image], (0, 0))
        expected = published(batch)
    masks = told.masks(0, -1)[None]
    torch.testing.assert_close(masks, expected.masks_queries_logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(told.classes[-1], expected.class_queries_logits, rtol=1e-3, atol=1e-4)


def test_a_folder_with_resnet50(resnet_folder: Path, tmp_path: Path) -> None:
    """Every tensor is used: the loaded network answers as transformers' own."""
    run = context(tmp_path, Dataset("none", ("a", "b", "c"), (1, 2, 3), (), ()), backbone=RESNET)
    _, network, init = first_network(run, settings(init=resnet_folder), "wsis")
    published = Mask2FormerForUniversalSegmentation.from_pretrained(resnet_folder).eval()
    check_same(network, published)
    assert len(init) == 64
    told = given_inputs(settings(init=resnet_folder), "wsis")
    assert len(told["wsis init"]) == 64


def test_a_folder_with_swin(tmp_path: Path, tiny_swin: None) -> None:
    published = theirs("swin")
    published.save_pretrained(tmp_path / "swin")
    run = context(tmp_path, Dataset("none", ("a", "b", "c"), (1, 2, 3), (), ()), backbone=RESNET)
    _, network, _ = first_network(run, settings(init=tmp_path / "swin", body="swin_tiny"), "wsis")
    check_same(network, published)


def detectron2_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Transformers' tensors by detectron2's names, written down from the published code's modules."""
    renamed: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        for pattern, replacement in [
            (r"^model\.pixel_level_module\.decoder\.level_embed", "sem_seg_head.pixel_decoder.transformer.level_embed"),
            (r"^model\.pixel_level_module\.decoder\.input_projections", "sem_seg_head.pixel_decoder.input_proj"),
            (r"^model\.pixel_level_module\.decoder\.mask_projection", "sem_seg_head.pixel_decoder.mask_features"),
            (r"^model\.pixel_level_module\.decoder\.(adapter|layer)_1\.0\.", r"sem_seg_head.pixel_decoder.\1_1."),
            (r"^model\.pixel_level_module\.decoder\.(adapter|layer)_1\.1\.", r"sem_seg_head.pixel_decoder.\1_1.norm."),
            (r"^model\.pixel_level_module\.decoder\.encoder\.", "sem_seg_head.pixel_decoder.transformer.encoder."),
            (r"(transformer\.encoder.*)self_attn_layer_norm", r"\1norm1"),
            (r"(transformer\.encoder.*)final_layer_norm", r"\1norm2"),
            (r"(transformer\.encoder.*)fc(\d)", r"\1linear\2"),
            (r"^model\.transformer_module\.queries_embedder", "sem_seg_head.predictor.query_embed"),
            (r"^model\.transformer_module\.queries_features", "sem_seg_head.predictor.query_feat"),
            (r"^model\.transformer_module\.level_embed", "sem_seg_head.predictor.level_embed"),
            (r"^model\.transformer_module\.decoder\.layernorm", "sem_seg_head.predictor.decoder_norm"),
            (
                r"^model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0",
                r"sem_seg_head.predictor.mask_embed.layers.\1",
            ),
            (
                r"^model\.transformer_module\.decoder\.layers\.(\d)\.cross_attn_layer_norm",
                r"sem_seg_head.predictor.transformer_cross_attention_layers.\1.norm",
            ),
            (
                r"^model\.transformer_module\.decoder\.layers\.(\d)\.cross_attn",
                r"sem_seg_head.predictor.transformer_cross_attention_layers.\1.multihead_attn",
            ),
            (
                r"^model\.transformer_module\.decoder\.layers\.(\d)\.self_attn_layer_norm",
                r"sem_seg_head.predictor.transformer_self_attention_layers.\1.norm",
            ),
            (
                r"^model\.transformer_module\.decoder\.layers\.(\d)\.self_attn",
                r"sem_seg_head.predictor.transformer_self_attention_layers.\1.self_attn",
            ),
            (
                r"^model\.transformer_module\.decoder\.layers\.(\d)\.final_layer_norm",
                r"sem_seg_head.predictor.transformer_ffn_layers.\1.norm",
            ),
            (
                r"^model\.transformer_module\.decoder\.layers\.(\d)\.fc(\d)",
                r"sem_seg_head.predictor.transformer_ffn_layers.\1.linear\2",
            ),
            (r"^class_predictor", "sem_seg_head.predictor.class_embed"),
            (r"^model\.pixel_level_module\.encoder\.embedder\.embedder\.convolution", "backbone.stem.conv1"),
            (r"^model\.pixel_level_module\.encoder\.embedder\.embedder\.normalization", "backbone.stem.conv1.norm"),
            (
                r"^model\.pixel_level_module\.encoder\.encoder\.stages\.(\d)\.layers\.(\d)\.",
                lambda match: f"backbone.res{int(match[1]) + 2}.{match[2]}.",
            ),
            (r"\.layer\.(\d)\.convolution", lambda match: f".conv{int(match[1]) + 1}"),
            (r"\.layer\.(\d)\.normalization", lambda match: f".conv{int(match[1]) + 1}.norm"),
            (r"\.shortcut\.convolution", ".shortcut"),
            (r"\.shortcut\.normalization", ".shortcut.norm"),
            (
                r"^model\.pixel_level_module\.encoder\.swin\.embeddings\.patch_embeddings\.projection",
                "backbone.patch_embed.proj",
            ),
            (r"^model\.pixel_level_module\.encoder\.swin\.embeddings\.norm", "backbone.patch_embed.norm"),
            (r"^model\.pixel_level_module\.encoder\.swin\.encoder\.", "backbone."),
            (r"layernorm_before", "norm1"),
            (r"layernorm_after", "norm2"),
            (r"attention\.o_proj", "attn.proj"),
            (r"attention\.relative_position_bias\.", "attn."),
            (
                r"^model\.pixel_level_module\.encoder\.hidden_states_norms\.stage(\d)",
                lambda match: f"backbone.norm{int(match[1]) - 1}",
            ),
        ]:  # fmt: skip
            key = re.sub(pattern, replacement, key)
        part = re.fullmatch(r"(.*)\.(q_proj|k_proj|v_proj)\.(weight|bias)", key)
        if part:
            whole = f"{part[1]}.in_proj_{part[3]}" if "predictor" in key else f"{part[1]}.{part[3]}"
            joined.setdefault(whole.replace("attention.", "attn.qkv."), {})[part[2]] = value
        elif "num_batches_tracked" not in key and "swin.layernorm" not in key:
            renamed[key] = value
    for key, parts in joined.items():
        key = re.sub(r"\.attention\.(weight|bias)$", r".attn.qkv.\1", key)
        renamed[key] = torch.cat([parts["q_proj"], parts["k_proj"], parts["v_proj"]])
    return renamed


@pytest.mark.parametrize("form", ["pkl", "pth"])
def test_a_file_of_detectron2_with_resnet50(form: str, tmp_path: Path) -> None:
    published = theirs("resnet", seed=1)
    state = detectron2_names(published.state_dict())
    assert {"backbone.res2.0.shortcut.norm.running_var", "criterion.empty_weight"} <= state.keys()
    assert "sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn.in_proj_weight" in state
    path = tmp_path / f"model.{form}"
    if form == "pkl":
        pickled(path, {"model": {key: value.numpy() for key, value in state.items()}, "__author__": "third_party"})
    else:
        torch.save({"model": state}, path)
    run = context(tmp_path, Dataset("none", ("a", "b", "c"), (1, 2, 3), (), ()), backbone=RESNET)
    _, network, _ = first_network(run, settings(init=path), "wsis")
    check_same(network, published)


def test_a_file_of_detectron2_with_swin(tmp_path: Path, tiny_swin: None) -> None:
    published = theirs("swin", seed=1)
    state = detectron2_names(published.state_dict())
    assert {
        "backbone.layers.0.blocks.0.attn.qkv.weight",
        "backbone.layers.0.downsample.reduction.weight",
        "backbone.layers.2.blocks.1.attn.relative_position_bias_table",
        "backbone.norm3.bias",
    } <= state.keys()
    state["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    torch.save(state, tmp_path / "swin.pth")
    run = context(tmp_path, Dataset("none", ("a", "b", "c"), (1, 2, 3), (), ()), backbone=RESNET)
    _, network, _ = first_network(run, settings(init=tmp_path / "swin.pth", body="swin_tiny"), "wsis")
    check_same(network, published)


def refused(
    tmp_path: Path, match: str, backbone: BackboneSettings = RESNET, classes: int = 3, **changes: object
) -> str:
    """The one sentence with which a start is refused."""
    names = tuple("abcdefgh"[:classes])
    run = context(tmp_path, Dataset("none", names, tuple(range(classes)), (), ()), backbone=backbone)
    with pytest.raises(UserError, match=match) as caught:
        first_network(run, settings(**changes), "wsis")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_sizes_are_named_with_their_settings(resnet_folder: Path, tmp_path: Path) -> None:
    message = refused(tmp_path, "wants a Mask2Former of", init=resnet_folder, num_queries=7, encoder_width=8)
    assert "num_queries=7" in message and "set wsis.encoder_width=16 wsis.num_queries=5" in message
    refused(tmp_path, r"set wsis\.body=backbone", init=resnet_folder, body="swin_tiny")
    mobilenet = BackboneSettings(weights="none")
    refused(tmp_path, r"set wsis\.backbone\.name=resnet50", backbone=mobilenet, init=resnet_folder)


def test_other_classes_start_anew_only_when_asked(resnet_folder: Path, tmp_path: Path, capsys) -> None:
    refused(tmp_path, r"of 4 classes.*, found one of 3.*wsis\.new_classes=true", classes=4, init=resnet_folder)
    run = context(tmp_path, Dataset("none", tuple("abcd"), (1, 2, 3, 4), (), ()), backbone=RESNET)
    _, network, _ = first_network(run, settings(init=resnet_folder, new_classes=True), "wsis")
    assert network.decoder.class_predictor.weight.shape == (5, 32)
    assert "the layers that tell 4 classes (a, b, c, d) start anew" in capsys.readouterr().err
    published = Mask2FormerForUniversalSegmentation.from_pretrained(resnet_folder)
    expected = published.model.transformer_module.queries_features.weight
    assert torch.equal(network.decoder.transformer_module.queries_features.weight, expected)


def test_files_of_another_network(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(2), "fc.bias": torch.ones(2)}, tmp_path / "classifier.pth")
    refused(tmp_path, "found those of another network.*'conv1.weight'", init=tmp_path / "classifier.pth")
    state = detectron2_names(theirs("resnet").state_dict())
    torch.save(state | {"sem_seg_head.predictor.extra.weight": torch.ones(1)}, tmp_path / "extra.pth")
    refused(tmp_path, r"'sem_seg_head\.predictor\.extra\.weight', which has no place", init=tmp_path / "extra.pth")
    del state["sem_seg_head.predictor.level_embed.weight"]
    torch.save(state, tmp_path / "lacks.pth")
    refused(tmp_path, "lack 1 of them", init=tmp_path / "lacks.pth")
    refused(tmp_path, "found neither in", init=tmp_path / "nothing.pth")
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    refused(tmp_path, "found model_type 'bert'", init=folder)


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    network = build_mask2former(RESNET, settings(), NUM_CLASSES)
    state = network.state_dict()
    state["decoder.class_predictor.bias"] = torch.full((NUM_CLASSES + 1,), float("nan"))
    save_weights(tmp_path / "nan.safetensors", state)
    refused(tmp_path, "wants finite weights, found NaN", init=tmp_path / "nan.safetensors")


def test_a_folder_that_lacks_a_tensor_or_wants_other_colours(resnet_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in resnet_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5]}))
    refused(tmp_path, "ImageNet's colours, found image_mean", init=folder)
    (folder / "preprocessor_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"encoder_layers": 2}))
    refused(tmp_path, "tensors missing", init=folder)


def test_sizes_are_read_off_the_tensors() -> None:
    network = build_mask2former(RESNET, settings(), NUM_CLASSES)
    assert sizes_of(network.state_dict()) == {**SIZES, "body": "backbone"}
    swin = build_mask2former(RESNET, settings(body="swin_tiny"), NUM_CLASSES)
    assert sizes_of(swin.state_dict())["body"] == "swin_tiny"
    first = FirstWeights(network.state_dict(), "wsis.init (x)", "wsis")
    assert load_mask2former_weights(network.to(CPU), settings(), first) == []


def test_our_own_file_is_taken_as_it_is(tmp_path: Path, resnet_folder: Path) -> None:
    mobilenet = BackboneSettings(weights="none")
    network = build_mask2former(mobilenet, settings(), NUM_CLASSES)
    save_weights(tmp_path / "ours.safetensors", network.state_dict())
    assert read_published_file(tmp_path / "ours.safetensors", "it").conventions is None
    run = context(tmp_path, Dataset("none", ("a", "b", "c"), (1, 2, 3), (), ()), backbone=mobilenet)
    _, loaded, _ = first_network(run, settings(init=tmp_path / "ours.safetensors"), "wsis")
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert read_published_folder(resnet_folder, "it").conventions.stride_in == "3x3"
