"""Write OpenCV's fast selective search proposals of a folder of photos as a sealed store, for runs and comparisons.

    python benchmarks/selective_search.py --images DIR --out FOLDER [--max 300] [--min-side 16] [--long-side 500]

A larger photo is searched at --long-side, as R-CNN did at a width of 500: the time grows faster than the pixels.
The order of selective search is kept as the score, from 1 down. `weaksam run CONFIG proposals.given.train=FOLDER` then
trains on them, and `weaksam recall --proposals FOLDER` measures them. The same command again resumes. Needs
opencv-contrib-python-headless (`pip install weaksam[baselines]`).
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weaksam.config import UserError, fingerprint_of
from weaksam.data.images import read_image
from weaksam.data.photos import list_photos, verify_photos
from weaksam.data.proposals.given import record_photos
from weaksam.store.store import Store
from weaksam.structures.boxes import nms, scale, xyxy_from_xywh
from weaksam.structures.proposals import PROPOSAL_COLUMNS, Proposals

NMS_IOU = 0.9
"""A box that overlaps an earlier one by more is the same."""


def selective_search(min_side: float, long_side: int | None = None) -> Callable[[np.ndarray], Tensor]:
    """OpenCV's fast selective search in its own order, at least ``min_side`` pixels, suppressed at 0.9; one thread.

    Uint8 RGB ``(H, W, 3)`` in, half-open xyxy boxes ``(N, 4)`` in its pixels out; a photo larger than ``long_side`` is
    searched at that size. The order is drawn with C's ``rand``, which is seeded before each photo, so that a photo
    always gives the same boxes.
    """
    try:
        from cv2 import INTER_AREA, resize, setNumThreads, ximgproc
    except ImportError as error:
        raise UserError(
            f"selective search needs OpenCV's contrib modules, found none ({error}): "
            "pip install opencv-contrib-python-headless"
        ) from None
    setNumThreads(1)
    search = ximgproc.segmentation.createSelectiveSearchSegmentation()
    libc = ctypes.CDLL(None)

    def boxes_of(image: np.ndarray) -> Tensor:
        height, width = image.shape[:2]
        ratio = min(1.0, (long_side or max(height, width)) / max(height, width))
        h, w = (max(1, round(side * ratio)) for side in (height, width))
        seen = image if ratio == 1 else resize(image, (w, h), interpolation=INTER_AREA)
        libc.srand(0)
        search.setBaseImage(np.ascontiguousarray(seen[..., ::-1]))
        search.switchToSelectiveSearchFast()
        boxes = xyxy_from_xywh(torch.from_numpy(np.asarray(search.process())).float().reshape(-1, 4))
        boxes = scale(boxes, width / w, height / h)
        boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= min_side).all(1)]
        return boxes[nms(boxes, -torch.arange(len(boxes)).float(), NMS_IOU)]

    return boxes_of


def ranked(boxes: Tensor) -> Proposals:
    """Boxes ``(N, 4)`` in order as proposals whose scores fall from 1 in equal steps."""
    return Proposals.of(boxes, 1 - torch.arange(len(boxes)) / max(1, len(boxes)))


def write_proposals(images: Path, out: Path, most: int, min_side: float, long_side: int) -> Store:
    """Propose for every readable photo below ``images`` that the store ``out`` does not hold yet; returns it sealed."""
    bad: dict[str, str] = {}
    photos = verify_photos(list_photos(images), bad)
    for image_id, reason in bad.items():
        print(f"{image_id} is left out: it {reason}")
    hashes = {image_id: photo.sha256 for image_id, photo in photos.items()}
    settings = {"mode": "fast", "nms_iou": NMS_IOU, "min_side": min_side, "max": most, "long_side": long_side}
    store = Store(
        out,
        stage="proposals",
        fingerprint=fingerprint_of({"stage": "proposals", "selective_search": settings, "photos": hashes}),
        image_ids=list(photos),
        columns=PROPOSAL_COLUMNS,
        part_size=8,
        command="python benchmarks/selective_search.py",
    )
    if store.sealed:
        store.check_sealed()
    boxes_of = selective_search(min_side, long_side)
    store.fill(lambda name: ranked(boxes_of(read_image(photos[name].path))[:most]).as_row(), "selective search")
    record_photos(out, hashes)
    return store


def main() -> None:
    """Write the store that the command line asks for, and say how many boxes it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photos")
    parser.add_argument("--out", type=Path, required=True, help="folder of the store to write")
    parser.add_argument("--max", type=int, default=300, help="most boxes of a photo")
    parser.add_argument("--min-side", type=float, default=16, help="smallest side of a box, pixels")
    parser.add_argument("--long-side", type=int, default=500, help="larger photos are searched at this size, pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    store = write_proposals(args.images, args.out, args.max, args.min_side, args.long_side)
    num = sum(len(boxes) for boxes in store.column("boxes").values())
    print(f"{store.folder}: {num} boxes of {len(store)} photos")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
