"""A checkpoint says all that its network needs, comes back as it was, and is refused in a sentence where it is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.helpers import flip
from tests.prediction.toys import ARCHITECTURES, toy_checkpoint
from weaksam.config import UserError
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.prediction.checkpoint import is_written, read_checkpoint, used_backbone, used_settings
from weaksam.prediction.predictor import load
from weaksam.stages.retrain.settings import RetrainSettings
from weaksam.store.weights import save_weights


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, architecture: str) -> None:
    checkpoint = toy_checkpoint(architecture)
    path, again = tmp_path / "checkpoint.safetensors", tmp_path / "again.safetensors"
    checkpoint.write(path)
    checkpoint.write(again)
    assert path.read_bytes() == again.read_bytes()
    read = read_checkpoint(path)
    assert read.header == checkpoint.header and read.settings == checkpoint.settings
    assert set(read.state) == set(checkpoint.state)
    assert all(torch.equal(read.state[name], value) for name, value in checkpoint.state.items())
    predictor = load(path)
    built = predictor.detector.model.state_dict()
    prefix = "head." if architecture == "weak_frozen" else ""
    assert all(torch.equal(value, checkpoint.state[prefix + name]) for name, value in built.items())
    assert predictor.classes == ("cat", "dog") and predictor.category_ids == (3, 7)
    assert repr(predictor) == f"Predictor({architecture}, 2 classes, cpu)"


def test_other_tools_read_what_it_says_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    toy_checkpoint("faster_rcnn").write(path)
    with safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()["weaksam"])
    assert said["classes"] == ["cat", "dog"] and said["architecture"] == "faster_rcnn" and said["licence"] == "free"
    assert said["detector"]["short_side"] == 64 and said["detector"]["min_score"] == 0.0
    assert said["backbone"]["name"] == "sam_nano" and said["backbone"]["weights"] == "none"


def test_it_names_no_file_that_the_training_started_from(tmp_path: Path) -> None:
    settings = RetrainSettings(init=tmp_path / "mine.pth", backbone=BackboneSettings(name="resnet50"))
    assert used_settings(settings)["init"] is None and used_settings(settings)["backbone"] is None
    backbone = used_backbone(BackboneSettings(name="vgg16", weights="IMAGENET1K_FEATURES"))
    assert backbone.weights == "none"
    assert backbone.colours.mean == pytest.approx([255 * v for v in (0.48235, 0.45882, 0.40784)])  # torchvision's
    assert backbone.colours.deviation == pytest.approx([1.0, 1.0, 1.0])


def test_a_written_checkpoint_is_known_until_it_changes(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "checkpoint.safetensors", toy_checkpoint("faster_rcnn")
    assert not is_written(path, checkpoint.header)
    checkpoint.write(path)
    assert is_written(path, checkpoint.header)
    assert not is_written(path, checkpoint.header.model_copy(update={"fingerprint": "cd" * 32}))
    flip(path, path.stat().st_size - 100)
    assert not is_written(path, checkpoint.header)
    with pytest.raises(UserError, match="was damaged since it was written"):
        read_checkpoint(path)


def test_files_that_are_none_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    checkpoint = toy_checkpoint("faster_rcnn")
    header = checkpoint.header.model_dump(mode="json")
    with pytest.raises(UserError, match=r"looked for in .*file\.safetensors, which is not a file"):
        read_checkpoint(path)
    with pytest.raises(UserError, match=r"found the folder .*: name the file checkpoint\.safetensors of a stage"):
        read_checkpoint(tmp_path)
    path.write_text("<!doctype html>")
    with pytest.raises(UserError, match="is a web page and not weights"):
        read_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 a torch file")
    with pytest.raises(UserError, match="found a file that does not say it is one"):
        read_checkpoint(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="found a file that does not say it is one"):
        read_checkpoint(path)
    save_weights(path, checkpoint.state, {"label": "retrain", "fingerprint": "ab"})
    with pytest.raises(UserError, match="found the bare weights of the training 'retrain'"):
        read_checkpoint(path)
    for change, said in [
        ({"format": 2, "weaksam": "9.1"}, r"found format 2 of weaksam 9\.1 \(this is"),
        ({"architecture": "yolo"}, "architecture"),
        ({"detector": {**header["detector"], "min_scores": 1}}, "did you mean 'min_score'"),
        ({"classes": ["cat", "cat"]}, "wanted class names, each once"),
        ({"category_ids": [3]}, "found 2 names and 1 numbers"),
    ]:
        save_weights(path, checkpoint.state, {**header, **change})
        with pytest.raises(UserError, match=said):
            read_checkpoint(path)


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "file.safetensors", toy_checkpoint("faster_rcnn")
    header = checkpoint.header.model_dump(mode="json")
    save_weights(path, checkpoint.state, {**header, "detector": {**header["detector"], "representation": 16}})
    with pytest.raises(UserError, match=r"the faster_rcnn of .* wants"):
        load(path)
    save_weights(path, toy_checkpoint("dino").state, header)
    with pytest.raises(UserError, match=r"the faster_rcnn of .* wants .* tensors, but the weights given lack"):
        load(path)
