"""Train the ranker of the region tree's merged regions on rendered scenes.

python tools/train_objectness.py weaksam/sam/weights/objectness.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam.sam.region_tree.merging import cut_superpixels, merged_regions
from weaksam.sam.region_tree.objectness import Objectness
from weaksam.sam.region_tree.settings import RegionTreeSettings
from weaksam.sam.region_tree.watershed import build_tree, lab_from_rgb, working_frame
from weaksam.scenes.part_scenes import PartScene, render_part_scene
from weaksam.store.weights import save_weights
from weaksam.structures.boxes import pairwise_iou, scale

FIRST_SCENE = 700_000  # scenes of no other use
SIZE = 384
BATCH = 4096


def true_boxes(scene: PartScene) -> Tensor:
    """Boxes ``(M, 4)`` of the wholes, parts and sub-parts that cover between 0.2 and 90 % of a scene.

    What touches two or more of its sides is left out: mostly background, which is no object.
    """
    boxes = []
    for level in scene.levels:
        for number in range(1, int(level.max()) + 1):
            y, x = (level == number).nonzero()
            sides = (x.min() == 0, y.min() == 0, x.max() == SIZE - 1, y.max() == SIZE - 1) if len(y) else ()
            if 0.002 * level.size <= len(y) <= 0.9 * level.size and sum(sides) < 2:
                boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4))


def examples(scene: PartScene, settings: RegionTreeSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Features ``(N, F)`` of the regions of a scene, their targets and weights ``(N,)``.

    The target is 0.5 from IoU 0.5 with a true box on and 1 from 0.75 on. An object that many regions hit is not to
    outweigh the rest: a hit weighs by the number of its object's hits to the power -1/4, 1 at the scene's mean.
    """
    lab = lab_from_rgb(working_frame(scene.image, settings.long_side))
    truth = scale(true_boxes(scene), lab.shape[1] / SIZE, lab.shape[0] / SIZE)
    features, boxes = [], []
    for sigma in settings.superpixel_smoothings:
        cut = cut_superpixels(lab, *build_tree(lab, sigma), settings.num_superpixels)
        regions = merged_regions(cut, settings.min_merged_area, settings.max_area)
        features.append(torch.from_numpy(regions.features).float())
        boxes.append(torch.from_numpy(regions.boxes).float())
    iou, object_of = pairwise_iou(torch.cat(boxes), truth).max(1)
    hit = iou >= 0.5
    weights = torch.ones(len(iou))
    if hit.any():
        count = object_of[hit].bincount().float()
        weights[hit] = (count[count > 0].mean() / count[object_of[hit]]) ** 0.25
    return torch.cat(features), 0.5 * hit.float() + 0.5 * (iou >= 0.75).float(), weights


def train(features: Tensor, targets: Tensor, weights: Tensor, epochs: int, seed: int) -> Objectness:
    """Weighted cross-entropy, AdamW with one cycle of the learning rate."""
    torch.manual_seed(seed)
    network = Objectness()
    network.mean.copy_(features.mean(0))
    network.deviation.copy_(features.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-3)
    steps = len(features) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        order = torch.randperm(len(features))
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            logits = network(features[rows])
            loss = F.binary_cross_entropy_with_logits(logits, targets[rows], weight=weights[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.4f}", flush=True)
    return network


def main() -> None:
    """Render scenes, measure their regions, train the ranker and write its weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    scenes = (render_part_scene(FIRST_SCENE + number, SIZE) for number in range(args.scenes))
    features, targets, weights = map(torch.cat, zip(*(examples(s, RegionTreeSettings()) for s in scenes), strict=True))
    print(f"{len(features)} regions of {args.scenes} scenes, {float((targets > 0).float().mean()):.3f} of them hits")
    network = train(features, targets, weights, args.epochs, args.seed)
    save_weights(args.out, network.state_dict(), {"scenes": args.scenes, "epochs": args.epochs, "seed": args.seed})


if __name__ == "__main__":
    main()
