"""Read photo files as upright 8-bit RGB arrays, and say why a file is not one complete photo."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from weaksam.config import UserError
from weaksam.data.photo_limits import MOST_PIXELS, PhotoLimits
from weaksam.data.photo_pieces import MAX_EXIF_WORK, bomb_problem, exif_work, pieces, scans_problem, stated_size
from weaksam.regular_files import NotRegularError, TooLargeError, open_regular, read_regular

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""Formats that are read, by Pillow's names."""
LIMITS = PhotoLimits()
"""The limits where nobody set others."""

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"})
"""Endings of files that are taken for photos; what they really hold is read from their content."""

_ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""
_UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""What brings stored pixels upright, by EXIF orientation: transpose, then flip rows, columns; 1 is upright already."""
_RAW_EXIF = "Raw profile type exif"
"""The text of a PNG in which ImageMagick keeps EXIF, as hexadecimal numbers after three lines."""
_STRIP_PIXELS = 1 << 20
"""Pixels that are converted to RGB at a time."""
_FOREIGN = (
    (b"GIF8", "a GIF file"),
    (b"II*\x00", "a TIFF file"),
    (b"MM\x00*", "a TIFF file"),
    (b"%PDF", "a PDF file"),
    (b"<", "a web page or XML file"),
    (b"PK\x03\x04", "a zip file"),
    (b"version https://git-lfs", "a git-lfs pointer, not the photo itself"),
)
"""Files that are often taken for photos: their first bytes, and what they are."""


class BadImage(UserError):
    """A file that cannot be read as one complete photo; ``reason`` is the message without the file's name."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"wanted a complete JPEG, PNG, WebP or BMP photo at {path}, found one that {reason}")
        self.reason = reason


def read_image(path: Path, limits: PhotoLimits = LIMITS) -> np.ndarray:
    """The photo as uint8 RGB ``(H, W, 3)``, upright (EXIF orientation applied once).

    The format is taken from the content, not from the name. Transparent pixels lie on white; grey, palette and CMYK
    become RGB; 16 bits become 8 by v / 257; of an animation the first frame is read. Raises :class:`BadImage` for
    anything else, and for a photo over ``limits``.
    """
    return decode_image(photo_bytes(path, limits), path, limits)


def photo_bytes(path: Path, limits: PhotoLimits = LIMITS) -> bytes:
    """The bytes of a photo's file; raises :class:`BadImage` where it is none, cannot be opened or is over the limit."""
    try:
        return read_regular(path, limits.max_bytes)
    except OSError as error:
        raise BadImage(path, _unopened(path, error)) from None


def decode_image(data: bytes, path: Path, limits: PhotoLimits = LIMITS) -> np.ndarray:
    """The photo held in ``data`` as of `read_image`; errors name ``path``."""
    with _opened(path, data, limits.max_pixels) as image:
        image.load()
        return _turned(_rgb_pixels(image), exif_orientation(image))


def image_size(path: Path) -> tuple[int, int]:
    """``(height, width)`` of the upright photo, read without decoding its pixels; raises :class:`BadImage`.

    No limit of pixels is set but Pillow's own; of a WebP, which is read whole, the usual limit of bytes.
    """
    with _opened(path, None, MOST_PIXELS) as image:
        # To look for EXIF in a PNG, Pillow decodes it; most have none
        if image.format == "PNG" and not _may_be_turned(path):
            return image.height, image.width
        width, height = image.size
        return (height, width) if exif_orientation(image) < 5 else (width, height)


