"""Every recipe of configs/ runs to its end on a toy data set in the right layout, with toy weights of the right kind.

A recipe's settings stay as they are but for sizes, so that no recipe can stop at a stage without a test that fails.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import resnet50, vgg16

from tests.helpers import ROOT, TOY_RUN, pickled, random_sam, write_photo
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.data.annotations import rle_from_box
from weaksam.data.formats.voc import write_annotations, write_segmentation
from weaksam.data.formats.voc_lists import write_split
from weaksam.models.weaktr.fusion import FusionShape
from weaksam.models.weaktr.network import WeakTr
from weaksam.models.weaktr.vit import VitShape
from weaksam.pipeline.settings import RunSettings
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages import STAGE_NAMES
from weaksam.store.files import file_sha256
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances

pytestmark = pytest.mark.slow

CONFIGS = ROOT / "configs"
PUBLISHED = ("voc07_oicr", "voc07_mist", "voc12_oicr", "voc12_mist", "coco14_oicr", "coco14_mist")
WITH_DINO = ("voc07_dino", "voc12_dino", "coco14_dino")
WITH_MASK2FORMER = ("voc12_mask2former", "coco14_mask2former")
WHOLE = ("voc12_full", "coco14_full")
COVERED = {
    *PUBLISHED,
    *WITH_DINO,
    *WITH_MASK2FORMER,
    *WHOLE,
    "weaktr_voc",
    "weaktr_coco",
    "scenes_vit",
    "demo",
    "demo_quick",
    "custom",
}
SIZE = (64, 80)
VOC_CLASSES = """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
pottedplant sheep sofa train tvmonitor""".split()  # noqa: SIM905
NOT_IN_COCO = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = [number for number in range(1, 91) if number not in NOT_IN_COCO]
SMALL_DETECTORS = [
    f"{stage}.{setting}"
    for stage in ("retrain", "wsis")
    for setting in (
        "num_steps=1",
        "short_side=64",
        "long_side=80",
        "fpn_channels=8",
        "representation=8",
        "max_boxes=5",
        "batch_size=2",
        "rpn_pre_nms=50",
        "rpn_post_nms=20",
        "rpn_batch=16",
        "roi_batch=8",
    )
]
SMALL = [
    "threads=1",
    "device=cpu",
    "clues.max_side=64",
    "proposals.grid_side=4",
    "proposals.min_pred_iou=0",
    "proposals.min_stability=0",
    "wsod.hidden=16",
    "wsod.num_proposals=20",
    "wsod.batch_size=2",
    "wsod.end_to_end.num_steps=1",
    "wsod.end_to_end.short_sides=[64]",
    "wsod.end_to_end.test_short_sides=[64]",
    *SMALL_DETECTORS,
    "wsis.mask_channels=8",
    "wsis.mask_layers=1",
]
"""Sizes and lengths, and two thresholds of SAM's own judgement, which a random SAM does not have."""
SMALL_WEAKTR = [
    f"clues.weaktr_training.{setting}"
    for setting in ("num_epochs=1", "warmup_epochs=0", "batch_size=2", "image_size=48", "workers=0")
]
SMALL_DINO = [
    *(override for override in SMALL if not override.startswith("retrain.")),
    *(
        f"retrain.{setting}"
        for setting in (
            "backbone.weights=none",  # torchvision's would be downloaded
            "num_epochs=1",
            "short_side=64",
            "long_side=80",
            "batch_size=2",
            "embed_dims=32",
            "norm_groups=8",
            "ffn_dims=32",
            "encoder_layers=1",
            "decoder_layers=1",
            "num_queries=10",
            "max_boxes=5",
            "test_scales=[1]",
        )
    ),
]
SMALL_MASK2FORMER = [
    *(override for override in SMALL if not override.startswith("wsis.")),
    *(
        f"wsis.{setting}"
        for setting in (
            "backbone.weights=none",  # torchvision's would be downloaded
            "num_steps=1",
            "short_side=64",
            "long_side=80",
            "crop_size=96",
            "batch_size=2",
            "channels=32",
            "encoder_layers=1",
            "decoder_layers=1",
            "encoder_width=16",
            "decoder_width=16",
            "num_queries=5",
            "losses.num_points=64",
            "max_boxes=5",
        )
    ),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data and the weights where the recipes look for them."""
    folder = tmp_path_factory.mktemp("workplace")
    write_voc(folder / "data" / "VOCdevkit")
    write_coco(folder / "data" / "coco")
    (folder / "data" / "weights").mkdir()
    write_vgg(folder / "data" / "weights" / "vgg16_caffe.pth")
    write_resnet(folder / "data" / "weights" / "R-50.pkl")
    write_weaktr(folder / "data" / "weights" / "weaktr_voc.pth", 20)
    write_weaktr(folder / "data" / "weights" / "weaktr_coco.pth", 90)
    torch.save(random_sam(3).state_dict(), folder / "sam_vit_h_4b8939.pth")
    write_deit(folder / "facebook" / "deit-small-patch16-224")
    return folder


def parts_of(num: int, size: int) -> list[tuple[int, ...]]:
    """The labels below ``num`` in parts of ``size``."""
    return [tuple(range(start, start + size)) for start in range(0, num, size)]


def toy_objects(labels: tuple[int, ...], seed: int) -> Instances:
    """One object of each label, at a seeded place in a photo of `SIZE`."""
    draw = random.Random(seed)
    corners = [(draw.randrange(30), draw.randrange(20)) for _ in labels]
    boxes = [(x, y, x + draw.randrange(24, 48), y + draw.randrange(24, 40)) for x, y in corners]
    return Instances(torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels))


def write_voc(devkit: Path) -> None:
    """VOC 2007 and 2012: four photos of five classes each to train on, two of ten to test on, and all lists."""
    parts = [*parts_of(20, 5), *parts_of(20, 10)]
    names = [f"2008_{number:06}" for number in range(len(parts))]
    for year in ("VOC2007", "VOC2012"):
        photos = [write_photo(devkit / year / "JPEGImages" / f"{name}.jpg", i, SIZE) for i, name in enumerate(names)]
        objects = [toy_objects(part, i) for i, part in enumerate(parts)]
        samples = [
            Sample(photo.name, photo, SIZE, part, of_photo, number)
            for number, (photo, part, of_photo) in enumerate(zip(photos, parts, objects, strict=True))
        ]
        dataset = Dataset("toy", tuple(VOC_CLASSES), tuple(range(1, 21)), tuple(samples))
        write_annotations(devkit / year / "Annotations", dataset, dataset.truths)
        flags = {
            class_name: {name: 1 for name, part in zip(names, parts, strict=True) if label in part}
            for label, class_name in enumerate(VOC_CLASSES)
        }
        lists = devkit / year / "ImageSets" / "Main"
        for split in ("train", "trainval", "val", "test"):
            write_split(lists, split, flags, names[:4] if split.startswith("train") else names[4:])
        (lists / "trainaug.txt").write_text("".join(f"{name}\n" for name in names[:4]))  # no lists by class, as SBD's
        write_pictures(devkit / year, dict(zip(names[4:], objects[4:], strict=True)))


def write_pictures(folder: Path, objects: dict[str, Instances]) -> None:
    """VOC's segmentation of some photos, every object the whole of its box, and the list of them."""
    for name, of_photo in objects.items():
        masks = [rle_from_box(box, SIZE) for box in of_photo.boxes.tolist()]
        pair = (folder / kind / f"{name}.png" for kind in ("SegmentationClass", "SegmentationObject"))
        write_segmentation(*pair, of_photo.replace(masks=tuple(masks)), SIZE)
    (folder / "ImageSets" / "Segmentation").mkdir()
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("".join(f"{name}\n" for name in objects))


def write_coco(folder: Path) -> None:
    """COCO 2014: 80 classes numbered up to 90, four photos of twenty classes each to train on, one to test on."""
    categories = [{"id": number, "name": f"class {number:02}"} for number in COCO_IDS]
    for split, parts in (("train2014", parts_of(80, 20)), ("val2014", [tuple(range(0, 80, 10))])):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, part in enumerate(parts, start=1):
            name = f"COCO_{split}_{number:012}.jpg"
            write_photo(folder / split / name, number, SIZE)
            images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
            for label, (x1, y1, x2, y2) in zip(part, toy_objects(part, number).boxes.tolist(), strict=True):
                entry = {"id": len(annotations) + 1, "image_id": number, "category_id": COCO_IDS[label], "iscrowd": 0}
                sides = (x2 - x1, y2 - y1)
                outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
                entry |= {"bbox": [x1, y1, *sides], "area": sides[0] * sides[1], "segmentation": outline}
                annotations.append(entry)
        path = folder / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_vgg(path: Path) -> None:
    """VGG-16's convolutions at their size in torchvision's names; its fc6 and fc7 have 16 units instead of 4,096."""
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in vgg16().features.state_dict().items()}
    state = {f"features.{name}": 0.02 * torch.randn(shape) for name, shape in shapes.items()}
    state |= {"classifier.0.weight": 0.01 * torch.randn(16, 512 * 49), "classifier.0.bias": torch.zeros(16)}
    state |= {"classifier.3.weight": 0.1 * torch.randn(16, 16), "classifier.3.bias": torch.zeros(16)}
    torch.save(state, path)


