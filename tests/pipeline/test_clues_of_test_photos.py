"""Clue points of test photos in a whole run: they prompt, they can be turned off, and no tag or truth decides them."""

import json
from pathlib import Path

import pytest

from tests.helpers import PROCESSES, TOY_RUN
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.store.sealed import open_sealed
from weaksam.structures.clue_points import COARSE, COARSE_JOINT

TINY = [*TOY_RUN, "workers=1", "wsod.num_epochs=1", "clues.min_score=0.0"]
"""Every class is predicted on every photo."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training scenes and three to test on."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=4, max_distractors=1), 8, 3, seed=1)
    return folder


def toy_settings(scenes: Path, out: Path, *more: str, test: str = "truth=instances_test.json") -> RunSettings:
    """``test``: what is known of the test photos, truth or tags, and the file of it."""
    train = [f"data.train.images={scenes / 'train'}", f"data.train.tags={scenes / 'tags_train.json'}"]
    key, name = test.split("=")
    split = [f"data.test.images={scenes / 'test'}", f"data.test.{key}={scenes / name}"]
    return load_settings(RunSettings, None, [*TINY, *train, *split, f"out={out}", *more])


def made_files(out: Path) -> dict[str, bytes]:
    """Every file that stages made below ``out``, by relative name."""
    files = (path for path in out.glob("*/**/*") if path.is_file() and path.name != "done.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def sources(out: Path, split: str) -> dict[str, set[int]]:
    """What prompted the proposals of each photo."""
    (folder,) = out.glob(f"proposals/store/{split}-*")
    return {row["image_id"]: set(row["sources"].tolist()) for row in open_sealed(folder).rows("sources")}


@pytest.fixture(scope="module")
def on(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "on"
    pipeline.run(toy_settings(scenes, out), until="wsod")
    return out


def test_points_prompt_on_test_photos(on: Path) -> None:
    found = sources(on, "test")
    assert len(found) == 3 and {COARSE, COARSE_JOINT} & set().union(*found.values())
    assert len(list(on.glob("clues/store/test-*/manifest.json"))) == 1
    metrics = json.loads((on / "metrics.json").read_text())
    assert " on 3 test photos" in metrics["stages"][0]["made"]


@pytest.mark.slow
def test_the_switch_leaves_the_grid_alone_and_the_training_as_it_is(scenes: Path, on: Path, tmp_path: Path) -> None:
    out = tmp_path / "off"
    pipeline.run(toy_settings(scenes, out, "clues.test_photos=false"), until="pseudo_gt")
    assert not set().union(*sources(out, "test").values()) & {COARSE, COARSE_JOINT}
    assert not list(out.glob("clues/store/test-*"))
    whole = made_files(on)
    for name, content in made_files(out).items():
        if "test" not in name and not name.startswith("pseudo_gt"):
            assert whole[name] == content, name
    # Turned on in the same folder: the training is found, test photos are prompted anew, and all is as made at once
    assert not open_run(toy_settings(scenes, out)).finished("clues")
    trained = {path: path.stat().st_mtime_ns for path in out.glob("*/store/[tw]*-*/*") if "/test-" not in str(path)}
    pseudo_gt = (out / "pseudo_gt" / "train.json").read_bytes()
    pipeline.run(toy_settings(scenes, out), until="pseudo_gt")
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert (out / "pseudo_gt" / "train.json").read_bytes() == pseudo_gt
    again = made_files(out)
    assert {name: again[name] for name in whole} == whole


@pytest.mark.slow
def test_no_true_tag_decides_a_test_photo(scenes: Path, on: Path, tmp_path: Path) -> None:
    """Other true objects, tags instead of them, and wrong ones: the same clues, proposals and detections."""
    truth = json.loads((scenes / "instances_test.json").read_text())
    truth["annotations"] = truth["annotations"][:1]
    (scenes / "instances_other.json").write_text(json.dumps(truth))
    tags = json.loads((scenes / "tags_test.json").read_text())
    classes = set().union(*json.loads((scenes / "tags_train.json").read_text()).values())
    wrong = {name: sorted(classes - set(names)) for name, names in tags.items()}
    (scenes / "tags_wrong.json").write_text(json.dumps(wrong))
    whole = {name: content for name, content in made_files(on).items() if name.startswith(("clues", "proposals"))}
    for test in ("truth=instances_other.json", "tags=tags_wrong.json"):
        pipeline.run(toy_settings(scenes, tmp_path / test, test=test), until="proposals")
        assert made_files(tmp_path / test) == whole, test


@pytest.mark.parametrize("more", [("clues.min_score=1.0",), ("proposals.kinds=[]", "proposals.joint_kinds=[]")])
def test_nothing_predicted_or_wanted_is_the_grid_alone(scenes: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    pipeline.run(toy_settings(scenes, tmp_path, *more), until="proposals")
    assert not set().union(*sources(tmp_path, "test").values()) & {COARSE, COARSE_JOINT}


def test_the_rules_of_the_original_have_it(scenes: Path, tmp_path: Path) -> None:
    settings = toy_settings(scenes, tmp_path, "proposals.rules=original", "proposals.grid_side=2")
    assert settings.clues.test_photos and open_run(settings).maps_test_photos


def run_until_proposals(settings: RunSettings) -> None:
    pipeline.run(settings, until="proposals")


def test_a_run_killed_at_the_test_photos_resumes_to_the_same_bytes(scenes: Path, on: Path, tmp_path: Path) -> None:
    settings = toy_settings(scenes, tmp_path)
    process = PROCESSES.Process(target=run_until_proposals, args=(settings,))
    process.start()
    while process.is_alive() and not any(tmp_path.glob("clues/store/test-*/*")):
        process.join(0.002)
    process.kill()
    process.join()
    pipeline.run(settings, until="wsod")
    assert made_files(tmp_path) == made_files(on)


def test_given_proposals_want_no_clues_of_test_photos(scenes: Path, on: Path, tmp_path: Path) -> None:
    stores = [f"proposals.given.{split}={next(on.glob(f'proposals/store/{split}-*'))}" for split in ("train", "test")]
    settings = toy_settings(scenes, tmp_path, *stores)
    pipeline.run(settings, until="proposals")
    assert not list(tmp_path.glob("clues/store/test-*"))
