"""Measure how long the report takes to open in Chromium with many photos in its gallery.

    python benchmarks/report_page.py [--photos 2000] [--repeats 5]

The page is that of rendered scenes, of which 40 stand for all photos under names of their own, with their true objects
as labels and as detections. Measured is the time from the start of the navigation until every picture in sight is
decoded, as the page's own clock has it; the page is opened at its gallery, each time in a new browser.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.evaluation.truth import Truth
from weaksam.pipeline.summary import metrics_dict
from weaksam.report.gallery import StageResults
from weaksam.report.insights import WEAK, insights
from weaksam.report.page import Page
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances

NUM_SCENES = 40
IN_SIGHT = """
const done = arguments[0], inSight = (image) => image.getBoundingClientRect().top < innerHeight;
const images = [...document.querySelectorAll(".tile img")].filter(inSight);
Promise.all(images.map((image) => image.decode())).then(() => done([performance.now(), images.length]));
"""


def many_photos(folder: Path, num: int) -> Dataset:
    """``num`` photos, which are `NUM_SCENES` rendered scenes again and again."""
    write_dataset(folder, SceneSettings(size=320), NUM_SCENES, 0, seed=0)
    files = {"images": folder / "train", "tags": folder / "tags_train.json", "truth": folder / "instances_train.json"}
    scenes = load_dataset(SplitSettings(**files), name="train")
    samples = [scenes.samples[number % NUM_SCENES] for number in range(num)]
    copies = [
        Sample(f"{number:05d}.jpg", scene.path, scene.size, scene.tags, scene.truth, number + 1)
        for number, scene in enumerate(samples)
    ]
    return Dataset("train", scenes.classes, scenes.category_ids, tuple(copies))


def scored(truth: Instances) -> Instances:
    """True objects as a detector's."""
    return Instances(truth.boxes, truth.labels, torch.linspace(0.9, 0.4, len(truth)))


def write_page(folder: Path, photos: Dataset) -> Path:
    """The page of these photos."""
    labels = {sample.image_id: scored(sample.truth) for sample in photos if sample.truth is not None}
    results = StageResults(
        train=photos,
        test=None,
        truths={"train": Truth.of(photos)},
        pseudo_gt=labels,
        weak_train=labels,
        train_detections={"retrained network": labels},
        proposals={image_id: boxes.boxes for image_id, boxes in labels.items()},
    )
    metrics = metrics_dict(f"{len(photos)} photos", photos.classes, [], {"train": len(photos)}, {}, None)
    Page(metrics, {}, [], results, insights(results)).write(folder / "report.html")
    assert WEAK in (folder / "report.html").read_text(encoding="utf-8")
    return folder / "report.html"


def opened(page: Path) -> tuple[float, int]:
    """Seconds until every picture in sight is decoded, in a new browser, and how many these are."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1280,900")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(120)
        driver.get(f"{page.as_uri()}#gallery?order=doubt")
        milliseconds, num_images = driver.execute_async_script(IN_SIGHT)
        return milliseconds / 1000, num_images
    finally:
        driver.quit()


def main() -> None:
    """Build the page, open it several times and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=2000, help="photos in the gallery; 2000")
    parser.add_argument("--repeats", type=int, default=5, help="how often it is opened; 5")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        photos = many_photos(Path(name) / "scenes", arguments.photos)
        began, began_cpu = time.perf_counter(), time.process_time()
        page = write_page(Path(name), photos)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        beside = sum(path.stat().st_size for path in Path(name).glob("report_photos/*"))
        print(f"page of {arguments.photos} photos: {page.stat().st_size / 1e6:.1f} MB, {beside / 1e6:.1f} MB beside it")
        print(f"written in {seconds:.1f} s ({cpu_seconds:.1f} CPU seconds)")
        times, counts = zip(*(opened(page) for _ in range(arguments.repeats)), strict=True)
    listed = ", ".join(f"{value:.2f}" for value in times)
    print(f"opened in {statistics.median(times):.2f} s (median of {listed}), {counts[0]} pictures in sight")


if __name__ == "__main__":
    main()
