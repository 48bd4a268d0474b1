"""Detect with an exported model: needs numpy and onnxruntime, and Pillow to read files; neither torch nor weaksam.

python onnx_runner.py photo.jpg ...

from onnx_runner import Model
detections = Model("folder").detect(pixels)  # uint8 RGB (H, W, 3)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Model:
    """An exported model: ``folder`` holds ``model.onnx`` and ``model.json``."""

    def __init__(self, folder: str | Path = ".", threads: int = 0) -> None:
        """``threads`` of onnxruntime; 0: its own choice."""
        import onnxruntime  # here, so that a process that imports weaksam needs it only when it runs a model

        self.about: dict[str, Any] = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
        self.classes: list[str] = self.about["classes"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(Path(folder) / "model.onnx"), options, providers=onnxruntime.get_available_providers()
        )

    def detect(self, image: np.ndarray, min_score: float = 0.0) -> dict[str, np.ndarray]:
        """Detections on a photo, uint8 RGB ``(H, W, 3)``, best first; see `detect_batch`."""
        return self.detect_batch([image], min_score)[0]

    def detect_batch(self, images: Sequence[np.ndarray], min_score: float = 0.0) -> list[dict[str, np.ndarray]]:
        """Of each photo ``boxes`` (N, 4) xyxy in its pixels, ``scores`` (N,), ``labels`` (N,) and, maybe, ``masks``.

        Masks are bool ``(N, H, W)``. Scores are at least ``min_score``; without any detection N is 0.
        """
        frame = (self.about["height"], self.about["width"])
        batch = np.zeros((len(images), 3, *frame), np.uint8)
        sizes = np.array([self.shown_size(image.shape[:2]) for image in images], np.int64).reshape(-1, 2)
        for place, image, (height, width) in zip(batch, images, sizes.tolist(), strict=True):
            place[:, :height, :width] = resized(image, (height, width)).transpose(2, 0, 1)
        outputs = self.run(batch, sizes)
        photos = zip(images, sizes.tolist(), strict=True)
        return [
            self._in_photo({name: value[row] for name, value in outputs.items()}, image.shape[:2], size, min_score)
            for row, (image, size) in enumerate(photos)
        ]

    def run(self, batch: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        """The model's own outputs by name, of ``batch`` uint8 (B, 3, H, W) and its photos' ``sizes`` (B, 2) (h, w)."""
        names = self.about["outputs"]
        values = self.session.run(names, {"images": batch, "sizes": sizes})
        return dict(zip(names, values, strict=True))

    def shown_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """``(h, w)`` at which a photo of ``size`` (H, W) is shown, inside the model's frame."""
        about = self.about
        factor = min(about["short_side"] / min(size), about["long_side"] / max(size))
        factor = min(factor, about["height"] / size[0], about["width"] / size[1])
        height, width = (max(1, round(side * factor)) for side in size)
        return min(height, about["height"]), min(width, about["width"])

    def _in_photo(
        self, outputs: dict[str, np.ndarray], size: tuple[int, ...], shown: Sequence[int], min_score: float
    ) -> dict[str, np.ndarray]:
        """The rows that are detections, in the frame of the photo of ``size`` (H, W) that was ``shown`` (h, w)."""
        there = (outputs["scores"] > 0) & (outputs["scores"] >= min_score)
        rows = {name: value[there] for name, value in outputs.items()}
        if self.about["masks"] == "frame":
            return self._from_frame(rows, size, shown, min_score)
        scale = np.array([size[1] / shown[1], size[0] / shown[0]] * 2, np.float32)
        limit = np.array([size[1], size[0]] * 2, np.float32)
        rows["boxes"] = np.minimum(rows["boxes"] * scale, limit)
        if self.about["masks"] == "box":
            threshold = self.about["mask_threshold"]
            pairs = zip(rows["masks"], rows["boxes"], strict=True)
            masks = [pasted(mask, box, (size[0], size[1])) >= threshold for mask, box in pairs]
            rows["masks"] = np.array(masks, bool).reshape(-1, size[0], size[1])
        return rows

    def _from_frame(
        self, rows: dict[str, np.ndarray], size: tuple[int, ...], shown: Sequence[int], min_score: float
    ) -> dict[str, np.ndarray]:
        """Masks of the whole frame: enlarged, cut to the photo, resized; their mean probability weighs the score."""
        frame, least = (self.about["height"], self.about["width"]), max(min_score, self.about["min_score"])
        chosen: list[tuple[float, int, np.ndarray, np.ndarray]] = []
        for logits, score, label in zip(rows["masks"], rows["scores"], rows["labels"], strict=True):
            enlarged = bilinear(logits, frame)[: shown[0], : shown[1]]
            probabilities = 1 / (1 + np.exp(-bilinear(enlarged, (size[0], size[1]))))
            mask = probabilities > self.about["mask_threshold"]
            if mask.any() and (total := float(score * probabilities[mask].mean())) >= least:
                chosen.append((total, int(label), box_of(mask), mask))
        chosen.sort(key=lambda detection: -detection[0])
        return {
            "boxes": np.array([box for _, _, box, _ in chosen], np.float32).reshape(-1, 4),
            "scores": np.array([score for score, _, _, _ in chosen], np.float32),
            "labels": np.array([label for _, label, _, _ in chosen], np.int64),
            "masks": np.array([mask for *_, mask in chosen], bool).reshape(-1, size[0], size[1]),
        }


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A photo, uint8 ``(H, W, 3)``, at ``size`` (h, w): bilinear with antialiasing, columns first, rounded after each.

    As Pillow and torchvision do it.
    """
    if size == image.shape[:2]:
        return image
    down, across = (_weights(image.shape[axis], size[axis]) for axis in range(2))
    rows = np.einsum("wx,hxc->hwc", across, image.astype(np.float64), optimize=True)
    rows = np.floor(rows + 0.5).clip(0, 255)
    columns = np.einsum("hy,ywc->hwc", down, rows, optimize=True)
    return np.floor(columns + 0.5).clip(0, 255).astype(np.uint8)


def _weights(length: int, wanted: int) -> np.ndarray:
    """Weights ``(wanted, length)`` of the pixels along an axis: a triangle, wider where the photo shrinks."""
    step = length / wanted
    reach = max(step, 1.0)
    centre = (np.arange(wanted) + 0.5) * step
    weights = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centre[:, None]) / reach)
    return weights / weights.sum(1, keepdims=True)


def bilinear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map ``(H, W)`` at ``size`` (h, w) between its cells, without antialiasing."""
    (top, bottom, below), (left, right, beside) = (_between(values.shape[axis], size[axis]) for axis in range(2))
    rows = values[top] * (1 - below)[:, None] + values[bottom] * below[:, None]
    return rows[:, left] * (1 - beside) + rows[:, right] * beside