def write_resnet(path: Path) -> None:
    """ResNet-50's convolutions at their size in MSRA's names for Caffe2, each with a scale and a shift."""
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in resnet50().state_dict().items()}
    arrays: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        if len(shape) == 4:
            *block, conv = name.removesuffix(".weight").replace("downsample.0", "downsample").split(".")
            branch = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "downsample": "1"}[conv]
            place = f"res{int(block[0][-1]) + 1}_{block[1]}_branch{branch}" if block else "conv1"
            norm = f"{place}_bn" if block else "res_conv1_bn"
            arrays[f"{place}_w"] = (torch.randn(shape) / shape[1:].numel() ** 0.5).numpy()
            # The stem brings levels of 0 to 255 down, the last of each branch adds little
            arrays[f"{norm}_s"] = np.full(shape[0], {"conv1": 0.01}.get(place, 0.3), dtype=np.float32)
            arrays[f"{norm}_b"] = np.full(shape[0], 0.1, dtype=np.float32)
    pickled(path, arrays, protocol=2)


def write_weaktr(path: Path, num_slots: int) -> None:
    """A narrow WeakTr of six blocks as the authors' script saves it."""
    shape = VitShape(width=24, depth=6, num_heads=3, patch_size=16, grid=14, mlp_width=48)
    torch.manual_seed(num_slots)
    model = WeakTr(shape, num_slots, FusionShape.of("feature_max", shape, 8, 8))
    torch.save({"model": model.state_dict(), "epoch": 59, "miou": np.float64(0.694)}, path)


