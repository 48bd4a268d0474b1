"""Time how lists of many rows are read, by ``data check``, by a run up to its first stage and by ``eval``.

    python benchmarks/lists.py --rows 1000000 --out /tmp/lists            # all cases
    python benchmarks/lists.py --rows 100000 --out /tmp/lists csv-check coco-run

Each case runs in a process of its own, forked after the imports and bound to one core, and prints a row: seconds, the
most memory it took over the import (MiB), and the size of the log that it wrote (KiB). A list names ``--rows`` photos;
eight of them exist, or, in the cases of ``photos``, ``--photos`` of them, each a small JPEG of its own. A case that
ends in ``again`` finds what the one before it left in the run's folder; the others find none.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from PIL import Image

from weaksam.cli.data import print_problems
from weaksam.config import load_settings
from weaksam.data.check import check_data
from weaksam.data.dataset import DataSettings, SplitSettings
from weaksam.data.detection_files import read_detections
from weaksam.data.findings import Findings
from weaksam.data.known_photos import known_photos_file
from weaksam.evaluation.file_inputs import truth_dataset
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run

CLASSES = tuple(f"class {number:02d}" for number in range(20))
NUM_PHOTOS = 8
"""Photos that exist where only a few do."""
SIDE = 64
"""Side of a photo in pixels."""
OBJECTS_OF_IMAGE = 2
"""Annotations of each image of a COCO file, lines of each YOLO file; results have as many."""
MOST_FILES = 100_000
"""Files of a folder of labels or photos, where there are fewer rows in one list."""


def photo_name(number: int) -> str:
    return f"{number:012d}.jpg"


def tags_of(number: int) -> list[str]:
    return [CLASSES[number % 20], CLASSES[number // 20 % 20]][: 1 + number % 2]


def box_of(number: int, index: int) -> list[float]:
    return [number % 30 + 0.5, index * 7.25 + 1, 20 + number % 13, 16.75]


# What is read


def write_photos(folder: Path, count: int) -> None:
    """The same picture in files of their own: each has its number after the JPEG's end."""
    folder.mkdir(parents=True)
    colours, jpeg = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(colours).save(jpeg, "JPEG")
    for number in range(count):
        (folder / photo_name(number)).write_bytes(jpeg.getvalue() + photo_name(number).encode())


