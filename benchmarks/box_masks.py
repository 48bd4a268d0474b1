"""Time masks of box prompts, and measure the masks that true boxes prompt.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/box_masks.py nano --images ../shared/data/boards4/images/train
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/box_masks.py vit_b --images ../shared/data/boards4/images/train
    python benchmarks/box_masks.py set --images ../shared/data/nuts3/images/all \
        --truth ../shared/data/nuts3/annotations/instances_all.json --segmenter tree

``nano``: masks per CPU second of box prompts on photos whose sam_nano embeddings lie in a cache, photos and cache read
before: unpacking, decoding, choosing, the mask at the photo's size and its RLE. ``vit_b``: all boxes of a photo in
batches against ``SamPredictor`` called box by box, both with one embedding of SAM ViT-B's architecture with random
weights, in turn. ``set``: mean IoU, with the true masks, of the filled true boxes and of the masks that these prompt,
by prompt and choice, and the share of the gap between the filled box and 1 that they close; then how well each measure
of quality ranks the chosen masks (Spearman's correlation with their IoU). "centre": the box's centre stands for a peak.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from weaksam.data.formats.coco import read_instances
from weaksam.data.images import read_image
from weaksam.sam.box_masks import BoxMasks, BoxMaskSettings, MaskChoice, box_prompts, masks_of_boxes
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.embedding_cache import CachedSegmenter, EmbeddingCache
from weaksam.sam.nano.segmenter import SamNano
from weaksam.sam.prompts import Prompts
from weaksam.structures.instances import Instances
from weaksam.structures.masks import Rle, box_mask, pairwise_mask_iou, rle_from_mask

PROMPTS = {"box": {}, "box, second pass": {"second_pass": True}}
CLEANED = {"overlaps": "smaller", "min_fragment": 0.1, "max_hole": 0.1}


def random_boxes(size: tuple[int, int], num: int, seed: int) -> Tensor:
    """Half-open xyxy boxes ``(num, 4)`` of a tenth to half of the photo's sides, anywhere inside it."""
    draw = torch.Generator().manual_seed(seed)
    sides = torch.tensor([size[1], size[0]])
    lengths = (0.1 + 0.4 * torch.rand(num, 2, generator=draw)) * sides
    corners = torch.rand(num, 2, generator=draw) * (sides - lengths)
    return torch.cat([corners, corners + lengths], dim=1)


