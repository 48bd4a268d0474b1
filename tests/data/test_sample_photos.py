"""Photos of samples: read ahead in order, and refused where the file is not the one that the fingerprint names."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import block_photo
from weaksam.config import UserError
from weaksam.data import sample_photos
from weaksam.data.images import BadImage, read_image
from weaksam.data.sample_photos import read_photo, read_photos_ahead, reading_ahead, rows_reading_ahead
from weaksam.store.files import file_sha256
from weaksam.structures.dataset import Dataset, Sample


@pytest.fixture()
def samples(tmp_path: Path) -> list[Sample]:
    """Five photos with their hashes, the first of 60 rows, each with 12 more than the one before it."""
    samples = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.fromarray(block_photo(number)[: 60 + 12 * number]).save(path)
        samples.append(Sample(path.name, path, (60 + 12 * number, 160), (), None, number, file_sha256(path)))
    return samples


@pytest.mark.parametrize("num_ahead", [0, 1, 3, 50])
def test_photos_come_in_order(samples: list[Sample], num_ahead: int) -> None:
    samples = 3 * samples
    photos = list(read_photos_ahead(samples, num_ahead))
    assert len(photos) == 15
    for photo, sample in zip(photos, samples, strict=True):
        assert np.array_equal(photo, read_image(sample.path)) and photo.shape[:2] == sample.size
    assert list(read_photos_ahead([], num_ahead)) == []


def test_no_more_photos_are_read_than_asked_for(samples: list[Sample], tmp_path: Path) -> None:
    missing = replace(samples[4], path=tmp_path / "missing.png")
    reading = read_photos_ahead([*samples[:3], missing, *samples], 2)
    assert np.array_equal(next(reading), read_image(samples[0].path))
    missing.path.write_bytes(samples[4].path.read_bytes())  # its turn has not come: the fourth, and three were begun
    assert np.array_equal([next(reading) for _ in range(3)][2], read_image(samples[4].path))
    reading.close()


def test_a_photo_that_went_bad_stops_at_its_turn(samples: list[Sample]) -> None:
    samples[2].path.write_bytes(b"")
    reading = read_photos_ahead(samples, 4)
    assert [next(reading).shape for _ in range(2)] == [(60, 160, 3), (72, 160, 3)]
    with pytest.raises(UserError, match="empty"):
        next(reading)


def test_a_photo_that_is_not_the_one_that_was_loaded_is_named(samples: list[Sample]) -> None:
    first, second = samples[:2]
    whole, other = first.path.read_bytes(), second.path.read_bytes()
    states = {
        "another photo (160 x 72 pixels": other,
        "one that is truncated": whole[: len(whole) // 2],
        "one that is empty": b"",
        "one that is not a photo": b"nothing of a photo",
        "another photo (160 x 60 pixels": whole + b"\0",  # the same pixels: the bytes decide
    }
    for state, data in states.items():
        first.path.write_bytes(data)
        os.utime(first.path, (0, 0))  # the time of the file says nothing
        with pytest.raises(UserError, match=re.escape(state)) as caught:
            read_photo(first)
        assert "wanted the photo 0.png as it was" in str(caught.value) and "put the file back" in str(caught.value)
        assert "\n" not in str(caught.value)
    with first.path.open("wb") as file:
        file.truncate(6 << 30)
    with pytest.raises(UserError, match="found one of 6,442,450,944 bytes at"):
        read_photo(first)
    first.path.unlink()
    with pytest.raises(UserError, match=r"found none that can be opened \(No such file or directory\)"):
        read_photo(first)
    first.path.write_bytes(whole)
    assert np.array_equal(read_photo(first), block_photo(0)[:60])


def test_a_sample_without_a_hash_is_read_as_it_is(samples: list[Sample]) -> None:
    sample = replace(samples[0], sha256="")
    sample.path.write_bytes(samples[1].path.read_bytes())
    assert read_photo(sample).shape == (72, 160, 3)
    sample.path.write_bytes(b"no photo")
    with pytest.raises(BadImage):
        read_photo(sample)


# Photos that are asked for one by one


@pytest.mark.parametrize("num_ahead", [1, 3, 50])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [1, 4], [3, 0, 4, 4, 1], []])
def test_photos_asked_for_in_any_order_are_the_same(samples: list[Sample], order: list[int], num_ahead: int) -> None:
    with reading_ahead(samples, num_ahead):
        photos = [read_photo(samples[number]) for number in order]
    for photo, number in zip(photos, order, strict=True):
        assert np.array_equal(photo, read_image(samples[number].path))


def decoding_threads(samples: list[Sample], order: list[int], monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The names of the threads that decoded each photo, once those of these numbers were asked for."""
    threads: dict[str, list[str]] = {}
    decode = sample_photos.decode_image

    def noted(data: bytes, path: Path, *limits: object) -> np.ndarray:
        threads.setdefault(path.name, []).append(threading.current_thread().name)
        return decode(data, path, *limits)

    monkeypatch.setattr(sample_photos, "decode_image", noted)
    with reading_ahead(samples, 2):
        for number in order:
            read_photo(samples[number])
    return threads


def test_only_photos_from_the_first_that_is_asked_for_are_decoded_and_on_other_threads(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = threading.current_thread().name
    assert decoding_threads(samples, [], monkeypatch) == {}
    threads = decoding_threads(samples, [2, 3, 4], monkeypatch)
    assert set(threads) == {"2.png", "3.png", "4.png"}
    assert all(len(names) == 1 and names[0] != own for names in threads.values())


def test_what_cannot_be_read_raises_only_where_it_is_asked_for(samples: list[Sample]) -> None:
    samples[2].path.unlink()
    with reading_ahead(samples):
        for number in (0, 1, 3):
            assert np.array_equal(read_photo(samples[number]), read_image(samples[number].path))
    with reading_ahead(samples):
        read_photo(samples[1])
        with pytest.raises(UserError, match=r"wanted the photo 2\.png as it was"):
            read_photo(samples[2])
        assert np.array_equal(read_photo(samples[3]), read_image(samples[3].path))


def test_blocks_lie_in_one_another_and_photos_of_others_are_read_in_their_turn(samples: list[Sample]) -> None:
    other = replace(samples[0], path=samples[4].path, sha256=samples[4].sha256)  # the same id in another folder
    with reading_ahead(samples[:3]):
        assert np.array_equal(read_photo(other), read_image(samples[4].path))
        with reading_ahead(samples[3:]):
            assert np.array_equal(read_photo(samples[3]), read_image(samples[3].path))
        for sample in samples[:3]:
            assert np.array_equal(read_photo(sample), read_image(sample.path))


def test_rows_of_a_part_are_those_of_each_image(samples: list[Sample]) -> None:
    dataset = Dataset("train", (), (), tuple(samples))
    rows = rows_reading_ahead(dataset, lambda image_id: {"sum": int(read_photo(dataset.by_id[image_id]).sum())})
    part = ["1.png", "3.png"]
    wanted = [{"sum": int(read_image(dataset.by_id[name].path).sum()), "image_id": name} for name in part]
    assert list(rows(part)) == wanted
    assert list(rows([])) == []
