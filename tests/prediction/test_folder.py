"""``weaksam predict``: files that other readers open, bad photos set aside, and a killed command that resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from tests.helpers import block_photo
from tests.prediction.toys import toy_checkpoint
from weaksam.cli.commands import app
from weaksam.data.detection_stores import instances_of
from weaksam.data.formats.yolo import read_labels
from weaksam.prediction.folder import predict_folder
from weaksam.prediction.predictor import Predictor
from weaksam.structures.masks import mask_from_rle


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """35 photos, so that the store has two parts, one of them in a folder, and a file that is no photo."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for number in range(34):
        Image.fromarray(block_photo(number)[: 100 + number % 2]).save(folder / f"{number:02d}.png")
    Image.fromarray(block_photo(99)).save(folder / "more" / "z.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not the rest of a photo")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "checkpoint.safetensors"
    toy_checkpoint("mask_rcnn").write(path)
    return path


def command(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture(scope="module")
def out(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predicted") / "out"
    options = ("--weights", weights, "--images", images, "--out", out, "--format", "json,coco,yolo", "--draw")
    result = command(*options)
    assert result.exit_code == 0, result.output
    assert "detections on 35 photos; 1 files set aside" in result.output
    return out


def test_the_files_hold_what_was_detected(out: Path, images: Path, weights: Path) -> None:
    predictor = Predictor(toy_checkpoint("mask_rcnn"), device="cpu")
    wanted = {prediction.name: prediction for prediction in predictor.predict(images)}
    written = json.loads((out / "predictions.json").read_text())
    assert written["classes"] == ["cat", "dog"] and written["architecture"] == "mask_rcnn"
    assert written["set_aside"].keys() == {"broken.jpg"} and written["licence"] == "free"
    assert written["photos"] == [wanted[name].as_dict() for name in sorted(wanted)]
    assert json.loads((out / "set_aside.json").read_text())
    coco = COCO(str(out / "predictions_coco.json"))
    assert len(coco.imgs) == 35 and {entry["name"] for entry in coco.cats.values()} == {"cat", "dog"}
    entry = next(iter(coco.anns.values()))
    first = wanted[coco.imgs[entry["image_id"]]["file_name"]]
    assert entry["score"] == pytest.approx(float(first.scores[0]), abs=1e-6)
    assert (coco.annToMask(entry) == mask_from_rle(first.instances.masks[0]).numpy()).all()
    labels = read_labels(out / "labels", {name: prediction.size for name, prediction in wanted.items()})
    of_photo = labels.images["more/z.jpg"].instances
    torch.testing.assert_close(of_photo.boxes, wanted["more/z.jpg"].boxes, rtol=0, atol=1e-3)
    assert sorted(path.relative_to(out / "pictures").as_posix() for path in (out / "pictures").rglob("*.jpg"))[-1] == (
        "more/z.jpg.jpg"
    )


def test_a_killed_command_resumes_to_the_same_bytes(out: Path, images: Path, weights: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "out")
    (store,) = (tmp_path / "out" / "store").iterdir()
    bytes_of = {path.name: path.read_bytes() for path in store.iterdir()}
    (store / "manifest.json").unlink()
    (last,) = store.glob("part-00001*")
    last.unlink()
    first = next(store.glob("part-00000*"))
    before = first.stat().st_mtime_ns
    assert command("--weights", weights, "--images", images, "--out", tmp_path / "out").exit_code == 0
    assert {path.name: path.read_bytes() for path in store.iterdir()} == bytes_of
    assert first.stat().st_mtime_ns == before
    assert (tmp_path / "out" / "predictions.json").read_bytes() == (out / "predictions.json").read_bytes()


def test_another_score_writes_other_files_of_the_same_store(images: Path, tmp_path: Path) -> None:
    predictor = Predictor(toy_checkpoint("faster_rcnn"), device="cpu")
    everything = predict_folder(predictor, images, tmp_path)
    scores = torch.cat([objects.scores for objects in instances_of(everything.store).values()])
    fewer = predict_folder(predictor, images, tmp_path, min_score=float(scores.median()))
    assert everything.num_detections == len(scores) and fewer.num_detections == int((scores >= scores.median()).sum())
    assert fewer.store.folder == everything.store.folder
    tiled = predict_folder(predictor, images, tmp_path, tiles=None, min_score=1.0)
    assert tiled.num_detections == 0 and json.loads((tmp_path / "predictions.json").read_text())["min_score"] == 1.0


def test_mistakes_are_one_sentence(images: Path, weights: Path, tmp_path: Path) -> None:
    for options, said in [
        (("--images", images, "--format", "voc"), "wanted a format of predictions (json, coco, yolo), found 'voc'"),
        (("--images", tmp_path / "no"), "wanted a folder of photos"),
        (("--images", images, "--weights", images / "00.png"), "found a file that does not say it is one"),
    ]:
        result = command("--weights", weights, "--out", tmp_path / "out", *options)
        assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output
        assert result.output.count("\n") == 1 and not (tmp_path / "out").exists()
    (tmp_path / "twins").mkdir()
    for name in ("a.png", "a.jpg"):
        Image.fromarray(block_photo(0)).save(tmp_path / "twins" / name)
    options = ("--images", tmp_path / "twins", "--out", tmp_path / "out", "--format", "yolo")
    result = command("--weights", weights, *options)
    assert result.exit_code == 2 and "found a.jpg and a.png: rename one of them" in result.output
