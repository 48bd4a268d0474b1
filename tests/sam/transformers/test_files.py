"""Naming and reading models of transformers: folders, hub ids, fingerprints, and what is refused."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from tests.helpers import ROOT
from tests.sam.transformers.toys import sam as toy_sam
from tests.sam.transformers.toys import write_toy
from weaksam.config import UserError
from weaksam.sam.build import SegmenterSettings, build_segmenter, family_of
from weaksam.sam.prompts import Prompts
from weaksam.sam.transformers import networks
from weaksam.sam.transformers.files import ModelSource, names_transformers_model
from weaksam.sam.transformers.segmenter import TransformersSam

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a toy by its model_type, written when it is first asked for."""
    return cache(lambda model_type: write_toy(model_type, tmp_path_factory.mktemp(model_type) / "toy"))


@pytest.fixture
def copy_of(folder, tmp_path):
    """A fresh copy of a toy's folder, to be spoilt."""

    def of(model_type):
        for path in folder(model_type).iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return of


# How a model is named


def test_auto_takes_transformers_for_folders_and_hub_ids(tmp_path):
    def chosen(weights):
        return family_of(SegmenterSettings(weights=weights))

    assert chosen(tmp_path) == "transformers"
    assert chosen("facebook/sam2.1-hiera-tiny") == "transformers"
    assert chosen("weights/sam_vit_b_01ec64.pth") == "segment_anything"
    assert chosen("/data/checkpoints/sam") == "segment_anything"
    assert chosen("a/b/c") == "segment_anything"
    assert chosen(None) == "tree"
    (tmp_path / "sam.bin").touch()
    assert not names_transformers_model(tmp_path / "sam.bin")


def test_settings_build_the_segmenter(folder):
    segmenter = build_segmenter(SegmenterSettings(weights=folder("sam2")), CPU)
    assert isinstance(segmenter, TransformersSam)
    assert segmenter.precision == "float32"
    for settings, wanted in (
        ({"family": "transformers"}, "segmenter.weights is empty"),
        ({"family": "transformers", "weights": "sam_vit_b.pth"}, "segmenter.family=segment_anything"),
        ({"precision": "bfloat16"}, "only for the family segment_anything or transformers"),
        ({"decoding": "fast", "weights": folder("sam")}, "decoding=fast is only for"),
    ):
        with pytest.raises(UserError, match=wanted):
            build_segmenter(SegmenterSettings(**settings), CPU)


def test_transformers_is_imported_only_when_a_model_of_it_is_read():
    mask2former = ROOT / "weaksam" / "models" / "detectors" / "mask2former"  # its network is built of their modules
    for path in set((ROOT / "weaksam").rglob("*.py")) - set(mask2former.glob("*.py")):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in top]
        assert not [name for name in names if str(name).split(".")[0] in ("transformers", "timm", "huggingface_hub")]


def test_no_stage_imports_transformers_before_it_runs():
    command = "import sys, weaksam.pipeline, weaksam.cli.commands; print('transformers' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_a_report_of_errors_alone_is_refused_with_its_words(tmp_path, monkeypatch):
    report = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": ["cannot copy"]}
    monkeypatch.setattr(networks, "load_reported", lambda *arguments, **options: (None, report))
    with pytest.raises(UserError, match="for example 'cannot copy'"):
        networks.read_network(ModelSource("toy", tmp_path), "ViTModel")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub's library, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id_is_read_from_the_cache_without_network(hub, folder):
    snapshot = hub / "models--owner--toy" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (hub / "models--owner--toy" / "refs").mkdir()
    (hub / "models--owner--toy" / "refs" / "main").write_text("0" * 40)
    for path in folder("sam2").iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    segmenter = TransformersSam.load(Path("owner/toy"), CPU)
    assert segmenter.fingerprint == TransformersSam.load(folder("sam2"), CPU).fingerprint


def test_a_hub_id_without_network_is_refused_at_once(hub, monkeypatch):
    assert "LocalEntryNotFoundError" in refusal(Path("owner/toy"), "owner/toy")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "ConnectError" in refusal(Path("owner/toy"), "owner/toy")


