"""Time sam_nano's proposals with a dense grid on one core, the plain network and the fast decoding in turn.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/sam_nano_speed.py --images ../shared/data/fruit3/images/train

A photo is encoding, the grid's prompts, thresholds, boxes, stability and suppression: the proposal stage without clue
points, with its defaults for sam_nano. CPU seconds are counted, since other work on the machine does not add to them
(it still slows them down through the caches and shared cores). Prints a markdown table and where the time goes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from weaksam.data.images import read_image
from weaksam.sam.nano.decoder import denormals_as_zero
from weaksam.sam.nano.frame import areas, framed
from weaksam.sam.nano.segmenter import PROMPTS_AT_ONCE, SamNano, prompt_slots
from weaksam.sam.prompts import Prompts
from weaksam.stages.proposals import ProposalSettings, propose
from weaksam.stages.proposals.prompts import grid_points
from weaksam.structures.proposals import Proposals


def clocked(action: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds that ``action`` took, and its result."""
    start = time.process_time()
    result = action()
    return time.process_time() - start, result


def proposals_of(segmenter: SamNano, image: np.ndarray, settings: ProposalSettings) -> Proposals:
    return propose(segmenter, image, settings=settings)


@torch.inference_mode()
def seconds_by_part(segmenter: SamNano, image: np.ndarray, grid_side: int) -> dict[str, float]:
    """CPU seconds of the fast way's parts, run one after another with every mask drawn."""
    decoder = segmenter.decoder
    assert decoder is not None, "only the fast way has parts"
    parts = dict.fromkeys(("encoding", "transformer", "upscaling", "masks, boxes, stability"), 0.0)
    parts["encoding"], embedding = clocked(lambda: segmenter.encode(image))
    coords, labels = prompt_slots(embedding, Prompts.single_points(grid_points(embedding.size, grid_side)))
    for chunk in zip(coords.split(PROMPTS_AT_ONCE), labels.split(PROMPTS_AT_ONCE), strict=True):
        with denormals_as_zero():
            seconds, decoded = clocked(lambda c=chunk: decoder.decode(embedding.features, embedding.shared, *c))
        parts["transformer"] += seconds
        drawing = decoder.draw(embedding.shared, decoded, torch.ones(len(chunk[0]), dtype=torch.bool))
        while True:
            seconds, drawn = clocked(lambda d=drawing: next(d, None))
            parts["upscaling"] += seconds
            if drawn is None:
                break
            logits = drawn[1]
            parts["masks, boxes, stability"] += clocked(
                lambda m=logits: (areas(m), framed(m.flatten(0, 1), embedding.covered, embedding.size))
            )[0]
    return parts


def compare(plain: Proposals, fast: Proposals) -> tuple[int, int]:
    """Boxes of the plain way, and how many of them the fast way does not have exactly."""
    others = {tuple(box) for box in fast.boxes.tolist()}
    return len(plain.boxes), sum(tuple(box) not in others for box in plain.boxes.tolist())


def photos_of(folder: Path, num: int) -> list[Path]:
    """``num`` photos of a folder, evenly."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    return paths[:: max(1, len(paths) // num)][:num]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--photos", type=int, default=8, help="photos taken from each folder, evenly")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--grid", type=int, default=16, help="points a side")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)
    ways = {"plain": SamNano.load(fast=False), "fast": SamNano.load()}
    settings = ProposalSettings(grid_side=args.grid)
    images = [read_image(path) for folder in args.images for path in photos_of(folder, args.photos)]
    for segmenter in ways.values():
        proposals_of(segmenter, images[0], settings)  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    parts: dict[str, list[float]] = {}
    boxes = differ = 0
    for image in images:
        for _ in range(args.repeats):
            proposals = {}
            for name, segmenter in ways.items():  # in turn, so that both meet the same neighbours
                spent, proposals[name] = clocked(lambda s=segmenter, i=image: proposals_of(s, i, settings))
                seconds[name].append(spent)
            for name, spent in seconds_by_part(ways["fast"], image, args.grid).items():
                parts.setdefault(name, []).append(spent)
        counts = compare(proposals["plain"], proposals["fast"])
        boxes, differ = boxes + counts[0], differ + counts[1]
    print(f"{len(images)} photos, grid {args.grid} x {args.grid}, {args.repeats} runs each, one thread\n")
    print("| way | CPU s a photo, median | best | photos/s, median | best |\n|---|---|---|---|---|")
    for name, spent in seconds.items():
        print(f"| {name} | {median(spent):.3f} | {min(spent):.3f} | {1 / median(spent):.2f} | {1 / min(spent):.2f} |")
    ratio = median(p / f for p, f in zip(seconds["plain"], seconds["fast"], strict=True))
    print(f"\nfast is {ratio:.2f} times as fast (median over photos); {differ} of {boxes} boxes differ")
    whole = median(seconds["fast"])
    shares = {name: median(spent) / whole for name, spent in parts.items()}
    shares["thresholds, suppression, RLE and the rest"] = 1 - sum(shares.values())
    print("share of the fast way's time: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))


if __name__ == "__main__":
    main()
