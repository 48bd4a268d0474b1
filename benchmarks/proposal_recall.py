"""Compare the offline segmenters and selective search by the recall of their boxes and the masks they give for boxes.

    python benchmarks/proposal_recall.py --data ../shared/data [--sets fruit3 nuclei60] [--step 4] [--methods tree nano]

``tree_salience`` is the region tree under its older ranking. Selective search (fast mode, its own order) needs
opencv-contrib-python-headless. All proposals of at least ``--min-side`` pixels count. True boxes and masks are read for
the measurement alone; no setting was chosen with those of the sets named here. Prints two markdown tables.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from selective_search import selective_search
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.data.images import read_image
from weaksam.evaluation.recall import proposal_recall
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Segmenter
from weaksam.sam.region_tree.settings import RegionTreeSettings
from weaksam.stages.proposals import ProposalSettings, propose
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import boxes_from_masks, pairwise_mask_iou, rle_from_mask

COUNTS, IOUS = (50, 100, 200, 300), (0.5, 0.75, 0.9)
CPU = torch.device("cpu")
METHODS = {
    "tree": SegmenterSettings(family="tree"),
    "tree_salience": SegmenterSettings(family="tree", tree=RegionTreeSettings(ranking="salience")),
    "nano": SegmenterSettings(family="nano"),
}
Propose = Callable[[np.ndarray], Tensor]
"""A photo, uint8 RGB ``(H, W, 3)`` -> its proposals, half-open xyxy boxes ``(N, 4)``, best first."""


def load_photos(data: Path, name: str, step: int) -> list[Sample]:
    """Every ``step``-th training photo of a set, or of all where it has no split; truth is COCO or label pictures."""
    folder = data / name
    if (folder / "labels").is_dir():
        return [labelled(path, folder / "labels") for path in sorted((folder / "images").iterdir())[::step]]
    part = "train" if (folder / "images/train").is_dir() else "all"
    split = SplitSettings(images=folder / "images" / part, truth=folder / f"annotations/instances_{part}.json")
    dataset: Dataset = load_dataset(split, name=name)
    return [sample for sample in dataset.samples[::step] if sample.truth is not None]


def labelled(photo: Path, labels: Path) -> Sample:
    """A photo and its objects, from the picture of the same name in ``labels`` that numbers them (0 is none)."""
    grid = np.asarray(Image.open(labels / f"{photo.stem}.png"))
    masks = torch.from_numpy(np.stack([grid == number for number in np.unique(grid) if number > 0]))
    labels_of = torch.zeros(len(masks), dtype=torch.int64)
    truth = Instances(boxes_from_masks(masks), labels_of, masks=tuple(map(rle_from_mask, masks)))
    return Sample(photo.name, photo, (grid.shape[0], grid.shape[1]), (0,), truth, 0)


def grid_proposals(segmenter: Segmenter, min_side: float) -> Propose:
    """The stage's own proposals without clues, with its defaults."""
    settings = ProposalSettings(max_proposals=2 * max(COUNTS), nms_iou=1.0, min_side=min_side)
    return lambda image: propose(segmenter, image, settings=settings).boxes


def recall_row(label: str, photos: list[Sample], boxes_of: Propose) -> str:
    """One line of the first table: recall at each count and IoU, seconds of CPU a photo."""
    proposals, start = {}, time.process_time()
    for sample in photos:
        proposals[sample.image_id] = boxes_of(read_image(sample.path))
    seconds = (time.process_time() - start) / len(photos)
    truths = {sample.image_id: sample.truth for sample in photos if sample.truth is not None}
    recall = proposal_recall(truths, proposals, counts=COUNTS, ious=IOUS)
    cells = [" / ".join(f"{recall.at(iou, count):.2f}" for iou in IOUS) for count in COUNTS]
    return f"| {label} | {' | '.join(cells)} | {recall.num_proposals[-1]:.0f} | {seconds:.2f} |"


def mask_row(label: str, photos: list[Sample], segmenter: Segmenter) -> str:
    """One line of the second table: how well the best-guess mask of each true box covers the true mask."""
    reached = []
    for sample in photos:
        truth = sample.truth
        if truth is None or truth.masks is None or len(truth) == 0:
            continue
        answer = segmenter.predict(segmenter.encode(read_image(sample.path)), Prompts(boxes=truth.boxes))
        full = answer.full(torch.arange(len(truth)), answer.iou.argmax(1))
        iou = pairwise_mask_iou([rle_from_mask(mask) for mask in full], list(truth.masks))
        reached.append(iou.diagonal())
    iou = torch.cat(reached)
    shares = " | ".join(f"{float((iou >= limit).float().mean()):.2f}" for limit in (0.5, 0.75))
    return f"| {label} | {float(iou.mean()):.3f} | {shares} | {len(iou)} |"


def methods_wanted(names: list[str], min_side: float) -> tuple[dict[str, Segmenter], dict[str, Propose]]:
    """The segmenters and, for every method that can run here, what proposes boxes; says why one cannot."""
    segmenters: dict[str, Segmenter] = {}
    proposers: dict[str, Propose] = {}
    for name in names:
        try:
            if name == "selective_search":
                proposers[name] = selective_search(min_side)
                continue
            segmenters[name] = build_segmenter(METHODS[name], CPU)
            proposers[name] = grid_proposals(segmenters[name], min_side)
        except UserError as error:
            print(f"{name} is left out: {error}\n")
    return segmenters, proposers


def main() -> None:
    """Measure the methods on the sets that the command line names, and print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=["fruit3", "smoke5", "nuts3", "nuclei60"])
    known = [*METHODS, "selective_search"]
    parser.add_argument("--methods", nargs="+", default=["tree", "selective_search"], choices=known)
    parser.add_argument("--step", type=int, default=4, help="take every n-th photo")
    parser.add_argument("--min-side", type=float, default=16, help="smallest side of a proposal, pixels")
    args = parser.parse_args()
    segmenters, proposers = methods_wanted(args.methods, args.min_side)
    photos = {name: load_photos(args.data, name, args.step) for name in args.sets}
    heads = " | ".join(f"{count} boxes" for count in COUNTS)
    print(f"Recall at IoU {' / '.join(map(str, IOUS))} by the number of boxes looked at, every {args.step}th photo\n")
    print(f"| set, method | {heads} | boxes | CPU s / photo |\n|{'---|' * (len(COUNTS) + 3)}")
    for name, samples in photos.items():
        for method, boxes_of in proposers.items():
            print(recall_row(f"{name} ({len(samples)}), {method}", samples, boxes_of), flush=True)
    print("\nMasks for true boxes: IoU of the best guess with the true mask\n")
    print(f"| set, method | mean IoU | >= 0.5 | >= 0.75 | masks |\n|{'---|' * 5}")
    for name, samples in photos.items():
        if any(sample.truth is not None and sample.truth.masks is not None for sample in samples):
            for method, segmenter in segmenters.items():
                print(mask_row(f"{name}, {method}", samples, segmenter), flush=True)


if __name__ == "__main__":
    main()
