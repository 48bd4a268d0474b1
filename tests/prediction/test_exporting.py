"""Exports run without torch, in batches of one and three, and give what the network gives."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.helpers import block_photo
from tests.prediction.toys import toy_checkpoint
from weaksam.cli.commands import app
from weaksam.config import UserError
from weaksam.prediction.checkpoint import Checkpoint
from weaksam.prediction.export_check import seen_once
from weaksam.prediction.exporting import ExportedModel, compared, export_model, parse_size
from weaksam.prediction.predictor import Predictor
from weaksam.scenes.synthetic import SceneSettings, write_dataset

SIZE = (128, 160)
WITHOUT_TORCH = """
import json, sys
import numpy as np
from onnx_runner import Model
model = Model(".", threads=1)
photos = np.load("photos.npy")
answers = [model.detect(photos[0])] + model.detect_batch(list(photos))
np.savez("answers.npz", **{f"{n}_{name}": value for n, of in enumerate(answers) for name, value in of.items()})
assert not {"torch", "torchvision", "weaksam", "onnx"} & set(sys.modules), "torch was imported"
"""


def frame_photo(seed: int) -> np.ndarray:
    """A photo of the size of the frame, which no network pads."""
    photo = block_photo(seed)
    return np.concatenate([photo, photo[:8]])


def checkpoint_of(architecture: str, tmp_path: Path) -> Checkpoint:
    """A toy whose photos of 128 x 160 pixels are not resized."""
    sides = {"short_side": 128, "long_side": 160}
    checkpoint = toy_checkpoint(architecture, **sides, **({} if architecture == "mask2former" else {"min_score": 0.01}))
    checkpoint.write(tmp_path / "checkpoint.safetensors")
    return checkpoint


def exported(architecture: str, tmp_path: Path) -> tuple[Checkpoint, ExportedModel]:
    checkpoint = checkpoint_of(architecture, tmp_path)
    photos = [frame_photo(0), block_photo(1)[:90]]
    return checkpoint, export_model(checkpoint, tmp_path / "model", size=SIZE, photos=photos)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["faster_rcnn", "dino", "mask_rcnn", "mask2former"])
def test_onnx_runs_without_torch_in_batches_of_one_and_three(architecture: str, tmp_path: Path) -> None:
    checkpoint, model = exported(architecture, tmp_path)
    assert model.parity is not None and model.parity.num_photos == 5
    assert model.parity.box <= 0.1 and model.parity.score <= 1e-3 and model.parity.unpaired == 0
    assert model.parity.mask <= (0.05 if architecture == "mask2former" else 1e-3)  # logits, or probabilities
    photos = np.stack([frame_photo(number) for number in range(3)])
    np.save(model.folder / "photos.npy", photos)
    (model.folder / "without_torch.py").write_text(WITHOUT_TORCH)
    run = [sys.executable, "-P", "without_torch.py"]
    done = subprocess.run(run, cwd=model.folder, capture_output=True, text=True, env={"PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    answers = np.load(model.folder / "answers.npz")
    eager = Predictor(seen_once(checkpoint), device="cpu")
    for number, photo in enumerate([0, 0, 1, 2]):
        (wanted,) = eager.detect([photos[photo]])
        scores = answers[f"{number}_scores"]
        assert len(scores) == len(wanted) > 0
        np.testing.assert_allclose(scores, wanted.scores.numpy(), atol=1e-3)
        np.testing.assert_allclose(answers[f"{number}_boxes"], wanted.boxes.numpy(), atol=0.1)
        assert answers[f"{number}_labels"].tolist() == wanted.labels.tolist()
        if eager.detector.has_masks:
            assert answers[f"{number}_masks"].shape == (len(wanted), *SIZE)


@pytest.mark.slow
def test_pt2_is_the_same_program(tmp_path: Path) -> None:
    model = export_model(checkpoint_of("dino", tmp_path), tmp_path / "model", "pt2", size=SIZE)
    assert model.model.name == "model.pt2" and not (tmp_path / "model" / "onnx_runner.py").exists()
    assert model.parity is not None and model.parity.box <= 1e-3 and model.parity.unpaired == 0
    program = torch.export.load(model.model).module()
    boxes, scores, labels = program(torch.zeros(1, 3, *SIZE, dtype=torch.uint8), torch.tensor([SIZE]))
    assert boxes.shape == (1, 5, 4) and scores.shape == labels.shape == (1, 5)


@pytest.mark.slow
def test_the_command_says_parity_and_ap_before_and_after(tmp_path: Path) -> None:
    write_dataset(tmp_path, SceneSettings(size=64, num_classes=2), num_train=1, num_test=3, seed=0)
    toy_checkpoint("faster_rcnn", min_score=0.01).write(tmp_path / "checkpoint.safetensors")
    options = {
        "weights": tmp_path / "checkpoint.safetensors",
        "out": tmp_path / "model",
        "size": "64x64",
        "images": tmp_path / "test",
        "truth": tmp_path / "instances_test.json",
    }
    result = CliRunner().invoke(app, ["export-model", *(str(v) for k, o in options.items() for v in (f"--{k}", o))])
    assert result.exit_code == 0, result.output
    assert "parity on 6 photos" in result.output and "0 detections unpaired" in result.output
    aps = re.search(r"COCO box AP on 3 photos: (\S+) in torch, (\S+) exported", result.output)
    assert aps is not None and abs(float(aps[1]) - float(aps[2])) <= 1e-3
    assert json.loads((tmp_path / "model" / "parity.json").read_text())["unpaired"] == 0


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    for architecture, more in (("weak_frozen", {}), ("weak_end_to_end", {}), ("faster_rcnn", {"given_proposals": 3})):
        checkpoint = toy_checkpoint(architecture, **more)
        checkpoint.write(tmp_path / "checkpoint.safetensors")
        arguments = ["export-model", "--weights", str(tmp_path / "checkpoint.safetensors"), "--out"]
        result = CliRunner().invoke(app, [*arguments, str(tmp_path / "model")])
        assert result.exit_code == 2 and "wanted a network that detects by itself" in result.output
        assert result.output.count("\n") == 1 and not (tmp_path / "model").exists()
    with pytest.raises(UserError, match=r"wanted a format of models \(onnx, pt2\), found 'tflite'"):
        export_model(toy_checkpoint("dino"), tmp_path / "model", "tflite")  # type: ignore[arg-type]


def test_sizes_are_height_and_width() -> None:
    assert parse_size("480x640") == (480, 640) and parse_size(None) is None
    for text in ("480", "480x", "ax3", "0x640", "480x640x3", "99999x64"):
        with pytest.raises(UserError, match="wanted a size such as 480x640"):
            parse_size(text)


def test_detections_are_compared_with_their_partners() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 0, 0]], np.float32)
    wanted = [boxes, np.array([0.9, 0.8, 0.0], np.float32), np.array([0, 1, -1])]
    moved = [boxes[[1, 0, 2]] + 0.25, np.array([0.85, 0.9, 0.0], np.float32), np.array([1, 0, -1])]
    differences, unpaired = compared(wanted, moved)
    assert (differences["box"], unpaired) == (0.25, 0) and differences["score"] == pytest.approx(0.05)
    other = [boxes, wanted[1], np.array([0, 0, -1])]
    assert compared(wanted, other)[1] == 1
    assert compared(wanted, wanted) == ({"box": 0.0, "score": 0.0, "mask": 0.0}, 0)
    masks = np.zeros((3, 2, 2), np.float32)
    assert compared([*wanted, masks], [*wanted, masks + 0.5])[0]["mask"] == 0.5


def test_a_checkpoint_seen_once_has_one_view() -> None:
    once = seen_once(toy_checkpoint("faster_rcnn", flip_test=True, test_scales=(1.0, 1.5)))
    assert once.settings.flip_test is False and once.settings.test_scales == (1.0,)
    assert once.header.detector["flip_test"] is False
    assert json.loads(json.dumps(once.header.model_dump(mode="json")))["detector"]["test_scales"] == [1.0]
