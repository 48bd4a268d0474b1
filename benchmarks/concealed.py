"""Train for concealed objects on rendered scenes or folds of photos, step by step from single-view labels on.

    python benchmarks/concealed.py OUT [--labels scribble points] [--variants single fused weights selection ...]
                                   [--seeds 0] [--slips 0.5] [--size 96] [--train 60] [--test 40] [--photos DIR]
    python benchmarks/concealed.py OUT --step-seconds [--side 352]

Scenes are those of `weaksam data camouflage`, whose labels leave their object with a chance of --slips. With --photos
DIR (images/ and masks/ of one name, as camo_like31) every third photo is tested on, every sixth validates, and the
others train; their labels are drawn from their masks, and seeds 0, 1 and 2 are the three folds. Epochs are chosen on
validation photos. The table holds M, weighted F, mean E and S of the test maps as they are, over several seeds their
mean and sample standard deviation, and beside them how many photos train and the IoU of the labels that were kept and
left out. Photos that are left out take steps from an epoch: `selection, equal steps` has as many more epochs as give
the optimizer the steps of all photos. `direct` is the segmenter prompted by test labels, without a network.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from retrain_variants import cell
from torch.profiler import ProfilerActivity, profile

from weaksam.config import load_settings
from weaksam.data.grey_pictures import read_mask
from weaksam.data.scribble_sets import write_scribbles
from weaksam.evaluation.map_files import measure_pairs
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.concealed.losses import concealed_losses
from weaksam.models.concealed.network import ConcealedNetworkSettings, build_concealed_network
from weaksam.recipes.concealed import ConcealedSettings, run
from weaksam.recipes.concealed.fused_labels import make_fused_labels, stored_map
from weaksam.recipes.concealed.photos import load_concealed
from weaksam.recipes.concealed.recipe import training_targets
from weaksam.sam.build import build_segmenter
from weaksam.scenes.camouflage import CamouflageSettings, write_camouflage
from weaksam.structures.scribbles import ScribbleStyle

SINGLE = ("labels.views=0", "labels.weights=off", "labels.select=false")
EQUAL_STEPS = "selection, equal steps"
VARIANTS: dict[str, tuple[str, ...]] = {
    "single": SINGLE,
    "fused": ("labels.weights=off", "labels.select=false"),
    "weights": ("labels.select=false",),
    "hard weights": ("labels.weights=hard", "labels.select=false"),
    "selection": (),
    EQUAL_STEPS: (),
    "without grouping": ("network.grouping=false",),
    "true": ("targets=true",),
}
"""What each variant changes in the full method, which is `selection`; `EQUAL_STEPS` trains that for more epochs."""
COLUMNS = ("mae", "weighted_f", "mean_e", "s")


def folds(photos: Path, out: Path, style: ScribbleStyle, seed: int) -> None:
    """Write OUT/{train,validation,test} of fold ``seed`` from a folder of photos and masks of one name."""
    for row, path in enumerate(sorted((photos / "images").iterdir())):
        place = row + seed
        split = "test" if place % 3 == 2 else "validation" if place % 6 == 4 else "train"
        target = out / split
        for folder in ("Imgs", "GT"):
            (target / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / "Imgs" / path.name)
        mask = read_mask(photos / "masks" / f"{path.stem}.png").astype(np.uint8)
        Image.fromarray(mask * 255).save(target / "GT" / f"{path.stem}.png")
    for split in ("train", "validation", "test"):
        write_scribbles(out / split / "GT", out / split / "Scribble", style, seed)


def prepared(options: argparse.Namespace, kind: str, seed: int, out: Path) -> Path:
    """The folder of the splits for one kind of labels and one seed, written where it is not there."""
    root = out / "data"
    if root.is_dir():
        return root
    if options.photos is not None:
        folds(options.photos, root, ScribbleStyle(kind, options.num_points, 8, options.slips), seed)
        return root
    scenes = CamouflageSettings(
        size=options.size, difference=1.0, labels=kind, num_points=options.num_points, slips=options.slips
    )
    write_camouflage(root, scenes, options.train, max(4, options.train // 6), options.test, seed)
    return root


def settings(
    options: argparse.Namespace, kind: str, seed: int, root: Path, out: Path, more: Sequence[str]
) -> ConcealedSettings:
    """The settings of one training."""
    given = [f"data.{split}.root={root / split}" for split in ("train", "validation", "test")]
    given += [f"out={out}", f"seed={seed}", f"labels.prompt={kind}", "threads=1", "segmenter.family=nano"]
    given += ["backbone.name=mobilenet_v2", f"backbone.weights={options.weights}", "network.channels=32"]
    given += [f"training.side={options.size}", f"training.num_epochs={options.epochs}", "training.batch_size=8"]
    given += ["training.lr=0.001", "training.schedule=cosine", "training.validate_every=3"]
    return load_settings(ConcealedSettings, None, [*given, *more, *options.set])


def row_of(options: argparse.Namespace, kind: str, seed: int, variant: str, out: Path) -> list[float | None]:
    """The figures of a variant: `COLUMNS`, then photos that train, and the IoU of kept and dropped labels."""
    root = prepared(options, kind, seed, out)
    if variant == "direct":
        return [*direct(settings(options, kind, seed, root, out / "direct", SINGLE)), None, None, None]
    target = out / variant.replace(",", "").replace(" ", "_")
    shared = out / "labels"  # those of the full method, which most variants take
    if shared.is_dir() and not (target / "labels").exists():
        shutil.copytree(shared, target / "labels")
    wanted = settings(options, kind, seed, root, target, VARIANTS[variant])
    figures = run(with_equal_steps(wanted) if variant == EQUAL_STEPS else wanted).figures
    if not shared.exists() and (target / "labels").is_dir() and variant not in ("single", "true"):
        shutil.copytree(target / "labels", shared)
    labels = figures["labels"]
    measured = [figures["maps"][name] for name in COLUMNS]
    return [*measured, labels.get("kept"), labels.get("kept_iou"), labels.get("dropped_iou")]


def with_equal_steps(wanted: ConcealedSettings) -> ConcealedSettings:
    """``wanted`` with as many epochs as give the kept photos the steps of all, validated as often; labels are made."""
    photos = load_concealed(wanted.data.train, "train")
    kept = training_targets(wanted, photos, torch.device("cpu")).photos
    size = wanted.training.batch_size
    longer = math.ceil(len(photos) / size) / math.ceil(len(kept) / size)
    scaled = {name: round(longer * getattr(wanted.training, name)) for name in ("num_epochs", "validate_every")}
    return wanted.model_copy(update={"training": wanted.training.model_copy(update=scaled)})


def direct(wanted: ConcealedSettings) -> list[float]:
    """The figures of the segmenter's single-view masks of the test photos, prompted by their labels."""
    photos = load_concealed(wanted.data.test, "test")
    segmenter = build_segmenter(wanted.segmenter, torch.device("cpu"))
    store = make_fused_labels(wanted.out, photos, segmenter, wanted.labels, wanted.seed)
    report = measure_pairs(
        list(photos.image_ids),
        lambda image_id: (stored_map(store, photos, image_id).numpy(), photos.mask(image_id).numpy()),
        stretch=False,
        title="direct",
    )
    return [report.figures.as_dict()[name] for name in COLUMNS]