def verify_image(data: bytes, path: Path, limits: PhotoLimits = LIMITS) -> tuple[tuple[int, int], int]:
    """Upright ``(height, width)`` and EXIF orientation (1-8) of a photo held in ``data``, after decoding all of it.

    A JPEG is decoded at an eighth of its size, which still walks every byte. Raises :class:`BadImage`, naming ``path``,
    also for a photo of more pixels than ``limits`` allow.
    """
    with _opened(path, data, limits.max_pixels) as image:
        width, height = image.size
        image.draft("L", (max(1, width // 8), max(1, height // 8)))
        image.load()
        orientation = exif_orientation(image)
        return ((height, width) if orientation < 5 else (width, height)), orientation


def num_pixels(data: bytes) -> int:
    """Pixels that the header of a photo in ``data`` claims; 0 for what has no such header."""
    width, height = stated_size(io.BytesIO(data)) or (0, 0)
    return width * height


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8 of an opened image; 1 where it is absent, out of range or unreadable."""
    try:
        if image.format == "PNG":
            image.load()  # EXIF may come after the pixels
        exif = image.info.get("exif") or bytes.fromhex("".join(image.info.get(_RAW_EXIF, "").split("\n")[3:]))
        if exif_work(exif) > MAX_EXIF_WORK:
            return 1
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is free-form bytes: a broken block says nothing about the pixels
        return 1
    return value if value in _UPRIGHT else 1


@contextmanager
def _opened(path: Path, data: bytes | None, max_pixels: int) -> Iterator[Image.Image]:
    """The image at ``path`` (or in ``data``), with every way in which Pillow can fail turned into :class:`BadImage`.

    Header and pieces are looked at first: Pillow makes room for a WebP before anybody can ask for its size.
    """
    head = b""
    try:
        with warnings.catch_warnings(), open_regular(path) if data is None else io.BytesIO(data) as file:
            # Pillow warns of large photos and odd EXIF; the limits decide
            warnings.simplefilter("ignore")
            head = file.read(64)
            _refuse(path, _limit_problem(stated_size(file), max_pixels) or bomb_problem(file))
            if data is not None:
                _refuse(path, scans_problem(data))
            elif head[8:12] == b"WEBP" and file.seek(0, io.SEEK_END) > LIMITS.max_bytes:
                raise TooLargeError(path, file.tell(), LIMITS.max_bytes)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                _refuse(path, _limit_problem(image.size, max_pixels))
                yield image
    except (BadImage, MemoryError):
        raise
    except (NotRegularError, TooLargeError) as error:
        raise BadImage(path, _unopened(path, error)) from None
    except Image.DecompressionBombError:
        raise BadImage(path, f"has more than {MOST_PIXELS:,} pixels, which are not read") from None
    except OSError as error:
        if error.errno is not None and not head:
            raise BadImage(path, _unopened(path, error)) from None
        raise BadImage(path, _reason(head, error)) from error
    except Exception as error:  # Pillow raises SyntaxError, struct.error and more for broken files
        raise BadImage(path, _reason(head, error)) from error


def _refuse(path: Path, problem: str | None) -> None:
    """`BadImage` where there is a problem with the file."""
    if problem is not None:
        raise BadImage(path, problem)


def _limit_problem(size: tuple[int, int] | None, max_pixels: int) -> str | None:
    """Why a picture of ``size`` (width, height) has too many pixels, a verb phrase; None where it has not."""
    if size is None or size[0] * size[1] <= max_pixels:
        return None
    raised = "shrink it, or raise data.limits.max_pixels" if max_pixels < MOST_PIXELS else "shrink it"
    return f"has {size[0]} x {size[1]} pixels, over the limit of {max_pixels:,}: {raised}"


def _unopened(path: Path, error: OSError) -> str:
    """Why a photo's file was not read at all, a verb phrase."""
    if isinstance(error, NotRegularError):
        return f"is {error.strerror}"
    if isinstance(error, TooLargeError):
        return f"has {error.strerror}: shrink it, or raise data.limits.max_bytes"
    return "is a link that leads nowhere" if path.is_symlink() else f"cannot be opened ({error.strerror})"


def _reason(head: bytes, error: Exception) -> str:
    """What is wrong with a file that Pillow refused and that begins with ``head``, as a verb phrase."""
    if not head:
        return "is empty (0 bytes)"
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return f"is truncated ({error}): copy or download it again"
    for magic, kind in _FOREIGN:
        if head.lstrip().startswith(magic):
            return f"is {kind}"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "is a HEIC or AVIF file: convert it to JPEG"
    if isinstance(error, UnidentifiedImageError):
        return f"is not a photo (it begins with {head[:12]!r})"
    return f"is damaged ({error}): copy or download it again"


def _may_be_turned(path: Path) -> bool:
    """Whether a PNG has a chunk, anywhere, in which Pillow looks for an orientation (EXIF, XMP or other text)."""
    with open_regular(path) as file:
        return any(piece.name in (b"eXIf", b"iTXt", b"zTXt", b"tEXt") for piece in pieces(file))


# Pixels


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    """8-bit RGB ``(H, W, 3)`` of a decoded image of any mode, made in strips, so that no second whole one is there."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        pixels[top:bottom] = _as_rgb(image.crop((0, top, width, bottom)))
    return pixels


def _as_rgb(image: Image.Image) -> np.ndarray:
    """8-bit RGB ``(H, W, 3)``, or grey ``(H, W, 1)``, of a decoded image of any mode."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow itself narrows 16-bit colour
        wide = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return ((wide + 128) // 257).astype(np.uint8)[..., None]  # v / 257 rounded: 257 is odd, so nothing is half-way
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels ``(H, W, 3)`` brought upright as their EXIF orientation (1-8) wants."""
    transposed, flipped_rows, flipped_columns = _UPRIGHT.get(orientation, (False, False, False))
    pixels = pixels.transpose(1, 0, 2) if transposed else pixels
    return np.ascontiguousarray(pixels[:: -1 if flipped_rows else 1, :: -1 if flipped_columns else 1])
