"""The clue stage on drawn photos: what it maps, where its peaks lie, and that it learns from tags alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import DISC_COLOURS, NANO_BACKBONE, context, draw_discs
from weaksam.config import UserError
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.stages import clues
from weaksam.stages.clues import ClueSettings, classes_to_map
from weaksam.structures.clue_points import COARSE
from weaksam.structures.dataset import Dataset

SETTINGS = ClueSettings(long_side=256)
TUNED = SETTINGS.model_copy(update={"finetune_epochs": 2, "finetune_batch": 4})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_discs(tmp_path_factory.mktemp("discs"))


def test_only_tagged_classes_are_mapped_and_peaks_lie_on_their_discs(dataset: Dataset, tmp_path: Path) -> None:
    store = clues.run(context(tmp_path, dataset), SETTINGS, dataset, "train")
    points_of, maps_of = clues.clue_points(store), clues.class_maps(store)
    hits = []
    for sample in dataset:
        points, labels, kinds = points_of(sample.image_id)
        assert kinds.tolist() == [COARSE] * len(points)
        mapped, maps = maps_of(sample.image_id)
        assert mapped.tolist() == list(sample.tags)
        assert maps.shape[0] == len(mapped)
        assert set(labels.tolist()) <= set(sample.tags)
        image = np.asarray(Image.open(sample.path)).astype(int)
        for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
            assert 0 <= x <= 128 and 0 <= y <= 96
            near = image[max(int(y) - 12, 0) : int(y) + 12, max(int(x) - 12, 0) : int(x) + 12]  # a cell is 16 pixels
            hits.append((near == DISC_COLOURS[dataset.classes[label]]).all(axis=2).any())
    assert np.mean(hits) > 0.7


def test_a_second_run_reads_what_the_first_wrote(dataset: Dataset, tmp_path: Path) -> None:
    first = clues.run(context(tmp_path, dataset), SETTINGS, dataset, "train")
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    clues.run(context(tmp_path, dataset), SETTINGS, dataset, "train")
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


def test_without_any_tag_there_is_one_sentence(dataset: Dataset, tmp_path: Path) -> None:
    untagged = Dataset(
        dataset.name,
        dataset.classes,
        dataset.category_ids,
        tuple(type(s)(s.image_id, s.path, s.size, (), None, s.number, s.sha256) for s in dataset),
    )
    with pytest.raises(UserError, match="at least one tagged training photo"):
        clues.run(context(tmp_path, untagged), SETTINGS, untagged, "train")


def test_untagged_photos_get_the_classes_they_score_for() -> None:
    scores = torch.tensor([0.2, 0.9, 0.5])
    assert classes_to_map(scores, (), 0.5).tolist() == [1, 2]
    assert classes_to_map(scores, (0,), 0.5).tolist() == [0]


def test_a_backbone_trained_on_tags_is_what_later_stages_start_from(dataset: Dataset, tmp_path: Path) -> None:
    run_context = context(tmp_path, dataset)
    store = clues.run(run_context, TUNED, dataset, "train")
    backbone = clues.adapted_backbone(run_context, TUNED)
    assert backbone.adapted is not None and backbone.adapted.is_file()
    assert backbone_fingerprint(backbone) != backbone_fingerprint(NANO_BACKBONE)
    image = torch.randn(1, 3, 64, 64)
    plain, tuned = build_features(NANO_BACKBONE), build_features(backbone)
    assert not torch.allclose(plain(image)["last"], tuned(image)["last"], atol=1e-3)
    history = json.loads((backbone.adapted.parent / "manifest.json").read_text())["history"]
    assert history[1]["tags"] < history[0]["tags"]
    mapped, maps = clues.class_maps(store)(dataset.image_ids[2])
    assert mapped.tolist() == [0, 1]
    assert maps.shape[1:] == (12, 16)
    again = clues.adapted_backbone(run_context, TUNED)
    assert again == backbone


def test_frozen_clues_leave_the_backbone_as_it_is(dataset: Dataset, tmp_path: Path) -> None:
    assert clues.adapted_backbone(context(tmp_path, dataset), SETTINGS) == NANO_BACKBONE