def step_seconds(side: int) -> None:
    """Print the seconds of one training step at full size, batch 1, and the operations that take most of them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_concealed_network(BackboneSettings(name="resnet50", weights="none"), ConcealedNetworkSettings())
    optimizer = torch.optim.Adam(network.train().parameters(), lr=1e-4)
    images, masks = torch.randn(1, 3, side, side), (torch.rand(1, 1, side, side) > 0.5).float()

    def step() -> None:
        optimizer.zero_grad()
        losses = concealed_losses(network(images), masks, None, None, 0.5, num_photos=1, num_labelled=torch.tensor(0))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    step()
    print(f"CPU seconds of a step ({side} px, batch 1): {min(measured(step) for _ in range(3)):.2f}")
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=10, max_name_column_width=40))


def measured(step: Callable[[], None]) -> float:
    """CPU seconds of the process that ``step`` takes."""
    start = time.process_time()
    step()
    return time.process_time() - start


def line(kind: str, variant: str, rows: Sequence[Sequence[float | None]]) -> str:
    """A line of the table: of each column what was measured over the seeds, a dash for nothing; photos are whole."""
    columns = [[value for value in column if value is not None] for column in zip(*rows, strict=True)]
    cells = [cell(column, 0 if number == len(COLUMNS) else 3) or "-" for number, column in enumerate(columns)]
    return "| " + " | ".join([kind, variant, *cells]) + " |"


def main() -> None:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--labels", nargs="+", choices=["scribble", "points"], default=["scribble"])
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, "direct"], default=[*VARIANTS, "direct"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--slips", type=float, default=0.5)
    parser.add_argument("--num-points", type=int, default=10)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--train", type=int, default=60)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--weights", default="none", help="of MobileNetV2")
    parser.add_argument("--photos", type=Path, metavar="DIR")
    parser.add_argument("--step-seconds", action="store_true")
    parser.add_argument("--side", type=int, default=352)
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="further settings")
    options = parser.parse_args()
    if options.step_seconds:
        step_seconds(options.side)
        return
    print("| labels | variant | M | weighted F | mean E | S | photos | IoU kept | IoU dropped |")
    print("|---" * 9 + "|")
    for kind in options.labels:
        for variant in options.variants:
            rows = [row_of(options, kind, seed, variant, options.out / f"{kind}-{seed}") for seed in options.seeds]
            print(line(kind, variant, rows), flush=True)


if __name__ == "__main__":
    main()