def write_deit(folder: Path) -> None:
    """A narrow DeiT of six blocks as a folder of transformers."""
    from transformers import DeiTConfig, DeiTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 48}
    DeiTModel(DeiTConfig(image_size=48, patch_size=16, **sizes)).save_pretrained(folder)


def run(name: str, *overrides: str, until: str | None = None) -> tuple[dict[str, Any], Path]:
    """Metrics and folder of a recipe run from the present folder."""
    settings = load_settings(RunSettings, CONFIGS / f"{name}.yaml", overrides)
    return pipeline.run(settings, until=until), settings.out


def events(out: Path, name: str) -> list[dict[str, Any]]:
    """The events of one name in the log of the run in ``out``."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == name]


def test_every_recipe_is_run_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == COVERED


@pytest.mark.parametrize("name", [*PUBLISHED, *WITH_DINO, *WITH_MASK2FORMER])
def test_published_recipes_run_to_the_end(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    small = {"dino": SMALL_DINO, "mask2former": SMALL_MASK2FORMER}.get(name.partition("_")[2], SMALL)
    metrics, out = run(name, *small)
    assert [row["stage"] for row in metrics["stages"]] == list(STAGE_NAMES)
    assert len(metrics["classes"]) == (80 if name.startswith("coco") else 20)
    # The trained WeakTr is taken as it is, VGG-16's own layers are found, and a box is left for every later stage
    assert not list((out / "clues").glob("**/weaktr*")) and not events(out, "trained further")
    assert [row["start"] for row in events(out, "hidden layers")] == ["VGG-16's own fc6 and fc7"]
    assert not events(out, "colours")  # stated by the recipe, not guessed
    for stage in ("wsod", "retrain", "wsis"):
        assert (out / stage / "detections_test.json").is_file()


SRUN = """#!/usr/bin/env bash
# Stands in for Slurm's srun: the tasks that --ntasks asks for, on this machine, and the exit code of one that fails
for word in "$@"; do case $word in --ntasks=*) tasks=${word#--ntasks=};; esac; done
while [[ $1 == --* ]]; do shift; done
pids=()
for ((rank = 0; rank < tasks; rank++)); do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_STEP_NUM_TASKS=$tasks "$@" & pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
"""
TOOLS = ("generate_proposals", "train_wsod", "retrain", "wsis_extend")


@pytest.mark.parametrize(("name", "launchers"), [("voc12_full", "dist slurm"), ("coco14_full", "slurm dist")])
def test_the_whole_pipeline_by_one_command_and_by_the_tools(
    name: str, launchers: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`weaksam run`, and the four tools one after the other, each in two processes by one of the launch scripts."""
    monkeypatch.chdir(workplace)
    srun = workplace / "bin" / "srun"
    srun.parent.mkdir(exist_ok=True)
    srun.write_text(SRUN)
    srun.chmod(0o755)
    small = [*SMALL, *SMALL_WEAKTR]
    metrics, out = run(name, *small)
    assert [row["stage"] for row in metrics["stages"]] == list(STAGE_NAMES)
    figures = metrics["stages"][-1]["figures"]
    assert {"test_masks", "test_coco_masks", "test_coco_boundaries", "test_miou", "test_pq", "test_boxes"} <= set(
        figures
    )
    by_tools = workplace / f"{name}_by_tools"
    for number, tool in enumerate(TOOLS):
        launch(launchers.split()[number % 2], tool, name, *small, f"out={by_tools}")
    stores = stored_files(by_tools)
    # Two processes sum in another order than one, so that weights, and the stores that follow, differ in last digits
    assert kinds_of(stores) == kinds_of(stored_files(out)) and any(path.startswith("wsis/") for path in stores)
    # Another network on the same masks; the stages before are only read
    mask2former = [override for override in SMALL_MASK2FORMER if override.startswith("wsis.")]
    section = f"wsis=@{CONFIGS / name.replace('full', 'mask2former')}.yaml"
    again, _ = run(name, *(o for o in small if not o.startswith("wsis.")), section, *mask2former, f"out={by_tools}")
    assert again["stages"][-1]["figures"]["test_pq"]["protocol"]
    kept = {path: digest for path, digest in stored_files(by_tools).items() if path in stores}
    assert kept == stores


def launch(launcher: str, tool: str, name: str, *overrides: str) -> None:
    """Run a tool in two processes by ``dist`` (torchrun) or ``slurm`` (the stand-in for srun); it must succeed."""
    script = ["tools/dist_train.sh", "2"] if launcher == "dist" else ["tools/slurm_train.sh", "gpu", "2"]
    path = f"{Path('bin').resolve()}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", str(ROOT / script[0]), *script[1:], str(ROOT / "tools" / f"{tool}.py")]
    ended = subprocess.run(
        [*command, str(CONFIGS / f"{name}.yaml"), *overrides], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, (launcher, tool, ended.stdout[-2000:], ended.stderr[-2000:])


def stored_files(out: Path) -> dict[str, str]:
    """SHA-256 of every file of the sealed stores below ``out`` by relative name; records of time and machine aside."""
    files = (path for path in sorted(out.glob("*/store/**/*")) if path.is_file() and path.name != "done.json")
    return {path.relative_to(out).as_posix(): file_sha256(path) for path in files}


def kinds_of(stores: Iterable[str]) -> list[str]:
    """The files of stores without what their names have of settings and content."""
    return sorted(re.sub(r"-[0-9a-f]{12,}", "", path) for path in stores)


@pytest.mark.parametrize("name", ["weaktr_voc", "weaktr_coco"])
def test_recipes_of_clues_train_and_map(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    metrics, out = run(name, "threads=1", "clues.max_side=64", *SMALL_WEAKTR, until="clues")
    assert [row["stage"] for row in metrics["stages"]] == ["clues"]
    assert len(list((out / "clues").glob("**/weaktr.safetensors"))) == 1


def test_scenes_of_the_small_transformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("data/scenes_vit"), SceneSettings(size=64, num_classes=2, max_clutter=4), 8, 2, seed=1)
    small = ["weaktr.image_size=64", "weaktr_training.num_epochs=1", "weaktr_training.image_size=64", "max_side=64"]
    metrics, _ = run("scenes_vit", "threads=1", *(f"clues.{setting}" for setting in small), until="clues")
    assert [row["stage"] for row in metrics["stages"]] == ["clues"]


@pytest.mark.parametrize("name", ["demo", "demo_quick"])
def test_the_demo(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("data/demo"), SceneSettings(size=64, num_classes=2, max_clutter=4), 8, 2, seed=1)
    small = [override for override in TOY_RUN if not override.startswith("backbone.")]
    metrics, out = run(name, *small, "clues.finetune_epochs=1")
    assert [row["stage"] for row in metrics["stages"]] == list(STAGE_NAMES)
    assert (out / "wsis" / "detections_test.json").is_file()


def test_the_start_for_photos_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MobileNetV2's weights would be downloaded: random ones stand for them."""
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("scenes"), SceneSettings(size=64, num_classes=2, max_clutter=4), 8, 2, seed=1)
    photos = Path("data/my_photos")
    photos.mkdir(parents=True)
    for name in ("train", "test", "instances_test.json"):
        (Path("scenes") / name).rename(photos / name)
    tags = json.loads(Path("scenes/tags_train.json").read_text())
    (photos / "tags.csv").write_text("file,tags\n" + "".join(f"{name},{';'.join(tags[name])}\n" for name in tags))
    metrics, _ = run("custom", *TOY_RUN)
    assert [row["stage"] for row in metrics["stages"]] == list(STAGE_NAMES)
