"""Photos over a limit, and files made to keep a decoder busy, are set aside before anything is decoded."""

import io
import os
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.helpers import write_photo
from weaksam.config import UserError, load_settings
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings, load_photos
from weaksam.data.images import BadImage, image_size, read_image
from weaksam.data.photo_limits import PhotoLimits
from weaksam.data.photo_pieces import bomb_problem, exif_work, scans_problem, stated_size


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey_jpeg(**options: object) -> bytes:
    return encoded(Image.new("RGB", (16, 16), (128, 128, 128)), "JPEG", **options)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def exif_of_many_entries(count: int) -> bytes:
    return b"Exif\x00\x00II*\x00" + struct.pack("<IH", 8, count)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"progressive": True}])
def test_the_size_that_a_header_states_is_pillows(kind: str, options: dict) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 300, 3), np.uint8))
    assert stated_size(io.BytesIO(encoded(image, kind, **options))) == (300, 5)
    turned = encoded(image, kind, **options, **({} if kind == "BMP" else {"exif": exif_of_many_entries(0)}))
    assert stated_size(io.BytesIO(turned)) == (300, 5)


def test_a_file_without_a_header_states_no_size() -> None:
    for data in (b"", b"words", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x00", b"RIFF\x04\x00\x00\x00WEBPVP8Z"):
        assert stated_size(io.BytesIO(data)) is None


def test_limits_are_exact_and_name_their_settings(tmp_path) -> None:
    write_photo(tmp_path / "a.png", size=(20, 30))
    num_bytes = (tmp_path / "a.png").stat().st_size
    assert read_image(tmp_path / "a.png", PhotoLimits(max_pixels=600, max_bytes=num_bytes)).shape == (20, 30, 3)
    with pytest.raises(BadImage, match=r"has 30 x 20 pixels, over the limit of 599: shrink it, or raise data\.limits"):
        read_image(tmp_path / "a.png", PhotoLimits(max_pixels=599))
    with pytest.raises(BadImage, match=rf"has {num_bytes:,} bytes, over the limit of {num_bytes - 1:,}: .*max_bytes"):
        read_image(tmp_path / "a.png", PhotoLimits(max_bytes=num_bytes - 1))
    assert image_size(tmp_path / "a.png") == (20, 30)


def test_a_limit_that_is_set_holds_for_loading_and_for_the_check(tmp_path) -> None:
    write_photo(tmp_path / "large.png", size=(20, 30))
    write_photo(tmp_path / "small.png", size=(10, 10))
    data = load_settings(DataSettings, None, [f"train.images={tmp_path}", "limits.max_pixels=500", "without_tags=true"])
    dataset = load_photos(data.train, name="train", limits=data.limits)
    reason = "has 30 x 20 pixels, over the limit of 500: shrink it, or raise data.limits.max_pixels"
    assert (dataset.image_ids, dataset.bad) == (("small.png",), (("large.png", reason),))
    (tmp_path / "tags.csv").write_text("file,tags\nlarge.png,a\nsmall.png,b\n")
    checked = data.model_copy(update={"train": SplitSettings(images=tmp_path, tags=tmp_path / "tags.csv")})
    assert f"train: large.png: {reason}" in check_data(checked)
    with pytest.raises(UserError, match=r"limits\.max_pixels"):
        load_settings(DataSettings, None, ["limits.max_pixels=400000000"])


def test_pipes_devices_and_sparse_files_are_set_aside(tmp_path) -> None:
    write_photo(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(6 << 30)
    dataset = load_photos(SplitSettings(images=tmp_path), name="train")
    assert dict(dataset.bad) == {
        "pipe.jpg": "is a named pipe, not a file",
        "zero.jpg": "is a device, not a file",
        "sparse.jpg": "has 6,442,450,944 bytes, over the limit of 536,870,912: shrink it, "
        "or raise data.limits.max_bytes",
    }
    assert dataset.image_ids == ("good.png",)


# Files made to keep a decoder busy


def test_scans_count_and_bytes_that_look_like_them_do_not(tmp_path) -> None:
    photo = grey_jpeg(progressive=True)
    start = photo.rfind(b"\xff\xda")
    scan = photo[start:-2]
    assert scans_problem(photo + b"\xff\xda" * 500) is None  # a film behind the end
    assert scans_problem(photo[:2] + segment(0xE2, b"\xff\xda" * 500) + photo[2:]) is None  # a preview before it
    bomb = photo[:-2] + scan * 200 + photo[-2:]
    num_scans = 200 + photo.count(b"\xff\xda")
    assert scans_problem(bomb) == f"has {num_scans} scans, over the limit of 100"
    (tmp_path / "bomb.jpg").write_bytes(bomb)
    with pytest.raises(BadImage, match="scans, over the limit of 100"):
        read_image(tmp_path / "bomb.jpg")


def many_segments() -> bytes:
    return b"\xff\xd8" + segment(0xFE, b"") * 20_000 + grey_jpeg()[2:]


def many_chunks() -> bytes:
    image = encoded(Image.new("L", (4, 4)), "PNG")
    return image[:33] + chunk(b"teXt", b"") * 20_000 + image[33:]


@pytest.mark.parametrize("build", [many_segments, many_chunks])
def test_more_pieces_than_any_photo_has_are_refused(tmp_path, build: Callable[[], bytes]) -> None:
    (tmp_path / "a.jpg").write_bytes(build())
    for read in (read_image, image_size):
        with pytest.raises(BadImage, match=r"has more than 10,\d\d\d pieces"):
            read(tmp_path / "a.jpg")


def test_exif_that_claims_too_much_is_refused_or_ignored(tmp_path) -> None:
    assert exif_work(exif_of_many_entries(50) + bytes(1000)) == 50 * 1010
    table = exif_of_many_entries(65_535) + bytes(65_000)
    parts = segment(0xE1, table) + segment(0xE1, b"Exif\x00\x00" + bytes(65_000)) * 2
    bomb = b"\xff\xd8" + parts + grey_jpeg()[2:]
    assert bomb_problem(io.BytesIO(bomb)) == "has EXIF that claims more than any camera writes"
    plain = encoded(Image.new("L", (4, 4)), "PNG")
    (tmp_path / "a.png").write_bytes(plain[:33] + chunk(b"eXIf", table[6:] * 4) + plain[33:])
    assert read_image(tmp_path / "a.png").shape == (4, 4, 3)
    assert image_size(tmp_path / "a.png") == (4, 4)


# Value-exact decoding


def test_every_sixteen_bit_value_is_rounded_as_floats_would(tmp_path) -> None:
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(wide).save(tmp_path / "deep.png")
    expected = np.round(wide.astype(np.float64) / 257).astype(np.uint8)
    assert (read_image(tmp_path / "deep.png") == expected[..., None]).all()


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "RGB", "I;16"])
def test_strips_hold_what_the_whole_picture_holds(tmp_path, monkeypatch, mode: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (23, 17, 4), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 250)
    else:
        image = Image.fromarray(noise).convert(mode)
    image.save(tmp_path / "a.png", **({"transparency": 3} if mode == "P" else {}))
    whole = read_image(tmp_path / "a.png")
    monkeypatch.setattr("weaksam.data.images._STRIP_PIXELS", 40)  # two rows at a time
    assert (read_image(tmp_path / "a.png") == whole).all()