def _between(length: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cells before and behind each of ``wanted`` places along an axis, and the share of the second."""
    place = np.maximum((np.arange(wanted) + 0.5) * (length / wanted) - 0.5, 0).astype(np.float32)
    first = place.astype(np.int64)
    return first, np.minimum(first + 1, length - 1), place - first


def pasted(probabilities: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Probabilities ``(M, M)`` inside ``box`` laid into a photo of ``size`` (H, W), as torchvision pastes masks."""
    cells = probabilities.shape[-1]
    padded = np.pad(probabilities, 1)
    half = (box[2:] - box[:2]) * (0.5 * (cells + 2) / cells)
    centre = (box[2:] + box[:2]) * 0.5
    (left, top), (right, bottom) = (np.trunc(edge).astype(np.int64).tolist() for edge in (centre - half, centre + half))
    width, height = max(right - left + 1, 1), max(bottom - top + 1, 1)
    mask = bilinear(padded, (height, width))
    photo = np.zeros(size, np.float32)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(right + 1, size[1]), min(bottom + 1, size[0])
    if x1 < x2 and y1 < y2:
        photo[y1:y2, x1:x2] = mask[y1 - top : y2 - top, x1 - left : x2 - left]
    return photo


def box_of(mask: np.ndarray) -> np.ndarray:
    """Half-open box xyxy of a mask ``(H, W)`` with at least one pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def main(paths: Sequence[str]) -> None:
    """Print the detections of at least 0.3 on each photo, a line each."""
    from PIL import Image, ImageOps

    model = Model(Path(__file__).parent)
    for path in paths:
        with Image.open(path) as picture:
            image = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
        detections = model.detect(image, min_score=0.3)
        rows = zip(detections["labels"].tolist(), detections["scores"], detections["boxes"].tolist(), strict=True)
        for label, score, box in rows:
            corners = " ".join(f"{value:.1f}" for value in box)
            sys.stdout.write(f"{path} {model.classes[label]} {score:.3f} {corners}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
