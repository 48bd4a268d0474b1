"""Examples are kept with their IoU tables within a bound, and a table made anew is the same table."""

from pathlib import Path

import pytest
import torch

from weaksam.models.wsod.targets import Seeds
from weaksam.stages.wsod.example_cache import ExampleCache
from weaksam.stages.wsod.examples import TrainingExample, present_labels
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.dataset import Sample

CPU = torch.device("cpu")


def example(number: int, num_boxes: int = 100) -> TrainingExample:
    generator = torch.Generator().manual_seed(number)
    corner = 50 * torch.rand(num_boxes, 2, generator=generator)
    boxes = torch.cat([corner, corner + 1 + 30 * torch.rand(num_boxes, 2, generator=generator)], dim=1)
    tags = torch.tensor([1.0, 0.0, 1.0])
    sample = Sample(f"photo{number}", Path(f"photo{number}.jpg"), (100, 100), (0, 2), None, number)
    seeds = Seeds(torch.tensor([1]), torch.tensor([0]), torch.tensor([0.5]))
    return TrainingExample(sample, boxes, tags, present_labels(tags), seeds)


def bytes_held(*examples: TrainingExample) -> int:
    """Bytes of the tensors that an example on the device really holds, its table and its bits included."""
    held = 0
    for of_photo in examples:
        tensors = [of_photo.boxes, of_photo.tags, of_photo.present, *of_photo.clue_seeds]
        if "overlaps" in vars(of_photo):
            tensors += [of_photo.overlaps.iou, *of_photo.overlaps._near.values()]
        held += sum(tensor.nbytes for tensor in tensors)
    return held


def test_the_bytes_held_stay_under_the_bound_and_the_least_recently_used_leave() -> None:
    examples = [example(number) for number in range(6)]
    size = bytes_of_a_full_entry(examples[0])
    cache = ExampleCache(CPU, 3.5 * size / 2**30)
    kept: dict[int, TrainingExample] = {}
    for number in [0, 1, 2, 0, 3, 4, 0, 5, 1, 2, 3]:
        kept[number] = cache.on_device(examples[number])
        _ = kept[number].overlaps.near(0.2)
        held = bytes_held(*(entry.on_device for entry in cache._entries.values()))
        assert held == cache.num_bytes <= cache.max_bytes
        assert len(cache) <= 3
    assert list(cache._entries) == ["photo1", "photo2", "photo3"]
    assert cache.on_device(examples[1]) is kept[1]  # kept, with its table
    assert cache.on_device(examples[0]) is not kept[0]  # left when 1 and 2 came


def bytes_of_a_full_entry(of_photo: TrainingExample) -> int:
    cache = ExampleCache(CPU, 1.0)
    on_device = cache.on_device(of_photo)
    _ = on_device.overlaps.near(0.2)
    assert bytes_held(on_device) == cache.num_bytes
    return cache.num_bytes


@pytest.mark.parametrize("max_gib", [0.0, 1e-6, 1.0])
def test_tables_are_those_of_the_boxes_whatever_the_bound(max_gib: float) -> None:
    examples = [example(number) for number in range(4)]
    cache = ExampleCache(CPU, max_gib)
    for number in [0, 1, 2, 3, 2, 1, 0]:
        on_device = cache.on_device(examples[number])
        assert torch.equal(on_device.overlaps.iou, pairwise_iou(examples[number].boxes, examples[number].boxes))
        assert cache.num_bytes <= cache.max_bytes
    assert len(cache) == (4 if max_gib == 1.0 else 0)


def test_the_examples_themselves_hold_no_table() -> None:
    examples = [example(number) for number in range(3)]
    cache = ExampleCache(CPU, 1.0)
    for of_photo in examples:
        _ = cache.on_device(of_photo).overlaps
    assert all("overlaps" not in vars(of_photo) for of_photo in examples)


def test_another_example_of_the_same_photo_replaces_the_first() -> None:
    first, second = example(1), example(1)
    cache = ExampleCache(CPU, 1.0)
    kept = cache.on_device(first)
    size = cache.num_bytes
    assert cache.on_device(second) is not kept
    assert len(cache) == 1 and cache.num_bytes == size
    cache.clear()
    assert len(cache) == 0 and cache.num_bytes == 0


def test_a_photo_without_proposals_has_an_empty_table() -> None:
    on_device = ExampleCache(CPU, 1.0).on_device(example(0, num_boxes=0))
    assert on_device.overlaps.iou.shape == (0, 0) and on_device.overlaps.near(0.2).shape == (0, 0)
