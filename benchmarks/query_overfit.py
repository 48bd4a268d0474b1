"""Let DINO learn 16 rendered scenes by heart on a CPU, through the retrain stage, and measure it on the same scenes.

    OMP_NUM_THREADS=1 python benchmarks/query_overfit.py OUT --weights MOBILENET_V2 [key=value ...]

A detector that cannot overfit a few scenes has a fault in its losses or its matching. It is taught the true boxes of
scenes of the default difficulty, without augmentation; ``key=value`` are settings of the stage, such as
``num_epochs=60``. Prints AP50, AP75 and AP .5:.95, seconds, and the process's peak memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

import torch

from weaksam.config import load_settings
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.engine.context import RunContext
from weaksam.engine.log import RunLog
from weaksam.evaluation.voc import voc_ap
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages import retrain

NUM_SCENES = 16
IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
PLAIN = ["flip=false", "smallest_scale=1", "largest_scale=1", "colour_jitter=0", "detect_train=false"]
"""Views are the scenes themselves."""
SETTINGS = ["short_side=128", "long_side=128", "batch_size=4", "num_epochs=80", "lr=4e-4", "trainable_layers=6"]


def main() -> None:
    """Train and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", default="imagenet", help="of MobileNetV2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    paths = write_dataset(options.out / "scenes", SceneSettings(), NUM_SCENES, 0, seed=options.seed)
    split = SplitSettings(images=paths["train"], truth=paths["instances_train"], tags=paths["tags_train"])
    scenes = load_dataset(split, name="train")
    backbone = BackboneSettings(weights=options.weights)
    log = RunLog(options.out / "log.jsonl")
    context = RunContext(options.out, options.seed, torch.device("cpu"), scenes, scenes, log, backbone)
    settings = load_settings(retrain.DinoRetrainSettings, None, [*SETTINGS, *PLAIN, *options.settings])
    truth = {sample.image_id: sample.truth for sample in scenes if sample.truth is not None}
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    start = time.process_time()
    result = retrain.run(context, settings, truth)
    quality = voc_ap(truth, result.detections("test"), num_classes=len(scenes.classes), ious=IOUS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    average = sum(map(quality.mean, IOUS)) / len(IOUS)
    print(f"AP50 {quality.mean(0.5):.3f}, AP75 {quality.mean(0.75):.3f}, AP .5:.95 {average:.3f}")
    print(f"{time.process_time() - start:.0f} s of one thread, peak {peak:.2f} GiB; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
