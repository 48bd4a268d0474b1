"""Build what every stage does with a photo, beside training, at toy size and on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.helpers import block_photo, random_sam
from tests.sam.transformers.toys import write_toy
from tests.training_steps import DINO, MASK2FORMER, NANO, REGIONS, SIZE, WEAKTR, Bench, examples_of
from weaksam.engine.detectors.detecting import detect_sample
from weaksam.engine.detectors.mask2former import detect_sample_masks
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.models.detectors.mask2former.network import build_mask2former
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.models.weaktr.build import build_weaktr
from weaksam.sam.box_masks import BoxMaskSettings, masks_of_boxes
from weaksam.sam.nano.segmenter import SamNano
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.prompts import Prompts
from weaksam.sam.transformers.segmenter import TransformersSam
from weaksam.stages.clues import ClueSettings
from weaksam.stages.clues.cam import CamSource
from weaksam.stages.clues.maps import ClassMaps
from weaksam.stages.clues.weaktr import WeakTrSource
from weaksam.stages.proposals import ProposalSettings
from weaksam.stages.proposals.prompting import propose_photo
from weaksam.stages.retrain.settings import DinoRetrainSettings, RetrainSettings
from weaksam.stages.wsis.settings import Mask2FormerWsisSettings, WsisSettings
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.structures.clue_points import CluePoints
from weaksam.structures.instances import Instances

Answer = dict[str, Tensor]
"""What a path gives, as numbers by name."""
Path = Callable[[], Answer]


def of_detections(detections: Instances) -> Answer:
    assert detections.scores is not None
    areas = [float(len(rle["counts"])) for rle in detections.masks or ()]
    return {"boxes": detections.boxes, "scores": detections.scores, "masks": torch.tensor(areas)}


def of_maps(maps: ClassMaps) -> Answer:
    return {"scores": maps.scores} | {
        str(kind): torch.cat([part.flatten() for part in m]) for kind, m in maps.kinds.items()
    }


def clues(bench: Bench, device: torch.device) -> Path:
    source = CamSource(bench.context(device), ClueSettings(long_side=64))
    source.prepare(bench.folder / "cam", "0" * 64)
    return lambda: of_maps(source.map_classes(bench.discs, "02.png"))


def clues_weaktr(bench: Bench, device: torch.device) -> Path:
    settings = ClueSettings(source="weaktr", weaktr=WEAKTR, cross_layers=(1, 2), max_side=64)
    source = WeakTrSource(bench.context(device), settings, bench.discs)
    torch.manual_seed(0)
    source.model = build_weaktr(WEAKTR, len(bench.discs.classes)).to(device).eval().requires_grad_(False)
    return lambda: of_maps(source.map_classes(bench.discs, "02.png"))


def segmenter_of(name: str, bench: Bench, device: torch.device) -> Any:
    """A segmenter of this kind at toy size."""
    if name == "nano":
        return SamNano.load(device=device)
    if name == "nano as trained":
        return SamNano.load(device=device, fast=False)
    if name == "official":
        return SegmentAnything(random_sam(5, decoder_depth=1).to(device), "toy", "0")
    if not (folder := bench.folder / name).is_dir():
        write_toy(name, folder)
    return TransformersSam.load(folder, device)


def proposals(name: str, **changes: Any) -> Callable[[Bench, torch.device], Path]:
    """Propose for a photo by a grid of four points a side and by four clue points."""

    def path(bench: Bench, device: torch.device) -> Path:
        segmenter = segmenter_of(name, bench, device)
        settings = ProposalSettings(grid_side=4, min_pred_iou=0.0, min_stability=0.0, batch_size=16, **changes)
        points = torch.tensor([[40.0, 30.0], [60.0, 50.0], [120.0, 90.0], [10.0, 10.0]])
        clue_points = CluePoints(points, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 2]))

        def call() -> Answer:
            answer = propose_photo(segmenter, block_photo(), clue_points, settings)
            return {"boxes": answer.boxes, "scores": answer.scores}

        return call

    return path


def box_masks(name: str) -> Callable[[Bench, torch.device], Path]:
    """Masks of two boxes, prompted twice, cleaned and without overlaps."""

    def path(bench: Bench, device: torch.device) -> Path:
        segmenter = segmenter_of(name, bench, device)
        boxes = torch.tensor([[30.0, 20.0, 90.0, 60.0], [100.0, 70.0, 150.0, 110.0]])
        settings = BoxMaskSettings(second_pass=True, overlaps="smaller", min_fragment=0.01, max_hole=0.01)

        def call() -> Answer:
            masks = masks_of_boxes(segmenter, segmenter.encode(block_photo()), Prompts(boxes=boxes), settings)
            return {"predicted_iou": masks.predicted_iou, "box_agreement": masks.box_agreement}

        return call

    return path


def weak_frozen(bench: Bench, device: torch.device) -> Path:
    torch.manual_seed(0)
    settings = WsodSettings(hidden=16, reduced=8, long_side=64, roi_size=3, box_regression=True)
    detector = FrozenDetector(bench.context(device), settings)
    detector.begin_training()
    detector.begin_detecting()
    example = examples_of(bench.discs)[0]
    image = np.asarray(block_photo())
    return lambda: of_detections(
        Instances.cat([detector.detect(example.sample, example.boxes), detector.detect_in(image, example.boxes)])
    )


def weak_end_to_end(bench: Bench, device: torch.device) -> Path:
    torch.manual_seed(0)
    own = EndToEndSettings(test_short_sides=(64, 96), drop_block=True, read_ahead=0, precision="float32")
    settings = WsodSettings(
        mode="end_to_end", seeds="mist", box_regression=True, background_column=True, hidden=16, roi_size=3,
        end_to_end=own,
    )  # fmt: skip
    detector = EndToEndDetector(bench.context(device), settings)
    detector.begin_detecting()
    example = examples_of(bench.discs)[0]
    return lambda: of_detections(detector.detect(example.sample, example.boxes))


def detecting(settings: Any, build: Any, detect: Any = detect_sample) -> Callable[[Bench, torch.device], Path]:
    """Detect on a square at two scales and mirrored."""

    def path(bench: Bench, device: torch.device) -> Path:
        torch.manual_seed(0)
        model = build(NANO, settings, 2).to(device).eval()

        def call() -> Answer:
            with torch.inference_mode():
                return of_detections(detect(model, bench.squares.samples[1], settings, device))

        return call

    return path


VIEWS: dict[str, Any] = {**SIZE, "test_scales": (1.0, 1.25), "min_score": 0.0, "max_boxes": 5}
PATHS: dict[str, Callable[[Bench, torch.device], Path]] = {
    "clues": clues,
    "clues, WeakTr": clues_weaktr,
    "proposals, sam_nano": proposals("nano"),
    "proposals, sam_nano as trained": proposals("nano as trained"),
    "proposals, official": proposals("official"),
    "proposals, SAM 2 of transformers": proposals("sam2"),
    "box masks, sam_nano": box_masks("nano"),
    "box masks, official": box_masks("official"),
    "box masks, SAM 2 of transformers": box_masks("sam2"),
    "wsod, frozen": weak_frozen,
    "wsod, end to end": weak_end_to_end,
    "Faster R-CNN": detecting(RetrainSettings(**VIEWS, **REGIONS), build_faster_rcnn),
    "DINO": detecting(DinoRetrainSettings(**VIEWS, **DINO), build_dino),
    "Mask R-CNN": detecting(WsisSettings(**VIEWS, **REGIONS), build_mask_rcnn),
    "Mask2Former": detecting(Mask2FormerWsisSettings(**VIEWS, **MASK2FORMER), build_mask2former, detect_sample_masks),
}
"""``(bench, device)`` to what a stage does with a photo, by name."""
