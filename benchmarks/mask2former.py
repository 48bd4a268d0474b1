"""Measure Mask2Former on a CPU: whether it learns 16 scenes by heart, and what a full-size training step takes.

    OMP_NUM_THREADS=1 python benchmarks/mask2former.py overfit OUT --weights FILE [--settings key=value ...]
    OMP_NUM_THREADS=1 python benchmarks/mask2former.py step [--size 800 1333] [--objects 8] [--steps 2]

``overfit`` renders 16 scenes in OUT and trains the wsis stage's Mask2Former on their true masks, and prints the mask AP
on the same scenes; ``--settings`` are those of the stage. ``step`` times training steps of the published size
with ResNet-50 and random weights on one random photo, divided among the parts of the network by a profile.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from weaksam.config import load_settings
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.batches import DetectorBatch
from weaksam.engine.detectors.mask2former import mask2former_objective
from weaksam.engine.kept_memory import kept_memory
from weaksam.engine.log import RunLog
from weaksam.engine.loss_values import LossValues
from weaksam.engine.training import ObjectiveStep
from weaksam.engine.training_state import TrainingProgress
from weaksam.evaluation.coco import coco_ap
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors import mask2former
from weaksam.models.detectors.mask2former.network import build_mask2former
from weaksam.models.detectors.mask2former.settings import MaskLossSettings
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages import wsis

SCENES = SceneSettings(size=128, num_classes=3, max_objects=3, max_distractors=1, max_clutter=15, min_radius=0.18)
OVERFIT = ["short_side=128", "long_side=128", "num_epochs=70", "batch_size=4", "smallest_scale=1", "largest_scale=1"]
OVERFIT += ["colour_jitter=0", "flip=false", "weight_decay=0", "trainable_layers=6", "backbone_lr_factor=1", "lr=5e-4"]
PUBLISHED = wsis.Mask2FormerWsisSettings(
    channels=256, encoder_layers=6, decoder_layers=9, encoder_width=1024, decoder_width=2048, num_queries=100,
    trainable_layers=6, losses=MaskLossSettings(num_points=12544),
)  # fmt: skip


def overfit(out: Path, weights: str, overrides: Sequence[str]) -> None:
    """Train on 16 scenes until they are known by heart, and print the mask AP on them."""
    paths = write_dataset(out / "scenes", SCENES, 16, 0, seed=0)
    split = SplitSettings(images=paths["train"], tags=paths["tags_train"], truth=paths["instances_train"])
    dataset = load_dataset(split, name="train")
    backbone = BackboneSettings(name="mobilenet_v2", weights=weights)
    context = RunContext(out, 0, torch.device("cpu"), dataset, dataset, RunLog(out / "log.jsonl"), backbone)
    settings = load_settings(wsis.Mask2FormerWsisSettings, None, [*OVERFIT, *overrides])
    start = time.monotonic()
    result = wsis.run(context, settings, RegionTreeSegmenter(), dataset.truths)
    seconds = time.monotonic() - start
    ap = coco_ap(dataset.truths, result.detections("test"), len(dataset.classes), geometry="masks")
    print(f"{ap}\n{seconds:.0f} s, at most {peak_gib():.2f} GiB of memory")


def peak_gib() -> float:
    """The most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    by_heart = commands.add_parser("overfit")
    by_heart.add_argument("out", type=Path)
    by_heart.add_argument("--weights", default="imagenet", help="MobileNetV2's: imagenet, none or a file")
    by_heart.add_argument("--settings", nargs="*", default=[], help="key=value of the stage")
    given = parser.parse_args()
    torch.set_num_threads(1)
    overfit(given.out, given.weights, given.settings)
