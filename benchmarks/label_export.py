"""Export the labels of 10,000 photos in every format, and read them back: processor seconds, peak memory, size on disk.

    python benchmarks/label_export.py [--photos 10000] [--objects 3] [FORMAT ...]

Each format is written and read in a process of its own, forked after the imports; memory is what it takes at most
beyond the labels that it is given. A format is one of ``weaksam export``, or coco:polygons and the like. Photos are
500 x 375 and are not there themselves, so no links are made; each has objects with masks (ellipses with a hole), one
in ten photos has none.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from weaksam.data.label_export import FORMATS, ExportOptions, export_labels
from weaksam.data.label_files import labels_in
from weaksam.data.truth import read_truth
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_from_rle, rle_from_mask

SIZE = (375, 500)
NUM_CLASSES = 20
NUM_KINDS = 200
"""Different photos; the others have the objects of one of these."""


def labels(num_photos: int, num_objects: int) -> tuple[Dataset, dict[str, Instances]]:
    """The photos and their objects, the same each time."""
    kinds = [objects(kind, num_objects) for kind in range(min(NUM_KINDS, num_photos))]
    samples, by_id = [], {}
    for number in range(num_photos):
        image_id = f"{number:06d}.jpg"
        samples.append(Sample(image_id, Path(image_id), SIZE, (), None, number + 1))
        by_id[image_id] = Instances.empty(scored=True, masked=True) if number % 10 == 9 else kinds[number % len(kinds)]
    classes = tuple(f"class {label:02d}" for label in range(NUM_CLASSES))
    return Dataset("train", classes, tuple(range(1, NUM_CLASSES + 1)), tuple(samples)), by_id


def objects(seed: int, num: int) -> Instances:
    """Ellipses with a hole each, of random places, sizes and classes."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    rles = []
    for _ in range(num):
        cy, cx = draw.uniform(0.2, 0.8, 2) * SIZE
        ry, rx = draw.uniform(0.05, 0.25, 2) * SIZE
        distance = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
        rles.append(rle_from_mask(torch.from_numpy((distance < 1) & (distance > 0.05))))
    boxes = torch.stack([box_from_rle(rle) for rle in rles])
    scores = torch.from_numpy(draw.uniform(0.1, 1, num).astype(np.float32))
    return Instances(boxes, torch.from_numpy(draw.integers(0, NUM_CLASSES, num)), scores, tuple(rles))


def measure(name: str, masks: str, dataset: Dataset, by_id: dict[str, Instances]) -> dict[str, float]:
    """Write one format, and read it back, in this process."""
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"labels{FORMATS[name].suffix}"
        began = time.process_time()
        export_labels(out, name, dataset, by_id, ExportOptions(masks=masks, photos="none"))
        written = time.process_time() - began
        after_writing = peak()
        files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else [out]
        size = sum(path.stat().st_size for path in files)
        began = time.process_time()
        truth = read_truth(labels_in(out), {sample.image_id: sample.size for sample in dataset})
        assert sum(len(image.instances) for image in truth.images.values()) > 0
        read = time.process_time() - began
    return {
        "write s": written,
        "memory MiB": after_writing - before,
        "files": len(files),
        "disk MiB": size / 2**20,
        "read s": read,
    }


def peak() -> float:
    """Peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("formats", nargs="*", metavar="FORMAT")
    arguments = parser.parse_args()
    every = [*FORMATS, *(f"{name}:polygons" for name in ("coco", "labelstudio", "cvat"))]
    dataset, by_id = labels(arguments.photos, arguments.objects)
    print("| format | write s | memory MiB | files | disk MiB | read s |\n|---|---|---|---|---|---|", flush=True)
    for form in arguments.formats or every:
        name, _, masks = form.partition(":")
        with multiprocessing.get_context("fork").Pool(1) as pool:
            row = pool.apply(measure, (name, masks or "rle", dataset, by_id))
        cells = f"{row['write s']:.1f} | {row['memory MiB']:.0f} | {row['files']:,.0f} | {row['disk MiB']:.1f}"
        print(f"| {form} | {cells} | {row['read s']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
