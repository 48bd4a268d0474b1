"""Build what several test files need: run contexts, instances, proposals, photos, drawn datasets and toy segmenters."""

import json
import multiprocessing
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam

from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.data.detection_stores import detection_store
from weaksam.data.formats import voc_results
from weaksam.data.formats.coco import object_entries, write_instances
from weaksam.data.formats.voc import write_annotations
from weaksam.data.formats.yolo import write_labels
from weaksam.engine.context import RunContext
from weaksam.engine.log import RunLog
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.pipeline.summary import StageReport, metrics_dict
from weaksam.sam.nano.model import Architecture
from weaksam.sam.official.architecture import SamArchitecture, build_sam
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages.proposals.candidates import Candidates
from weaksam.store.files import write_json_atomic
from weaksam.store.records import read_record, write_record
from weaksam.store.store import Store
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.proposals import PROPOSAL_COLUMNS, Proposals

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
CPU = torch.device("cpu")
PROCESSES = multiprocessing.get_context("forkserver")
"""Starts processes that share nothing with the tests' own, forked from a server that has imported the package once."""
PROCESSES.set_forkserver_preload(
    [
        "weaksam.pipeline",
        "weaksam.data.check",
        "weaksam.evaluation.files",
        # What the package imports when it is first needed: a command that is listened to should find it there
        "weaksam.sam.region_tree.segmenter",
        "weaksam.sam.region_tree.merging",
        "scipy.optimize",
        "scipy.stats",
        "tests.hostile.process",
    ]
)

# Values


def instances(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
    **marks: Sequence[bool] | None,
) -> Instances:
    """Instances of xyxy boxes in pixels, all of class 0 without ``labels``; ``marks`` such as ``difficult``."""
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(
        table,
        torch.zeros(len(table), dtype=torch.int64) if labels is None else torch.tensor(labels, dtype=torch.int64),
        None if scores is None else torch.tensor(scores, dtype=torch.float32),
        **{name: torch.tensor(flags) for name, flags in marks.items() if flags is not None},
    )


def proposals(*rows: Sequence[float]) -> Proposals:
    """Proposals from rows of x1, y1, x2, y2, score."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Proposals.of(table[:, :4], table[:, 4])


def proposal_store(folder: Path, rows: Mapping[str, Proposals]) -> Store:
    """A sealed store of these proposals by image id, of the fingerprint ``made``."""
    store = Store(folder, stage="proposals", fingerprint="made", image_ids=tuple(rows), columns=PROPOSAL_COLUMNS)
    return store.fill(lambda image_id: rows[image_id].as_row())


def candidates(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], sources: Sequence[int] | None = None
) -> Candidates:
    """Proposal candidates, prompted in this order; all of the grid without ``sources``."""
    corners = torch.tensor(boxes, dtype=torch.float32)
    source = torch.zeros(len(corners)) if sources is None else torch.tensor(sources)
    return Candidates(corners, torch.tensor(scores, dtype=torch.float32), source.long(), torch.arange(len(corners)))


def pickled(path: Path, value: object, protocol: int = 4) -> Path:
    """Write ``value`` as a pickle, as other toolkits do, and return ``path``."""
    path.write_bytes(pickle.dumps(value, protocol))
    return path


# Photos and datasets


def noise_photo(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A photo ``(H, W, 3)`` of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_photo(path: Path, seed: int = 0, size: tuple[int, int] = (12, 16), **options: Any) -> Path:
    """Write a photo of noise, with ``options`` of Pillow's ``save``, and return ``path``; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise_photo(size, seed)).save(path, **options)
    return path


def block_photo(seed: int = 0) -> np.ndarray:
    """A grey photo (120, 160), a red block at rows 20-60 and columns 30-90, a blue one at 70-110 and 100-150."""
    noise = np.random.default_rng(seed).normal(0, 2, (120, 160, 3))
    image = np.full((120, 160, 3), 120.0) + noise
    image[20:60, 30:90] += (100, -60, -60)
    image[70:110, 100:150] += (-60, -40, 110)
    return image.clip(0, 255).astype(np.uint8)


