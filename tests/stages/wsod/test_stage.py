"""The WSOD stage: training examples, seeds and detections by hand, resume bit for bit, discs found from tags."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers import DISC_COLOURS, context, draw_discs
from weaksam.config import UserError
from weaksam.data.images import read_image
from weaksam.engine.detectors.result import DetectorResult
from weaksam.engine.training_state import load_sealed
from weaksam.models.wsod.extent import NO_EXTENT, CellSums, ExtentSettings, tightened
from weaksam.models.wsod.head import HeadOutput
from weaksam.models.wsod.targets import Seeds
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.stages import clues, proposals, wsod
from weaksam.stages.wsod import WsodSettings, frozen
from weaksam.stages.wsod.detections import detections_from
from weaksam.stages.wsod.examples import TrainingExample, make_example, make_examples
from weaksam.stages.wsod.losses import photo_losses
from weaksam.stages.wsod.photo_features import View
from weaksam.stages.wsod.seeds.class_maps import ClassMapSeedSettings
from weaksam.stages.wsod.seeds.relocate_examples import relocated
from weaksam.stages.wsod.seeds.relocation import RelocationSettings
from weaksam.store.store import Store
from weaksam.store.weights import load_into
from weaksam.structures.box_voting import BoxVotingSettings, voted_detections
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.masks import boxes_from_masks, rle_from_mask
from weaksam.structures.proposals import PROPOSAL_COLUMNS, Proposals

CLUES = clues.ClueSettings(long_side=256)
RELOCATION = RelocationSettings()
TINY = WsodSettings(long_side=256, reduced=16, hidden=32, roi_size=3, num_epochs=3, warmup_steps=4, num_branches=2)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path, Store, Store]:
    """Discs, the folder of a run, its sealed proposals and clues."""
    folder = tmp_path_factory.mktemp("discs")
    dataset = draw_discs(folder)
    run_context = context(folder / "out", dataset)
    clue_store = clues.run(run_context, CLUES, dataset, "train")
    segmenter = build_segmenter(SegmenterSettings(family="tree"), torch.device("cpu"))
    points = clues.clue_points(clue_store)
    return (
        dataset,
        folder,
        proposals.run(run_context, proposals.ProposalSettings(), segmenter, points, dataset, "train"),
        clue_store,
    )


def train(discs, out: Path, settings: WsodSettings = TINY, seed: int = 0) -> DetectorResult:
    dataset, _, proposal_store, maps = discs
    return wsod.run(context(out, dataset, seed), settings, {"train": proposal_store}, maps, clues.class_maps(maps))


def test_it_learns_where_the_discs_are_from_tags_alone(discs, tmp_path: Path) -> None:
    dataset, _, _, _ = discs
    settings = TINY.model_copy(update={"num_epochs": 20})
    detections = train(discs, tmp_path, settings).detections("train")
    side = []
    for sample in dataset:
        of_photo = detections[sample.image_id]
        for label in sample.tags:
            best = of_photo[of_photo.labels == label].boxes[0]  # detections come best first
            side.append(float((best[2:] - best[:2]).mean()))
    assert 24 < sum(side) / len(side) < 44  # the discs are 34 pixels wide, the photos 128
    results = json.loads((tmp_path / "wsod" / "detections_train.json").read_text())
    assert {row["image_id"] for row in results} == {sample.number for sample in dataset}
    assert len(results) == sum(len(of_photo) for of_photo in detections.values())


def test_an_interrupted_training_ends_with_the_same_bytes(discs, tmp_path: Path, monkeypatch) -> None:
    whole = train(discs, tmp_path / "whole")
    true_losses, count = frozen.photo_losses, 0

    def stop_in_the_second_epoch(*arguments):
        nonlocal count
        count += 1
        if count > 18:
            raise KeyboardInterrupt
        return true_losses(*arguments)

    monkeypatch.setattr(frozen, "photo_losses", stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        train(discs, tmp_path / "broken")
    monkeypatch.setattr(frozen, "photo_losses", true_losses)
    rerun = train(discs, tmp_path / "broken")
    assert rerun.weights.read_bytes() == whole.weights.read_bytes()
    parts = [sorted(result.stores["train"].folder.glob("*.parquet")) for result in (whole, rerun)]
    assert [part.read_bytes() for part in parts[0]] == [part.read_bytes() for part in parts[1]]
    monkeypatch.setattr(frozen, "photo_losses", None)  # finished: nothing is trained again
    assert train(discs, tmp_path / "broken").fingerprint == whole.fingerprint


def test_another_seed_gives_other_weights_in_another_store(discs, tmp_path: Path) -> None:
    settings = TINY.model_copy(update={"num_epochs": 1})
    first, second = train(discs, tmp_path, settings, seed=0), train(discs, tmp_path, settings, seed=1)
    assert first.weights.parent != second.weights.parent
    assert first.weights.read_bytes() != second.weights.read_bytes()


def test_an_example_takes_the_best_proposals_and_seeds_them_by_contrast(discs) -> None:
    dataset, _, _, _ = discs
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, :, :] = True
    masks[1, 1:3, 1:4] = True
    masks[2, 4:, 5:] = True
    row = {"boxes": boxes_from_masks(masks), "rles": [rle_from_mask(mask) for mask in masks]}
    maps = torch.zeros(1, 6, 8)
    maps[0, 1:3, 1:4] = 1.0
    tags = torch.tensor([0.0, 1.0])
    alone = WsodSettings(seeds="class_maps")
    example = make_example(dataset.samples[0], row, tags, (torch.tensor([1]), maps), alone)
    assert example.clue_seeds.roi.tolist() == [1]
    assert example.clue_seeds.label.tolist() == [1]
    assert example.overlaps.iou.diagonal().tolist() == [1.0, 1.0, 1.0]
    short = make_example(
        dataset.samples[0], row, tags, (torch.tensor([1]), maps), WsodSettings(num_proposals=1, seeds="class_maps")
    )
    assert len(short.boxes) == 1
    assert len(short.clue_seeds.roi) == 0  # the whole photo splits nothing


def test_an_example_to_be_relocated_knows_the_support_of_each_region_for_each_tag(discs) -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 2:] = True, True
    row = {"boxes": boxes_from_masks(masks), "rles": [rle_from_mask(mask) for mask in masks]}
    maps = torch.zeros(2, 4, 4)
    maps[0, :2], maps[1, 2:] = 1.0, 1.0  # label 2 above, label 0 below: maps need not come in the order of the labels
    example = make_example(
        discs[0].samples[0], row, torch.tensor([1.0, 0.0, 1.0]), (torch.tensor([2, 0]), maps), WsodSettings()
    )
    assert example.first_values is not None  # contrast is sqrt(1/4); the regions do not overlap
    assert example.first_values.tolist() == [[0.0, 0.5], [0.5, 0.0]]
    masks[1, 1:] = True  # now the regions overlap: a row of 4 of 16 cells
    row = {"boxes": boxes_from_masks(masks), "rles": [rle_from_mask(mask) for mask in masks]}
    arguments = (discs[0].samples[0], row, torch.tensor([1.0, 0.0, 1.0]), (torch.tensor([2, 0]), maps))
    support = make_example(*arguments, WsodSettings()).first_values
    contrast = make_example(*arguments, WsodSettings(seeds={"start": "contrast"})).first_values
    assert support is not None and contrast is not None
    overlaps = pairwise_iou(row["boxes"], row["boxes"])
    torch.testing.assert_close(support, overlaps @ contrast)
    assert (support > contrast).any()
    unmapped = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 4))
    example = make_example(discs[0].samples[0], row, torch.tensor([1.0, 0.0, 1.0]), unmapped, WsodSettings())
    assert example.first_values is not None and example.first_values.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_relocation_gives_every_tag_a_seed_and_class_maps_alone_are_a_rule(discs, tmp_path: Path) -> None:
    dataset, _, proposal_store, maps = discs
    detector = frozen.FrozenDetector(context(tmp_path, dataset), TINY)
    detector.begin_training()
    arguments = (context(tmp_path, dataset), TINY, proposal_store, clues.class_maps(maps), detector.prepare)
    examples = make_examples(*arguments)
    after = relocated(examples, detector.frozen_features(), TINY, RELOCATION)
    truths = disc_boxes(dataset)
    overlaps = []
    for example in after:
        assert set(example.clue_seeds.label.tolist()) == set(example.sample.tags)
        truth = truths[example.sample.image_id]
        for label, box in zip(truth.labels, truth.boxes, strict=True):
            best = example.clue_seeds.roi[example.clue_seeds.label == label][:1]
            overlaps.append(pairwise_iou(example.boxes[best], box[None]).item())
    assert sum(overlap > 0.5 for overlap in overlaps) >= 12  # of 16 discs, from tags alone
    again = relocated(examples, detector.frozen_features(), TINY, RELOCATION)
    assert all(torch.equal(a.clue_seeds.roi, b.clue_seeds.roi) for a, b in zip(after, again, strict=True))
    settings = TINY.model_copy(update={"seeds": ClassMapSeedSettings(), "num_epochs": 1})
    assert train(discs, tmp_path, settings).weights.is_file()


def test_a_photo_without_proposals_is_an_example_of_nothing(discs) -> None:
    row = {"boxes": torch.zeros(0, 4), "rles": []}
    example = make_example(
        discs[0].samples[0], row, torch.ones(2), (torch.tensor([0]), torch.rand(1, 4, 4)), WsodSettings()
    )
    assert len(example.boxes) == len(example.clue_seeds.roi) == 0
    assert example.first_values is not None and example.first_values.shape == (0, 2)


def test_rois_follow_the_mirror_image() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 60]])
    plain, mirrored = (View(torch.zeros(0), (2.0, 1.0), flag) for flag in (False, True))
    assert plain.cells(boxes, 100, 16).tolist() == [[1.25, 1.25, 3.75, 3.75]]
    assert mirrored.cells(boxes, 100, 16).tolist() == [[8.75, 1.25, 11.25, 3.75]]


def test_pooled_regions_are_kept_for_the_very_boxes_and_equal_those_computed_again(discs, tmp_path: Path) -> None:
    dataset = discs[0]
    detector = frozen.FrozenDetector(context(tmp_path, dataset), TINY)
    detector.begin_training()
    photos, sample = detector.photos, dataset.samples[0]
    boxes = torch.tensor([[10.0, 20, 30, 60], [0, 0, 128, 96]])
    first = photos.pooled(sample, boxes, 3)
    assert first.shape == (2, 2, 16 * 9) and photos.pooled(sample, boxes.clone(), 3) is first
    other = photos.pooled(sample, boxes[1:], 3)
    assert torch.equal(other[:, 0], first[:, 1])
    photos.room = 0
    photos.regions.clear()
    assert torch.equal(photos.pooled(sample, boxes, 3), first) and not photos.regions
    assert photos.pooled(sample, boxes, 2).shape == (2, 2, 16 * 4)
    assert photos.pooled(sample, boxes[:0], 3).shape == (2, 0, 16 * 9)


def test_losses_seed_the_first_branch_from_clues_or_scores() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    example = TrainingExample(
        None,  # type: ignore[arg-type]  # the losses never look at the photo
        boxes,
        torch.tensor([1.0]),
        torch.tensor([0]),
        Seeds(torch.tensor([1]), torch.tensor([0]), torch.tensor([1.0])),
    )
    scores = torch.tensor([[0.8], [0.1]])
    certain = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])  # RoI 0 background, RoI 1 the class: what the clue says
    output = HeadOutput(scores, (certain,))
    by_clues = photo_losses(output, example, WsodSettings(seeds="relocation"))["refine1"]
    by_scores = photo_losses(output, example, WsodSettings(seeds="scores"))["refine1"]
    assert by_clues.item() == pytest.approx(0.0, abs=1e-4)
    # both RoIs are labelled wrongly and weigh 0.8; log(p + 1e-6) with p = exp(-18)
    assert by_scores.item() == pytest.approx(0.8 * 13.80, rel=1e-2)


def test_detections_are_thresholded_suppressed_per_class_and_capped() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.7], [0.3, 0.0005]])
    detections = detections_from(scores, boxes, WsodSettings())
    assert detections.boxes.tolist() == [boxes[0].tolist(), boxes[1].tolist(), boxes[2].tolist()]
    assert detections.labels.tolist() == [0, 1, 0]
    assert detections.scores is not None and detections.scores.tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert len(detections_from(scores, boxes, WsodSettings(max_boxes=1))) == 1
    assert len(detections_from(scores[:0], boxes[:0], WsodSettings())) == 0


def test_voting_needs_no_other_training(discs, tmp_path: Path) -> None:
    plain = train(discs, tmp_path)
    voting = TINY.model_copy(update={"box_voting": BoxVotingSettings()})
    voted = train(discs, tmp_path, voting)
    assert voted.fingerprint == plain.fingerprint
    before, after = plain.detections("train"), voted.detections("train")
    assert any(not torch.equal(before[image_id].boxes, after[image_id].boxes) for image_id in before)
    image_id = min(before)
    moved = voted_detections(before[image_id], Proposals.from_row(discs[2][image_id]), BoxVotingSettings())
    assert torch.equal(after[image_id].boxes, moved.boxes)
    assert all(torch.equal(before[image_id].scores, after[image_id].scores) for image_id in before)


def test_boxes_move_by_what_the_other_photos_teach(discs, tmp_path: Path, monkeypatch) -> None:
    dataset, _, proposal_store, _ = discs
    plain = train(discs, tmp_path, TINY.model_copy(update={"extent": NO_EXTENT}))
    moved = train(discs, tmp_path)
    assert moved.fingerprint == plain.fingerprint  # nothing is trained anew

    detector = frozen.FrozenDetector(context(tmp_path, dataset), TINY)
    load_into(detector.model, load_sealed(moved.weights, "wsod"), "wsod")
    detector.begin_detecting()
    [sealed] = (tmp_path / "wsod" / "store").glob("extent-*/weights.safetensors")
    of_folds = load_sealed(sealed, "extent")["of_folds"]
    assert of_folds.shape == (4, len(dataset.classes), 17)
    before, after = plain.detections("train"), moved.detections("train")
    sums = CellSums(len(dataset.classes), 16, folds=4)
    for index, sample in enumerate(dataset):
        boxes = proposal_store[sample.image_id]["boxes"][: TINY.num_proposals]
        scores = detector.class_scores(sample, boxes)
        photo = detector.cell_map(sample)
        sums.add(photo, {label: boxes[scores[:, label].argmax()] for label in sample.tags}, index % 4)
        wanted = tightened(before[sample.image_id], photo, of_folds[index % 4], boxes, scores, ExtentSettings())
        torch.testing.assert_close(after[sample.image_id].boxes, wanted.boxes)
        assert torch.equal(after[sample.image_id].scores, before[sample.image_id].scores)
    assert any(not torch.equal(before[image_id].boxes, after[image_id].boxes) for image_id in before)
    torch.testing.assert_close(of_folds, sums.regressions(ExtentSettings().ridge)[0])  # no photo teaches its own fold

    # Another share reads what was learnt: no cell is counted again
    monkeypatch.setattr("weaksam.stages.wsod.extent.CellSums", None)
    train(discs, tmp_path, TINY.model_copy(update={"extent": ExtentSettings(share=0.25)}))


def test_no_proposal_anywhere_is_one_sentence(discs, tmp_path: Path) -> None:
    dataset, _, _, maps = discs
    none = Store(
        tmp_path / "none",
        stage="proposals",
        fingerprint="0" * 64,
        image_ids=dataset.image_ids,
        columns=PROPOSAL_COLUMNS,
    )
    empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "rles": [], "mask_size": torch.tensor([0, 0])}
    none.fill(lambda image_id: {**empty, "sources": torch.zeros(0, dtype=torch.int64)})
    with pytest.raises(UserError, match="wanted proposals on the training photos, found none"):
        wsod.run(context(tmp_path, dataset), TINY, {"train": none}, maps, clues.class_maps(maps))


def disc_boxes(dataset: Dataset) -> dict[str, Instances]:
    """The true boxes of the drawn discs, read off their colours."""
    truths = {}
    for sample in dataset:
        image = torch.from_numpy(read_image(sample.path))
        masks = [(image == torch.tensor(DISC_COLOURS[dataset.classes[label]])).all(dim=2) for label in sample.tags]
        truths[sample.image_id] = Instances(boxes_from_masks(torch.stack(masks)), torch.tensor(sample.tags))
    return truths


def test_the_ceiling_learns_the_true_boxes_in_a_folder_of_its_own(discs, tmp_path: Path) -> None:
    dataset, _, proposal_store, maps = discs
    truths = disc_boxes(dataset)
    weak = train(discs, tmp_path)
    arguments = (
        context(tmp_path, dataset),
        TINY.model_copy(update={"num_epochs": 20}),
        {"train": proposal_store},
        maps,
    )
    ceiling = wsod.run(*arguments, clues.class_maps(maps), truths=truths, name="wsod_ceiling")
    assert ceiling.fingerprint != weak.fingerprint and (tmp_path / "wsod_ceiling/detections_train.json").is_file()
    overlaps = []
    for image_id, detections in ceiling.detections("train").items():
        for label, box in zip(truths[image_id].labels, truths[image_id].boxes, strict=True):
            overlaps.append(pairwise_iou(detections.boxes[detections.labels == label][:1], box[None]).item())
    assert sum(overlaps) / len(overlaps) > 0.5  # 16 discs, five or so take the other class
    moved = {image_id: truth.replace(boxes=truth.boxes + 1) for image_id, truth in truths.items()}
    other = wsod.run(*arguments, clues.class_maps(maps), truths=moved, name="wsod_ceiling")
    assert other.fingerprint != ceiling.fingerprint  # other true boxes, other weights
