"""Photos that are read ahead on threads come in order, and never more than asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import block_photo
from weaksam.data.images import BadImage, read_image
from weaksam.data.read_ahead import read_ahead


@pytest.fixture()
def paths(tmp_path: Path) -> list[Path]:
    """Five photos, the first of 60 rows, each with 12 more than the one before it."""
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        Image.fromarray(block_photo(number)[: 60 + 12 * number]).save(path)
    return paths


@pytest.mark.parametrize("num_ahead", [0, 1, 3, 50])
def test_photos_come_in_order(paths, num_ahead):
    paths = 3 * paths
    photos = list(read_ahead(paths, num_ahead))
    assert len(photos) == 15
    assert all(np.array_equal(photo, read_image(path)) for photo, path in zip(photos, paths, strict=True))
    assert list(read_ahead([], num_ahead)) == []


def test_no_more_photos_are_read_than_asked_for(paths, tmp_path):
    missing = tmp_path / "missing.png"
    reading = read_ahead([*paths[:3], missing, *paths], 2)
    assert np.array_equal(next(reading), read_image(paths[0]))
    missing.write_bytes(paths[4].read_bytes())  # its turn has not come: it is the fourth, and three were begun
    assert np.array_equal([next(reading) for _ in range(3)][2], read_image(paths[4]))
    reading.close()


def test_a_photo_that_went_bad_stops_at_its_turn(paths):
    paths[2].write_bytes(b"")
    reading = read_ahead(paths, 4)
    assert [next(reading).shape for _ in range(2)] == [(60, 160, 3), (72, 160, 3)]
    with pytest.raises(BadImage, match="empty"):
        next(reading)