def photos_in(folder: Path, num: int) -> list[np.ndarray]:
    """The first ``num`` photos of a folder by name."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [read_image(path) for path in paths[:num]]


def time_nano(images: Path, num_prompts: int, per_photo: int) -> None:
    """Print masks per CPU second with cached embeddings, of each setting."""
    photos = photos_in(images, -(-num_prompts // per_photo))
    sizes = {photo.shape[:2] for photo in photos}
    print(f"{len(photos)} photos of {sizes}, {per_photo} boxes each")
    with tempfile.TemporaryDirectory() as folder:
        segmenter = CachedSegmenter(SamNano.load(), EmbeddingCache(Path(folder), 1 << 30))
        tensors = []
        for photo in photos:
            segmenter.encode(photo)
            tensors.append(segmenter.cache.load(segmenter.key(photo)))
        print("| settings | masks | CPU seconds | masks/s |\n|---|---|---|---|")
        for changes in ({}, {"mask_choice": "combined"}, CLEANED, {"second_pass": True}):
            settings, count, start = BoxMaskSettings(**changes), 0, time.process_time()
            for number, (photo, kept) in enumerate(zip(photos, tensors, strict=True)):
                assert kept is not None
                embedding = segmenter.segmenter.unpack(kept)
                prompts = Prompts(boxes=random_boxes(photo.shape[:2], per_photo, number))
                count += len(masks_of_boxes(segmenter, embedding, prompts, settings).rles)
            seconds = time.process_time() - start
            print(f"| {changes or 'defaults'} | {count} | {seconds:.2f} | {count / seconds:.0f} |")


def time_vit_b(images: Path, per_photo: int, num_photos: int) -> None:
    """Print CPU seconds of both ways on each photo, and the least IoU of their masks."""
    from segment_anything import SamPredictor, sam_model_registry

    from weaksam.sam.official.segmenter import SegmentAnything
    from weaksam.structures.boxes import inclusive_from_xyxy

    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"]().eval()
    segmenter, predictor = SegmentAnything(sam, "vit_b", "random"), SamPredictor(sam)
    print("| photo | boxes | box by box, s | together, s | times | least IoU |\n|---|---|---|---|---|---|")
    for number, photo in enumerate(photos_in(images, num_photos)):
        boxes = random_boxes(photo.shape[:2], per_photo, number)
        embedding = segmenter.encode(photo)
        # The same embedding for both; what set_image would keep
        predictor.features, predictor.is_image_set = embedding.features, True
        predictor.original_size, predictor.input_size = embedding.size, embedding.input_size
        start, singly = time.process_time(), []
        for box in inclusive_from_xyxy(boxes).numpy():
            masks, iou, _ = predictor.predict(box=box, multimask_output=True)
            singly.append(rle_from_mask(torch.from_numpy(masks[iou.argmax()])))
        middle = time.process_time()
        together = masks_of_boxes(segmenter, embedding, Prompts(boxes=boxes), BoxMaskSettings()).rles
        end = time.process_time()
        least = float(own_iou(together, singly).min())
        ways = middle - start, end - middle
        print(f"| {number} | {per_photo} | {ways[0]:.2f} | {ways[1]:.2f} | {ways[0] / ways[1]:.2f} | {least:.4f} |")


def own_iou(rles: list[Rle], truths: list[Rle]) -> Tensor:
    """IoU ``(N,)`` of each mask with its own true one."""
    return torch.tensor([float(pairwise_mask_iou([a], [b])) for a, b in zip(rles, truths, strict=True)])


def objects_of(images: Path, truth: Path) -> Iterator[tuple[np.ndarray, Instances]]:
    """Every photo that has objects with masks, and these."""
    for image_id, of_image in read_instances(truth).images.items():
        objects = of_image.instances.without_crowd()
        if len(objects) and objects.masks is not None:
            yield read_image(images / image_id), objects


def measure_set(images: Path, truth: Path, settings: SegmenterSettings) -> None:
    """Print the table of prompts and choices, and that of the measures of quality."""
    segmenter = build_segmenter(settings, torch.device("cpu"))
    rows: dict[str, list[Tensor]] = {}
    chosen: list[BoxMasks] = []
    for photo, objects in objects_of(images, truth):
        embedding, boxes, truths = segmenter.encode(photo), objects.boxes, list(objects.masks or ())
        filled = [rle_from_mask(box_mask(box, photo.shape[:2])) for box in boxes]
        rows.setdefault("filled box", []).append(own_iou(filled, truths))
        centres = box_prompts(boxes, [box.view(2, 2).mean(0)[None] for box in boxes], 1)
        for prompt, prompts in (("box", Prompts(boxes=boxes)), ("box and centre", centres)):
            for second in (False, True) if prompt == "box" else (False,):
                for choice in get_args(MaskChoice):
                    asked = BoxMaskSettings(mask_choice=choice, second_pass=second)
                    masks = masks_of_boxes(segmenter, embedding, prompts, asked)
                    name = f"{prompt}{', second pass' * second}: {choice}"
                    rows.setdefault(name, []).append(own_iou(masks.rles, truths))
                    if (prompt, second, choice) == ("box", False, "predicted_iou"):
                        chosen.append(masks)
        cleaned = BoxMaskSettings.model_validate(CLEANED)
        masks = masks_of_boxes(segmenter, embedding, Prompts(boxes=boxes), cleaned)
        rows.setdefault(f"box: predicted_iou, {CLEANED}", []).append(own_iou(masks.rles, truths))
    print_set(rows, chosen)


def print_set(rows: dict[str, list[Tensor]], chosen: list[BoxMasks]) -> None:
    """Print mean IoU and closed gap by row, and the correlations of ``chosen`` with their IoU."""
    means = {name: float(torch.cat(parts).mean()) for name, parts in rows.items()}
    num, base = len(torch.cat(rows["filled box"])), means["filled box"]
    print(f"{num} objects\n\n| prompt: choice | mean IoU | of the gap |\n|---|---|---|")
    for name, mean in means.items():
        print(f"| {name} | {mean:.3f} | {(mean - base) / (1 - base):.2f} |")
    iou = torch.cat(rows["box: predicted_iou"])
    predicted, stability, agreement = (
        torch.cat([getattr(masks, name) for masks in chosen])
        for name in ("predicted_iou", "stability", "box_agreement")
    )
    measures = {
        "predicted IoU": predicted,
        "stability": stability,
        "agreement with the box": agreement,
        "predicted IoU x agreement (quality)": predicted * agreement,
        "predicted IoU x stability x agreement": predicted * stability * agreement,
    }
    print("\n| measure of the masks of box: predicted_iou | rank correlation with IoU |\n|---|---|")
    for name, measure in measures.items():
        print(f"| {name} | {spearmanr(measure.numpy(), iou.numpy()).statistic:.2f} |")


def main() -> None:
    """Read the command line and run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("nano", "vit_b", "set"))
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--segmenter", choices=("nano", "tree"), default="tree")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--per-photo", type=int, default=10)
    parser.add_argument("--photos", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.mode == "nano":
        time_nano(arguments.images, arguments.prompts, arguments.per_photo)
    elif arguments.mode == "vit_b":
        time_vit_b(arguments.images, arguments.per_photo, arguments.photos)
    elif arguments.truth is None:
        parser.error("set wants --truth, a COCO file with the true masks")
    else:
        measure_set(arguments.images, arguments.truth, SegmenterSettings(family=arguments.segmenter))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