DISC_COLOURS = {"red": (230, 20, 20), "blue": (20, 40, 230)}


def draw_discs(folder: Path, num: int = 12) -> Dataset:
    """Photos of one red or one blue disc (every third: both) at a seeded place, with a tag file."""
    rng, rows = np.random.default_rng(0), ["file,tags"]
    (folder / "photos").mkdir(parents=True)
    y, x = np.mgrid[:96, :128]
    for number in range(num):
        image = rng.integers(90, 150, (96, 128, 3), dtype=np.uint8)
        names = ["red", "blue"] if number % 3 == 2 else [("red", "blue")[number % 3]]
        for place, name in enumerate(names):
            centre = rng.integers(20, 44) + 64 * place * (len(names) - 1), rng.integers(24, 72)
            image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 17**2] = DISC_COLOURS[name]
        Image.fromarray(image).save(folder / "photos" / f"{number:02d}.png")
        rows.append(f"{number:02d}.png,{';'.join(names)}")
    (folder / "tags.csv").write_text("\n".join(rows))
    return load_dataset(SplitSettings(images=folder / "photos", tags=folder / "tags.csv"), name="train")


SQUARE_COLOURS = ((220, 30, 30), (30, 60, 220))


def draw_squares(folder: Path) -> Dataset:
    """Six photos of 96 x 64 or 64 x 96 pixels with one or two squares; the last has a tag but nothing in it."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(6):
        size = (64, 96) if number % 2 else (96, 64)
        image = rng.integers(100, 140, (*size, 3), dtype=np.uint8)
        boxes = []
        for label in range(0 if number == 5 else 1 + number % 2):
            x, y = 4 + 30 * label, 6 + 5 * number
            image[y : y + 26, x : x + 26] = SQUARE_COLOURS[label]
            boxes.append((x, y, x + 26, y + 26))
        path = folder / f"{number}.png"
        Image.fromarray(image).save(path)
        truth = instances(boxes, list(range(len(boxes))))
        samples.append(Sample(path.name, path, size, tuple(truth.labels.tolist()) or (0,), truth, number + 1))
    return Dataset("squares", ("red", "blue"), (3, 7), tuple(samples), ())


# Runs

NANO_BACKBONE = BackboneSettings(name="sam_nano")
UNTRAINED_BACKBONE = BackboneSettings(weights="none")


def context(
    out: Path,
    train: Dataset,
    seed: int = 0,
    *,
    test: Dataset | None = None,
    backbone: BackboneSettings = NANO_BACKBONE,
    log: RunLog | None = None,
) -> RunContext:
    """What a stage gets of a run on the CPU, with frozen models that need no download; silent without ``log``."""
    log = RunLog(None) if log is None else log
    return RunContext(out, seed, CPU, train, test, log, backbone)


def training_history(folder: Path) -> list[dict[str, float]]:
    """Mean of every loss per epoch, from a folder that a training sealed."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["history"]


TOY_RUN = [
    "threads=1",
    "device=cpu",
    "backbone.weights=none",
    "segmenter.family=tree",
    "clues.long_side=64",
    "wsod.long_side=64",
    "wsod.num_proposals=20",
    "wsod.hidden=16",
    "wsod.reduced=8",
    "wsod.num_epochs=2",
    *(
        f"{stage}.{setting}"
        for stage in ("retrain", "wsis")
        for setting in (
            "num_epochs=1",
            "short_side=64",
            "long_side=64",
            "fpn_channels=8",
            "representation=8",
            "max_boxes=5",
            "batch_size=8",
            "rpn_pre_nms=100",
            "rpn_post_nms=50",
        )
    ),
]
"""Settings of a run through all stages in seconds; nothing of it is about the quality of the result."""


