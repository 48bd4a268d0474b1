"""Merge several splits of photos with COCO truth into one, such as boards4's valid and test photos.

    python benchmarks/merge_splits.py --split IMAGES TRUTH --split IMAGES TRUTH --out DIR

Writes DIR/images (links where the disk allows them, else copies) and DIR/instances.json; the splits' categories must
be the same, and no file name may come twice.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from weaksam.config import UserError


def merged(splits: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """One COCO file of all images and annotations, numbered anew."""
    categories = splits[0][1]["categories"]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for folder, truth in splits:
        if truth["categories"] != categories:
            raise UserError(f"wanted the same categories in every split, found others at {folder}: merge them first")
        number = {image["id"]: len(images) + index for index, image in enumerate(truth["images"], start=1)}
        images += [{**image, "id": number[image["id"]]} for image in truth["images"]]
        for annotation in truth["annotations"]:
            image_id = number[annotation["image_id"]]
            annotations.append({**annotation, "id": len(annotations) + 1, "image_id": image_id})
    names = [image["file_name"] for image in images]
    if len(set(names)) < len(names):
        raise UserError("wanted every file name once over all splits, found one twice: rename the photos")
    return {"images": images, "annotations": annotations, "categories": categories}


def main() -> None:
    """Write the merged split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, nargs=2, action="append", required=True, metavar=("IMAGES", "TRUTH"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    splits = [(folder, json.loads(truth.read_text(encoding="utf-8"))) for folder, truth in options.split]
    truth_of_all = merged(splits)
    (options.out / "images").mkdir(parents=True, exist_ok=True)
    for folder, truth in splits:
        for image in truth["images"]:
            target = options.out / "images" / image["file_name"]
            target.unlink(missing_ok=True)
            try:
                os.link(folder / image["file_name"], target)
            except OSError:  # another disk
                shutil.copyfile(folder / image["file_name"], target)
    (options.out / "instances.json").write_text(json.dumps(truth_of_all), encoding="utf-8")
    print(f"{options.out}: {len(truth_of_all['images'])} photos, {len(truth_of_all['annotations'])} objects")


if __name__ == "__main__":
    main()
