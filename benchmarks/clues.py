"""Measure clues: what points add to a grid of prompts, and how long the maps of a photo take.

    python benchmarks/clues.py recall benchmarks/configs/fruit3.yaml --step 6 [key=value ...]
    python benchmarks/clues.py seconds [--size 375 500] [--width 384]

The pointing game of any source is `weaksam clues [CONFIG] key=value` and `weaksam clues eval OUT`.

``recall``: proposals of sam_nano from a grid of prompts, with the clue points of a run added, and with as many extra
grid points, drawn at random from a grid twice as fine; every ``--step``-th training photo. ``seconds``: six views of a
photo through WeakTr of random weights, and the peaks of its maps, on one CPU thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from weaksam.config import load_settings
from weaksam.data.images import read_image
from weaksam.engine.seeds import derive_seed
from weaksam.evaluation.recall import proposal_recall
from weaksam.models.weaktr.build import build_weaktr
from weaksam.models.weaktr.network import WeakTrSettings
from weaksam.pipeline import run as run_pipeline
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.stages import clues as clue_stage
from weaksam.stages.clues import ClueSettings, clue_points, photo_peaks
from weaksam.stages.clues.maps import ClassMaps, both_views, scaled_size, views_mean
from weaksam.stages.clues.weaktr import view_of
from weaksam.stages.proposals import ProposalSettings, propose_encoded
from weaksam.stages.proposals.prompts import grid_points
from weaksam.structures.clue_points import CLASSLESS, COARSE, CROSS, FINE, CluePoints

IOUS = (0.5, 0.75, 0.9)


def recall(arguments: argparse.Namespace) -> dict[str, Any]:
    """Recall of the grid alone, with the clue points, and with as many extra grid points."""
    settings = load_settings(RunSettings, arguments.config, arguments.overrides)
    run_pipeline(settings, until="clues")
    run = open_run(settings)
    train = run.context.train
    points_of = clue_points(clue_stage.run(run.context, settings.clues, train, "train"))
    truth = run.truths["train"]
    assert truth is not None, "the config names no true boxes"
    image_ids = [image_id for image_id in train.image_ids[:: arguments.step] if image_id in truth.instances]
    segmenter = build_segmenter(SegmenterSettings(family="nano"), run.context.device)
    proposing = ProposalSettings(grid_side=arguments.side, max_proposals=None)
    alone = proposing.model_copy(update={"joint_kinds": ()})
    names = ("grid", "grid and clues", "grid and clues, each alone", "grid and extra grid")
    boxes: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    num_added = 0
    for image_id in image_ids:
        sample = train.by_id[image_id]
        embedding = segmenter.encode(read_image(sample.path))
        clues = points_of(image_id)
        extra = extra_points(sample.size, arguments.side, len(clues.points), image_id)
        num_added += len(clues.points)
        # Extra points prompt like class-less clues: the same masks are kept, and none is asked for its predicted IoU
        others = CluePoints.of(extra, torch.full((len(extra),), CLASSLESS), CROSS)
        prompts = ((CluePoints.none(), alone), (clues, proposing), (clues, alone), (others, alone))
        for name, (points, how) in zip(names, prompts, strict=True):
            boxes[name][image_id] = propose_encoded(segmenter, embedding, points, how).boxes
    truths = {image_id: truth.instances[image_id] for image_id in image_ids}
    result: dict[str, Any] = {"photos": len(image_ids), "points_added_per_photo": num_added / len(image_ids)}
    for name, proposals in boxes.items():
        measured = proposal_recall(truths, proposals, counts=(None,), ious=IOUS)
        result[name] = {f"recall@{iou:g}": round(measured.at(iou), 4) for iou in IOUS}
        result[name]["boxes"] = round(measured.num_proposals[-1], 1)
        result["objects"], result["protocol"] = measured.num_truths, str(measured.protocol)
    return result


def extra_points(size: tuple[int, int], side: int, count: int, image_id: str) -> torch.Tensor:
    """``count`` points ``(count, 2)`` of the grid twice as fine, drawn from the image's own random numbers."""
    fine_grid = grid_points(size, 2 * side)
    generator = torch.Generator().manual_seed(derive_seed(0, image_id))
    return fine_grid[torch.randperm(len(fine_grid), generator=generator)[:count]]


@torch.inference_mode()
def seconds(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the six views of one photo and of the peaks of its maps, the best of three."""
    height, width = arguments.size
    image = (torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    torch.manual_seed(0)
    weights = WeakTrSettings(width=arguments.width, drop_path=0.0)
    model = build_weaktr(weights, arguments.classes).eval().to(arguments.device)
    settings = ClueSettings(source="weaktr")
    labels = torch.arange(arguments.tags)
    # On the CPU processor time, which other jobs do not stretch; maps are copied back, so a GPU has finished by then
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    spent: dict[str, list[float]] = {"maps": [], "one by one": [], "peaks": []}
    for _ in range(3):
        kinds: dict[int, list[torch.Tensor]] = {COARSE: [], FINE: [], CROSS: []}
        began = clock()
        for scale in settings.view_scales:
            out = model(both_views(view_of(image, scaled_size((height, width), scale, 16))).to(arguments.device))
            kinds[COARSE].append(views_mean(out.coarse)[None, labels].cpu())
            kinds[FINE].append(views_mean(out.fine)[None, labels].cpu())
            kinds[CROSS].append(views_mean(out.head_cross[:, 4:12].flatten(1, 2))[:, labels].cpu())
        spent["maps"].append(clock() - began)
        began = clock()
        for scale in settings.view_scales:
            pixels = view_of(image, scaled_size((height, width), scale, 16)).to(arguments.device)
            for view in (pixels, pixels.flip(3)):
                model(view).fine.cpu()
        spent["one by one"].append(clock() - began)
        began = clock()
        maps = {kind: tuple(scales) for kind, scales in kinds.items()}
        peaks = photo_peaks(ClassMaps(labels, torch.zeros(0), maps, (height, width), (height, width)), settings)
        spent["peaks"].append(clock() - began)
    about = {"photo": [height, width], "classes": arguments.classes, "tags": arguments.tags, "device": arguments.device}
    return {**about, "points": len(peaks.points), **{name: round(min(times), 2) for name, times in spent.items()}}


def main() -> None:
    """Run one measurement and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    recall_parser = commands.add_parser("recall")
    recall_parser.add_argument("config", type=Path)
    recall_parser.add_argument("overrides", nargs="*", metavar="key=value")
    recall_parser.add_argument("--step", type=int, default=6, help="measure every STEP-th photo")
    recall_parser.add_argument("--side", type=int, default=16, help="points a side of the grid")
    seconds_parser = commands.add_parser("seconds")
    seconds_parser.add_argument("--size", type=int, nargs=2, default=(375, 500), help="height and width of the photo")
    seconds_parser.add_argument("--width", type=int, default=384, help="384 is DeiT-S")
    seconds_parser.add_argument("--classes", type=int, default=20)
    seconds_parser.add_argument("--tags", type=int, default=2)
    seconds_parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(json.dumps({"recall": recall, "seconds": seconds}[arguments.what](arguments), indent=1))


if __name__ == "__main__":
    main()
