"""Write a set of labels as detectron2 reads it, with a configuration for each detector of the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from weaksam.data.formats.coco import write_instances
from weaksam.data.frames import detectron2_script
from weaksam.data.frames.recipes import BATCH_SIZE, RECIPES, Recipe, recipes_for
from weaksam.store.files import write_text_atomic
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

_ZOO = {
    "faster_rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "mask_rcnn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "mask2former": "configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml",
}
"""The configurations that ours build on: of detectron2's model zoo, and of the repository of Mask2Former."""


def write_detectron2(folder: Path, dataset: Dataset, instances: Mapping[str, Instances]) -> None:
    """Write ``annotations/SPLIT.json``, a configuration for each detector, and ``train.py``, which runs one of them.

    The photos belong to ``images/SPLIT``. Faster and Mask R-CNN are detectron2's own (``.yaml``), Mask2Former needs its
    repository, DINO detrex (``dino.py``). Detectors with masks are written where there are masks. detectron2 leaves
    crowds out, so an ignored region is background to it; photos without objects are listed, but not trained on.
    """
    write_instances(folder / "annotations" / f"{dataset.name}.json", dataset, instances)
    masked = any(objects.masks is not None for objects in instances.values())
    for name, recipe in recipes_for(masked).items():
        if name == "dino":
            write_text_atomic(folder / "dino.py", detrex_config(dataset.classes, dataset.name))
            continue
        values = detectron2_config(name, recipe, len(dataset.classes), dataset.name)
        text = f"# {name} on labels by weaksam, with the recipe of WeakSAM (arXiv 2402.14812); builds on {_ZOO[name]}\n"
        write_text_atomic(folder / f"{name}.yaml", text + yaml.safe_dump(values, sort_keys=False).rstrip("\n"))
    write_text_atomic(folder / "train.py", Path(detectron2_script.__file__).read_text(encoding="utf-8").rstrip("\n"))


def detectron2_config(name: str, recipe: Recipe, num_classes: int, split: str) -> dict[str, Any]:
    """What differs from the configuration that it builds on, by detectron2's keys."""
    heads = "SEM_SEG_HEAD" if name == "mask2former" else "ROI_HEADS"
    values: dict[str, Any] = {
        "MODEL": {heads: {"NUM_CLASSES": num_classes}},
        "DATASETS": {"TRAIN": [f"weaksam_{split}"], "TEST": [f"weaksam_{split}"]},
        "DATALOADER": {"FILTER_EMPTY_ANNOTATIONS": True},
        "SOLVER": {
            "IMS_PER_BATCH": BATCH_SIZE,
            "BASE_LR": recipe.lr,
            "WEIGHT_DECAY": recipe.weight_decay,
            "MAX_ITER": recipe.num_steps,
            "STEPS": list(recipe.milestones),
            "WARMUP_ITERS": recipe.warmup_steps,
            "CHECKPOINT_PERIOD": 1000,
        },
        "TEST": {"EVAL_PERIOD": 0},
    }
    if name != "mask2former":
        values["INPUT"] = {"MIN_SIZE_TRAIN": list(recipe.short_sides), "MAX_SIZE_TRAIN": recipe.longest}
    if name == "mask_rcnn":
        values["INPUT"]["MASK_FORMAT"] = "bitmask"
    return values


def detrex_config(classes: Sequence[str], split: str) -> str:
    """The configuration of DINO for detrex, whose tools run in its folder: ``projects`` is a folder of detrex."""
    recipe = RECIPES["dino"]
    milestones = ", ".join(f"{epoch} * EPOCH" for epoch in (*recipe.milestones, recipe.num_epochs))
    return f'''"""DINO on labels by weaksam, with the recipe of WeakSAM (arXiv 2402.14812), for detrex.

In the folder of detrex: python tools/train_net.py --config-file THIS_FILE
"""

import json
from pathlib import Path

from detectron2.config import LazyCall as L
from detectron2.data.datasets import register_coco_instances
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from detrex.config import get_config
from projects.dino.configs.models.dino_r50 import model

HERE = Path(__file__).resolve().parent
ANNOTATIONS = HERE / "annotations" / "{split}.json"
register_coco_instances("weaksam_{split}", {{}}, str(ANNOTATIONS), str(HERE / "images" / "{split}"))
NUM_PHOTOS = sum(1 for _ in {{entry["image_id"] for entry in json.loads(ANNOTATIONS.read_text())["annotations"]}})
EPOCH = max(1, {recipe.repeats} * NUM_PHOTOS // {BATCH_SIZE})  # steps; a photo is shown {recipe.repeats} times

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").AdamW
train = get_config("common/train.py").train

model.num_classes = {len(classes)}
dataloader.train.dataset.names = "weaksam_{split}"
dataloader.test.dataset.names = "weaksam_{split}"
dataloader.train.total_batch_size = {BATCH_SIZE}
dataloader.evaluator.dataset_name = "weaksam_{split}"

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = str(HERE / "work_dirs" / "dino")
train.max_iter = {recipe.num_epochs} * EPOCH
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 0.1
train.clip_grad.params.norm_type = 2
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01, 0.001],
        milestones=[{milestones}],
    ),
    warmup_length=0,
    warmup_factor=0.001,
)
optimizer.lr = {recipe.lr!r}
optimizer.betas = (0.9, 0.999)
optimizer.weight_decay = {recipe.weight_decay!r}
optimizer.params.lr_factor_func = lambda module_name: 0.1 if "backbone" in module_name else 1'''
