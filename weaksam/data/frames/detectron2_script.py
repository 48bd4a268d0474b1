"""Train a configuration of this folder with detectron2, and detect on the photos of each file in annotations/.

python train.py faster_rcnn.yaml [KEY=VALUE ...], such as SOLVER.IMS_PER_BATCH=4 or SOLVER.MAX_ITER=500. For
mask2former.yaml run it with the repository of Mask2Former in PYTHONPATH and MASK2FORMER naming its folder.
Weights go to work_dirs/NAME, detections to detections_SPLIT.bbox.json (COCO results, masks included).
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ZOO = {
    "faster_rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "mask_rcnn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "mask2former": "configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml",
}


def main(config_name: str, options: list[str]) -> None:
    """Train, then detect with the last weights on every split."""
    from detectron2.data import build_detection_test_loader
    from detectron2.data.datasets import register_coco_instances
    from detectron2.evaluation import COCOEvaluator, inference_on_dataset

    splits = sorted(path.stem for path in (HERE / "annotations").glob("*.json"))
    for split in splits:
        name, photos = f"weaksam_{split}", HERE / "images" / split
        register_coco_instances(name, {}, str(HERE / "annotations" / f"{split}.json"), str(photos))
    name = Path(config_name).stem
    config = configured(name, config_name, options)
    trainer = trainer_of(name)(config)
    trainer.resume_or_load(resume=True)
    trainer.train()
    for split in splits:
        folder = Path(config.OUTPUT_DIR) / split
        evaluator = COCOEvaluator(f"weaksam_{split}", output_dir=str(folder))
        evaluator._do_evaluation = False  # there are no true boxes
        inference_on_dataset(trainer.model, build_detection_test_loader(config, f"weaksam_{split}"), evaluator)
        shutil.copyfile(folder / "coco_instances_results.json", HERE / f"detections_{split}.bbox.json")


def configured(name: str, config_name: str, options: list[str]) -> Any:
    """The settings that ours build on, ours, and then the options."""
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    config = get_cfg()
    if name == "mask2former":
        from detectron2.projects.deeplab import add_deeplab_config
        from mask2former import add_maskformer2_config

        add_deeplab_config(config)
        add_maskformer2_config(config)
        config.merge_from_file(str(Path(os.environ["MASK2FORMER"]) / ZOO[name]))
    else:
        config.merge_from_file(model_zoo.get_config_file(ZOO[name]))
    config.merge_from_file(str(HERE / config_name))
    config.merge_from_list([part for option in options for part in option.split("=", 1)])
    config.OUTPUT_DIR = str(HERE / "work_dirs" / name)
    os.makedirs(config.OUTPUT_DIR, exist_ok=True)
    return config


def trainer_of(name: str) -> Any:
    """The class that trains: detectron2's default, with Mask2Former's own data and optimizer for Mask2Former."""
    if name == "mask2former":
        from train_net import Trainer

        return Trainer
    from detectron2.engine import DefaultTrainer

    return DefaultTrainer


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
