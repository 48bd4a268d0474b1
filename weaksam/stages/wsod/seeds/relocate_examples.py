"""The seeds of the first branch, from class maps and from what regions look like in the other photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from weaksam.engine.context import RunContext
from weaksam.models.backbones.features import build_features
from weaksam.stages.wsod.examples import Lesson
from weaksam.stages.wsod.photo_features import PhotoFeatures
from weaksam.stages.wsod.region_features import region_features
from weaksam.stages.wsod.seeds.relocation import Regions, relocate, seeds_of_values
from weaksam.stages.wsod.settings import WsodSettings


def unread_features(context: RunContext, settings: WsodSettings) -> PhotoFeatures:
    """Frozen features of the run's backbone, none computed yet."""
    network = build_features(context.backbone).to(context.device)
    return PhotoFeatures(network, settings.long_side, context.device, settings.max_cache_gib)


def relocated(lessons: Sequence[Lesson], photos: PhotoFeatures, settings: WsodSettings) -> list[Lesson]:
    """The lessons with the seeds that the photos agree on, from their first values on.

    See `seeds.relocation`. Depends on the training photos, tags and settings alone, not on the seed.
    """
    num_classes = len(lessons[0].tags) if lessons else 0
    boxes = [lesson.boxes for lesson in lessons]
    features = region_features(
        photos,
        [lesson.sample for lesson in lessons],
        boxes,
        roi_size=settings.roi_size,
        num_components=settings.relocate_components,
    )
    regions = [
        Regions(of_photo, lesson.boxes, lesson.overlaps.iou, lesson.present)
        for of_photo, lesson in zip(features, lessons, strict=True)
    ]
    values = relocate(
        regions,
        [_values(lesson) for lesson in lessons],
        num_classes,
        rounds=settings.relocate_rounds,
        folds=settings.relocate_folds,
        ridge=settings.relocate_ridge,
        foreground_iou=settings.foreground_iou,
    )
    share, nms_iou = settings.relocate_share, settings.nms_iou
    return [
        replace(lesson, clue_seeds=seeds_of_values(one, value, num_classes, share=share, nms_iou=nms_iou))
        for lesson, one, value in zip(lessons, regions, values, strict=True)
    ]


def _values(lesson: Lesson) -> Tensor:
    assert lesson.first_values is not None, "lessons were made without class maps"
    return lesson.first_values
