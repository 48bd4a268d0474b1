"""Write a set of labels as mmdet 3 reads it, with a configuration for each detector of the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from weaksam.data.formats.coco import write_instances
from weaksam.data.frames import mmdet_script
from weaksam.data.frames.recipes import BATCH_SIZE, Recipe, recipes_for
from weaksam.store.files import write_text_atomic
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

_BASES = {
    "faster_rcnn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "dino": "dino/dino-4scale_r50_8xb2-12e_coco.py",
    "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "mask2former": "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
}
"""mmdet's own configurations that ours build on."""
_HEADS = {
    "faster_rcnn": "roi_head=dict(bbox_head=dict(num_classes=num_classes))",
    "dino": "bbox_head=dict(num_classes=num_classes)",
    "mask_rcnn": ("roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes))"),
    "mask2former": (
        "panoptic_head=dict(num_things_classes=num_classes, num_stuff_classes=0, "
        "loss_cls=dict(class_weight=[1.0] * num_classes + [0.1])), "
        "panoptic_fusion_head=dict(num_things_classes=num_classes, num_stuff_classes=0)"
    ),
}
"""What the number of classes decides in each model."""


def write_mmdet(folder: Path, dataset: Dataset, instances: Mapping[str, Instances]) -> None:
    """Write ``annotations/SPLIT.json``, a configuration for each detector, and ``train.py``, which runs one of them.

    The photos belong to ``images/SPLIT``. Detectors with masks are written where there are masks. A crowd is ignored by
    mmdet, and photos without objects are listed, but left out of the training, as in the retraining here.
    """
    write_instances(folder / "annotations" / f"{dataset.name}.json", dataset, instances)
    masked = any(objects.masks is not None for objects in instances.values())
    for name, recipe in recipes_for(masked).items():
        write_text_atomic(folder / f"{name}.py", mmdet_config(name, recipe, dataset.classes, dataset.name))
    write_text_atomic(folder / "train.py", Path(mmdet_script.__file__).read_text(encoding="utf-8").rstrip("\n"))


def mmdet_config(name: str, recipe: Recipe, classes: Sequence[str], split: str) -> str:
    """The configuration of one detector, as Python that mmengine reads; it names the folder that it lies in."""
    return "\n".join(
        [
            f'"""{name} on {split} labels by weaksam, with the recipe of WeakSAM (arXiv 2402.14812); needs mmdet 3."""',
            "",
            f"_base_ = 'mmdet::{_BASES[name]}'",
            "",
            "data_root = '{{ fileDirname }}/'",
            f"classes = {tuple(classes)!r}",
            "num_classes = len(classes)",
            "metainfo = dict(classes=classes)",
            f"model = dict({_HEADS[name]})",
            *_data(recipe, name, split),
            *_schedule(recipe, name),
        ]
    )


def _data(recipe: Recipe, name: str, split: str) -> list[str]:
    """The lines that say which photos are trained on and detected on."""
    prefix = f"data_prefix=dict(img='images/{split}/')"
    own = f"data_root=data_root, ann_file='annotations/{split}.json', {prefix}, metainfo=metainfo"
    filtered = "filter_cfg=dict(filter_empty_gt=True, min_size=1)"
    lines = ["", f"# {BATCH_SIZE} photos a step: 8 GPUs of 2; on fewer the learning rate is scaled (auto_scale_lr)"]
    pipeline = "_base_.train_pipeline"
    if name != "mask2former":
        with_mask = ", with_mask=True" if recipe.masks else ""
        scales = [(recipe.longest, side) for side in recipe.short_sides]
        lines += [
            "train_pipeline = [",
            "    dict(type='LoadImageFromFile'),",
            f"    dict(type='LoadAnnotations', with_bbox=True{with_mask}),",
            f"    dict(type='RandomChoiceResize', scales={scales!r}, keep_ratio=True),",
            "    dict(type='RandomFlip', prob=0.5),",
            "    dict(type='PackDetInputs'),",
            "]",
        ]
        pipeline = "train_pipeline"
    dataset = f"type='CocoDataset', {own}, {filtered}, pipeline={pipeline}"
    if recipe.repeats > 1:
        dataset = f"type='RepeatDataset', times={recipe.repeats}, dataset=dict({dataset})"
    sampler = "sampler=dict(type='InfiniteSampler', shuffle=True), " if recipe.num_steps else ""
    outputs = "['bbox', 'segm']" if recipe.masks else "'bbox'"
    return [
        *lines,
        f"train_dataloader = dict(batch_size=2, {sampler}dataset=dict(_delete_=True, {dataset}))",
        "# There are no true boxes to validate on; train.py detects on the photos of every file of annotations",
        "val_dataloader = None",
        "val_evaluator = None",
        "val_cfg = None",
        f"test_dataloader = dict(dataset=dict({own}))",
        f"test_evaluator = dict(type='CocoMetric', metric={outputs}, format_only=True,",
        f"                      ann_file=data_root + 'annotations/{split}.json',",
        f"                      outfile_prefix=data_root + 'detections_{split}')",
    ]


def _schedule(recipe: Recipe, name: str) -> list[str]:
    """The lines of the optimizer and of the training's length."""
    adam = name in ("dino", "mask2former")
    values = f"lr={recipe.lr!r}, weight_decay={recipe.weight_decay!r}" + ("" if adam else ", momentum=0.9")
    by_epoch = recipe.num_epochs > 0
    lines = ["", f"optim_wrapper = dict(optimizer=dict({values}))", "param_scheduler = ["]
    if recipe.warmup_steps:
        lines.append(
            f"    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end={recipe.warmup_steps}),"
        )
    length = recipe.num_epochs or recipe.num_steps
    lines += [
        f"    dict(type='MultiStepLR', begin=0, end={length}, by_epoch={by_epoch}, "
        f"milestones={list(recipe.milestones)}, gamma=0.1),",
        "]",
    ]
    loop, unit = ("EpochBasedTrainLoop", "max_epochs") if by_epoch else ("IterBasedTrainLoop", "max_iters")
    interval = 1 if by_epoch else 1000
    return [
        *lines,
        f"train_cfg = dict(_delete_=True, type='{loop}', {unit}={length})",
        f"default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch={by_epoch}, interval={interval}, "
        "max_keep_ckpts=1))",
        f"log_processor = dict(by_epoch={by_epoch})",
        f"auto_scale_lr = dict(enable=True, base_batch_size={BATCH_SIZE})",
    ]
