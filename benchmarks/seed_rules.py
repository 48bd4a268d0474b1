"""Compare rules for the first seeds by the CorLoc of each tag's best region, before and after relocation.

    python benchmarks/seed_rules.py benchmarks/configs/boards4.yaml [key=value ...] [--ridges 0.03 0.1 0.3]

For each first value of a region (contrast, support, the segmenter's predicted IoU, contrast times that), CorLoc of the
best region per tag on every third training photo (the part settings may be chosen on) and on the other two thirds, at
the start and after the rounds. Reads true boxes, for this measurement alone. Prints markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from wsod_tables import opened

from weaksam.pipeline.state import Run
from weaksam.stages import clues
from weaksam.stages.wsod.examples import TrainingExample, make_examples
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.stages.wsod.region_features import region_features
from weaksam.stages.wsod.seeds.class_maps import region_support
from weaksam.stages.wsod.seeds.relocation import Regions, RelocationSettings, relocate
from weaksam.structures.boxes import pairwise_iou

EVERY = 3


def corloc_of(run: Run, examples: list[TrainingExample], values: list[Tensor], chosen: bool) -> float:
    """Share of tags whose best region overlaps a true box of the class by half, on the chosen third or the rest."""
    truths, hits = run.true_train.truths, []
    for index, (example, value) in enumerate(zip(examples, values, strict=True)):
        if (index % EVERY == 0) != chosen or len(value) == 0:
            continue
        truth = truths[example.sample.image_id]
        for column, label in enumerate(example.present.tolist()):
            box = example.boxes[int(value[:, column].argmax())][None]
            hits.append(bool((pairwise_iou(box, truth.boxes[truth.labels == label]) >= 0.5).any()))
    return sum(hits) / max(len(hits), 1)


def first_values(run: Run, examples: list[TrainingExample]) -> dict[str, list[Tensor]]:
    """By name, the first values ``(R, T)`` of every photo; the examples hold the contrast."""
    store = run.results["proposals"]["train"]
    contrast = [_present(example.first_values) for example in examples]
    objectness = [
        store[example.sample.image_id]["scores"][: len(example.boxes)].clamp(min=0)[:, None].expand_as(values)
        for example, values in zip(examples, contrast, strict=True)
    ]
    return {
        "contrast": contrast,
        "support": [region_support(a, example.overlaps.iou) for a, example in zip(contrast, examples, strict=True)],
        "predicted IoU": objectness,
        "contrast times predicted IoU": [a * b for a, b in zip(contrast, objectness, strict=True)],
    }


def _present(values: Tensor | None) -> Tensor:
    assert values is not None, "examples without class maps"
    return values


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--ridges", type=float, nargs="+", default=[0.1])
    options = parser.parse_intermixed_args()
    run = opened(options.config, options.overrides)
    given = run.settings.wsod.seeds
    rule = given if isinstance(given, RelocationSettings) else RelocationSettings()
    rule = rule.model_copy(update={"start": "contrast"})
    settings = run.settings.wsod.model_copy(update={"seeds": rule})
    detector = FrozenDetector(run.context, settings)
    detector.begin_training()
    store, maps = run.results["proposals"]["train"], clues.class_maps(run.results["clues"])
    examples = make_examples(run.context, settings, store, maps, detector.prepare)
    features = region_features(
        detector.frozen_features(),
        [example.sample for example in examples],
        [example.boxes for example in examples],
        roi_size=settings.roi_size,
        num_components=rule.components,
    )
    photos = [
        Regions(of_photo, example.boxes, example.present) for of_photo, example in zip(features, examples, strict=True)
    ]
    print("| first values | ridge | start, chosen third / rest | after the rounds |\n|---|---|---|---|")
    for name, start in first_values(run, examples).items():
        for ridge in options.ridges:
            rounds, folds = rule.rounds, rule.folds
            end = relocate(photos, start, len(run.context.train.classes), rounds=rounds, folds=folds, ridge=ridge)
            before, after = (
                " / ".join(f"{corloc_of(run, examples, values, chosen):.3f}" for chosen in (True, False))
                for values in (start, end)
            )
            print(f"| {name} | {ridge:g} | {before} | {after} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
