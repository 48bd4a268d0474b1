"""Read photo files as upright 8-bit RGB arrays, and say why a file is not one complete photo."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from weaksam.config import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""Formats that are read, by Pillow's names."""
MAX_PIXELS = 178_956_970
"""Largest photo read, in pixels (the size at which Pillow itself stops); 0.5 GiB as RGB."""

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"})
"""Endings of files that are taken for photos; what they really hold is read from their content."""

_ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings the stored pixels upright, by EXIF orientation; 1 is upright already."""
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


def read_image(path: Path) -> np.ndarray:
    """The photo as uint8 RGB ``(H, W, 3)``, upright (EXIF orientation applied once).

    The format is taken from the content, not from the name. Transparent pixels lie on white; grey, palette and CMYK
    become RGB; 16 bits become 8 by v / 257; of an animation the first frame is read. Raises :class:`BadImage` for
    anything else.
    """
    return decode_image(None, path)


def decode_image(data: bytes | None, path: Path) -> np.ndarray:
    """The photo held in ``data`` (None: in the file ``path``) as of `read_image`; errors name ``path``."""
    with _opened(path, data) as image:
        image.load()
        turn = _UPRIGHT.get(exif_orientation(image))
        rgb = _as_rgb(image)
        return np.asarray(rgb if turn is None else rgb.transpose(turn)).copy()


def image_size(path: Path) -> tuple[int, int]:
    """``(height, width)`` of the upright photo, read without decoding its pixels; raises :class:`BadImage`."""
    with _opened(path) as image:
        # To look for EXIF in a PNG, Pillow decodes it; most have none
        if image.format == "PNG" and not _may_be_turned(path):
            return image.height, image.width
        width, height = image.size
        return (height, width) if exif_orientation(image) < 5 else (width, height)


def verify_image(data: bytes, path: Path) -> tuple[tuple[int, int], int]:
    """Upright ``(height, width)`` and EXIF orientation (1-8) of a photo held in ``data``, after decoding all of it.

    A JPEG is decoded at an eighth of its size, which still walks every byte. Raises :class:`BadImage`, naming ``path``.
    """
    with _opened(path, data) as image:
        width, height = image.size
        image.draft("L", (max(1, width // 8), max(1, height // 8)))
        image.load()
        orientation = exif_orientation(image)
        return ((height, width) if orientation < 5 else (width, height)), orientation


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8 of an opened image; 1 where it is absent, out of range or unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is free-form bytes: a broken block says nothing about the pixels
        return 1
    return value if value in _UPRIGHT else 1


@contextmanager
def _opened(path: Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """The image at ``path`` (or in ``data``), with every way in which Pillow can fail turned into :class:`BadImage`."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large photos and odd EXIF; the limit below decides
            warnings.simplefilter("ignore")
            with Image.open(path if data is None else io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadImage(path, f"has {image.width} x {image.height} pixels, over the limit of {MAX_PIXELS}")
                yield image
    except (BadImage, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise BadImage(path, f"has more pixels than the limit of {MAX_PIXELS}") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more for broken files
        raise BadImage(path, _reason(path, data, error)) from error


def _reason(path: Path, data: bytes | None, error: Exception) -> str:
    """What is wrong with a file that Pillow refused, as a verb phrase."""
    if data is None:
        try:
            with path.open("rb") as stream:
                data = stream.read(64)
        except OSError as problem:
            return f"cannot be opened ({problem.strerror})"
    if not data:
        return "is empty (0 bytes)"
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return f"is truncated ({error}): copy or download it again"
    for magic, kind in _FOREIGN:
        if data.lstrip().startswith(magic):
            return f"is {kind}"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "is a HEIC or AVIF file: convert it to JPEG"
    if isinstance(error, UnidentifiedImageError):
        return f"is not a photo (it begins with {data[:12]!r})"
    return f"is damaged ({error}): copy or download it again"


def _may_be_turned(path: Path) -> bool:
    """Whether a PNG has a chunk, anywhere, in which Pillow looks for an orientation (EXIF, XMP or other text)."""
    with path.open("rb") as stream:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            if head[4:] in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                return True
            stream.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)
    return False


def _as_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a decoded image of any mode."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow itself narrows 16-bit colour
        wide = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.round(wide.clip(0, 65535) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
