"""Arrange pictures on one sheet, each under a heading, and write it as PNG or JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from weaksam.config import UserError
from weaksam.store.files import atomic_file

_GAP, _HEAD = 8, 26


def arranged(pictures: Sequence[tuple[list[tuple[str, str]], Image.Image]], columns: int) -> Image.Image:
    """One sheet of the pictures, all of one size, row by row on white, each under its coloured words."""
    columns = min(columns, len(pictures))
    width, height = pictures[0][1].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new(
        "RGB", (columns * (width + _GAP) + _GAP, rows * (height + _HEAD + _GAP) + _GAP // 2), color="#ffffff"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for index, (words, picture) in enumerate(pictures):
        x = _GAP + index % columns * (width + _GAP)
        y = index // columns * (height + _HEAD + _GAP)
        sheet.paste(picture, (x, y + _HEAD))
        draw.rectangle((x - 1, y + _HEAD - 1, x + width, y + _HEAD + height), outline="#c0c0c0")
        for word, colour in words:
            draw.text((x, y + 4), word, fill=colour, font=font)
            x += int(draw.textlength(word, font=font)) + 12
    return sheet


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture as its name's ending says (.png or .jpg), whole or not at all."""
    picture_format = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if picture_format is None:
        raise UserError(f"wanted a picture named .png or .jpg, found {path}: rename it")
    # Of PNG the fastest compression: a sheet of photos takes a fifth of the time and is a fifth larger
    options = {"quality": 85, "optimize": True} if picture_format == "JPEG" else {"compress_level": 1}
    buffer = io.BytesIO()
    picture.save(buffer, format=picture_format, **options)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
