"""The clue stage on drawn photos: what it maps, where its peaks lie, and that it learns from tags alone."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import DISC_COLOURS, NANO_BACKBONE, context, draw_discs
from weaksam.config import UserError
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.inputs import input_photo
from weaksam.models.backbones.weights import backbone_fingerprint
from weaksam.models.cam.tag_network import soft_maximum, vary_view
from weaksam.stages import clues
from weaksam.stages.clues import ClueSettings, classes_to_map
from weaksam.stages.clues.peaks import map_peaks
from weaksam.stages.wsod.photo_features import PhotoFeatures, principal_projection
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


def test_peaks_are_scaled_to_photo_pixel_centres() -> None:
    maps = torch.zeros(1, 4, 8)
    maps[0, 1, 6] = 2.0
    search = {"kernel": 3, "min_value": 0.9, "max_peaks": 25}
    points, labels, heights = map_peaks([maps[None]], torch.tensor([5]), (4, 8), (40, 160), **search)
    assert points.tolist() == [[130.0, 15.0]]  # (6.5 * 20, 1.5 * 10)
    assert labels.tolist() == [5]
    assert heights.tolist() == pytest.approx([1.0])
    nothing = torch.zeros(0, dtype=torch.int64)
    assert len(map_peaks([maps[None, :0]], nothing, (4, 8), (40, 160), **search)[0]) == 0


def test_input_photo_keeps_the_shape_and_a_least_side() -> None:
    assert input_photo(np.zeros((50, 100, 3), np.uint8), 200).shape == (1, 3, 100, 200)
    assert input_photo(np.zeros((2, 100, 3), np.uint8), 64).shape == (1, 3, 32, 64)


def test_principal_projection_by_hand() -> None:
    positions = torch.tensor([[2.0, 1.0, 0.0], [-2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [-2.0, 1.0, 0.0]])
    projection = principal_projection(positions, 1)
    assert projection.mean.tolist() == [0.0, 1.0, 0.0]
    torch.testing.assert_close(projection.weight, torch.tensor([[0.5, 0.0, 0.0]]))  # unit variance afterwards
    projected = projection(positions.T[None, :, :, None])
    assert projected[0, 0, :, 0].tolist() == pytest.approx([1.0, -1.0, 1.0, -1.0])


def test_cached_features_equal_computed_ones_and_the_mirror_view_is_mirrored(dataset: Dataset) -> None:
    network = build_features(NANO_BACKBONE)
    kept = PhotoFeatures(network, 128, torch.device("cpu"), max_cache_gib=1.0)
    never = PhotoFeatures(network, 128, torch.device("cpu"), max_cache_gib=0.0)
    never.projection = kept.fit_projection(dataset, 16)
    sample = dataset.samples[0]
    first, again, fresh = kept.views(sample), kept.views(sample), never.views(sample)
    assert first[0].features is again[0].features
    assert not never.cache
    assert torch.equal(first[0].features, fresh[0].features)
    assert first[0].features.shape == first[1].features.shape == (16, 6, 8)
    assert first[0].scale == (1.0, 1.0)
    assert (first[1].mirrored, first[0].mirrored) == (True, False)
    plain, mirrored = first[0].features.float(), first[1].features.float()
    similar = torch.nn.functional.cosine_similarity
    assert similar(plain, mirrored.flip(2), dim=0).mean() > similar(plain, mirrored, dim=0).mean() + 0.1


def test_soft_maximum_by_hand() -> None:
    maps = torch.tensor([[[0.0, math.log(3.0)]], [[2.0, 2.0]]])
    assert soft_maximum(maps, 1.0).tolist() == pytest.approx([math.log(2.0), 2.0])
    assert soft_maximum(maps, 1e-3)[0].item() == pytest.approx(math.log(3.0) / 2, abs=1e-3)
    assert soft_maximum(maps, 1e3)[0].item() == pytest.approx(math.log(3.0), abs=1e-3)


def test_varied_views_are_shifts_of_the_photo_or_its_mirror_image() -> None:
    torch.manual_seed(0)
    image = torch.arange(1.0, 13.0).reshape(1, 3, 4)
    shifts = []
    for _ in range(40):
        view = vary_view(image, border=1)
        assert view.shape == image.shape
        padded = [torch.nn.functional.pad(one, (1, 1, 1, 1)) for one in (image, image.flip(2))]
        places = [
            (which, top, left)
            for which in range(2)
            for top in range(3)
            for left in range(3)
            if torch.equal(padded[which][:, top : top + 3, left : left + 4], view)
        ]
        assert len(places) == 1
        shifts += places
    assert len(set(shifts)) > 10


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
