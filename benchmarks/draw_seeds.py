"""Draw the first seeds of the weak detector: the class map, and the region by contrast, support and relocation.

    python benchmarks/draw_seeds.py benchmarks/configs/boards4.yaml [key=value ...] --out-picture seeds.jpg --every 20

Clues and proposals of the run are made where they are missing. A row per photo (every N-th of the training photos, or
those named by --photos) and tag; no true box is read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor
from wsod_tables import opened

from weaksam.data.images import read_image
from weaksam.stages import clues
from weaksam.stages.wsod.examples import TrainingExample, make_examples
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.stages.wsod.seeds.class_maps import instance_seeds
from weaksam.stages.wsod.seeds.relocate_examples import relocated
from weaksam.stages.wsod.seeds.relocation import RelocationSettings
from weaksam.structures.masks import mask_from_rle

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

COLUMNS = ("class map", "contrast alone", "support", "relocated")


def draw_row(axes, photo: Tensor, heat: Tensor, boxes: list[tuple[Tensor, float]], name: str) -> None:
    """One row: the map over the photo, then one panel for each list of ``(boxes (N, 4), weight)``."""
    axes[0].imshow(photo)
    axes[0].imshow(heat, cmap="inferno", alpha=0.55, extent=(0, photo.shape[1], photo.shape[0], 0))
    axes[0].set_ylabel(name, fontsize=8)
    for axis, of_panel in zip(axes[1:], boxes, strict=True):
        axis.imshow(photo)
        for (x1, y1, x2, y2), weight in of_panel:
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="cyan", linewidth=1 + weight))
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])


def seeds_of(example: TrainingExample, label: int) -> list[tuple[list[float], float]]:
    """Boxes and weights of the example's seeds of a label."""
    of_label = example.clue_seeds.label == label
    return list(
        zip(
            example.boxes[example.clue_seeds.roi[of_label]].tolist(),
            example.clue_seeds.weight[of_label].tolist(),
            strict=True,
        )
    )


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--out-picture", type=Path, required=True)
    parser.add_argument("--every", type=int, default=30)
    parser.add_argument("--photos", nargs="+", default=[])
    options = parser.parse_intermixed_args()
    run = opened(options.config, options.overrides)
    settings, store = run.settings.wsod, run.results["proposals"]["train"]
    rule = settings.seeds
    if not isinstance(rule, RelocationSettings):
        raise SystemExit(f"wanted a config with wsod.seeds=relocation, found {rule.rule}: leave wsod.seeds out")
    detector = FrozenDetector(run.context, settings)
    detector.begin_training()
    maps_of = clues.class_maps(run.results["clues"])
    before = make_examples(run.context, settings, store, maps_of, detector.prepare)
    after = relocated(before, detector.frozen_features(), settings, rule)
    chosen = [
        index
        for index, example in enumerate(after)
        if (example.sample.image_id in options.photos if options.photos else index % options.every == 0)
    ]
    rows = [(index, label) for index in chosen for label in after[index].sample.tags]
    figure, axes = plt.subplots(len(rows), 4, figsize=(9, 2.2 * len(rows)), squeeze=False, layout="constrained")
    for axis, title in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(title, fontsize=9)
    for axis_row, (index, label) in zip(axes, rows, strict=True):
        first, example = before[index], after[index]
        labels, maps = maps_of(example.sample.image_id)
        heat = maps[labels.tolist().index(label)]
        rles = store[example.sample.image_id]["rles"][: len(example.boxes)]
        masks = torch.stack([mask_from_rle(rle) for rle in rles])
        by_contrast, _, weights = instance_seeds(heat[None], masks, max_seeds=1)
        column = example.present.tolist().index(label)
        assert first.first_values is not None
        best_supported = example.boxes[int(first.first_values[:, column].argmax())].tolist()
        image = torch.from_numpy(read_image(example.sample.path))
        panels = [
            list(zip(example.boxes[by_contrast].tolist(), weights.tolist(), strict=True)),
            [(best_supported, 1.0)],
            seeds_of(example, label),
        ]
        shown = F.interpolate(heat[None, None], size=masks.shape[-2:], mode="bilinear")[0, 0]
        draw_row(axis_row, image, shown, panels, run.context.train.classes[label])
    options.out_picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out_picture, dpi=80)
    print(f"{options.out_picture}: {len(rows)} rows, {options.out_picture.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
