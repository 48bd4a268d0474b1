"""Exports for mmdet and detectron2: what their configurations say, by the numbers of the published recipes."""

import ast
from pathlib import Path

import pytest
import yaml

from tests.data.label_cases import CLASSES, labelled
from weaksam.data.formats.coco import read_instances
from weaksam.data.frames import detectron2_script, mmdet_script
from weaksam.data.frames.recipes import RECIPES
from weaksam.data.label_export import ExportOptions, export_labels


def exported(folder: Path, name: str, *, masks: bool) -> Path:
    dataset, objects = labelled(folder / "photos", masks=masks)
    export_labels(folder / name, name, dataset, objects, ExportOptions())
    return folder / name


def python_config(path: Path) -> dict[str, object]:
    """The values of a configuration of mmengine, whose Python has assignments, ``dict(...)``, lists and sums alone."""
    values: dict[str, object] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign):
            values[node.targets[0].id] = value_of(node.value, values)
    return values


def value_of(node: ast.expr, values: dict[str, object]) -> object:
    """The value of an expression in which ``values`` are named."""
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.Attribute):
        return f"the base's {node.attr}"
    if isinstance(node, ast.Call) and node.func.id == "dict":
        return {keyword.arg: value_of(keyword.value, values) for keyword in node.keywords}
    if isinstance(node, ast.Call):
        assert node.func.id == "len"
        return len(value_of(node.args[0], values))
    if isinstance(node, ast.BinOp):
        left, right = value_of(node.left, values), value_of(node.right, values)
        return left + right if isinstance(node.op, ast.Add) else left * right
    if isinstance(node, ast.List):
        return [value_of(part, values) for part in node.elts]
    return ast.literal_eval(node)


def dataset_of(config: dict[str, object]) -> dict[str, object]:
    dataset = config["train_dataloader"]["dataset"]
    return dataset["dataset"] if dataset["type"] == "RepeatDataset" else dataset


def test_mmdet_is_given_every_detector_of_its_labels(tmp_path: Path) -> None:
    with_masks, boxes = exported(tmp_path / "m", "mmdet", masks=True), exported(tmp_path / "b", "mmdet", masks=False)
    assert {path.stem for path in with_masks.glob("*.py")} == {*RECIPES, "train"}
    assert {path.stem for path in boxes.glob("*.py")} == {"faster_rcnn", "dino", "train"}
    labels = read_instances(with_masks / "annotations" / "train.json")
    assert labels.classes == CLASSES and len(labels.images) == 4
    assert (with_masks / "train.py").read_text() == Path(mmdet_script.__file__).read_text()


