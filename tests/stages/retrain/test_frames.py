"""Retraining by another frame: what is written for it, how it is started, and how its detections come back."""

import json
import sys
from pathlib import Path

import pytest

from tests.helpers import context, draw_squares, instances
from weaksam.config import UserError, fingerprint_of, load_settings
from weaksam.data.formats.coco import read_instances
from weaksam.engine.context import RunContext
from weaksam.pipeline.settings import RunSettings
from weaksam.stages.retrain import frames
from weaksam.stages.retrain.settings import DinoRetrainSettings, RetrainSettings
from weaksam.stages.retrain.stage import run

STAND_IN = """
import json, sys
from pathlib import Path
here = Path(__file__).resolve().parent
for path in (here / "annotations").glob("*.json"):
    content = json.loads(path.read_text())
    boxes = [
        {"image_id": image["id"], "category_id": category["id"], "bbox": [2, 3, 10, 12], "score": score}
        for image in content["images"] for category, score in zip(content["categories"], (0.75, 0.01))
    ] + [{"image_id": content["images"][0]["id"], "category_id": 3, "bbox": [-5, -5, 2000, 2000], "score": 0.5}]
    (here / f"detections_{path.stem}.bbox.json").write_text(json.dumps(boxes))
(here / "calls.txt").open("a").write(" ".join(sys.argv[1:]) + "\\n")
"""
"""Stands in for the frame's own training: detections of known places, in the files and the form that it leaves."""


@pytest.fixture
def squares(tmp_path: Path) -> RunContext:
    return context(tmp_path / "out", draw_squares(tmp_path))


def pseudo_gt(of: RunContext) -> dict:
    return {image_id: instances([[1, 2, 20, 21]], [0], [0.5]) for image_id in of.train.image_ids[:3]}


def with_stand_in(of: RunContext, settings: RetrainSettings, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let written folders hold the stand-in instead of the frame's script; the folders are returned as they come."""
    written: list[Path] = []
    write = frames.write_frame_folder

    def write_and_replace(folder: Path, *arguments: object) -> None:
        write(folder, *arguments)
        (folder / "train.py").write_text(STAND_IN)
        written.append(folder)

    monkeypatch.setattr(frames, "write_frame_folder", write_and_replace)
    return written


def test_the_frame_gets_the_pseudo_boxes_and_its_detections_come_back(squares, monkeypatch) -> None:
    options = ("train_cfg.max_iters=2",)
    settings = RetrainSettings(engine="mmdet", engine_options=options, engine_python=sys.executable, min_score=0.05)
    written = with_stand_in(squares, settings, monkeypatch)
    result = run(squares, settings, pseudo_gt(squares))
    (folder,) = written
    labels = read_instances(folder / "annotations" / "squares.json")
    assert set(labels.images) == set(squares.train.image_ids)  # photos without a box too
    assert sum(len(image.instances) for image in labels.images.values()) == 3
    assert (folder / "calls.txt").read_text() == "faster_rcnn.py train_cfg.max_iters=2\n"
    first, second = squares.train.image_ids[:2]
    height, width = squares.train.by_id[first].size
    detections = result.detections("train")
    assert detections[first].boxes.tolist() == [[2, 3, 12, 15], [0, 0, width, height]]  # clipped to the photo
    assert detections[second].scores.tolist() == [0.75] and detections[second].labels.tolist() == [0]
    listed = json.loads((squares.out / "retrain" / "detections_train.json").read_text())
    assert len(listed) == len(squares.train) + 1
    assert result.stores["train"].sealed
    # A second run reads what is there
    again = run(squares, settings, pseudo_gt(squares))
    assert (folder / "calls.txt").read_text().count("\n") == 1 and again.fingerprint == result.fingerprint
    # Other boxes are another training
    other = run(squares, settings, {first: instances([[1, 2, 20, 21]], [0], [0.5])})
    assert len(written) == 2 and other.fingerprint != result.fingerprint


def test_test_photos_are_listed_without_objects(tmp_path: Path) -> None:
    dataset = draw_squares(tmp_path)
    frames.write_frame_folder(tmp_path / "f", "mmdet", dataset, _named(dataset, "test"), {})
    listed = read_instances(tmp_path / "f" / "annotations" / "test.json")
    assert set(listed.images) == set(dataset.image_ids)
    assert all((tmp_path / "f" / "images" / "test" / image_id).is_file() for image_id in dataset.image_ids)
    assert (tmp_path / "f" / "dino.py").is_file()


def _named(dataset, name: str):
    return type(dataset)(name, dataset.classes, dataset.category_ids, dataset.samples)


def test_a_frame_that_is_missing_or_fails_is_one_sentence(squares, monkeypatch, tmp_path: Path) -> None:
    boxes = pseudo_gt(squares)
    with pytest.raises(UserError, match=r"wanted detectron2 for retrain\.engine=detectron2, found it not installed"):
        run(squares, RetrainSettings(engine="detectron2"), boxes)
    with pytest.raises(UserError, match=r"absent does not start \(No such file"):
        run(squares, RetrainSettings(engine="mmdet", engine_python=tmp_path / "absent"), boxes)
    # The real script, in a Python without mmdet
    with pytest.raises(UserError, match=r"process ended with 1 \(.*No module named 'mm\w+'\): see .*engine.log"):
        run(squares, RetrainSettings(engine="mmdet", engine_python=sys.executable), boxes)
    with pytest.raises(UserError, match="wanted pseudo boxes to train retrain on, found none"):
        run(squares, RetrainSettings(engine="mmdet"), {})


def test_settings_of_frames_are_checked() -> None:
    for override, message in (
        (("retrain.engine=mmdet", "retrain.rounds=1"), "rounds=1 needs engine=weaksam"),
        (("retrain.engine_options=[a=1]",), "set engine too"),
        (("retrain.engine=mmdet", "retrain.engine_options=[max_iters]"), "want key=value, found 'max_iters'"),
        (("retrain.engine=tensorflow",), "'weaksam', 'mmdet' or 'detectron2'"),
    ):
        with pytest.raises(UserError, match=message):
            load_settings(RunSettings, None, list(override))
    dino = load_settings(RunSettings, None, ["retrain.detector=dino", "retrain.engine=mmdet"]).retrain
    assert frames.frame_command(Path("f"), dino)[2:] == ["dino.py"]


def test_settings_that_another_frame_does_not_read_are_named(squares, monkeypatch, capsys) -> None:
    settings = RetrainSettings(engine="mmdet", engine_python=sys.executable, min_score=0.05, lr=0.1, mosaic={})
    with_stand_in(squares, settings, monkeypatch)
    run(squares, settings, pseudo_gt(squares))
    said = capsys.readouterr()
    assert "mmdet trains by its own configuration, so lr, mosaic count for nothing" in said.out + said.err
    assert not frames.unheeded_settings(RetrainSettings(engine="mmdet", choice="weak", max_boxes=3))


def test_a_training_of_before_is_found_again() -> None:
    for settings in (RetrainSettings(), DinoRetrainSettings()):
        changed = settings.model_copy(update={"engine": "mmdet"})
        elsewhere = changed.model_copy(update={"engine_python": Path("/usr/bin/python3")})
        assert fingerprint_of(settings) != fingerprint_of(changed) == fingerprint_of(elsewhere)
