"""Labels of the segmenter: what prompts, what is stored and read back, which photos are kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import CPU
from weaksam.config import UserError, load_settings
from weaksam.recipes.concealed.fused_labels import (
    PromptSource,
    boxes_of_run,
    fused_label,
    kept_photos,
    level_sets,
    make_fused_labels,
    map_of_levels,
    maps_of,
    stored_map,
)
from weaksam.recipes.concealed.photos import ConcealedPhotos, load_concealed
from weaksam.recipes.concealed.recipe import training_targets
from weaksam.recipes.concealed.settings import ConcealedSettings, ConcealedSplit, FusedLabelSettings
from weaksam.recipes.concealed.testing import label_iou
from weaksam.sam.batches import BatchLimit
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.ensemble import Uncertainty, masks_of_points
from weaksam.sam.prompts import Prompts
from weaksam.scenes.camouflage import CamouflageSettings, write_camouflage
from weaksam.structures.masks import boxes_from_masks

TWO_VIEWS = FusedLabelSettings(views=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ConcealedPhotos:
    root = tmp_path_factory.mktemp("scenes")
    write_camouflage(root, CamouflageSettings(size=64), 3, 0, 0, seed=1)
    return load_concealed(ConcealedSplit(root=root / "train"), "train")


@pytest.fixture(scope="module")
def nano():
    return build_segmenter(SegmenterSettings(family="nano"), CPU)


def scribbles() -> torch.Tensor:
    """Two strokes on objects, of 2 and 4 pixels, and one of 5 on the background."""
    labels = torch.full((12, 16), -1, dtype=torch.int8)
    labels[2, 2:4], labels[8, 10:14], labels[11, 3:8] = 1, 1, 0
    return labels


def test_each_stroke_prompts_by_itself_with_points_of_its_own() -> None:
    source = PromptSource(scribbles(), FusedLabelSettings(num_points=3))
    prompts = source.prompts(torch.Generator().manual_seed(0))
    assert prompts.point_labels is not None and prompts.points is not None
    assert prompts.point_labels.tolist() == [[1, 1, 0, 0, 0, -1], [1, 1, 1, 0, 0, 0]]
    for row, (low, high, y) in enumerate(((2, 4, 2.5), (10, 14, 8.5))):
        inside = prompts.points[row][prompts.point_labels[row] == 1]
        assert (inside[:, 1] == y).all() and ((inside[:, 0] > low) & (inside[:, 0] < high)).all()
        assert len(inside.unique(dim=0)) == len(inside)  # drawn without putting back
        assert (prompts.points[row][prompts.point_labels[row] == 0][:, 1] == 11.5).all()
    other = source.prompts(torch.Generator().manual_seed(1)).points
    assert not torch.equal(prompts.points, other)


def test_points_prompt_together_and_boxes_each() -> None:
    points = PromptSource(scribbles(), FusedLabelSettings(prompt="points", num_points=10))
    prompts = points.prompts(torch.Generator())
    assert prompts.point_labels is not None
    assert prompts.point_labels.tolist() == [[1] * 6 + [0] * 5 + [-1] * 9]
    boxes = torch.tensor([[1.0, 2.0, 5.0, 6.0]])
    settings = FusedLabelSettings(prompt="boxes", run=Path("run"))
    assert PromptSource(scribbles(), settings, boxes).prompts(torch.Generator()).boxes is boxes
    nothing = PromptSource(torch.full((4, 4), -1, dtype=torch.int8), TWO_VIEWS)
    assert len(nothing.prompts(torch.Generator())) == 0
    none = PromptSource(scribbles() * 0, FusedLabelSettings(prompt="points"))
    assert len(none.prompts(torch.Generator())) == 0


def test_without_views_the_photo_itself_is_prompted_once(photos: ConcealedPhotos, nano) -> None:
    image = photos.image(photos.image_ids[0])
    settings = FusedLabelSettings(views=0, prompt="points", num_points=500)  # all points, so that nothing is drawn
    source = PromptSource(photos.labels(photos.image_ids[0]), settings)
    fused = fused_label(nano, image, source, settings, 0, BatchLimit(2))
    labels = photos.labels(photos.image_ids[0])
    inside, outside = (labels == 1).nonzero().flip(1) + 0.5, (labels == 0).nonzero().flip(1) + 0.5
    prompts = Prompts(torch.cat([inside, outside])[None], torch.tensor([[1] * len(inside) + [0] * len(outside)]))
    plain = masks_of_points(nano, nano.encode(image), prompts)[0]
    assert (fused.bool() ^ plain).float().mean() < 0.01 and set(fused.unique().tolist()) <= {0.0, 1.0}


def test_nothing_to_prompt_with_gives_an_empty_map(photos: ConcealedPhotos, nano) -> None:
    image = photos.image(photos.image_ids[0])
    source = PromptSource(torch.full(image.shape[:2], -1, dtype=torch.int8), TWO_VIEWS)
    assert not fused_label(nano, image, source, TWO_VIEWS, 0, BatchLimit(2)).any()


def test_maps_are_stored_by_their_levels_bit_by_bit() -> None:
    counts = torch.randint(0, 13, (9, 11), generator=torch.Generator().manual_seed(0))
    for fused in (counts / 12, torch.zeros(9, 11), (counts / 12 + counts.flip(0) / 12) / 2):
        row = level_sets(fused)
        assert torch.equal(map_of_levels(row["levels"], row["rles"], (9, 11)), fused)


def test_a_store_is_sealed_found_again_and_follows_from_the_seed(photos: ConcealedPhotos, nano, tmp_path: Path) -> None:
    store = make_fused_labels(tmp_path, photos, nano, TWO_VIEWS, seed=0)
    assert store.sealed
    other_limits = TWO_VIEWS.model_copy(update={"weights": "hard", "select": False, "max_absolute": 0.5})
    assert make_fused_labels(tmp_path, photos, nano, other_limits, seed=0).folder == store.folder
    assert make_fused_labels(tmp_path / "again", photos, nano, TWO_VIEWS, seed=0).fingerprint == store.fingerprint
    for image_id in photos.image_ids:
        again = make_fused_labels(tmp_path / "again", photos, nano, TWO_VIEWS, seed=0)
        assert torch.equal(stored_map(store, photos, image_id), stored_map(again, photos, image_id))
    three = TWO_VIEWS.model_copy(update={"views": 3})
    assert make_fused_labels(tmp_path, photos, nano, three, seed=0).folder != store.folder


def test_photos_are_kept_by_both_limits() -> None:
    uncertain = {"a": Uncertainty(0.09, 0.49), "b": Uncertainty(0.11, 0.2), "c": Uncertainty(0.02, 0.6)}
    assert kept_photos(uncertain, FusedLabelSettings()) == ("a",)
    assert kept_photos(uncertain, FusedLabelSettings(select=False)) == ("a", "b", "c")
    assert kept_photos(uncertain, FusedLabelSettings(max_absolute=0.2, max_relative=1.0)) == ("a", "b", "c")
    with pytest.raises(UserError, match=r"found none of 3 \(the most certain has 0\.020 and 0\.600\): raise"):
        kept_photos(uncertain, FusedLabelSettings(max_absolute=0.01))


def test_several_draws_give_the_mean_of_a_pool(photos: ConcealedPhotos, nano, tmp_path: Path) -> None:
    draws = FusedLabelSettings(views=2, draws=2, pool=2)
    store = make_fused_labels(tmp_path, photos, nano, draws, seed=0)
    for image_id, fused in maps_of(store, photos):
        assert set((fused * 4).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}  # of two maps of two views
        assert torch.equal(fused, stored_map(store, photos, image_id))


def test_boxes_that_a_run_made_from_tags_prompt_too(photos: ConcealedPhotos, nano, tmp_path: Path) -> None:
    """From tags alone: the second photo has no pseudo box and is left out."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for number, image_id in enumerate(photos.image_ids, start=1):
        content["images"].append({"id": number, "file_name": image_id, "height": 64, "width": 64})
        x1, y1, x2, y2 = boxes_from_masks(photos.mask(image_id)).tolist()
        box = [x1, y1, x2 - x1, y2 - y1]
        if number != 2:
            entry = {"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
            content["annotations"].append({**entry, "iscrowd": 0})
    (tmp_path / "pseudo_gt").mkdir()
    (tmp_path / "pseudo_gt" / "train.json").write_text(json.dumps(content))
    images = photos.dataset.samples[0].path.parent
    boxes = boxes_of_run(tmp_path, images)
    assert boxes[photos.image_ids[0]].tolist() == [boxes_from_masks(photos.mask(photos.image_ids[0])).tolist()]
    given = [f"data.train.images={images}", f"out={tmp_path / 'out'}", "labels.prompt=boxes", f"labels.run={tmp_path}"]
    wanted = load_settings(
        ConcealedSettings, None, [*given, "labels.views=2", "labels.select=false", "segmenter.family=nano"]
    )
    alone = load_concealed(wanted.data.train, "train")
    targets = training_targets(wanted, alone, CPU)
    assert targets.photos.image_ids == (photos.image_ids[0], photos.image_ids[2])
    assert targets.figures == {"kept": 2, "dropped": 1}
    fused, weights = targets.target(photos.image_ids[0])
    assert fused.shape == weights.shape == (64, 64) and fused.max() > 0
    assert label_iou(fused, photos.mask(photos.image_ids[0])) > 0.2
