"""Time our proposals against segment-anything's own generator and the original WeakSAM's sequence of calls.

    python benchmarks/proposals.py grid --photo PHOTO [--side 32] [--threads 1] [--device cuda]
    python benchmarks/proposals.py protocol --photo PHOTO [--classes 2]
    python benchmarks/proposals.py memory --images 100000

Both sides run in the same process on the same full-size ViT-B with random weights (speed does not depend on what they
are) and on the same photo; seconds are of processor time on a CPU. The threshold on predicted IoU is set so that a
third of the candidates is kept. ``memory`` reads the same few tiny files again and again through the proposals stage
and prints the resident memory on the way.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.amg import batched_mask_to_box
from torchvision.ops import nms

from weaksam.data.images import read_image
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.prompts import Prompts
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages.proposals import ProposalSettings, propose_encoded
from weaksam.stages.proposals.prompts import grid_points
from weaksam.structures.clue_points import COARSE, CROSS, FINE, CluePoints
from weaksam.structures.proposals import Proposals

POINTS = {COARSE: 3, FINE: 8, CROSS: 10}
"""Clue points of each kind per class (cross: in all), about what the published peaks give on a VOC photo."""


def random_sam(variant: str, device: str) -> Sam:
    """A full-size SAM with random weights and predicted IoU in [0, 1]."""
    torch.manual_seed(0)
    sam = sam_model_registry[variant]().eval().requires_grad_(False)
    last = sam.mask_decoder.iou_prediction_head.layers[-1]
    last.bias.fill_(0.5)
    for embedding in sam.prompt_encoder.point_embeddings:  # points that matter, as trained ones do
        embedding.weight.mul_(3)
    return sam.to(device)


class Clock:
    """Seconds spent in named parts: of processor time on a CPU (others may use the machine), of wall time on CUDA."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of ``work``, its seconds added to ``name``."""
        start = _now()
        result = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + _now() - start
        return result


def _now() -> float:
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def grid_settings(side: int, min_pred_iou: float) -> ProposalSettings:
    """The generator's rules; SAM's stability threshold is off on both sides, so that predicted IoU decides."""
    return ProposalSettings(rules="original", grid_side=side, min_pred_iou=min_pred_iou, min_stability=0.0)


def official_grid(sam: Sam, image: np.ndarray, side: int, min_pred_iou: float, clock: Clock) -> np.ndarray:
    """Half-open boxes ``(N, 4)`` of SAM's own generator; encoding and the rest are timed apart."""
    generator = SamAutomaticMaskGenerator(
        sam, side, pred_iou_thresh=min_pred_iou, stability_score_thresh=0.0, box_nms_thresh=0.3, output_mode="coco_rle"
    )
    predictor, encode = generator.predictor, generator.predictor.set_image
    predictor.set_image = lambda photo: clock.timed("encode", lambda: encode(photo))
    records = clock.timed("all", lambda: generator.generate(image))
    predictor.set_image = encode
    clock.seconds["decode"] = clock.seconds["all"] - clock.seconds["encode"]
    boxes = np.array([record["bbox"] for record in records], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2] + 1
    return boxes


def our_proposals(
    segmenter: SegmentAnything, image: np.ndarray, clues: CluePoints, settings: ProposalSettings, clock: Clock
) -> Proposals:
    """Our proposals; encoding and the rest are timed apart."""
    embedding = clock.timed("encode", lambda: segmenter.encode(image))
    proposals = clock.timed("decode", lambda: propose_encoded(segmenter, embedding, clues, settings))
    clock.seconds["all"] = clock.seconds["encode"] + clock.seconds["decode"]
    return proposals


def third_kept(sam: Sam, image: np.ndarray, side: int) -> float:
    """The predicted IoU above which a third of a grid's candidates lies."""
    segmenter = SegmentAnything(sam, "sam_vit_b", "random")
    embedding = segmenter.encode(image)
    prompts = Prompts.single_points(grid_points(embedding.size, side))
    iou = segmenter.predict(embedding, prompts, min_pred_iou=float("inf")).iou.flatten().sort().values
    at = 2 * len(iou) // 3
    return float(iou[at - 1] + iou[at]) / 2


def differing(ours: np.ndarray, theirs: np.ndarray) -> int:
    """How many boxes of either side the other one lacks."""
    return len({tuple(box) for box in ours.tolist()} ^ {tuple(box) for box in theirs.tolist()})


def grid(arguments: argparse.Namespace) -> dict[str, Any]:
    """Decoding and post-processing of a dense grid: SAM's generator, then ours, exact and fast."""
    sam, image = random_sam(arguments.variant, arguments.device), read_image(arguments.photo)
    bar = third_kept(sam, image, arguments.side)
    official = Clock()
    theirs = official_grid(sam, image, arguments.side, bar, official)
    result: dict[str, Any] = {
        "photo": list(image.shape[:2]),
        "prompts": arguments.side**2,
        "official": official.seconds,
    }
    for decoding in ("exact", "fast"):
        clock = Clock()
        segmenter = SegmentAnything(sam, "sam_vit_b", "random", decoding)
        ours = our_proposals(segmenter, image, no_clues(), grid_settings(arguments.side, bar), clock)
        result[decoding] = clock.seconds | {
            "kept": len(ours.boxes),
            "kept_officially": len(theirs),
            "boxes_that_differ": differing(ours.boxes.numpy(), theirs),
            "decode_times_faster": official.seconds["decode"] / clock.seconds["decode"],
        }
    return result


