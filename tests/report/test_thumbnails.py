"""Small pictures of photos: the largest that have room, never larger than the photo."""

import base64
import io
from pathlib import Path

from PIL import Image

from tests.helpers import noise_photo
from weaksam.report.thumbnails import BESIDE_SIDE, thumbnails
from weaksam.structures.dataset import Sample


def samples(num, size):
    return [Sample(f"{number}.jpg", Path("none"), size, (), None, number) for number in range(num)]


def read(sample):
    return noise_photo(sample.size, sample.number)


def sizes(sources):
    return {Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).size for source in sources}


def test_pictures_are_as_large_as_there_is_room():
    made = thumbnails(samples(3, (600, 900)), 10_000_000, "p", read)
    assert sizes(made.sources) == {(720, 480)} and made.files == {}
    small = thumbnails(samples(3, (600, 900)), 60_000, "p", read)
    assert max(next(iter(sizes(small.sources)))) < 300 and sum(map(len, small.sources)) < 62_000
    assert sizes(thumbnails(samples(2, (30, 40)), 10_000_000, "p", read).sources) == {(40, 30)}


def test_without_room_they_are_files():
    made = thumbnails(samples(2, (600, 900)), 2000, "p", read)
    assert list(made.sources) == ["p/000000.jpg", "p/000001.jpg"] == list(made.files)
    assert Image.open(io.BytesIO(made.files["p/000001.jpg"])).size == (BESIDE_SIDE, round(BESIDE_SIDE * 2 / 3))
    assert list(thumbnails([], 2000, "p", read).sources) == []