def toy_run(folder: Path) -> list[str]:
    """Write five training and two test scenes of 64 x 64 below ``folder``: the settings of a `TOY_RUN` on them."""
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=2, max_distractors=1), 5, 2, seed=1)
    files = (("images", "{}"), ("tags", "tags_{}.json"), ("truth", "instances_{}.json"))
    return [
        *TOY_RUN,
        *(f"data.{split}.{name}={folder / file.format(split)}" for split in ("train", "test") for name, file in files),
    ]


DAMAGED_JSON = {
    "nothing": b"",
    "half of it": b'{"stage": "x", "pa',
    "null": b"null",
    "a list": b"[1, 2]",
    "a number": b"7",
    "a text": b'"x"',
    "an empty object": b"{}",
    "other values": b'{"stage": null, "parts": 3, "key": [], "sha256": 1, "settings": "x"}',
    "no UTF-8": b"\xff\xfe{}",
    "brackets": b"[" * 100_000,
}
"""What a JSON file may hold after an accident, by what happened to it."""


def part_file(folder: Path, index: int = 0) -> Path:
    """The file of a store's part, whose name carries a hash of its bytes."""
    (path,) = folder.glob(f"part-{index:05d}-*.parquet")
    return path


def change_record(path: Path, **changes: Any) -> None:
    """Write the record in ``path`` anew with ``changes``, as the program that wrote it would."""
    record = read_record(path)
    assert record is not None
    write_record(path, {**record, **changes})


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Flip one bit of a file's byte at ``position`` (from the end where it is negative)."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


# Toy segmenters

TOY_SAM = SamArchitecture(
    image_size=64,
    patch_size=8,
    embed_dim=32,
    depth=2,
    num_heads=2,
    window_size=4,
    global_blocks=(1,),
    channels=32,
    mask_channels=4,
    num_masks=3,
    decoder_depth=2,
    decoder_mlp=32,
    iou_depth=2,
    iou_hidden=16,
)
TOY_NANO = Architecture(dim=32, width=8, deep=32, depth=1)
FRESH_SCENE = 2_000_000_000
"""From here on scene numbers on which sam_nano was neither trained nor watched."""


def random_sam(seed: int, scale: float = 0.3, **changes: Any) -> Sam:
    """segment-anything's own network at toy size, ``changes`` applied to it, with normal weights times ``scale``."""
    model = build_sam(replace(TOY_SAM, **changes))
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    model.load_state_dict(
        {name: scale * torch.randn(value.shape, generator=generator) for name, value in state.items()}
    )
    return model


def small_metrics() -> dict[str, Any]:
    """The content of ``metrics.json`` after one measured stage: two classes, of which one has no true object."""
    by_iou = {"0.5": 0.5, "0.55": 0.3, "0.6": 0.3, "0.65": 0.3, "0.7": 0.3, "0.75": 0.25}
    by_iou |= {"0.8": 0.3, "0.85": 0.35, "0.9": 0.2, "0.95": 0.2}
    figures = {
        "mean": by_iou,
        "average": sum(by_iou.values()) / len(by_iou),
        "per_class": {iou: [value, None] for iou, value in by_iou.items()},
        "protocol": "VOC",
    }
    reports = [StageReport("wsod", "made", "good", 1.6, {"test_boxes": figures})]
    return metrics_dict("run", ["cat", "<dog>"], reports, {"train": 2}, {"train": [("x.jpg", "is empty")]}, "A note.")


# Objects and detections in every form

FORM_CLASSES = ("bird", "cat", "dog")


def random_objects(seed: int, num: int, scored: bool) -> Instances:
    """``num`` objects of three classes with whole corners in a photo of 60 x 40."""
    draw = np.random.default_rng(seed)
    corner = draw.integers(0, 20, (num, 2))
    size = draw.integers(5, 20, (num, 2))
    labels = draw.integers(0, 3, (num, 1))
    boxes = np.concatenate([corner, corner + size], axis=1).tolist()
    scores = (draw.permutation(num) / num + 0.001).round(4).tolist() if scored else None
    return instances(boxes, labels[:, 0].tolist(), scores)