def write_csv(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("file,tags\n")
        file.writelines(f"{photo_name(number)},{';'.join(tags_of(number))}\n" for number in range(rows))


def write_tag_json(path: Path, rows: int) -> None:
    with path.open("w") as file:
        lines = (f"{json.dumps(photo_name(number))}: {json.dumps(tags_of(number))}" for number in range(rows))
        write_joined(file, "{", lines, "}")


def write_coco(path: Path, rows: int) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    images = (
        json.dumps({"id": n + 1, "file_name": photo_name(n), "height": SIDE, "width": SIDE, "license": 1})
        for n in range(rows)
    )
    with path.open("w") as file:
        write_joined(file, '{"images": [', images, "], ")
        write_joined(file, '"annotations": [', (json.dumps(entry) for entry in annotations(rows)), "], ")
        file.write(f'"categories": {json.dumps(categories)}}}\n')


def annotations(rows: int) -> Iterator[dict[str, object]]:
    for number in range(rows):
        for index in range(OBJECTS_OF_IMAGE):
            box = box_of(number, index)
            entry = {"id": OBJECTS_OF_IMAGE * number + index + 1, "image_id": number + 1, "bbox": box, "iscrowd": 0}
            yield {**entry, "category_id": 1 + (number + index) % 20, "area": box[2] * box[3], "segmentation": []}


def write_results(path: Path, rows: int) -> None:
    results = (
        json.dumps({"image_id": n + 1, "category_id": 1 + (n + i) % 20, "bbox": box_of(n, i), "score": n % 99 / 99})
        for n in range(rows)
        for i in range(OBJECTS_OF_IMAGE)
    )
    with path.open("w") as file:
        write_joined(file, "[", results, "]")


def write_joined(file: io.TextIOBase, opening: str, parts: Iterator[str], closing: str) -> None:
    file.write(opening)
    for number, part in enumerate(parts):
        file.write(f",\n{part}" if number else part)
    file.write(closing)


def write_yolo(folder: Path, rows: int) -> None:
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    for number in range(rows):
        lines = "".join(f"{(number + index) % 20} 0.5 0.5 0.25 0.{index + 2}\n" for index in range(OBJECTS_OF_IMAGE))
        (folder / f"{number:012d}.txt").write_text(lines)


FILES: dict[str, Callable[[Path, int], None]] = {
    "few": lambda path, rows: write_photos(path, NUM_PHOTOS),
    "photos": write_photos,
    "tags.csv": write_csv,
    "tags.json": write_tag_json,
    "truth.json": write_coco,
    "results.json": write_results,
    "labels": write_yolo,
}


# The cases


def check(data: Path, **split: str) -> None:
    """Check a split as ``weaksam data check`` does, its lines written away."""
    settings = SplitSettings(**{key: data / name for key, name in split.items()})
    counts: list[str] = []
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        print_problems(counts, check_data(DataSettings(train=settings), counts))


def load(data: Path, **split: str) -> None:
    """What a run does before its first stage: data, log, fingerprints."""
    values = [f"data.train.{key}={data / name}" for key, name in split.items()]
    run = open_run(load_settings(RunSettings, None, [*values, f"out={data / 'run'}", "device=cpu"]))
    assert run.context.train.fingerprint


def read_for_eval(data: Path, truth: str, results: str | None = None, images: str | None = None) -> None:
    """Read what ``weaksam eval`` measures."""
    dataset, _, _ = truth_dataset(data / truth, None if images is None else data / images)
    if results is not None:
        read_detections(data / results, dataset, Findings())


CASES: dict[str, Callable[[Path], None]] = {
    "csv-check": lambda data: check(data, images="few", tags="tags.csv"),
    "csv-run": lambda data: load(data, images="few", tags="tags.csv"),
    "json-check": lambda data: check(data, images="few", tags="tags.json"),
    "json-run": lambda data: load(data, images="few", tags="tags.json"),
    "coco-check": lambda data: check(data, images="few", truth="truth.json"),
    "coco-run": lambda data: load(data, images="few", truth="truth.json"),
    "coco-tags-run": lambda data: load(data, images="few", tags="truth.json"),
    "coco-eval": lambda data: read_for_eval(data, "truth.json", "results.json"),
    "yolo-check": lambda data: check(data, images="few", truth="labels"),
    "yolo-run": lambda data: load(data, images="few", truth="labels"),
    "photos-csv-check": lambda data: check(data, images="photos", tags="tags.csv"),
    "photos-csv-run": lambda data: load(data, images="photos", tags="tags.csv"),
    "photos-csv-run-again": lambda data: load(data, images="photos", tags="tags.csv"),
    "photos-coco-run": lambda data: load(data, images="photos", truth="truth.json"),
    "photos-coco-run-again": lambda data: load(data, images="photos", truth="truth.json"),
    "photos-yolo-run": lambda data: load(data, images="photos", truth="labels"),
}


def forked(make: Callable[[], None], limit: int) -> tuple[float, float, float] | None:
    """Seconds, CPU seconds and MiB over the start of ``make`` in a process on one core; None where it failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            signal.alarm(limit)
            before, began, cpu_began = resident_mib(), time.perf_counter(), time.process_time()
            make()
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            os.write(writing, json.dumps([seconds, cpu, peak - before]).encode())
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return tuple(json.loads(text)) if text else None


def resident_mib() -> float:
    """Memory that this process has now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="all by default")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of a list")
    parser.add_argument("--photos", type=int, default=MOST_FILES, help="photos and label files of the cases with many")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files, kept for another time")
    parser.add_argument("--limit", type=int, default=600, help="most seconds of a case")
    given = parser.parse_args()
    folder = given.out / f"{given.rows}-{given.photos}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in FILES.items():
        rows = min(given.photos, given.rows) if name in ("photos", "labels") else given.rows
        if not (folder / name).exists():
            forked(lambda write=write, name=name, rows=rows: write(folder / name, rows), 3600)
    load_before = os.getloadavg()[0]
    print(f"{given.rows} rows, {given.photos} photos or label files; load {load_before:.1f}")
    print(f"{'case':22s} {'seconds':>8s} {'CPU':>8s} {'MiB':>8s} {'log, KiB':>9s}", flush=True)
    for name in given.cases or CASES:
        log = folder / "run" / "log.jsonl"
        log.unlink(missing_ok=True)
        if not name.endswith("again"):
            (folder / "run" / known_photos_file("train")).unlink(missing_ok=True)
        measured = forked(lambda name=name: CASES[name](folder), given.limit)
        size = f"{log.stat().st_size / 1024:.1f}" if log.exists() else ""
        columns = (
            ["failed"] * 3 if measured is None else [f"{measured[0]:.1f}", f"{measured[1]:.1f}", f"{measured[2]:.0f}"]
        )
        print(f"{name:22s} {' '.join(f'{text:>8s}' for text in columns)} {size:>9s}", flush=True)


if __name__ == "__main__":
    main()
