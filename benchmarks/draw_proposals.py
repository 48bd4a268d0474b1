"""Draw the proposals of one photo by source: grid, coarse, fine and cross clue points, and points of a class jointly.

    python benchmarks/draw_proposals.py [--segmenter nano] [--scene 13]                 # a rendered scene, for the docs
    python benchmarks/draw_proposals.py --out X.png --photo FILE --boxes 60,30,450,600 ...   # a photo, boxes by hand
    python benchmarks/draw_proposals.py --out X.png --photo FILE --truth COCO.json           # a photo with its truth

Clue points stand in for peaks, so that the picture needs no training: coarse, the middle of each object; fine, three
places inside it; cross, class-less places, two of three inside an object. Nothing is suppressed across sources, so that
each shows all it found. With a run's own peaks use `weaksam boxes draw` on its store.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.formats.coco import read_instances
from weaksam.data.image_names import ImageNames
from weaksam.data.images import read_image
from weaksam.report.proposal_picture import draw_proposals
from weaksam.report.sheets import write_picture
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.scenes.synthetic import SceneSettings, render_scene
from weaksam.stages.proposals import ProposalSettings, propose
from weaksam.structures.clue_points import CLASSLESS, COARSE, CROSS, FINE, CluePoints
from weaksam.structures.masks import mask_from_rle

NUM_FINE, NUM_CROSS = 3, 9
"""Fine points of an object, and cross points of a photo."""


def innermost_point(mask: np.ndarray) -> tuple[int, int]:
    """The xy of the pixel of ``mask (H, W)`` that is farthest from its border."""
    y, x = np.unravel_index(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].argmax(), mask.shape)
    return int(x), int(y)


def random_points(mask: np.ndarray, num: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """``num`` random xy inside ``mask (H, W)``, away from its border where it is large enough."""
    inner = ndimage.binary_erosion(mask, iterations=4)
    y, x = np.nonzero(inner if inner.any() else mask)
    return [(int(x[row]), int(y[row])) for row in rng.integers(len(x), size=num)]


def stand_in_clues(masks: list[np.ndarray], labels: list[int], rng: np.random.Generator) -> CluePoints:
    """Points of all three kinds for objects of these ``masks`` and ``labels``."""
    points: list[tuple[int, int]] = []
    kinds, classes = [], []
    for mask, label in zip(masks, labels, strict=True):
        points += [innermost_point(mask), *random_points(mask, NUM_FINE, rng)]
        kinds += [COARSE] + [FINE] * NUM_FINE
        classes += [label] * (1 + NUM_FINE)
    whole = np.ones_like(masks[0])
    for number in range(NUM_CROSS):
        points += random_points(masks[number % len(masks)] if number % 3 else whole, 1, rng)
        kinds.append(CROSS)
        classes.append(CLASSLESS)
    return CluePoints(torch.tensor(points).float(), torch.tensor(classes), torch.tensor(kinds))


def photo_with_masks(args: argparse.Namespace) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """The photo, and the masks (filled boxes where there are none) and labels of its objects."""
    if args.photo is None:
        scene = render_scene(SceneSettings(size=384), args.scene)
        return scene.image, list(scene.masks), scene.labels.tolist()
    image = read_image(args.photo)
    if args.truth is None:
        boxes = [[int(number) for number in box.split(",")] for box in args.boxes]
        return image, [filled(box, image.shape[:2]) for box in boxes], list(range(len(boxes)))
    truth = read_instances(args.truth)
    entry = ImageNames(list(truth.images)).find(args.photo.name, str(args.truth))
    if entry is None:
        raise UserError(f"wanted {args.photo.name} in {args.truth}, found no such image: name another photo")
    objects = truth.images[entry].instances
    if objects.masks is not None:
        masks = [mask_from_rle(rle).numpy() for rle in objects.masks]
    else:
        masks = [filled(box, image.shape[:2]) for box in objects.boxes.round().int().tolist()]
    return image, masks, objects.labels.tolist()


def filled(box: list[int], size: tuple[int, int]) -> np.ndarray:
    """The mask ``(H, W)`` of a half-open xyxy box."""
    mask = np.zeros(size, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def by_kind(clues: CluePoints) -> dict[str, Tensor]:
    """The points of each kind, for the first panel."""
    return {
        name: clues.points[clues.kinds == kind] for name, kind in (("coarse", COARSE), ("fine", FINE), ("cross", CROSS))
    }


def main() -> None:
    """Draw the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/proposals_by_source.jpg"))
    parser.add_argument("--segmenter", default="tree", help="tree, nano, or segment_anything with --weights")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--scene", type=int, default=13, help="number of the rendered scene")
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--truth", type=Path, help="COCO truth that names the photo")
    parser.add_argument("--boxes", nargs="+", default=["0,0,64,64"], help="x1,y1,x2,y2 of each object, without a truth")
    parser.add_argument("--most", type=int, default=12, help="most proposals drawn of a source")
    parser.add_argument("--nms-iou", type=float, default=1.0, help="1: nothing is suppressed across sources")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    image, masks, labels = photo_with_masks(args)
    clues = stand_in_clues(masks, labels, np.random.default_rng(args.seed))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    segmenter = build_segmenter(SegmenterSettings(family=args.segmenter, weights=args.weights), device)
    proposals = propose(segmenter, image, clues, ProposalSettings(nms_iou=args.nms_iou))
    write_picture(args.out, draw_proposals(image, proposals, max_boxes=args.most, points=by_kind(clues)))
    print(f"{args.out}: {len(proposals)} proposals of {segmenter.name}, {args.out.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