def test_the_fingerprint_follows_content_not_place(copy_of, folder):
    original = TransformersSam.load(folder("sam"), CPU).fingerprint
    path = copy_of("sam")
    assert TransformersSam.load(path, CPU).fingerprint == original
    edit(path / "config.json", transformers_version="9.9")
    assert TransformersSam.load(path, CPU).fingerprint == original
    edit(path / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    changed = TransformersSam.load(path, CPU).fingerprint
    state = load_file(path / "model.safetensors")
    state["mask_decoder.iou_token.weight"] += 1
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    assert len({original, changed, TransformersSam.load(path, CPU).fingerprint}) == 3


# What is refused


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(path, named=None):
    with pytest.raises(UserError) as caught:
        TransformersSam.load(path, CPU)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert ". " not in sentence
    assert str(named or path) in sentence
    return sentence


def test_a_folder_of_something_else_is_refused(copy_of, tmp_path):
    assert "no config.json" in refusal(tmp_path)
    path = copy_of("sam")
    edit(path / "config.json", model_type="bert")
    sentence = refusal(path)
    assert "'bert'" in sentence
    assert all(name in sentence for name in ("sam_hq", "sam2_video", "edgetam", "sam3_tracker"))
    (path / "config.json").write_text("<!DOCTYPE html><title>Sign in</title>")
    assert "JSON was wanted in config.json" in refusal(path)
    (path / "config.json").write_text("[1]")
    assert "mapping" in refusal(path)


def test_weights_cut_short_or_no_weights_are_refused(copy_of):
    path = copy_of("sam") / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert "not a readable safetensors file" in refusal(path.parent)
    path.write_text("<html><body>Too many requests</body></html>")
    assert "web page" in refusal(path.parent)
    path.write_text("version https://git-lfs.github.com/spec/v1")
    assert "pointer of Git LFS" in refusal(path.parent)
    path.unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(path.parent)


def test_weights_of_another_variant_are_refused(copy_of, tmp_path):
    for name, config in (("wide", toy_sam(width=32)), ("deep", toy_sam(depth=3)), ("shallow", toy_sam(depth=1))):
        other = write_toy("sam", tmp_path / name, config)
        path = copy_of("sam")
        (path / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        counts = {"wide": "lack 0 tensors, bring 0", "deep": "lack 0 tensors", "shallow": "bring 0 unknown"}
        assert counts[name] in refusal(path)
    assert "not of the sam2 variant" in refusal(write_toy("sam2", tmp_path / "a", without="no_memory_embedding"))


def test_positions_that_a_file_holds_once_are_shared(folder, tmp_path):
    place = "prompt_encoder.shared_embedding.positional_embedding"
    for model_type in ("sam", "sam2"):
        segmenter = TransformersSam.load(write_toy(model_type, tmp_path / model_type, without=place), CPU)
        state = segmenter.network.state_dict()
        assert torch.equal(state[place], state["shared_image_embedding.positional_embedding"])


def test_preprocessing_of_another_model_is_refused(copy_of):
    path = copy_of("sam")
    edit(path / "preprocessor_config.json", size={"longest_edge": 128})
    assert "128 and 64 pixels, but its network takes 64" in refusal(path)
    edit(path / "preprocessor_config.json", size={"height": 64, "width": 64})
    assert "64 and None pixels" in refusal(path)
    edit(path / "preprocessor_config.json", size="large")
    assert "not that of a sam model" in refusal(path)
    (path / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in refusal(path)


def test_preprocessing_inside_the_processors_file_is_read(copy_of, folder):
    path = copy_of("sam2")
    inside = json.loads((path / "preprocessor_config.json").read_text())
    (path / "processor_config.json").write_text(json.dumps({"target_size": 64, "image_processor": inside}))
    (path / "preprocessor_config.json").unlink()
    assert TransformersSam.load(path, CPU).fingerprint == TransformersSam.load(folder("sam2"), CPU).fingerprint


def test_a_model_of_other_than_three_masks_is_refused(tmp_path):
    path = write_toy("sam", tmp_path / "toy", toy_sam(num_multimask_outputs=2))
    assert "num_multimask_outputs 2" in refusal(path)


def test_weights_in_parts_are_read_and_a_missing_part_is_named(folder, tmp_path, copy_of):
    path = copy_of("sam")
    tf.SamModel.from_pretrained(path).save_pretrained(path, max_shard_size="40KB")
    (path / "model.safetensors").unlink()
    parts = sorted(path.glob("model-*.safetensors"))
    photo = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    points = torch.tensor([[[20.0, 30.0]]])
    assert len(parts) > 1
    answers = [
        segmenter.predict(segmenter.encode(photo), Prompts(points)).iou
        for segmenter in (TransformersSam.load(path, CPU), TransformersSam.load(folder("sam"), CPU))
    ]
    torch.testing.assert_close(*answers)
    parts[1].unlink()
    assert parts[1].name in refusal(path)
    edit(path / "model.safetensors.index.json", weight_map={"a": "../elsewhere.safetensors"})
    assert "weight_map" in refusal(path)


def test_torch_files_are_read_as_tensors_only(copy_of):
    class Trap:
        def __reduce__(self):
            return (print, ("this must not run",))

    path = copy_of("sam")
    state = load_file(path / "model.safetensors")
    expected = TransformersSam.load(path, CPU).network.state_dict()
    (path / "model.safetensors").unlink()
    torch.save(state, path / "pytorch_model.bin")
    state_read = TransformersSam.load(path, CPU).network.state_dict()
    assert all(torch.equal(state_read[name], expected[name]) for name in expected)
    whole = (path / "pytorch_model.bin").read_bytes()
    (path / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    assert "not a readable torch file" in refusal(path)
    torch.save({"mask_decoder.iou_token.weight": Trap()}, path / "pytorch_model.bin")
    assert "could not be read" in refusal(path)


def test_edgetam_without_timm_says_what_to_install(copy_of, monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "edgetam"}))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install timm" in refusal(tmp_path)


def test_a_config_that_asks_for_far_more_than_its_weights_is_refused_unbuilt(copy_of):
    path = copy_of("sam")
    config = json.loads((path / "config.json").read_text())
    config["vision_config"] |= {"mlp_dim": 900_000, "hidden_size": 12_000, "num_attention_heads": 2}
    (path / "config.json").write_text(json.dumps(config))
    assert "give weights and description of the same network" in refusal(path)
    config["vision_config"]["num_hidden_layers"] = 10**6
    (path / "config.json").write_text(json.dumps(config))
    assert "'num_hidden_layers' in config.json" in refusal(path)
