"""Adapt sam_nano to shifted photos by WeSAM, and measure it before, after, and taught by true masks.

    python benchmarks/adapt_sam.py DATA OUT [--sets nuclei60 nuts3] [--prompts box point] [--seeds 0 1 2] [--steps 600]
                                   [--variants adapted supervised no_anchor no_contrast]

DATA holds the sets: folders of photos with 16-bit maps of instance ids (nuclei60: labels, camo_like31: instances) or a
COCO file (nuts3). Of the sorted photos every fourth is tested on, the others are adapted to: their masks serve the
prompts alone, and the supervised training. smoke5 is darkened and made noisy by a fixed seed, its own splits kept.
Prints mean IoU in per cent of every instance by kind of prompt (the protocol of WeSAM), mean and sample standard
deviation over the seeds, each adaptation measured with the kind of prompt that adapted it. Every run keeps its figure
in figure.json; a second call computes what is missing and prints the table of all. The ablations are of the first seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from retrain_variants import cell

from weaksam.config import load_settings
from weaksam.recipes.sam_adaptation import AdaptSettings, adapt, evaluate
from weaksam.structures.masks import box_from_rle, rle_area, rle_from_mask

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "adapted": (),
    "supervised": ("targets=true",),
    "no_anchor": ("anchor=false",),
    "no_contrast": ("contrast=false",),
}
ABLATIONS = ("no_anchor", "no_contrast")
LABELS = {"nuclei60": "labels", "camo_like31": "instances"}


def split_of_maps(folder: Path, labels: str, out: Path) -> None:
    """Write OUT/{train,test}.json of a folder of photos and 16-bit maps of instance ids."""
    photos = sorted((folder / "images").iterdir())
    for split, chosen in _splits(photos).items():
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
        for number, photo in enumerate(chosen, 1):
            ids = np.array(Image.open(folder / labels / f"{photo.stem}.png"))
            content["images"].append(
                {"id": number, "file_name": photo.name, "height": ids.shape[0], "width": ids.shape[1]}
            )
            for value in np.unique(ids[ids > 0]).tolist():
                content["annotations"].append(_entry(len(content["annotations"]) + 1, number, ids == value))
        write(out, split, content)


def _entry(number: int, image: int, mask: np.ndarray) -> dict[str, Any]:
    rle = rle_from_mask(torch.from_numpy(mask))
    x1, y1, x2, y2 = box_from_rle(rle).tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "segmentation": rle,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(rle_area([rle])[0]),
        "iscrowd": 0,
    }


def split_of_coco(file: Path, out: Path) -> None:
    """Write OUT/{train,test}.json of one COCO file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    for split, images in _splits(sorted(content["images"], key=lambda image: image["file_name"])).items():
        ids = {image["id"] for image in images}
        kept = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        write(out, split, {**content, "images": images, "annotations": kept})


def _splits(photos: Sequence[Any]) -> dict[str, list[Any]]:
    """Three to adapt to, one to test on, and so on."""
    return {
        "train": [photo for row, photo in enumerate(photos) if row % 4 != 3],
        "test": [photo for row, photo in enumerate(photos) if row % 4 == 3],
    }


def write(out: Path, split: str, content: Mapping[str, Any]) -> None:
    """Write a split's COCO file."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")


def corrupt(folder: Path, out: Path) -> None:
    """smoke5's photos at a third of their brightness with noise of 20 levels, drawn from their numbers."""
    for split in ("train", "test"):
        target = out / split
        target.mkdir(parents=True, exist_ok=True)
        for number, photo in enumerate(sorted((folder / "images" / split).iterdir())):
            pixels = np.array(Image.open(photo).convert("RGB"), dtype=np.float64)
            noise = np.random.default_rng(number).normal(0, 20, pixels.shape)
            Image.fromarray((pixels / 3 + noise).clip(0, 255).astype(np.uint8)).save(target / f"{photo.stem}.png")
        content = json.loads((folder / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
        for image in content["images"]:
            image["file_name"] = f"{Path(image['file_name']).stem}.png"
        write(out, split, content)


def prepared(data: Path, name: str, out: Path) -> list[str]:
    """The settings of a set's photos and truths, whose splits are written below ``out`` first."""
    folder = data / name
    images = {"train": folder / "images", "test": folder / "images"}
    if name in LABELS:
        split_of_maps(folder, LABELS[name], out)
    elif name == "smoke5":
        corrupt(folder, out)
        images = {"train": out / "train", "test": out / "test"}
    else:
        (file,) = sorted((folder / "annotations").glob("instances_all.json"))
        split_of_coco(file, out)
        images = dict.fromkeys(images, folder / "images" / "all")
    return [
        f"data.{split}.{key}={value}"
        for split in ("train", "test")
        for key, value in (("images", images[split]), ("truth", out / f"{split}.json"))
    ]


def figure(settings: AdaptSettings, direct: bool) -> float:
    """Mean IoU in per cent of the segmenter as it is, or adapted by ``settings``; read where OUT holds it."""
    file = settings.out / "figure.json"
    content = settings.model_dump(mode="json", exclude={"out"})
    if file.is_file() and (kept := json.loads(file.read_text(encoding="utf-8")))["settings"] == content:
        return float(kept["iou"])
    lora = None
    if not direct:
        adapt(settings.model_copy(update={"data": settings.data.model_copy(update={"test": None})}))
        lora = settings.out / "lora.safetensors"
    figures = evaluate(settings, lora)[settings.prompt]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**figures, "iou": 100 * figures["iou"], "settings": content}))
    return float(100 * figures["iou"])


def main() -> None:
    """Adapt what is not adapted yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--sets", nargs="+", default=["nuclei60", "nuts3", "smoke5", "camo_like31"])
    parser.add_argument("--prompts", nargs="+", default=["box", "point"], help="kinds that adapt, each by itself")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["adapted", "supervised"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="further settings")
    options = parser.parse_args()
    photos = {name: prepared(options.data, name, options.out / name / "photos") for name in options.sets}
    cells: dict[tuple[str, str, str], list[float]] = {}
    columns = ["direct", *options.variants]
    for seed in options.seeds:  # every set and prompt of a seed before the next, so that a table can be read early
        for name, prompt, column in itertools.product(options.sets, options.prompts, columns):
            if column in ABLATIONS and seed != options.seeds[0]:
                continue
            given = [f"out={options.out / name / f'{prompt}-{column}-{seed}'}", f"seed={seed}", f"prompt={prompt}"]
            given += [f"steps={options.steps}", f"measured=[{prompt}]", "threads=1", *VARIANTS.get(column, ())]
            settings = load_settings(AdaptSettings, None, [*photos[name], *given, *options.set])
            cells.setdefault((name, prompt, column), []).append(figure(settings, column == "direct"))
            print(f"# {name} {prompt} {column} seed {seed}: {cells[name, prompt, column][-1]:.2f}", flush=True)
    print("| set | prompt | seeds | " + " | ".join(columns) + " |")
    print("|---" * (3 + len(columns)) + "|")
    for name, prompt in itertools.product(options.sets, options.prompts):
        of_row = [cell(cells[name, prompt, column]) for column in columns]
        print("| " + " | ".join([name, prompt, str(len(options.seeds)), *of_row]) + " |")


if __name__ == "__main__":
    main()
