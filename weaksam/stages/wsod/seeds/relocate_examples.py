"""Give training examples the seeds that relocation finds for their first branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from weaksam.stages.wsod.examples import TrainingExample
from weaksam.stages.wsod.photo_features import PhotoFeatures
from weaksam.stages.wsod.region_features import region_features
from weaksam.stages.wsod.seeds.given_labels import of_present, trusted_seeds
from weaksam.stages.wsod.seeds.relocation import Regions, RelocationSettings, relocate, seeds_of_values
from weaksam.stages.wsod.settings import WsodSettings


def relocated(
    examples: Sequence[TrainingExample], photos: PhotoFeatures, settings: WsodSettings, rule: RelocationSettings
) -> list[TrainingExample]:
    """The examples with the seeds that the photos agree on, beginning with their first values.

    See `seeds.relocation`. ``rule`` is ``settings.seeds``. Depends on the training photos, tags and settings alone, not
    on the seed of the run. No example gives none.
    """
    num_classes = len(examples[0].tags) if examples else 0
    features = region_features(
        photos,
        [example.sample for example in examples],
        [example.boxes for example in examples],
        roi_size=settings.roi_size,
        num_components=rule.components,
    )
    regions = [
        Regions(of_photo, example.boxes, example.present, example.labels.complete)
        for of_photo, example in zip(features, examples, strict=True)
    ]
    values = relocate(
        regions,
        [_first_values(example) for example in examples],
        num_classes,
        rounds=rule.rounds,
        folds=rule.folds,
        ridge=rule.ridge,
        foreground_iou=settings.foreground_iou,
        labels=[example.labels for example in examples],
    )
    seeds = [
        seeds_of_values(of_photo, value, num_classes, share=rule.share, nms_iou=settings.nms_iou)
        for of_photo, value in zip(regions, values, strict=True)
    ]
    scores = [of_present(value, of_photo.present, num_classes) for of_photo, value in zip(regions, values, strict=True)]
    return [
        replace(example, clue_seeds=trusted_seeds(of_photo, of_regions, example.boxes, example.labels))
        for example, of_photo, of_regions in zip(examples, seeds, scores, strict=True)
    ]


def _first_values(example: TrainingExample) -> Tensor:
    assert example.first_values is not None, "examples were made without class maps"
    return example.first_values
