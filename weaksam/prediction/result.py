"""Hold what was detected on one photo: convert it for other tools, and draw it."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.formats.coco_writing import Entry, object_entries
from weaksam.data.images import read_image
from weaksam.report.pictures import Canvas
from weaksam.structures.instances import Instances
from weaksam.structures.masks import mask_from_rle

DRAWN_FROM = 0.3
"""Score from which a detection is drawn where nobody says."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The N detections on one photo, best first; N = 0 is a photo on which nothing was detected."""

    name: str
    """The photo's file name, relative to its folder where one was given; ``photo 0``, ... of arrays."""
    size: tuple[int, int]
    """``(H, W)`` of the upright photo in pixels."""
    instances: Instances
    """Boxes, labels, scores and, where the network gives them, masks."""
    classes: tuple[str, ...]
    """Their names by label."""
    category_ids: tuple[int, ...]
    """Their numbers in COCO files, by label."""
    photo: Path | np.ndarray | None = field(default=None, repr=False)
    """The photo's file, or its pixels ``(H, W, 3)`` where it came as such; what `draw` draws on."""

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def boxes(self) -> Tensor:
        """float32 ``(N, 4)``, half-open xyxy in pixels."""
        return self.instances.boxes

    @property
    def labels(self) -> Tensor:
        """int64 ``(N,)`` into ``classes``."""
        return self.instances.labels

    @property
    def scores(self) -> Tensor:
        """float32 ``(N,)`` in [0, 1]."""
        assert self.instances.scores is not None
        return self.instances.scores

    @property
    def names(self) -> list[str]:
        """The class of each detection by name."""
        return [self.classes[label] for label in self.labels.tolist()]

    @property
    def masks(self) -> Tensor | None:
        """bool ``(N, H, W)``, decoded anew at each call; None where the network gives none."""
        if self.instances.masks is None:
            return None
        empty = torch.zeros((0, *self.size), dtype=torch.bool)
        return torch.stack([mask_from_rle(rle) for rle in self.instances.masks]) if len(self) else empty

    def above(self, min_score: float) -> Prediction:
        """The same without detections below ``min_score``."""
        return replace(self, instances=self.instances[self.scores >= min_score])

    def to_coco(self, image_id: int | str | None = None) -> list[Entry]:
        """Entries of a COCO results list; ``image_id`` is the photo's name where none is given."""
        image = self.name if image_id is None else image_id
        return [{"image_id": image, **entry} for entry in object_entries(self.instances, self.category_ids)]

    def to_supervision(self) -> Any:
        """The same as ``supervision.Detections``, names under ``data["class_name"]``.

        Raises `UserError` where supervision is not installed.
        """
        try:
            detections = import_module("supervision").Detections
        except ImportError:
            raise UserError("wanted the package supervision, found none: pip install supervision") from None
        masks = self.masks
        return detections(
            xyxy=self.boxes.numpy(),
            mask=None if masks is None else masks.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-like values: name, width, height, and of each detection class, score, box and mask (RLE)."""
        detections = []
        for row, (box, score, name) in enumerate(
            zip(self.boxes.tolist(), self.scores.tolist(), self.names, strict=True)
        ):
            mask = {} if self.instances.masks is None else {"mask": self.instances.masks[row]}
            detections.append({"class": name, "score": score, "box": box, **mask})
        return {"file": self.name, "width": self.size[1], "height": self.size[0], "detections": detections}

    def draw(self, min_score: float = DRAWN_FROM, max_side: int = 1024) -> Image.Image:
        """The photo with its detections of at least ``min_score``, its longer side at most ``max_side`` pixels.

        Raises `UserError` where the photo cannot be read any more, or was not kept.
        """
        if self.photo is None:
            raise UserError(f"wanted the pixels of {self.name} to draw on, found none kept: predict on it again")
        image = self.photo if isinstance(self.photo, np.ndarray) else read_image(self.photo)
        shown = self.above(min_score)
        captions = [f"{name} {score:.2f}" for name, score in zip(shown.names, shown.scores.tolist(), strict=True)]
        canvas = Canvas(image, min(max_side, max(image.shape[:2])))
        return canvas.instances(shown.instances, captions=captions).photo

    def _repr_png_(self) -> bytes:
        """The picture that notebooks show."""
        buffer = io.BytesIO()
        self.draw().save(buffer, format="PNG")
        return buffer.getvalue()
