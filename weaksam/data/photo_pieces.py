"""Read the header of a photo's file and how it is divided, to refuse one that was made to keep its decoder busy.

A decoder walks every piece of a file, and every scan of a JPEG over all pixels; a few kilobytes can ask for minutes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

MAX_PIECES = 10_000
"""Pieces that any file may have; a longer file may have one more for each KiB."""
MAX_SCANS = 100
"""Scans of a JPEG; progressive photos have about ten."""
MAX_EXIF_BYTES = 16 << 20
"""EXIF of all segments of a JPEG together; the standard allows 64 KiB."""
MAX_EXIF_WORK = 512 << 20
"""Bytes of EXIF times the entries of its first table: what a reader copies where every entry claims all of them."""

_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF = b"Exif\x00\x00"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG whose segments state its size."""
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A marker among the coded pixels of a JPEG: neither an escaped byte, nor filling, nor a restart."""


class FilePiece(NamedTuple):
    """A segment or chunk: its name, where its content starts, and how many bytes it says to have."""

    name: bytes
    start: int
    length: int


def bomb_problem(file: BinaryIO) -> str | None:
    """Why the file would take its decoder far longer than any photo does, a verb phrase; None where it would not.

    A file that is cut short or no JPEG, PNG or WebP is none of these. Moves the position in ``file``.
    """
    num_bytes = file.seek(0, io.SEEK_END)
    most = MAX_PIECES + num_bytes // 1024
    exif = b""
    for number, piece in enumerate(pieces(file), start=1):
        if number > most:
            return f"has more than {most:,} pieces"
        if piece.name == b"\xe1":
            exif += _exif_of(file, piece)
        if len(exif) > MAX_EXIF_BYTES:
            return f"has EXIF of more than {MAX_EXIF_BYTES:,} bytes"
    return "has EXIF that claims more than any camera writes" if exif_work(exif) > MAX_EXIF_WORK else None


def exif_work(exif: bytes) -> int:
    """The most bytes that reading the first table of ``exif`` can copy; 0 for what is no EXIF."""
    tables = exif.removeprefix(_EXIF)
    if tables[:4] not in (b"II*\x00", b"MM\x00*"):
        return 0
    order: Literal["little", "big"] = "little" if tables[:2] == b"II" else "big"
    start = int.from_bytes(tables[4:8], order)
    return int.from_bytes(tables[start : start + 2], order) * len(tables)


def stated_size(file: BinaryIO) -> tuple[int, int] | None:
    """``(width, height)`` that the header of a JPEG, PNG, WebP or BMP claims, in pixels as stored; None without one.

    Moves the position in ``file``.
    """
    file.seek(0)
    head = file.read(30)
    if head.startswith(_PNG):
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if head.startswith(b"BM"):
        width, height = (int.from_bytes(head[start : start + 4], "little", signed=True) for start in (18, 22))
        return abs(width), abs(height)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp_size(head)
    frame = next((piece for piece in pieces(file) if piece.name[0] in _FRAMES), None)
    if frame is None:
        return None
    file.seek(frame.start + 3)
    sides = file.read(4)
    return int.from_bytes(sides[2:], "big"), int.from_bytes(sides[:2], "big")


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """The sides of the canvas, or of the one frame, in the first 30 bytes of a WebP."""
    kind = head[12:16]
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return None


def scans_problem(data: bytes) -> str | None:
    """Why a JPEG's scans are too many, a verb phrase; None where they are not.

    Only markers count, not bytes that look like them in a preview, or in the film that telephones append.
    """
    if data.count(b"\xff\xda") <= MAX_SCANS:
        return None
    start = next((piece.start + piece.length for piece in pieces(io.BytesIO(data)) if piece.name == b"\xda"), len(data))
    num_scans = 1
    while (match := _MARKER.search(data, start)) is not None and match[0] != b"\xff\xd9":
        num_scans += match[0] == b"\xff\xda"
        start = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return f"has {num_scans:,} scans, over the limit of {MAX_SCANS}" if num_scans > MAX_SCANS else None


def pieces(file: BinaryIO) -> Iterator[FilePiece]:
    """The segments of a JPEG up to its first scan, or the chunks of a PNG or WebP; none of another file."""
    file.seek(0)
    head = file.read(12)
    if head.startswith(b"\xff\xd8"):
        yield from _segments(file)
    elif head.startswith(_PNG):
        yield from _chunks(file, start=8, order="big")
    elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
        yield from _chunks(file, start=12, order="little")


def _segments(file: BinaryIO) -> Iterator[FilePiece]:
    at = 2
    while True:
        file.seek(at)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return
        if head[1] in (0xFF, 0x01, *range(0xD0, 0xD9)):  # filling, and markers without content
            yield FilePiece(head[1:2], at + 1, 0)
            at += 1 if head[1] == 0xFF else 2
            continue
        length = int.from_bytes(head[2:], "big")
        yield FilePiece(head[1:2], at + 2, length)
        if head[1] in (0xD9, 0xDA):
            return
        at += 2 + max(length, 2)


def _chunks(file: BinaryIO, start: int, order: str) -> Iterator[FilePiece]:
    """Chunks of PNG (length, name, content, checksum) or RIFF (name, length, content, filled up to an even number)."""
    at = start
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        if order == "big":
            name, length = head[4:], int.from_bytes(head[:4], "big")
            at += 12 + length
        else:
            name, length = head[:4], int.from_bytes(head[4:], "little")
            at += 8 + length + length % 2
        yield FilePiece(name, file.tell(), length)


def _exif_of(file: BinaryIO, piece: FilePiece) -> bytes:
    """The EXIF in a segment of a JPEG; nothing where it holds something else, such as XMP."""
    file.seek(piece.start + 2)
    content = file.read(max(piece.length - 2, 0))
    return content.removeprefix(_EXIF) if content.startswith(_EXIF) else b""
