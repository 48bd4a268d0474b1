"""The clue source that asks for classes by name: painted maps, points, the veto of tags, the fallback, the choice."""

import dataclasses
import functools
import json
from pathlib import Path

import pytest
import torch

from tests.helpers import context, draw_discs, instances, toy_run
from tests.models.text.toys import write_text_toy
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.data.detection_stores import row_instances
from weaksam.engine.context import RunContext
from weaksam.pipeline.plan import stage_named
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run
from weaksam.stages import clues
from weaksam.stages.clues import ClueSettings, photo_peaks
from weaksam.stages.clues.maps import ClassMaps
from weaksam.stages.clues.stage import build_source
from weaksam.stages.clues.text import TextSource, with_hits
from weaksam.stages.clues.text_maps import hit_points, painted_map
from weaksam.structures.clue_points import COARSE, CROSS, TEXT
from weaksam.structures.dataset import Dataset
from weaksam.structures.masks import rle_from_mask

LEAST = 0.38


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_discs(tmp_path_factory.mktemp("discs"), num=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_toy("owlv2", tmp_path_factory.mktemp("owl") / "toy")


def settings(model: Path, **changes: object) -> ClueSettings:
    text = {"model": model, "min_score": LEAST, "choice": "text", **changes}
    return ClueSettings(source="text", long_side=64, text=text)


def prepared(run: RunContext, wanted: ClueSettings, folder: Path) -> TextSource:
    source = build_source(run, wanted, run.train)
    assert isinstance(source, TextSource)
    source.prepare(folder, "x")
    return source


# By hand


def test_a_hit_is_painted_bright_inside_and_dark_around() -> None:
    # A photo of 40 x 80 pixels on 4 x 8 cells of ten: the box covers the cells of columns 2-5 and rows 1-2, half of 6
    hits = instances([[20, 10, 65, 30]], [0], scores=[0.5])
    painted = painted_map(hits, (40, 80), (4, 8))
    covered = torch.zeros(4, 8)
    covered[1:3, 2:6], covered[1:3, 6] = 1.0, 0.5
    assert torch.equal(painted > 0, covered > 0)
    # The box's middle is (42.5, 20), on the border of cell (1, 4); half its sides are 22.5 and 10
    assert painted[1, 4] == 1.0
    # Cell (1, 6) begins at x = 60: half of it is covered, at a distance of 17.5 / 22.5
    assert painted[1, 6] == pytest.approx(0.5 * (1 - 0.1 * 17.5 / 22.5))
    nothing = instances([], [], scores=[])
    assert painted_map(nothing, (40, 80), (4, 8)).abs().sum() == 0


def test_a_hit_smaller_than_a_cell_is_as_bright_as_a_large_one() -> None:
    painted = painted_map(instances([[41, 11, 44, 13]], [0], scores=[0.5]), (40, 80), (4, 8))
    assert painted[1, 4] > 0.9 and painted.count_nonzero() == 1


def test_masks_are_painted_and_give_their_innermost_pixel() -> None:
    mask = torch.zeros(40, 80, dtype=torch.bool)
    mask[0:30, 0:10], mask[20:40, 0:40] = True, True  # an L whose box has its middle outside
    hits = dataclasses.replace(instances([[0, 0, 40, 40]], [0], scores=[0.5]), masks=(rle_from_mask(mask),))
    painted = painted_map(hits, (40, 80), (4, 8))
    assert painted[0, 3] == 0 and painted[3, 3] > 0.9 * 0.9 and painted[3, 5] == 0
    ((x, y),) = hit_points(hits).tolist()
    assert mask[int(y), int(x)] and 25 <= y <= 35
    boxes = instances([[0, 0, 40, 40], [2, 4, 6, 6]], [0, 0], scores=[0.5, 0.4])
    assert hit_points(boxes).tolist() == [[20.0, 20.0], [4.0, 5.0]]


def test_hits_take_the_place_of_their_class_alone() -> None:
    kinds = {COARSE: (torch.rand(1, 2, 3, 3),), CROSS: (torch.rand(2, 2, 3, 3),)}
    maps = ClassMaps(torch.tensor([0, 2]), torch.tensor([0.1, 0.2, 0.3]), kinds, (64, 64), (64, 64))
    hits = {1: instances([[8, 8, 24, 24]], [1], scores=[0.7]), 2: instances([[40, 40, 48, 56]], [2], scores=[0.6])}
    mixed = with_hits(maps, hits)
    assert mixed.labels.tolist() == [0, 1, 2] and mixed.scores.tolist() == pytest.approx([0.1, 0.7, 0.6])
    coarse, cross = mixed.kinds[COARSE][0], mixed.kinds[CROSS][0]
    assert coarse.shape == (1, 3, 8, 8) and cross.shape == (2, 3, 8, 8)
    assert (coarse[0, 1] > 0).nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert cross[:, 1:].abs().sum() == 0 and cross[:, 0].abs().sum() > 0
    peaks = photo_peaks(mixed, ClueSettings())
    of_hits = peaks.select(peaks.labels > 0)
    assert of_hits.points.tolist() == [[16.0, 16.0], [44.0, 48.0]] and of_hits.labels.tolist() == [1, 2]
    assert of_hits.heights.tolist() == [1.0, 1.0] and (peaks.labels == 0).any()
    assert with_hits(maps, {}) is maps
    nothing = ClassMaps(torch.zeros(0, dtype=torch.int64), torch.zeros(3), {}, (64, 64), (64, 64))
    assert with_hits(nothing, hits).labels.tolist() == [1, 2]


# The source


def test_tags_veto_and_missing_words_fall_back(dataset: Dataset, model: Path, tmp_path: Path) -> None:
    name, *others = dataset.classes
    run = dataclasses.replace(context(tmp_path, dataset), prompts=dict.fromkeys(others))
    source = prepared(run, settings(model), tmp_path / "kept")
    maps_alone = build_source(run, ClueSettings(long_side=64), dataset)
    maps_alone.prepare(tmp_path / "kept", "x")
    hit_photos = 0
    for sample in dataset:
        mixed, alone = source.map_classes(dataset, sample.image_id), maps_alone.map_classes(dataset, sample.image_id)
        assert mixed.labels.tolist() == list(sample.tags)
        hits = row_instances(source.kept_hits[sample.image_id], tmp_path)
        assert set(hits.labels.tolist()) <= {0}  # nothing is asked for classes without words
        assert set(mixed.points) == ({0} if len(hits) and 0 in sample.tags else set())
        if 0 in mixed.points:
            hit_photos += 1
            assert torch.equal(mixed.points[0], hit_points(hits))
        else:
            assert torch.equal(mixed.kinds[COARSE][0], alone.kinds[COARSE][0])
    assert hit_photos > 0 and name == dataset.classes[0]


def test_the_stage_keeps_points_of_hits_and_says_how_far_both_agree(
    dataset: Dataset, model: Path, tmp_path: Path
) -> None:
    run = context(tmp_path, dataset)
    store = clues.run(run, settings(model), dataset, "train")
    kept = json.loads((store.folder / "text_agreement.json").read_text())["classes"]
    assert list(kept) == list(dataset.classes) and {row["source"] for row in kept.values()} == {"text"}
    assert all(0 <= row["map_ap"] <= 1 and 0 <= row["hit_share"] <= 1 for row in kept.values())
    points_of = clues.clue_points(store)
    (folder,) = tmp_path.glob("clues/store/text_train-*")
    assert any(len(points_of(image_id).points) for image_id in dataset.image_ids) and folder.is_dir()
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.parquet"))]
    again = clues.run(run, settings(model), dataset, "train")
    assert again.fingerprint == store.fingerprint
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.parquet"))] == stamps
    other = dataclasses.replace(run, prompts={dataset.classes[0]: "a dot"})
    assert clues.run(other, settings(model), dataset, "train").fingerprint != store.fingerprint


def test_tags_choose_the_source_of_a_class(dataset: Dataset, model: Path, tmp_path: Path) -> None:
    source = prepared(context(tmp_path, dataset), settings(model, choice="tags"), tmp_path / "kept")
    for label, row in enumerate(source.agreement.values()):
        assert (row.source == "text") == (row.text_ap >= row.map_ap) == (label in source.by_words)


def test_photos_without_tags_get_what_words_tell(dataset: Dataset, model: Path, tmp_path: Path) -> None:
    run = context(tmp_path, dataset)
    untagged = dataclasses.replace(
        dataset, name="test", samples=tuple(dataclasses.replace(sample, tags=()) for sample in dataset)
    )
    source = build_source(run, settings(model), untagged, "test")
    source.prepare(tmp_path / "kept", "x")
    for sample in untagged:
        mixed = source.map_classes(untagged, sample.image_id)
        hits = row_instances(source.kept_hits[sample.image_id], tmp_path)
        assert mixed.labels.tolist() == sorted(set(hits.labels.tolist()))  # words decide about all classes


def test_asking_for_tags_alone_asks_less(dataset: Dataset, model: Path, tmp_path: Path) -> None:
    source = prepared(context(tmp_path, dataset), settings(model, ask="tags"), tmp_path / "kept")
    for sample in dataset:
        hits = row_instances(source.kept_hits[sample.image_id], tmp_path)
        assert set(hits.labels.tolist()) <= set(sample.tags)


# What is refused


def test_settings_and_prompts_that_cannot_be_meant(dataset: Dataset, model: Path, tmp_path: Path) -> None:
    load = functools.partial(load_settings, RunSettings, None)
    with pytest.raises(UserError, match=r"set clues.text.model"):
        load(["clues.source=text"])
    with pytest.raises(UserError, match="choice=tags compares photos with and without a tag"):
        load(["clues.source=text", f"clues.text.model={model}", "clues.text.ask=tags"])
    with pytest.raises(UserError, match="wanted words for class 'bat', found none"):
        load(['classes.prompts={"bat": ""}'])
    assert load(['classes.prompts={bat: "a baseball bat"}']).classes.prompts == {"bat": "a baseball bat"}
    run = dataclasses.replace(context(tmp_path, dataset), prompts={"blob": "a blob"})
    with pytest.raises(UserError, match=r"in classes.prompts, found 'blob'"):
        build_source(run, settings(model), dataset)


def test_a_run_says_what_maps_each_class(model: Path, tmp_path: Path) -> None:
    text = ["clues.source=text", f"clues.text.model={model}", f"clues.text.min_score={LEAST}"]
    out = tmp_path / "out"
    pipeline.run(load_settings(RunSettings, None, [*toy_run(tmp_path), f"out={out}", *text]), until="clues")
    report = (out / "report.html").read_text()
    assert "Clues by the classes" in report and "tag AP" in report


def test_hits_are_proposals_where_they_are_wanted(model: Path, tmp_path: Path) -> None:
    text = ["clues.source=text", f"clues.text.model={model}", f"clues.text.min_score={LEAST}", "clues.text.choice=text"]
    out = tmp_path / "out"
    wanted = load_settings(RunSettings, None, [*toy_run(tmp_path), f"out={out}", *text, "clues.text.as_proposals=true"])
    pipeline.run(wanted, until="proposals")
    run = open_run(wanted)
    for stage in ("clues", "proposals"):
        stage_named(stage).run(run)
    for split, dataset in run.splits.items():
        hits_of, _ = clues.proposed_hits(run.context, wanted.clues, run.results["clues"], dataset, split)
        boxes, sources = (run.results["proposals"][split].column(name) for name in ("boxes", "sources"))
        assert any(len(hits_of(image_id)) for image_id in dataset.image_ids)
        for image_id in dataset.image_ids:
            hits = hits_of(image_id)
            tags = dataset.by_id[image_id].tags
            assert not tags or set(hits.labels.tolist()) <= set(tags)
            assert torch.equal(boxes[image_id][: len(hits)], hits.boxes)
            assert (sources[image_id] == TEXT).nonzero()[:, 0].tolist() == list(range(len(hits)))
