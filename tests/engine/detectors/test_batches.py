"""Batches of training photos: which photos are used, and an order and views that follow from seed and epoch."""

import torch

from tests.helpers import draw_squares
from weaksam.engine.detectors.augmentation import AugmentSettings
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.structures.dataset import Dataset, Sample

VIEWS = AugmentSettings(smallest_scale=0.9)


def test_photos_with_a_tag_but_no_box_are_left_out_and_true_negatives_stay(tmp_path):
    squares = draw_squares(tmp_path)
    photos = TrainingPhotos(squares, {sample.image_id: sample.truth for sample in squares}, 64, 96, "test")
    assert len(photos) == 5 and photos.num_left_out == 1
    untagged = [Sample(s.image_id, s.path, s.size, (), None, s.number) for s in squares]
    negatives = Dataset("none", squares.classes, squares.category_ids, tuple(untagged), ())
    assert len(TrainingPhotos(negatives, {}, 64, 96, "test")) == 6


def test_order_and_views_follow_from_the_seed_and_the_epoch(tmp_path):
    squares = draw_squares(tmp_path)
    photos = TrainingPhotos(squares, {sample.image_id: sample.truth for sample in squares}, 64, 96, "test")
    # Three upright and two wide photos: two batches and one
    assert photos.num_batches(2) == 3
    batches = list(photos.epoch(0, 2, VIEWS, seed=0))
    assert sorted(image_id for batch in batches for image_id in batch.image_ids) == [f"{i}.png" for i in range(5)]
    again, other = list(photos.epoch(0, 2, VIEWS, seed=0)), list(photos.epoch(1, 2, VIEWS, seed=0))
    assert [batch.image_ids for batch in batches] == [batch.image_ids for batch in again]
    assert torch.equal(batches[0].images[0], again[0].images[0])
    pixels = {batch.image_ids[0]: batch.images[0] for batch in other}
    shared = [batch for batch in batches if batch.image_ids[0] in pixels]
    assert not any(torch.equal(batch.images[0], pixels[batch.image_ids[0]]) for batch in shared)
