"""Labels of the segmenter: what prompts, what is stored and read back, which photos are kept."""

from pathlib import Path

import pytest
import torch

from tests.helpers import CPU
from weaksam.config import UserError
from weaksam.recipes.concealed.fused_labels import (
    PromptSource,
    fused_label,
    kept_photos,
    level_sets,
    make_fused_labels,
    map_of_levels,
    stored_map,
    uncertainties,
)
from weaksam.recipes.concealed.photos import ConcealedPhotos, load_concealed
from weaksam.recipes.concealed.settings import ConcealedSplit, FusedLabelSettings
from weaksam.sam.batches import BatchLimit
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.ensemble import Uncertainty, masks_of_points
from weaksam.sam.prompts import Prompts
from weaksam.scenes.camouflage import CamouflageSettings, write_camouflage

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


def test_uncertainties_are_those_of_the_stored_maps(photos: ConcealedPhotos, nano, tmp_path: Path) -> None:
    draws = FusedLabelSettings(views=2, draws=2, pool=2)
    store = make_fused_labels(tmp_path, photos, nano, draws, seed=0)
    of_photos = uncertainties(store, photos, draws)
    assert list(of_photos) == list(photos.image_ids)
    for image_id, of_photo in of_photos.items():
        levels = set((stored_map(store, photos, image_id) * 4).unique().tolist())
        assert levels <= {0.0, 1.0, 2.0, 3.0, 4.0}  # the mean of two maps of two views
        assert 0 <= of_photo.absolute <= 1
