"""Draw peaks, boxes and masks on a photo, small enough to be embedded in a page."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, mask_from_rle

COLOURS = (
    "#e6194b", "#2f8be6", "#3cb44b", "#f58231", "#a54bd6", "#12b5b0", "#f032e6", "#9acd32", "#d4a017", "#ff7f9f",
    "#6a7bff", "#b5651d",
)  # fmt: skip
"""Colours of the classes, by label."""


def colour_of(label: int) -> str:
    """The colour (``#rrggbb``) of class ``label``; classes beyond the palette start again."""
    return COLOURS[label % len(COLOURS)]


class Canvas:
    """A photo, resized to a long side of ``max_side``, on which everything is drawn in pixels of the original.

    ``image``: uint8 ``(H, W, 3)`` RGB. Drawing nothing leaves the photo as it is.
    """

    def __init__(self, image: np.ndarray, max_side: int = 340) -> None:
        photo = Image.fromarray(image)
        self.scale = max_side / max(photo.size)
        size = (max(1, round(photo.width * self.scale)), max(1, round(photo.height * self.scale)))
        self.photo = photo.resize(size, Image.Resampling.LANCZOS)

    def boxes(
        self, boxes: Tensor, labels: Sequence[int] | None = None, *, dashed: bool = False, width: int = 2
    ) -> Canvas:
        """Outline xyxy ``boxes (N, 4)`` in the colour of their class, or in white on dark without ``labels``."""
        draw = ImageDraw.Draw(self.photo)
        for number, box in enumerate(boxes.tolist()):
            colour = "#ffffff" if labels is None else colour_of(int(labels[number]))
            x1, y1, x2, y2 = (round(v * self.scale) for v in box)
            corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
            if labels is None and not dashed:
                draw.line(corners, fill="#202020", width=width + 2)
            for start, end in itertools.pairwise(corners):
                (_dashed_line if dashed else _line)(draw, start, end, colour, width)
        return self

    def points(self, points: Tensor, labels: Sequence[int]) -> Canvas:
        """Mark xy ``points (P, 2)`` with a disc in the colour of their class, in white for no class (-1)."""
        draw = ImageDraw.Draw(self.photo)
        for (x, y), label in zip(points.tolist(), labels, strict=True):
            x, y = x * self.scale, y * self.scale
            colour, rim = (colour_of(int(label)), "#ffffff") if label >= 0 else ("#ffffff", "#202020")
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour, outline=rim, width=1)
        return self

    def heat(self, class_map: Tensor, label: int) -> Canvas:
        """Lay a map ``(h, w)``, cut at 0 and stretched, over the photo: grey where low, coloured where high."""
        low = class_map.clamp(min=0).float()
        low = (low - low.min()) / (low.max() - low.min() + 1e-8)
        strength = Image.fromarray(low.numpy()).resize(self.photo.size, Image.Resampling.BICUBIC)
        share = np.asarray(strength).clip(0, 1)[:, :, None]
        tint = np.array(ImageColor.getrgb(colour_of(label)), dtype=np.float32)
        grey = 0.55 * np.asarray(self.photo.convert("L").convert("RGB")).astype(np.float32)
        mixed = (1 - 0.75 * share) * grey + 0.75 * share * (0.35 * np.asarray(self.photo) + 0.65 * tint)
        self.photo = Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
        return self

    def masks(self, masks: Sequence[Rle], labels: Sequence[int], opacity: float = 0.5) -> Canvas:
        """Tint RLE ``masks`` in the colour of their class."""
        pixels = np.asarray(self.photo).astype(np.float32)
        for rle, label in zip(masks, labels, strict=True):
            inside = Image.fromarray(mask_from_rle(rle).numpy()).resize(self.photo.size, Image.Resampling.NEAREST)
            tint = np.array(Image.new("RGB", (1, 1), colour_of(int(label)))).reshape(3).astype(np.float32)
            chosen = np.asarray(inside)
            pixels[chosen] = (1 - opacity) * pixels[chosen] + opacity * tint
        self.photo = Image.fromarray(pixels.round().astype(np.uint8))
        return self

    def instances(self, instances: Instances, *, captions: Sequence[str] | None = None) -> Canvas:
        """Masks (where there are some), boxes and ``captions`` of one image's instances."""
        labels = instances.labels.tolist()
        if instances.masks is not None:
            self.masks(instances.masks, labels)
        self.boxes(instances.boxes, labels)
        draw = ImageDraw.Draw(self.photo)
        for box, label, caption in zip(instances.boxes.tolist(), labels, captions or (), strict=False):
            _caption(draw, (box[0] * self.scale, box[1] * self.scale), caption, colour_of(label))
        return self

    def uri(self, quality: int = 82) -> str:
        """The picture as a ``data:`` address holding a JPEG."""
        buffer = io.BytesIO()
        self.photo.save(buffer, format="JPEG", quality=quality, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _line(draw: ImageDraw.ImageDraw, start: tuple, end: tuple, colour: str, width: int) -> None:
    draw.line((start, end), fill=colour, width=width)


def _dashed_line(draw: ImageDraw.ImageDraw, start: tuple, end: tuple, colour: str, width: int, dash: int = 6) -> None:
    """Dashes of ``dash`` pixels on dark, so that they show on any photo."""
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    draw.line((start, end), fill="#202020", width=width)
    for offset in range(0, length, 2 * dash):
        share1, share2 = offset / length, min(offset + dash, length) / length
        piece = [tuple(a + (b - a) * share for a, b in zip(start, end, strict=True)) for share in (share1, share2)]
        draw.line(piece, fill=colour, width=width)


def _caption(draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, colour: str) -> None:
    font = ImageFont.load_default(size=11)
    x, y = max(corner[0], 0), max(corner[1] - 13, 0)
    draw.rectangle((x, y, x + draw.textlength(text, font=font) + 4, y + 13), fill=colour)
    draw.text((x + 2, y), text, fill="#ffffff", font=font)
