"""Photos of every mode, turn and kind of damage, written by the tests themselves."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weaksam.data.images import BadImage, image_size, read_image, verify_image

# A picture two pixels high and three wide, and how a camera stores it under each EXIF orientation:
# the tag says which side of the scene the first stored row and column are
UPRIGHT = [[1, 2, 3], [4, 5, 6]]
STORED = {
    1: [[1, 2, 3], [4, 5, 6]],  # row 0 is the top, column 0 the left
    2: [[3, 2, 1], [6, 5, 4]],  # top, right
    3: [[6, 5, 4], [3, 2, 1]],  # bottom, right
    4: [[4, 5, 6], [1, 2, 3]],  # bottom, left
    5: [[1, 4], [2, 5], [3, 6]],  # left, top
    6: [[3, 6], [2, 5], [1, 4]],  # right, top
    7: [[6, 3], [5, 2], [4, 1]],  # right, bottom
    8: [[4, 1], [5, 2], [6, 3]],  # left, bottom
}
BLOCK = 16


def picture(cells: list[list[int]]) -> Image.Image:
    """Each number as a block of its own grey."""
    return Image.fromarray(np.kron(np.array(cells, np.uint8) * 40, np.ones((BLOCK, BLOCK), np.uint8))).convert("RGB")


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def seen(image: np.ndarray) -> list[list[int]]:
    """The numbers read back from the middle of each block."""
    middle = image[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK, 0]
    return np.round(middle / 40).astype(int).tolist()


def move_exif_behind_pixels(path: Path) -> None:
    """Rewrite a PNG as some editors do, with its EXIF chunk after the pixels."""
    data = path.read_bytes()
    chunks, at = [], 8
    while at < len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append(data[at : at + 12 + length])
        at += 12 + length
    early = [chunk for chunk in chunks if chunk[4:8] not in (b"eXIf", b"IEND")]
    late = [chunk for chunk in chunks if chunk[4:8] == b"eXIf"]
    assert len(late) == 1
    path.write_bytes(data[:8] + b"".join(early + late + chunks[-1:]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_every_exif_orientation_is_applied_once(tmp_path, orientation, ending) -> None:
    path = tmp_path / f"photo.{ending}"
    picture(STORED[orientation]).save(path, exif=exif(orientation), **({"lossless": True} if ending == "webp" else {}))
    image = read_image(path)
    assert image.shape == (2 * BLOCK, 3 * BLOCK, 3)
    assert seen(image) == UPRIGHT
    assert image_size(path) == (2 * BLOCK, 3 * BLOCK)
    assert verify_image(path.read_bytes(), path) == ((2 * BLOCK, 3 * BLOCK), orientation)


def test_exif_behind_the_pixels_of_a_png_counts_too(tmp_path) -> None:
    path = tmp_path / "late.png"
    picture(STORED[6]).save(path, exif=exif(6))
    move_exif_behind_pixels(path)
    assert seen(read_image(path)) == UPRIGHT
    assert image_size(path) == (2 * BLOCK, 3 * BLOCK)
    assert verify_image(path.read_bytes(), path)[0] == (2 * BLOCK, 3 * BLOCK)


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp"])
def test_the_size_is_read_without_the_pixels(tmp_path, ending) -> None:
    path = tmp_path / f"half.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 64, 3), np.uint8)).save(path, lossless=True)
    if ending != "webp":  # Pillow's WebP reader wants the whole file
        path.write_bytes(path.read_bytes()[:1000])
    assert image_size(path) == (40, 64)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_out_of_range_turns_nothing(tmp_path, orientation) -> None:
    path = tmp_path / "odd.jpg"
    picture(STORED[1]).save(path, exif=exif(orientation))
    assert seen(read_image(path)) == UPRIGHT


def test_broken_exif_does_not_cost_the_photo(tmp_path) -> None:
    path = tmp_path / "broken-exif.jpg"
    picture(UPRIGHT).save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert seen(read_image(path)) == UPRIGHT
    assert image_size(path) == (2 * BLOCK, 3 * BLOCK)


def pixels(*rows: list) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_transparent_pixels_lie_on_white(tmp_path) -> None:
    path = tmp_path / "rgba.png"
    Image.fromarray(pixels([[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]])).save(path)
    # Half black over white: 255 - 128 = 127
    assert read_image(path).tolist() == [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]


def test_grey_with_alpha_and_a_transparent_colour_lie_on_white(tmp_path) -> None:
    Image.fromarray(pixels([[10, 255], [10, 0]])).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").tolist() == [[[10] * 3, [255] * 3]]
    Image.fromarray(pixels([[9, 8, 7], [1, 2, 3]])).save(tmp_path / "key.png", transparency=(1, 2, 3))
    assert read_image(tmp_path / "key.png").tolist() == [[[9, 8, 7], [255] * 3]]


def test_a_palette_gives_its_colours_and_its_transparent_entry_white(tmp_path) -> None:
    image = Image.fromarray(pixels([0, 1, 2]))
    image.putpalette([200, 100, 50, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "plain.png")
    assert read_image(tmp_path / "plain.png").tolist() == [[[200, 100, 50], [0, 0, 255], [9, 9, 9]]]
    image.save(tmp_path / "clear.png", transparency=1)
    assert read_image(tmp_path / "clear.png").tolist() == [[[200, 100, 50], [255] * 3, [9, 9, 9]]]


def test_grey_and_bilevel_become_rgb(tmp_path) -> None:
    Image.fromarray(pixels([0, 77, 255])).save(tmp_path / "grey.bmp")
    assert read_image(tmp_path / "grey.bmp").tolist() == [[[0] * 3, [77] * 3, [255] * 3]]
    Image.fromarray(pixels([0, 255])).convert("1").save(tmp_path / "two.png")
    assert read_image(tmp_path / "two.png").tolist() == [[[0] * 3, [255] * 3]]


def test_cmyk_becomes_rgb(tmp_path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "print.jpg").astype(int) - [255, 0, 0]).max() <= 4


def test_sixteen_bits_become_eight(tmp_path) -> None:
    wide = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 128, 255]
    assert read_image(tmp_path / "deep.png").shape == (1, 4, 3)


def test_sixteen_bit_colour_keeps_the_high_byte(tmp_path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(b"\x00" + struct.pack(">HHH", 65535, 0x8000, 0))
    path = tmp_path / "deep.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b""))
    assert read_image(path).tolist() == [[[255, 128, 0]]]


@pytest.mark.parametrize(("kind", "name"), [("PNG", "a.jpg"), ("JPEG", "a.png"), ("WEBP", "a.bmp"), ("BMP", "a.webp")])
def test_the_content_decides_not_the_name(tmp_path, kind, name) -> None:
    picture(UPRIGHT).save(tmp_path / name, format=kind)
    assert seen(read_image(tmp_path / name)) == UPRIGHT
    assert image_size(tmp_path / name) == (2 * BLOCK, 3 * BLOCK)


def damaged(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "bad.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    if kind in ("jpeg", "png", "bmp"):
        Image.fromarray(noise).save(path, format=kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "gif":
        Image.fromarray(noise).save(path, format="GIF")
    else:
        path.write_bytes({"page": b"<!DOCTYPE html><html>", "empty": b"", "text": b"just words, no picture"}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("jpeg", "truncated"),
        ("png", "truncated"),
        ("bmp", "truncated"),
        ("gif", "a GIF file"),
        ("page", "a web page"),
        ("empty", "empty"),
        ("text", "not a photo"),
    ],
)
def test_a_broken_file_says_what_was_wanted_and_found(tmp_path, kind, reason) -> None:
    path = damaged(tmp_path, kind)
    for read in (read_image, lambda p: verify_image(p.read_bytes(), p)):
        with pytest.raises(BadImage, match=reason) as caught:
            read(path)
        assert "wanted a complete JPEG, PNG, WebP or BMP photo at" in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_missing_photo_is_a_bad_image(tmp_path) -> None:
    with pytest.raises(BadImage, match="No such file"):
        read_image(tmp_path / "none.jpg")


def test_too_many_pixels_are_refused_before_decoding(tmp_path) -> None:
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e")
    for read, limit in ((read_image, "120,000,000: shrink it, or raise data.limits"), (image_size, "357,913,940")):
        with pytest.raises(BadImage, match=f"has 20000 x 20000 pixels, over the limit of {limit}"):
            read(tmp_path / "huge.png")


def test_sizes_of_the_real_photos_agree_with_their_pixels(shared_data) -> None:
    folder = shared_data / "fruit3" / "images" / "train"
    # PNG under a .jpg name: one RGBA and one palette among them, and JPEG
    odd = [path for path in sorted(folder.iterdir()) if path.read_bytes()[:4] == b"\x89PNG"]
    modes = set()
    for path in odd:
        with Image.open(path) as image:
            modes.add(image.mode)
    assert {"RGBA", "P"} <= modes
    for path in odd[:12] + sorted(folder.iterdir())[:12]:
        pixels = read_image(path)
        assert pixels.shape == (*image_size(path), 3)
        assert verify_image(path.read_bytes(), path)[0] == pixels.shape[:2]