@pytest.mark.parametrize("name", list(RECIPES))
def test_mmdet_trains_by_the_published_recipe(tmp_path: Path, name: str) -> None:
    folder = exported(tmp_path, "mmdet", masks=True)
    config, recipe = python_config(folder / f"{name}.py"), RECIPES[name]
    assert config["_base_"].startswith("mmdet::") and config["metainfo"] == {"classes": CLASSES}
    dataset = dataset_of(config)
    assert dataset["data_root"] + dataset["ann_file"] == "{{ fileDirname }}/annotations/train.json"
    assert (folder / dataset["data_prefix"]["img"] / "plain.png").is_file()
    optimizer = config["optim_wrapper"]["optimizer"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (recipe.lr, recipe.weight_decay)
    steps = config["param_scheduler"][-1]
    assert steps["milestones"] == list(recipe.milestones) and steps["by_epoch"] == (recipe.num_epochs > 0)
    length = config["train_cfg"]["max_epochs" if recipe.num_epochs else "max_iters"]
    assert length == (recipe.num_epochs or recipe.num_steps) and steps["end"] == length
    # Photos a step of eight GPUs, to which the learning rate belongs
    assert 8 * config["train_dataloader"]["batch_size"] == config["auto_scale_lr"]["base_batch_size"] == 16
    assert config["val_dataloader"] is config["val_evaluator"] is config["val_cfg"] is None
    assert ("segm" in config["test_evaluator"]["metric"]) == recipe.masks


def test_the_number_of_classes_reaches_each_head(tmp_path: Path) -> None:
    folder = exported(tmp_path, "mmdet", masks=True)
    models = {name: python_config(folder / f"{name}.py")["model"] for name in RECIPES}
    assert models["faster_rcnn"]["roi_head"]["bbox_head"]["num_classes"] == 3
    assert models["dino"]["bbox_head"]["num_classes"] == 3
    assert models["mask_rcnn"]["roi_head"]["mask_head"]["num_classes"] == 3
    head = models["mask2former"]["panoptic_head"]
    assert head["num_things_classes"] == 3 and head["loss_cls"]["class_weight"] == [1, 1, 1, 0.1]
    assert models["mask2former"]["panoptic_fusion_head"] == {"num_things_classes": 3, "num_stuff_classes": 0}


def test_dino_sees_each_photo_three_times_an_epoch(tmp_path: Path) -> None:
    config = python_config(exported(tmp_path, "mmdet", masks=False) / "dino.py")
    assert config["train_dataloader"]["dataset"]["times"] == 3 and config["train_cfg"]["max_epochs"] == 14
    pipeline = dataset_of(config)["pipeline"]
    assert next(step["scales"] for step in pipeline if "scales" in step)[0] == (1333, 480)


def test_detectron2_trains_by_the_published_recipe(tmp_path: Path) -> None:
    folder = exported(tmp_path, "detectron2", masks=True)
    assert {path.name for path in folder.iterdir()} == {
        *("annotations", "images", "train.py", "dino.py"),
        *("faster_rcnn.yaml", "mask_rcnn.yaml", "mask2former.yaml"),
    }
    for name in ("faster_rcnn", "mask_rcnn", "mask2former"):
        values, recipe = yaml.safe_load((folder / f"{name}.yaml").read_text()), RECIPES[name]
        solver = values["SOLVER"]
        assert (solver["BASE_LR"], solver["WEIGHT_DECAY"]) == (recipe.lr, recipe.weight_decay)
        assert solver["MAX_ITER"] == recipe.num_steps and solver["STEPS"] == list(recipe.milestones)
        assert solver["IMS_PER_BATCH"] == 16 and values["DATASETS"]["TRAIN"] == ["weaksam_train"]
        heads = values["MODEL"]["SEM_SEG_HEAD" if name == "mask2former" else "ROI_HEADS"]
        assert heads == {"NUM_CLASSES": 3}
    assert yaml.safe_load((folder / "mask_rcnn.yaml").read_text())["INPUT"]["MASK_FORMAT"] == "bitmask"
    assert set(detectron2_script.ZOO) == {"faster_rcnn", "mask_rcnn", "mask2former"}


def test_detrex_counts_epochs_in_steps(tmp_path: Path) -> None:
    text = (exported(tmp_path, "detectron2", masks=False) / "dino.py").read_text()
    tree = ast.parse(text)
    assigned = {
        ast.unparse(node.targets[0]): ast.unparse(node.value) for node in tree.body if isinstance(node, ast.Assign)
    }
    assert assigned["model.num_classes"] == "3" and assigned["optimizer.lr"] == "9e-05"
    assert assigned["train.max_iter"] == "14 * EPOCH" and assigned["dataloader.train.total_batch_size"] == "16"
    assert "milestones=[8 * EPOCH, 10 * EPOCH, 12 * EPOCH, 14 * EPOCH]" in assigned["lr_multiplier"]
    # Photos without objects do not count, as they are not trained on
    assert assigned["NUM_PHOTOS"].startswith("sum((1 for _ in {entry['image_id'] for entry in json.loads(")


def test_options_of_the_script_are_values() -> None:
    assert mmdet_script.value_of("2") == 2 and mmdet_script.value_of("None") is None
    assert mmdet_script.value_of("(1, 2)") == (1, 2) and mmdet_script.value_of("a/b.pth") == "a/b.pth"
