"""Time every metric of masks on rendered scenes whose detections are the true masks moved, cut and doubled.

python benchmarks/mask_metrics.py --scenes 1000 --per-scene 50
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from weaksam.evaluation.coco import coco_ap
from weaksam.evaluation.mask_quality import mask_quality
from weaksam.evaluation.panoptic import panoptic_quality
from weaksam.evaluation.protocol import AP_IOUS
from weaksam.evaluation.semantic import semantic_iou
from weaksam.evaluation.voc import MASK_IOUS, voc_ap
from weaksam.scenes.synthetic import Scene, SceneSettings, render_scene
from weaksam.structures.instances import Instances
from weaksam.structures.masks import boxes_from_masks, rle_from_mask

NUM_CLASSES = 4


def instances_of(masks: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor | None) -> Instances:
    """Masks ``(N, H, W)`` with their tight boxes."""
    return Instances(boxes_from_masks(masks), labels, scores, tuple(rle_from_mask(mask) for mask in masks))


def detections_of(scene: Scene, number: int, rng: np.random.Generator) -> Instances:
    """``number`` detections: true masks moved by up to 20 pixels, every tenth of another class."""
    masks, labels = torch.from_numpy(scene.masks), torch.from_numpy(scene.labels)
    rows = torch.arange(number) % len(masks)
    moves = rng.integers(-20, 21, (number, 2))
    moved = [torch.roll(masks[row], (int(y), int(x)), (0, 1)) for row, (y, x) in zip(rows, moves, strict=True)]
    kinds = torch.where(torch.arange(number) % 10 == 9, (labels[rows] + 1) % NUM_CLASSES, labels[rows])
    scores = torch.from_numpy(1 - np.hypot(*moves.T) / 30).float()
    return instances_of(torch.stack(moved), kinds, scores.clamp(0.01, 1))


def main() -> None:
    """Render scenes, then time the metrics one after the other on one thread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--per-scene", type=int, default=50, help="detections of a scene")
    parser.add_argument("--size", type=int, default=256, help="side of a scene, pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    truths, detections = {}, {}
    for number in range(args.scenes):
        scene = render_scene(SceneSettings(size=args.size, num_classes=NUM_CLASSES), number)
        truths[str(number)] = instances_of(torch.from_numpy(scene.masks), torch.from_numpy(scene.labels), None)
        detections[str(number)] = detections_of(scene, args.per_scene, rng)
    num_objects = sum(map(len, truths.values()))
    print(f"{args.scenes} scenes of {args.size} x {args.size}, {num_objects} objects, {args.per_scene} detections each")
    arguments = (truths, detections, NUM_CLASSES)
    ious = sorted({*MASK_IOUS, *AP_IOUS})
    metrics = {
        "VOC AP of masks": lambda: voc_ap(*arguments, ious=ious, geometry="masks"),
        "COCO AP of masks": lambda: coco_ap(*arguments, geometry="masks"),
        "VOC AP of boundaries": lambda: voc_ap(*arguments, ious=ious, geometry="boundaries"),
        "COCO AP of boundaries": lambda: coco_ap(*arguments, geometry="boundaries"),
        "mean IoU of masks": lambda: mask_quality(*arguments),
        "mIoU": lambda: semantic_iou(*arguments),
        "PQ": lambda: panoptic_quality(*arguments),
    }
    for name, measure in metrics.items():
        began = time.process_time()
        result = measure()
        seconds = time.process_time() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name:24s} {seconds:7.1f} s of processor time, peak {memory:.0f} MiB: {str(result)[:60]}", flush=True)


if __name__ == "__main__":
    main()
