"""Batches of training photos: which photos are used, and an order and views that follow from seed and epoch."""

import torch

from tests.helpers import draw_squares, instances
from weaksam.engine.detectors.augmentation import AugmentSettings
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.structures.dataset import Dataset, Sample

VIEWS = AugmentSettings(smallest_scale=0.9)


def test_photos_with_a_tag_but_no_box_are_left_out_and_true_negatives_stay(tmp_path):
    squares = draw_squares(tmp_path)
    photos = TrainingPhotos(squares, {sample.image_id: sample.truth for sample in squares}, 64, 96, "test")
    assert len(photos) == 5 and photos.num_left_out == 1
    untagged = [Sample(s.image_id, s.path, s.size, (), None, s.number) for s in squares]
    ignored = {"0.png": instances([[4, 6, 30, 32]], [0], crowd=[True])}
    assert len(TrainingPhotos(squares, ignored, 64, 96, "test")) == 0  # nothing of the photo is known to be an object
    background = TrainingPhotos(squares, ignored, 64, 96, "test", boxless_as_background=True)
    assert len(background) == 6 and background.num_left_out == 0
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


def test_photos_that_memory_does_not_hold_are_read_again_to_the_same_batches(tmp_path):
    squares = draw_squares(tmp_path)
    truth = {sample.image_id: sample.truth for sample in squares}
    kept, some, none = (TrainingPhotos(squares, truth, 64, 96, "test", gib) for gib in (1.0, 40_000 / 2**30, 0.0))
    assert (len(kept.photos), len(some.photos), len(none.photos)) == (5, 2, 0)  # 64 x 96 x 3 bytes each
    for epoch in range(2):
        batches = list(kept.epoch(epoch, 2, VIEWS, seed=0))
        for others in (some.epoch(epoch, 2, VIEWS, seed=0), none.epoch(epoch, 2, VIEWS, seed=0)):
            for batch, other in zip(batches, others, strict=True):
                assert batch.image_ids == other.image_ids
                assert all(map(torch.equal, batch.images, other.images))
                assert all(map(torch.equal, *([t["boxes"] for t in b.targets] for b in (batch, other))))


def test_sorted_batches_hold_the_same_views_with_less_padding(tmp_path):
    squares = draw_squares(tmp_path)
    photos = TrainingPhotos(squares, {sample.image_id: sample.truth for sample in squares}, 64, 96, "test")
    views = AugmentSettings(smallest_scale=0.5)
    drawn, in_order = (list(photos.epoch(0, 2, views, seed=0, batches_sorted=n)) for n in (1, 8))
    pixels = [
        {image_id: image for batch in batches for image_id, image in zip(batch.image_ids, batch.images, strict=True)}
        for batches in (drawn, in_order)
    ]
    assert pixels[0].keys() == pixels[1].keys()
    assert all(torch.equal(image, pixels[1][image_id]) for image_id, image in pixels[0].items())
    upright = [batch for batch in in_order if batch.images[0].shape[1] > batch.images[0].shape[2]]
    widths = sorted(sorted(image.shape[2] for image in batch.images) for batch in upright)
    together = [width for of_batch in widths for width in of_batch]
    assert together == sorted(together)  # no batch reaches into the widths of another


def fixed(squares, max_cache_gib=4.0, frozen=None):
    truth = {sample.image_id: sample.truth for sample in squares}
    return TrainingPhotos(squares, truth, 64, 96, "test", max_cache_gib, frozen=frozen)


def images_of(photos, epoch, views):
    batches = list(photos.epoch(epoch, 2, views, seed=0))
    return {key: image for batch in batches for key, image in zip(batch.image_ids, batch.images, strict=True)}


def test_fixed_views_come_again_and_the_order_does_not(tmp_path):
    photos, views = fixed(draw_squares(tmp_path)), AugmentSettings(fixed_views=2)
    first, second, third = (images_of(photos, epoch, views) for epoch in range(3))
    assert all(torch.equal(image, third[key]) for key, image in first.items())
    assert not any(torch.equal(image, second[key]) for key, image in first.items())
    assert list(first) != list(third)
    drawn = images_of(photos, 0, AugmentSettings())  # the views of the first epochs are those without the setting
    assert all(torch.equal(image, drawn[key]) for key, image in first.items())


def test_frozen_maps_are_computed_once_for_each_view_and_kept_as_memory_allows(tmp_path):
    squares, views, computed = draw_squares(tmp_path), AugmentSettings(fixed_views=2), []

    def frozen(view):
        computed.append(view)
        return view[:1, ::4, ::4].clone()

    kept, none = fixed(squares, frozen=frozen), fixed(squares, 0.0, frozen=frozen)
    for epoch in range(4):
        assert all(map(torch.equal, images_of(kept, epoch, views).values(), images_of(none, epoch, views).values()))
    assert len(computed) == 2 * 5 + 4 * 5 and len(kept.maps) == 10 and not none.maps
    batch = next(iter(kept.epoch(0, 2, views, seed=0)))
    assert [image.shape for image in batch.images] == [(1, -(-h // 4), -(-w // 4)) for h, w in batch.sizes]
    images_of(kept, 0, AugmentSettings())  # views that do not come again are not kept
    assert len(kept.maps) == 10
