"""Dataset: its tags as a matrix, its samples by id, and what its fingerprint depends on."""

from dataclasses import replace
from pathlib import Path

import torch

from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances


def sample(image_id: str, tags: tuple[int, ...] = (), truth: Instances | None = None, sha256: str = "0") -> Sample:
    return Sample(image_id, Path(image_id), (4, 6), tags, truth, 1, sha256)


def dataset(*samples: Sample) -> Dataset:
    return Dataset("train", ("apple", "fig", "nut"), (1, 2, 3), samples)


def test_the_tag_matrix() -> None:
    tags = dataset(sample("a.jpg", (0, 2)), sample("b.jpg"), sample("c.jpg", (1,))).tag_matrix()
    assert tags.dtype == torch.float32
    assert tags.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert dataset().tag_matrix().shape == (0, 3)
    assert Dataset("train", (), (), (sample("a.jpg"),)).tag_matrix().shape == (1, 0)


def test_samples_by_id_and_the_truths_that_are_there() -> None:
    photos = dataset(sample("a.jpg", truth=Instances.empty()), sample("b.jpg"))
    assert photos.image_ids == ("a.jpg", "b.jpg")
    assert photos.by_id["b.jpg"] is photos.samples[1]
    assert list(photos.truths) == ["a.jpg"]
    assert (len(dataset()), dataset().image_ids, dataset().truths) == (0, (), {})


def test_the_fingerprint_knows_ids_bytes_tags_and_classes_but_not_the_truth() -> None:
    one = sample("a.jpg", (0,))
    photos = dataset(one)
    assert dataset(replace(one, truth=Instances.empty(), number=7)).fingerprint == photos.fingerprint
    others = [replace(one, image_id="b.jpg"), replace(one, sha256="1"), replace(one, tags=(1,))]
    prints = {photos.fingerprint, *(dataset(other).fingerprint for other in others)}
    prints.add(replace(photos, classes=("apple", "fig", "pear")).fingerprint)
    assert len(prints) == 5
