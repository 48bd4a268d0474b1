"""Train a configuration of this folder with mmdet, and detect on the photos of each file in annotations/.

python train.py faster_rcnn.py [key=value ...], such as train_dataloader.batch_size=4 or train_cfg.max_iters=500.
On several GPUs: torchrun --nproc-per-node=8 train.py faster_rcnn.py. Weights go to work_dirs/NAME, detections to
detections_SPLIT.bbox.json (COCO results), masks to detections_SPLIT.segm.json.
"""

import ast
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(config_name: str, options: list[str]) -> None:
    """Train, then detect on every split with the network as it is then."""
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.runner import Runner, TestLoop

    register_all_modules(init_default_scope=True)
    config = Config.fromfile(str(HERE / config_name))
    config.merge_from_dict({key: value_of(text) for key, _, text in (option.partition("=") for option in options)})
    config.work_dir = str(HERE / "work_dirs" / Path(config_name).stem)
    config.launcher = "pytorch" if "RANK" in os.environ else "none"
    runner = Runner.from_cfg(config)
    runner.train()
    for annotations in sorted((HERE / "annotations").glob("*.json")):
        split, photos = annotations.stem, config.test_dataloader.dataset
        photos.ann_file, photos.data_prefix = f"annotations/{split}.json", {"img": f"images/{split}/"}
        config.test_evaluator.ann_file = str(annotations)
        config.test_evaluator.outfile_prefix = str(HERE / f"detections_{split}")
        TestLoop(runner, dataloader=config.test_dataloader, evaluator=config.test_evaluator).run()


def value_of(text: str) -> object:
    """The Python value that a text states, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
