"""The rows of `benchmarks/gpu.py` by name, in the order of the pipeline; each says what it times."""

from __future__ import annotations

from collections.abc import Callable

import gpu_detectors as detectors
import gpu_stages as stages
from gpu_stages import Bench, Timed

ROWS: dict[str, Callable[[Bench], Timed]] = {
    "clues": stages.clues_cnn,
    "clues train": detectors.tag_network_step,
    "clues (WeakTr)": stages.clues_weaktr,
    "clues (WeakTr) train": detectors.weaktr_step,
    "sam encode": stages.sam_encode,
    "sam decode": stages.sam_decode,
    "sam boxes": stages.sam_boxes,
    "sam_nano propose": detectors.nano_propose,
    "sam_nano train": detectors.nano_step,
    "region tree": stages.region_tree,
    "wsod frozen": stages.frozen_step,
    "wsod end to end": stages.end_to_end_step,
    "wsod detect": stages.end_to_end_detect,
    "retrain": detectors.retrain_step,
    "retrain detect": detectors.retrain_detect,
    "retrain (DINO)": detectors.dino_step,
    "retrain (DINO) detect": detectors.dino_detect,
    "masks": detectors.mask_step,
    "masks detect": detectors.mask_detect,
    "masks (Mask2Former)": detectors.mask2former_step,
    "masks (Mask2Former) detect": detectors.mask2former_detect,
}
