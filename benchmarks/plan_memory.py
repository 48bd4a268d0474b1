"""Measure the memory that each stage's planning adds to a loaded list of photos: what it does before its first photo.

    python benchmarks/plan_memory.py --rows 1000000

The list names ``--rows`` photos of 20 classes that need not exist. Each row is a process of its own, forked with the
loaded list: the peak of what Python allocates over it (tracemalloc, MiB) and CPU seconds (with its bookkeeping). A
stage's planning: fingerprints of its inputs, its store with all parts, and which of them are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from weaksam.data.detection_stores import detection_store
from weaksam.data.proposals.given import photo_hashes, record_photos
from weaksam.data.tag_signal import check_tags
from weaksam.engine.pseudo_masks import MASK_COLUMNS
from weaksam.stages.clues.store_rows import CLUE_COLUMNS
from weaksam.store.store import Store
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.proposals import PROPOSAL_COLUMNS

NUM_CLASSES = 20


def loaded_list(rows: int) -> Dataset:
    """A split of ``rows`` photos as a run holds it, each with one or two tags and the hash of its bytes."""
    folder = Path("/photos")
    samples = tuple(
        Sample(f"{n:012d}.jpg", folder, (375, 500), tuple(sorted({n % NUM_CLASSES, n // 7 % NUM_CLASSES})), None, n + 1,
               f"{n:064x}")
        for n in range(rows)
    )  # fmt: skip
    names = tuple(f"class {number:02d}" for number in range(NUM_CLASSES))
    return Dataset("train", names, tuple(range(1, NUM_CLASSES + 1)), samples)


def _opened(dataset: Dataset, out: Path, stage: str, columns: dict[str, str]) -> Store:
    key = dataset.fingerprint
    return Store(out / stage, stage=stage, fingerprint=key, image_ids=dataset.image_ids, columns=columns)


def _planned(store: Store, dataset: Dataset) -> None:
    assert sum(len(part.image_ids) for part in store.missing_parts()) == len(dataset)
    assert dataset.samples[0].image_id in store and dataset.by_id[dataset.samples[-1].image_id].number == len(dataset)


def clues(dataset: Dataset, out: Path) -> None:
    check_tags(dataset)
    _planned(_opened(dataset, out, "clues", CLUE_COLUMNS), dataset)


def proposals(dataset: Dataset, out: Path) -> None:
    store = _opened(dataset, out, "proposals", PROPOSAL_COLUMNS)
    record_photos(store.folder, photo_hashes(dataset))
    _planned(store, dataset)


def detections(dataset: Dataset, out: Path) -> None:
    _planned(detection_store(out / "wsod", "wsod", dataset.fingerprint, dataset, masks=False), dataset)


def masks(dataset: Dataset, out: Path) -> None:
    _planned(_opened(dataset, out, "wsis", MASK_COLUMNS), dataset)
    _planned(detection_store(out / "wsis", "wsis", dataset.fingerprint, dataset, masks=True), dataset)


PLANS: dict[str, Callable[[Dataset, Path], None]] = {
    "clues": clues,
    "proposals": proposals,
    "wsod, retrain: detections": detections,
    "wsis: pseudo masks, detections": masks,
}


def measured(dataset: Dataset, plan: Callable[[Dataset, Path], None]) -> tuple[float, float]:
    """Peak MiB that ``plan`` allocates over ``dataset``, and CPU seconds; in this process."""
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()
        began = time.process_time()
        plan(dataset, Path(folder))
        seconds = time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    return peak, seconds


def _forked(dataset: Dataset, plan: Callable[[Dataset, Path], None]) -> tuple[float, float]:
    reading, writing = os.pipe()
    if os.fork() == 0:
        code = 1
        try:
            os.write(writing, json.dumps(measured(dataset, plan)).encode())
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(writing)
    with open(reading) as pipe:
        peak, seconds = json.loads(pipe.read())
    os.wait()
    return peak, seconds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    dataset = loaded_list(options.rows)
    print(f"{options.rows} photos; load {os.getloadavg()[0]:.1f}")
    print("| planning | MiB over the list | CPU s |\n|---|---|---|", flush=True)
    for name, plan in PLANS.items():
        peak, seconds = _forked(dataset, plan)
        print(f"| {name} | {peak:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
