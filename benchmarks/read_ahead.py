"""Time clue maps and detection photo by photo, with the photos decoded ahead on threads and each in its turn.

    OMP_NUM_THREADS=1 python benchmarks/read_ahead.py [--photos 48] [--size 768] [--rounds 3]

Rendered scenes as JPEG files of ``--size`` pixels; networks with random weights: class maps of MobileNetV2 at one
scale and mirrored, long side 320; Faster R-CNN on sam_nano's backbone, short side 256. Both ways in turn, results
compared bit by bit. Prints markdown: median seconds of all photos, and CPU seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from weaksam.config import load_settings
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.data.sample_photos import PHOTOS_AHEAD, reading_ahead
from weaksam.engine.detectors.detecting import detect_sample
from weaksam.models.cam.network import CamNetwork, cam_network_colours
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.pipeline.settings import RunSettings
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages.clues.cam_features import FeatureReader
from weaksam.stages.clues.settings import ClueSettings
from weaksam.structures.dataset import Dataset

DEVICE = torch.device("cpu")


def clue_maps(dataset: Dataset) -> Callable[[str], Tensor]:
    """The deepest maps of a photo, read anew each time."""
    torch.manual_seed(0)
    settings = ClueSettings(network="mobilenet_v2", network_weights="none", long_side=320, scales=(1.0,))
    network = CamNetwork("mobilenet_v2", "none").eval()
    reader = FeatureReader(network, cam_network_colours("mobilenet_v2"), "cam", DEVICE, settings)
    return lambda image_id: torch.cat(
        [view.flatten() for views in reader.read(dataset, image_id).maps for view in views]
    )


def detections(dataset: Dataset) -> Callable[[str], Tensor]:
    """Boxes and scores of Faster R-CNN in a photo."""
    torch.manual_seed(0)
    run = load_settings(
        RunSettings, None, ["backbone.name=sam_nano", "retrain.short_side=256", "retrain.long_side=256"]
    )
    model = build_faster_rcnn(run.backbone, run.retrain, len(dataset.classes)).eval()

    def of_photo(image_id: str) -> Tensor:
        instances = detect_sample(model, dataset.by_id[image_id], run.retrain, DEVICE)
        return torch.cat([instances.boxes.flatten(), instances.scores])

    return of_photo


WORK = {"clue maps": clue_maps, "detection": detections}


def main() -> None:
    """Time both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("photos", 48), ("size", 768), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder)
        write_dataset(scenes, SceneSettings(size=options.size), options.photos, 1, seed=1)
        split = SplitSettings(images=scenes / "train", tags=scenes / "tags_train.json")
        dataset = load_dataset(split, name="train")
        print(f"{options.photos} photos of {options.size} pixels, {options.rounds} rounds in turn; medians\n")
        print("| work | s, in turn | s, ahead | times | CPU s, in turn | CPU s, ahead |\n|---|---|---|---|---|---|")
        for name, make in WORK.items():
            print(compared(name, make(dataset), dataset, options.rounds), flush=True)


def compared(name: str, work: Callable[[str], Tensor], dataset: Dataset, rounds: int) -> str:
    """A row of the table; both ways must give the same."""
    walls: dict[int, list[float]] = {0: [], PHOTOS_AHEAD: []}
    cpus: dict[int, list[float]] = {0: [], PHOTOS_AHEAD: []}
    wanted = timed(work, dataset, 0)[0]
    for number in range(rounds):
        for num_ahead in list(walls)[:: 1 if number % 2 == 0 else -1]:
            results, wall, cpu = timed(work, dataset, num_ahead)
            assert all(map(torch.equal, results, wanted)), "reading ahead changes the result"
            walls[num_ahead].append(wall)
            cpus[num_ahead].append(cpu)
    seconds = {num_ahead: median(of_way) for num_ahead, of_way in walls.items()}
    times = seconds[0] / seconds[PHOTOS_AHEAD]
    cpu_seconds = " | ".join(f"{median(of_way):.1f}" for of_way in cpus.values())
    return f"| {name} | {seconds[0]:.1f} | {seconds[PHOTOS_AHEAD]:.1f} | {times:.2f} | {cpu_seconds} |"


def timed(work: Callable[[str], Tensor], dataset: Dataset, num_ahead: int) -> tuple[list[Tensor], float, float]:
    """What every photo gives, seconds by the clock, and CPU seconds of all threads."""
    began, cpu_began = time.perf_counter(), time.process_time()
    with reading_ahead(dataset.samples, num_ahead):
        results = [work(image_id) for image_id in dataset.image_ids]
    return results, time.perf_counter() - began, time.process_time() - cpu_began


if __name__ == "__main__":
    main()
