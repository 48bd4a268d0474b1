"""Photos without proposals, without tags or without extent, in both modes and by every rule that seeds branches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers import block_photo, context
from weaksam.config import UserError
from weaksam.data.detection_stores import instances_of
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.result import DetectorResult
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import input_colours
from weaksam.stages import clues, wsod
from weaksam.stages.clues.maps import ClassMaps
from weaksam.stages.clues.store_rows import CLUE_COLUMNS, clue_row
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.detections import detections_of
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.end_to_end_batches import EndToEndBatch, PhotoView, shown_sample
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.examples import ExampleBatch, make_example
from weaksam.stages.wsod.frozen import FrozenDetector
from weaksam.stages.wsod.region_features import region_features
from weaksam.store.store import Store
from weaksam.structures.clue_points import COARSE, CluePeaks
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import boxes_from_masks, rle_from_mask
from weaksam.structures.proposals import PROPOSAL_COLUMNS, Proposals

RULES = ("relocation", "class_maps", "scores", "oicr", "oicr_top", "mist", "pcl")
TINY = WsodSettings(
    long_side=64, reduced=8, hidden=8, roi_size=2, num_branches=2, num_epochs=1, batch_size=1, warmup_steps=0,
    end_to_end=EndToEndSettings(short_sides=(32,), test_short_sides=(32,), most_long_side=64, flip_test=False),
)  # fmt: skip
BACKBONE = BackboneSettings(name="mobilenet_v2", weights="none")
TAGS = {
    "0.png": (0,),
    "1.png": (0, 1),
    "black.png": (0, 1),
    "line.png": (),
    "pixel.png": (1,),
    "untagged.png": (),
    "untagged_black.png": (),
}
SIZES = {"line.png": (1, 3000), "pixel.png": (1, 1)}
FILLED = ("0.png", "1.png", "untagged.png")
"""Photos in which the segmenter found something."""


def made_proposals(sample: Sample, num: int = 6) -> Proposals:
    """``num`` overlapping regions of a photo, none of a photo that is not `FILLED`."""
    if sample.image_id not in FILLED:
        return Proposals.none()
    masks = torch.zeros(num, *sample.size, dtype=torch.bool)
    for place in range(num):
        masks[place, 10 + 5 * place : 50 + 8 * place, 20 + 12 * place : 70 + 13 * place] = True
    rles = tuple(rle_from_mask(mask) for mask in masks)
    scores, sources = torch.linspace(1, 0.5, num), torch.zeros(num, dtype=torch.int64)
    return Proposals(boxes_from_masks(masks), scores, sources, rles, sample.size)


def made_maps(sample: Sample) -> ClassMaps:
    """A class map of every tag; the photo ``untagged.png`` has one of a class that it is not tagged with."""
    labels = torch.tensor(sample.tags if sample.image_id != "untagged.png" else (1,), dtype=torch.int64)
    maps = torch.zeros(1, len(labels), 6, 8)
    maps[..., 1:3, 2:4] = 1.0
    return ClassMaps(labels, torch.zeros(2), {COARSE: (maps,)} if len(labels) else {}, (12, 16), sample.size)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Store, Store]:
    """Two ordinary photos, an untagged one and four in which nothing is found; their proposals and clues."""
    folder = tmp_path_factory.mktemp("photos")
    samples = []
    for number, (name, tags) in enumerate(TAGS.items()):
        height, width = SIZES.get(name, (120, 160))
        photo = Image.fromarray(block_photo(number)) if name in FILLED else Image.new("RGB", (width, height))
        photo.save(folder / name)
        samples.append(Sample(name, folder / name, (height, width), tags, None, number))
    dataset = Dataset("train", ("block", "rest"), (1, 2), tuple(samples))
    stores = [
        Store(folder / stage, stage=stage, fingerprint=stage, image_ids=dataset.image_ids, columns=columns)
        for stage, columns in (("proposals", PROPOSAL_COLUMNS), ("clues", CLUE_COLUMNS))
    ]
    stores[0].fill(lambda image_id: made_proposals(dataset.by_id[image_id]).as_row())
    stores[1].fill(lambda image_id: clue_row(made_maps(dataset.by_id[image_id]), CluePeaks.none()))
    return dataset, stores[0], stores[1]


def run_context(out: Path, dataset: Dataset, test: Dataset | None = None) -> RunContext:
    return context(out, dataset, test=test, backbone=BACKBONE)


def run(photos: tuple[Dataset, Store, Store], out: Path, settings: WsodSettings) -> DetectorResult:
    """Train on the photos and detect on them, as training and as test photos."""
    dataset, proposals, clue_store = photos
    splits = {"train": proposals, "test": proposals}
    maps_of = clues.class_maps(clue_store)
    return wsod.run(run_context(out, dataset, dataset), settings, splits, clue_store, maps_of)


def changed(**values: object) -> WsodSettings:
    return WsodSettings.model_validate({**dict(TINY), **values})


@pytest.mark.parametrize("mode", ["frozen", "end_to_end"])
@pytest.mark.parametrize("rule", [*RULES, "mist with boxes"])
def test_a_photo_without_proposals_has_no_detections_and_the_others_have_theirs(
    photos: tuple[Dataset, Store, Store], tmp_path: Path, mode: str, rule: str
) -> None:
    more = {"box_regression": True, "background_column": True, "batch_size": 2} if "boxes" in rule else {}
    settings = changed(mode=mode, seeds=rule.split()[0], min_score=0.0, **more)
    result = run(photos, tmp_path, settings)
    for split in ("train", "test"):
        for image_id, detections in result.detections(split).items():
            assert (len(detections) > 0) == (image_id in FILLED), image_id
            assert detections.scores is not None and len(detections.scores) == len(detections)
    assert run(photos, tmp_path, settings).weights.read_bytes() == result.weights.read_bytes()  # finished: only read


@pytest.mark.parametrize("mode", ["frozen", "end_to_end"])
def test_what_a_photo_without_proposals_gets_is_what_the_network_says_of_none(
    photos: tuple[Dataset, Store, Store], tmp_path: Path, mode: str
) -> None:
    dataset = photos[0]
    sample, nothing = dataset.by_id["black.png"], torch.zeros(0, 4)
    settings = changed(mode=mode, box_regression=True)
    detector: EndToEndDetector | FrozenDetector
    if mode == "frozen":
        detector = FrozenDetector(run_context(tmp_path, dataset), settings)
        detector.begin_training()
        outputs = detector.outputs([(sample, nothing, False), (sample, nothing, True)])
    else:
        detector = EndToEndDetector(run_context(tmp_path, dataset), settings)
        detector.model.eval()
        shown = shown_sample(sample, PhotoView(32), settings.end_to_end, input_colours(BACKBONE))
        outputs = detector.model(shown.pixels[None], [nothing])
    wanted, shortcut = detections_of(outputs, nothing, sample.size, settings), detector.detect(sample, nothing)
    for name, value in vars(wanted).items():
        other = getattr(shortcut, name)
        assert other is None if value is None else torch.equal(other, value) and other.dtype == value.dtype, name
    assert len(Instances.cat([shortcut, wanted])) == 0


@pytest.mark.parametrize("mode", ["frozen", "end_to_end"])
def test_a_batch_of_photos_without_proposals_teaches_nothing(
    photos: tuple[Dataset, Store, Store], tmp_path: Path, mode: str
) -> None:
    dataset, proposals, _ = photos
    settings = changed(mode=mode)
    tags = dict(zip(dataset.image_ids, dataset.tag_matrix(), strict=True))
    samples = [dataset.by_id[name] for name in ("black.png", "pixel.png")]
    examples = tuple(make_example(s, proposals[s.image_id], tags[s.image_id], None, settings) for s in samples)
    if mode == "frozen":
        frozen = FrozenDetector(run_context(tmp_path, dataset), settings)
        frozen.begin_training()
        assert frozen.losses(ExampleBatch(examples, (False, True))) == {}
    else:
        views = tuple(
            shown_sample(sample, PhotoView(32), settings.end_to_end, input_colours(BACKBONE)) for sample in samples
        )
        batch = EndToEndBatch(examples, (False, False), photos=views)
        assert list(EndToEndDetector(run_context(tmp_path, dataset), settings).losses(batch)) == []


def test_maps_of_classes_that_are_no_tag_seed_nothing(photos: tuple[Dataset, Store, Store]) -> None:
    dataset, proposals, clue_store = photos
    maps, sample = clues.class_maps(clue_store)("untagged.png"), dataset.by_id["untagged.png"]
    assert maps[0].tolist() == [1] and len(proposals[sample.image_id]["boxes"]) == 6
    relocated = make_example(sample, proposals[sample.image_id], torch.zeros(2), maps, changed(seeds="relocation"))
    assert relocated.first_values is not None and relocated.first_values.shape == (6, 0)
    seeded = make_example(sample, proposals[sample.image_id], torch.zeros(2), maps, changed(seeds="class_maps"))
    assert len(seeded.clue_seeds.roi) == 0
    tagged = make_example(sample, proposals[sample.image_id], torch.ones(2), maps, changed(seeds="class_maps"))
    assert set(tagged.clue_seeds.label.tolist()) == {1}


def test_regions_have_features_wherever_the_photos_with_regions_stand(
    photos: tuple[Dataset, Store, Store], tmp_path: Path
) -> None:
    dataset, proposals, _ = photos
    detector = FrozenDetector(run_context(tmp_path, dataset), TINY)
    detector.begin_training()
    # Of 121 photos every second is looked at for principal components, and the one with regions is none of these
    samples = [dataset.by_id["black.png"]] * 121
    samples[1] = dataset.by_id["0.png"]
    boxes = [proposals[sample.image_id]["boxes"] for sample in samples]
    features = region_features(detector.photos, samples, boxes, roi_size=2, num_components=4)
    assert features[1].shape[:2] == (2, 6) and features[1].shape[2] > 0
    assert {of_photo.shape[2] for of_photo in features} == {features[1].shape[2]}
    nothing = region_features(detector.photos, samples[2:], boxes[2:], roi_size=2, num_components=4)
    assert {of_photo.shape for of_photo in nothing} == {(2, 0, 0)}


def test_no_training_photo_with_proposals_is_one_sentence(photos: tuple[Dataset, Store, Store], tmp_path: Path) -> None:
    dataset, _, clue_store = photos
    bare = Store(
        tmp_path / "bare", stage="proposals", fingerprint="bare", image_ids=dataset.image_ids, columns=PROPOSAL_COLUMNS
    )
    bare.fill(lambda image_id: Proposals.none().as_row())
    for mode in ("frozen", "end_to_end"):
        with pytest.raises(UserError, match="wanted proposals on the training photos, found none"):
            run((dataset, bare, clue_store), tmp_path / mode, changed(mode=mode))


def test_test_photos_may_all_be_without_proposals(photos: tuple[Dataset, Store, Store], tmp_path: Path) -> None:
    dataset, proposals, clue_store = photos
    samples = tuple(sample for sample in dataset if sample.image_id not in FILLED)
    test = Dataset("test", dataset.classes, dataset.category_ids, samples)
    store = Store(
        tmp_path / "t", stage="proposals", fingerprint="t", image_ids=test.image_ids, columns=PROPOSAL_COLUMNS
    )
    store.fill(lambda image_id: Proposals.none().as_row())
    splits = {"train": proposals, "test": store}
    result = wsod.run(run_context(tmp_path, dataset, test), TINY, splits, clue_store, clues.class_maps(clue_store))
    assert all(len(detections) == 0 for detections in instances_of(result.stores["test"]).values())
    assert (tmp_path / "wsod" / "detections_test.json").read_text().strip() == "[]"
