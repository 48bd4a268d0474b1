"""Photos in which nothing is found go through the whole pipeline, its report and the commands that read its stores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.helpers import TOY_RUN
from weaksam import pipeline
from weaksam.cli.commands import app
from weaksam.config import UserError, load_settings
from weaksam.data.known_photos import known_photos_file
from weaksam.data.proposals.files import open_store, store_rows
from weaksam.pipeline.settings import RunSettings
from weaksam.scenes.synthetic import SceneSettings, write_dataset

ODD = {"black.png": (64, 48), "line.png": (3000, 1), "pixel.png": (1, 1), "tower.png": (1, 3000)}
"""Black photos and their (width, height)."""
NOTHING_FOUND = ("retrain.min_score=1", "wsis.min_score=1")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training scenes among black photos, which have no tag but for one; all test photos are black."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=4, max_distractors=1), 4, 1, seed=1)
    next((folder / "test").iterdir()).unlink()
    for split in ("train", "test"):
        for name, size in ODD.items():
            Image.new("RGB", size).save(folder / split / name)
        path = folder / f"instances_{split}.json"
        truth = json.loads(path.read_text())
        scenes = [image for image in truth["images"] if (folder / split / image["file_name"]).exists()]
        odd = [
            {"id": 900 + place, "file_name": name, "width": width, "height": height}
            for place, (name, (width, height)) in enumerate(ODD.items())
        ]
        numbers = {image["id"] for image in scenes}
        objects = [entry for entry in truth["annotations"] if entry["image_id"] in numbers]
        path.write_text(json.dumps({**truth, "images": scenes + odd, "annotations": objects}))
    tags = json.loads((folder / "tags_train.json").read_text())
    both = sorted({tag for of_photo in tags.values() for tag in of_photo})
    odd_tags = {name: both if name == "tower.png" else [] for name in ODD}
    (folder / "tags.json").write_text(json.dumps({**tags, **odd_tags}))
    return folder


def settings(scenes: Path, out: Path, *more: str) -> RunSettings:
    train = [f"images={scenes / 'train'}", f"tags={scenes / 'tags.json'}", f"truth={scenes / 'instances_train.json'}"]
    test = [f"images={scenes / 'test'}", f"truth={scenes / 'instances_test.json'}"]
    data = [*(f"data.train.{part}" for part in train), *(f"data.test.{part}" for part in test)]
    return load_settings(RunSettings, None, [*TOY_RUN, *data, f"out={out}", *more])


@pytest.fixture(scope="module")
def out(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, ceilings too, whose detectors find nothing anywhere."""
    folder = tmp_path_factory.mktemp("runs") / "out"
    pipeline.run(settings(scenes, folder, "ceiling=true", *NOTHING_FOUND))
    return folder


def contents(out: Path) -> dict[str, bytes]:
    """The bytes of what the stages made; what is remembered of photos depends on when they were written."""
    files = [*out.rglob("*.parquet"), *out.rglob("*.safetensors"), *out.glob("*/*.json")]
    left_out = {"done.json", known_photos_file("train"), known_photos_file("test")}
    return {str(path): path.read_bytes() for path in files if path.name not in left_out}


def command(arguments: Sequence[object]) -> str:
    """What a command prints; it must end well."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0 and result.exception is None, (arguments, result.output, result.exception)
    return result.output


def proposal_store(out: Path, split: str) -> Path:
    (folder,) = (out / "proposals" / "store").glob(f"{split}-*")
    return folder


def test_the_run_goes_through_and_again_and_where_a_stage_is_made_anew(scenes: Path, out: Path) -> None:
    for split in ("train", "test"):
        proposals = dict(store_rows(open_store(proposal_store(out, split))))
        assert {name for name, of_photo in proposals.items() if len(of_photo) == 0} == set(ODD)
    before = contents(out)
    assert json.loads((out / "wsod" / "detections_test.json").read_text()) == []
    pipeline.run(settings(scenes, out, "ceiling=true", *NOTHING_FOUND))
    assert contents(out) == before
    for stage in ("wsod", "pseudo_gt"):  # a killed run: its store of detections is begun again
        for folder in [*(out / stage / "store").glob("detections_*"), *(out / stage / "store").glob("train-*")]:
            shutil.rmtree(folder)
        (out / stage / "done.json").unlink()
    metrics = pipeline.run(settings(scenes, out, "ceiling=true", *NOTHING_FOUND))
    assert contents(out) == before
    assert "NaN" not in (out / "metrics.json").read_text() and (out / "report.html").is_file()
    figures = {row["stage"]: row["figures"] for row in metrics["stages"]}
    assert figures["retrain"]["test_boxes"]["mean"]["0.5"] is None  # no true object, so nothing to find


def test_commands_read_what_it_made(scenes: Path, out: Path, tmp_path: Path) -> None:
    command(["report", out])
    command(["clues", "eval", out])
    for split in ("train", "test"):
        store, truth = proposal_store(out, split), scenes / f"instances_{split}.json"
        for name in ODD:
            drawn = command(
                [*("boxes", "draw", store), "--images", scenes / split, "--image", name, "--out", tmp_path / "p.png"]
            )
            assert f"the proposals of {name} by source (none)" in drawn
        for table in ("boxes.json", "boxes.parquet"):
            command(["boxes", "export", store, "--out", tmp_path / split / table])
            imported = tmp_path / split / Path(table).suffix[1:]
            said = command(["boxes", "import", tmp_path / split / table, "--out", imported, "--images", scenes / split])
            assert "4 images have no proposals" in said
            for source in (store, imported, tmp_path / split / table):
                command(["recall", "--proposals", source, "--truth", truth])
    for stage in ("wsod", "retrain", "wsis"):
        results, truth = out / stage / "detections_test.json", scenes / "instances_test.json"
        for metrics in ("voc,voc11,corloc,coco", "mask"):
            command(["eval", "--truth", truth, "--detections", results, "--metrics", metrics])
    baselines = ("--proposals", proposal_store(out, "train"), "--metrics", "corloc")
    train = ("--truth", scenes / "instances_train.json", "--detections", out / "wsod" / "detections_train.json")
    command(["eval", *train, *baselines])


def test_a_weak_detector_that_finds_nothing_leaves_nothing_to_train_on(scenes: Path, tmp_path: Path) -> None:
    for rule in ("adaptive", "top1"):
        chosen = settings(scenes, tmp_path, "wsod.min_score=1", f"pseudo_gt={rule}")
        metrics = pipeline.run(chosen, until="pseudo_gt")
        assert [row["made"] for row in metrics["stages"]][-1] == "0 boxes on 0 photos"
        with pytest.raises(UserError, match="retrain wants at least one box to train on, found none"):
            pipeline.run(chosen)
