"""Hostile photos: set aside with a reason, or decoded within the limits of memory and time."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.hostile.harness import Case, check, sparse

pytestmark = pytest.mark.slow

CHECK = [("data", "check", "--images", "photos", "--tags", "tags.csv")]


def encoded(kind: str, side: int = 16, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (128, 128, 128)).save(buffer, kind, **options)
    return buffer.getvalue()


def claiming(sides: tuple[int, int], **options: object) -> bytes:
    """A tiny JPEG whose header claims other sides (width, height)."""
    data = encoded("JPEG", **options)
    start = next(data.find(frame) for frame in (b"\xff\xc0", b"\xff\xc2") if frame in data)
    return data[: start + 5] + struct.pack(">HH", *sides[::-1]) + data[start + 9 :]


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(sides: tuple[int, int], depth: int, colour: int, pixels: bytes = b"", before: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *sides, depth, colour, 0, 0, 0))
    body = header + before + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bmp(sides: tuple[int, int]) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, *sides, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 14 + len(header), 0, 0, 14 + len(header)) + header


def webp(sides: tuple[int, int]) -> bytes:
    """The head of a WebP whose canvas has these sides, and no frame."""
    width, height = (side - 1 for side in sides)
    content = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    content += width.to_bytes(3, "little") + height.to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(content)) + content


def of_scans(count: int) -> bytes:
    data = encoded("JPEG", progressive=True)
    return data[:-2] + data[data.rfind(b"\xff\xda") : -2] * count + data[-2:]


def exif(entries: int, num_bytes: int) -> bytes:
    return b"Exif\x00\x00II*\x00" + struct.pack("<IH", 8, entries) + bytes(num_bytes)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def photo(name: str, data: Callable[[], bytes], says: str, ending: str = "jpg") -> Case:
    """A case of one hostile photo beside two sound ones."""
    return Case(
        f"photo: {name}",
        lambda folder: (folder / "photos" / f"odd.{ending}").write_bytes(data()) and None,
        CHECK,
        f"odd.{ending}: {says}",
    )


def placed(name: str, build: Callable[[Path], object], says: str) -> Case:
    """A case of something else than a file where a photo is wanted."""
    return Case(f"photo: {name}", lambda folder: build(folder / "photos" / "odd.jpg") and None, CHECK, says)


OVER = "over the limit of"
CASES = [
    placed("6 GiB of nothing", sparse, f"odd.jpg: has 6,442,450,944 bytes, {OVER}"),
    placed("a pipe", os.mkfifo, "odd.jpg: is a named pipe, not a file"),
    placed("a link to /dev/zero", lambda path: path.symlink_to("/dev/zero"), "odd.jpg: is a device, not a file"),
    placed("a link to nothing", lambda path: path.symlink_to("gone"), "odd.jpg: is a link that leads nowhere"),
    placed("a link to itself", lambda path: path.symlink_to("odd.jpg"), "odd.jpg"),
    photo("a JPEG that claims 13,000 x 13,000", lambda: claiming((13000, 13000)), f"has 13000 x 13000 pixels, {OVER}"),
    photo("a JPEG that claims 65,535 squared", lambda: claiming((65535, 65535)), f"has 65535 x 65535 pixels, {OVER}"),
    photo("a progressive JPEG that claims much", lambda: claiming((20000, 9000), progressive=True), "has 20000 x 9000"),
    photo("a JPEG of 1,000 scans", lambda: of_scans(1000), "has 1,0"),
    photo("a JPEG of 20,000 segments", lambda: b"\xff\xd8" + segment(0xFE, b"") * 20_000, "has more than 10,"),
    photo(
        "EXIF whose entries claim gigabytes",
        lambda: b"\xff\xd8" + segment(0xE1, exif(65535, 60_000)) * 3 + encoded("JPEG")[2:],
        "has EXIF that claims more",
    ),
    photo("a JPEG cut short", lambda: encoded("JPEG", 64)[:400], "is truncated"),
    photo("a PNG of 16 bits, 13,300 squared", lambda: png((13300, 13300), 16, 0), "has 13300 x 13300 pixels", "png"),
    photo("a PNG that claims 2 ** 31 squared", lambda: png((2**31 - 1,) * 2, 8, 2), "has 2147483647 x", "png"),
    photo("a PNG of no rows", lambda: png((4, 0), 8, 2), "is", "png"),
    photo("a PNG without its pixels", lambda: png((400, 400), 8, 2), "is", "png"),
    photo(
        "a PNG of 20,000 chunks",
        lambda: png((4, 4), 8, 0, bytes(20), chunk(b"teXt", b"") * 20_000),
        "has more than 10,",
        "png",
    ),
    photo(
        "a PNG whose text unpacks to 300 MB",
        lambda: png((4, 4), 8, 0, bytes(20), chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(300 << 20)))),
        "is damaged",
        "png",
    ),
    photo("a WebP of 16,383 squared", lambda: webp((16383, 16383)), "has 16383 x 16383 pixels", "webp"),
    photo("a WebP of 2 ** 24 squared", lambda: webp((1 << 24, 1 << 24)), "has 16777216 x 16777216", "webp"),
    photo("a WebP without a frame", lambda: webp((10, 10)), "is", "webp"),
    photo("a BMP that claims 2 ** 31 squared", lambda: bmp((2**31 - 1, 2**31 - 1)), "has 2147483647 x", "bmp"),
    photo("a BMP without its pixels", lambda: bmp((3000, 3000)), "is truncated", "bmp"),
    photo("a zip file", lambda: b"PK\x03\x04" + bytes(100), "is a zip file"),
    photo("zeros", lambda: bytes(1000), "is not a photo"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_photo(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)