def no_clues() -> CluePoints:
    return CluePoints.of(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), COARSE)


def random_clues(size: tuple[int, int], classes: int) -> CluePoints:
    """Clue points of every kind at random places of a photo ``(H, W)``; cross points belong to no class."""
    generator = torch.Generator().manual_seed(0)
    points, labels, kinds = [], [], []
    for kind, count in POINTS.items():
        for label in [-1] if kind == CROSS else range(classes):
            points.append(torch.rand(count, 2, generator=generator) * torch.tensor([size[1], size[0]]))
            labels += [label] * count
            kinds += [kind] * count
    return CluePoints(torch.cat(points), torch.tensor(labels), torch.tensor(kinds))


def original_clue_boxes(sam: Sam, image: np.ndarray, clues: CluePoints, kind: int) -> np.ndarray:
    """One kind of points as the released WeakSAM prompts with them: a point at a time, then a class at a time.

    The photo is encoded for the single points and again for every class; masks 1 and 2 are kept (docs/method.md,
    Proposals).
    """
    of_kind = clues.select(clues.kinds == kind)
    points, labels = of_kind.points.numpy(), of_kind.labels.numpy()
    prompts = [[points[i : i + 1] for i in range(len(points))]]
    prompts += [[points[labels == label]] for label in np.unique(labels[labels >= 0])]
    boxes = []
    for together in prompts:
        predictor = SamPredictor(sam)
        predictor.set_image(image)
        for xy in together:
            masks, _, _ = predictor.predict(xy, np.ones(len(xy)), multimask_output=True)
            boxes.append(batched_mask_to_box(torch.from_numpy(masks[1:])).numpy())
    return np.concatenate(boxes)


def original_sequence(sam: Sam, image: np.ndarray, clues: CluePoints, side: int, bar: float) -> int:
    """The released WeakSAM's sequence of calls for one photo: 4 + 2C encodings. Returns the number of boxes."""
    boxes = [official_grid(sam, image, side, bar, Clock())]
    boxes += [original_clue_boxes(sam, image, clues, kind) for kind in (COARSE, FINE)]
    cross = torch.from_numpy(original_clue_boxes(sam, image, clues, CROSS)).float()
    boxes.append(cross[nms(cross, torch.ones(len(cross)), 0.9)].numpy())
    return sum(len(part) for part in boxes)


def protocol(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole WeakSAM protocol of one photo: the original's sequence of calls, then ours."""
    sam, image = random_sam(arguments.variant, arguments.device), read_image(arguments.photo)
    bar = third_kept(sam, image, arguments.side)
    clues = random_clues(image.shape[:2], arguments.classes)
    official = Clock()
    number = official.timed("all", lambda: original_sequence(sam, image, clues, arguments.side, bar))
    result: dict[str, Any] = {
        "classes": arguments.classes,
        "encodings": 4 + 2 * arguments.classes,
        "clue_points": len(clues.points),
        "original": official.seconds | {"boxes": number},
    }
    for decoding in ("exact", "fast"):
        clock = Clock()
        segmenter = SegmentAnything(sam, "sam_vit_b", "random", decoding)
        ours = our_proposals(segmenter, image, clues, grid_settings(arguments.side, bar), clock)
        result[decoding] = clock.seconds | {
            "boxes": len(ours.boxes),
            "times_faster": official.seconds["all"] / clock.seconds["all"],
        }
    return result


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Resident memory while the proposals stage works through a long list that names the same few files."""
    from weaksam.config import load_settings
    from weaksam.pipeline.settings import RunSettings
    from weaksam.pipeline.state import open_run
    from weaksam.stages import proposals

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset(root / "few", SceneSettings(size=64), 8, 0, 0)
        files = sorted((root / "few" / "train").iterdir())
        (root / "images").mkdir()
        for number in range(arguments.images):
            os.link(files[number % len(files)], root / "images" / f"{number:06d}{files[0].suffix}")
        quick = {"long_side": 32, "ranking": "salience", "smoothings": "[1.0]", "num_paired": 0}  # milliseconds a photo
        overrides = [f"data.train.images={root / 'images'}", f"out={root / 'out'}", "data.without_tags=true"]
        overrides += [f"segmenter.tree.{name}={value}" for name, value in quick.items()]
        run = open_run(load_settings(RunSettings, None, overrides))
        seen: list[tuple[int, float]] = []
        answered = 0

        def nothing(image_id: str) -> CluePoints:
            nonlocal answered
            if answered % max(1, arguments.images // 20) == 0:
                seen.append((answered, _resident_mib()))
                print(f"{answered} photos: {seen[-1][1]:.0f} MiB", flush=True)
            answered += 1
            return no_clues()

        proposals.run(run.context, run.settings.proposals, run.segmenter, nothing, run.context.train, "train")
    return {"images": arguments.images, "photos_and_mib": seen, "mib_at_the_end": _resident_mib()}


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Run one measurement and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["grid", "protocol", "memory"])
    parser.add_argument("--photo", type=Path, help="a photo; a rendered scene of 480 x 480 pixels if not given")
    parser.add_argument("--side", type=int, default=32, help="grid points a side")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--variant", default="vit_b", choices=["vit_b", "vit_l", "vit_h"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        if arguments.photo is None:
            write_dataset(Path(folder), SceneSettings(size=480), 1, 0, 0)
            arguments.photo = next((Path(folder) / "train").iterdir())
        result = {"grid": grid, "protocol": protocol, "memory": memory}[arguments.what](arguments)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