def write_forms(folder: Path) -> tuple[Dataset, dict[str, Instances]]:
    """Six photos with objects (``truth.json``, ``voc``, ``yolo``) and detections in every form; returns both."""
    (folder / "photos").mkdir()
    samples, detections = [], {}
    for number in range(1, 7):
        image_id = f"2008_00000{number}.jpg"
        Image.new("RGB", (60, 40)).save(folder / "photos" / image_id)
        truth = random_objects(number, 4, scored=False)
        labels = tuple(sorted(set(truth.labels.tolist())))
        samples.append(Sample(image_id, folder / "photos" / image_id, (40, 60), labels, truth, 10 + number))
        near = truth.replace(boxes=truth.boxes + 1, scores=torch.linspace(0.5, 0.9, 4).mul(number / 6))
        detections[image_id] = Instances.cat([near, random_objects(100 + number, 5, scored=True)])
    dataset = Dataset("test", FORM_CLASSES, (1, 2, 3), tuple(samples))
    write_instances(folder / "truth.json", dataset, dataset.truths)
    write_annotations(folder / "voc", dataset, dataset.truths)
    write_labels(folder / "yolo", dataset, dataset.truths)
    write_detections(folder, dataset, detections)
    return dataset, detections


def write_detections(folder: Path, dataset: Dataset, detections: dict[str, Instances]) -> None:
    """Detections as COCO results that name images in four ways, as VOC result files ``comp4`` and as a run's store."""
    by_stem = [
        {"image_id": Path(image_id).stem, **entry}
        for image_id, image_detections in detections.items()
        for entry in object_entries(image_detections, dataset.category_ids)
    ]
    numbers = {Path(sample.image_id).stem: sample.number for sample in dataset}
    names = {
        "stems": str,
        "digits": lambda stem: int(stem.replace("_", "")),
        "endings": lambda stem: f"{stem}.jpg",
        "numbers": numbers.__getitem__,
    }
    for form, name_of in names.items():
        entries = [{**entry, "image_id": name_of(entry["image_id"])} for entry in by_stem]
        write_json_atomic(folder / f"{form}.json", entries)
    voc_results.write_results(folder / "comp4", dataset, detections)
    store = detection_store(folder / "OUT/wsod/store/detections_test-1", "wsod", "1", dataset, masks=False)
    store.fill(lambda image_id: {name: getattr(detections[image_id], name) for name in ("boxes", "labels", "scores")})


# Segmenters


class SmallDevice(RegionTreeSegmenter):
    """A segmenter on a device that has memory for ``room`` prompts and ``photos_room`` photos at a time."""

    def __init__(self, room: int, photos_room: int = 1) -> None:
        super().__init__()
        self.room, self.photos_room = room, photos_room
        self.answered: list[int] = []
        self.encoded: list[int] = []

    def predict(self, embedding, prompts, **others):
        if len(prompts) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.answered.append(len(prompts))
        return super().predict(embedding, prompts, **others)

    def encode_batch(self, images):
        if len(images) > self.photos_room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.encoded.append(len(images))
        return [self.encode(image) for image in images]


class Stopped(Exception):
    """What ends a run of `stopped_after_first_epoch`."""


class StopAfterFirstEpoch(RunLog):
    """Ends a training by `Stopped` once its first epoch is saved."""

    def write(self, event: str, **fields: Any) -> None:
        if event == "epoch":
            raise Stopped


def stopped_after_first_epoch(context: RunContext) -> RunContext:
    """The same run, whose training is ended by `Stopped` once its first epoch is saved."""
    return replace(context, log=StopAfterFirstEpoch(context.out / "log.jsonl"))
