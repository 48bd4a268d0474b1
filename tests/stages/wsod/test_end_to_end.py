"""End-to-end training: views by hand, resume bit for bit, parts of a batch, the adversary, scales, recipes."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.helpers import ROOT, context, draw_discs
from weaksam.config import UserError, load_settings
from weaksam.data.detection_stores import instances_of
from weaksam.data.read_ahead import ReadAhead
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.result import DetectorResult
from weaksam.models.backbones.colours import IMAGENET, CaffeColours, ColourSettings
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.backbones.weights import input_colours
from weaksam.models.roi.box_deltas import decode_boxes
from weaksam.models.wsod.head import mean_class_probabilities
from weaksam.pipeline.settings import RunSettings
from weaksam.stages import wsod
from weaksam.stages.wsod import WsodSettings, end_to_end
from weaksam.stages.wsod import end_to_end_batches as batches_module
from weaksam.stages.wsod.end_to_end import EndToEndDetector
from weaksam.stages.wsod.end_to_end_batches import EndToEndBatch, PhotoView, end_to_end_batches, random_views, show
from weaksam.stages.wsod.end_to_end_settings import EndToEndSettings
from weaksam.stages.wsod.examples import make_examples
from weaksam.stages.wsod.seeds.mist import MistSettings
from weaksam.stages.wsod.seeds.oicr import OicrSettings
from weaksam.store.store import Store
from weaksam.structures.boxes import clip
from weaksam.structures.dataset import Dataset
from weaksam.structures.proposals import PROPOSAL_COLUMNS

CONFIGS = ROOT / "configs"
SIDES = (64, 96)
MIST = WsodSettings(
    mode="end_to_end",
    seeds="mist",
    box_regression=True,
    background_column=True,
    hidden=16,
    roi_size=3,
    num_branches=2,
    num_epochs=2,
    batch_size=2,
    lr=1e-4,
    warmup_steps=2,
    clip_norm=None,
    end_to_end=EndToEndSettings(short_sides=SIDES, test_short_sides=(64,), drop_block=True, lighting=0.1, read_ahead=2),
)


def changed(settings: WsodSettings = MIST, **values: object) -> WsodSettings:
    """Other values of the settings or of their section ``end_to_end``."""
    of_section = {key: value for key, value in values.items() if key in EndToEndSettings.model_fields}
    own = {key: value for key, value in values.items() if key not in of_section}
    section = settings.end_to_end.model_copy(update=of_section)
    return WsodSettings.model_validate({**dict(settings), **own, "end_to_end": section})


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Store]:
    """Six photos of discs and a store of twelve proposals each, among them the discs' surroundings."""
    folder = tmp_path_factory.mktemp("discs")
    dataset = draw_discs(folder, 6)
    generator = torch.Generator().manual_seed(0)
    store = Store(
        folder / "proposals", stage="proposals", fingerprint="p" * 64, image_ids=dataset.image_ids,
        columns=PROPOSAL_COLUMNS,
    )  # fmt: skip

    def row(image_id: str) -> dict[str, object]:
        corner = torch.rand(12, 2, generator=generator) * torch.tensor([80.0, 50.0])
        boxes = torch.cat([corner, corner + 16 + 30 * torch.rand(12, 2, generator=generator)], dim=1)
        return {
            "boxes": boxes, "scores": torch.linspace(1, 0, 12), "sources": torch.zeros(12, dtype=torch.int64),
            "rles": [], "mask_size": torch.tensor([96, 128]),
        }  # fmt: skip

    return dataset, store.fill(row)


def mobilenet_context(out: Path, dataset: Dataset, seed: int = 0) -> RunContext:
    return context(out, dataset, seed, backbone=BackboneSettings(name="mobilenet_v2", weights="none"))


def train(discs: tuple[Dataset, Store], out: Path, settings: WsodSettings = MIST) -> DetectorResult:
    dataset, store = discs
    return wsod.run(mobilenet_context(out, dataset), settings, {"train": store}, store, no_maps)


def no_maps(image_id: str) -> tuple[torch.Tensor, torch.Tensor]:
    raise AssertionError("published seeds need no class maps")


def untrained(
    discs: tuple[Dataset, Store], out: Path, settings: WsodSettings
) -> tuple[EndToEndDetector, EndToEndBatch]:
    """A detector that has not learnt yet and its first batch of an epoch."""
    run_context = mobilenet_context(out, discs[0])
    torch.manual_seed(1)
    detector = EndToEndDetector(run_context, settings)
    examples = make_examples(run_context, settings, discs[1], no_maps, detector.prepare)
    return detector, detector.batches(examples)[0]


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_bytes_at_whatever_step_it_was_killed(
    discs, tmp_path: Path, monkeypatch
) -> None:
    settings = changed(save_steps=1)
    whole, losses = train(discs, tmp_path / "whole", settings), end_to_end.photo_losses
    for killed_after in (3, 9, 14):  # photos passed, both objectives counted: within either epoch
        count = 0

        def stop(*arguments, last=killed_after):
            nonlocal count
            count += 1
            if count > last:
                raise KeyboardInterrupt
            return losses(*arguments)

        monkeypatch.setattr(end_to_end, "photo_losses", stop)
        with pytest.raises(KeyboardInterrupt):
            train(discs, tmp_path / f"broken{killed_after}", settings)
        monkeypatch.setattr(end_to_end, "photo_losses", losses)
        rerun = train(discs, tmp_path / f"broken{killed_after}", settings)
        assert rerun.weights.read_bytes() == whole.weights.read_bytes()
    assert {sample.image_id for sample in discs[0]} == set(instances_of(whole.stores["train"]))


@pytest.mark.parametrize(
    "values",
    [
        {"seeds": "oicr", "optimizer": "sgd", "roi_pooling": "align", "deterministic": True},
        {
            "seeds": "oicr_top",
            "optimizer": "adamw",
            "schedule": "cosine",
            "precision": "bfloat16",
            "short_sides": (64,),
        },
        {"seeds": "pcl", "box_regression": False, "background_column": False, "drop_block": False, "num_steps": 2},
    ],
    ids=["oicr", "oicr_top", "pcl"],
)
def test_every_rule_optimiser_and_pooling_trains_and_detects(discs, tmp_path: Path, values) -> None:
    result = train(discs, tmp_path, changed(num_epochs=1, **values))
    for sample in discs[0]:
        detections = result.detections("train")[sample.image_id]
        assert len(detections) > 0 and detections.boxes.isfinite().all()
        assert (detections.boxes >= 0).all() and (detections.boxes[:, 2] <= sample.size[1]).all()


def test_parts_of_a_batch_make_the_gradient_of_the_whole(discs, tmp_path: Path) -> None:
    """Without dropout; photos of one size, so that padding is the same."""
    gradients = []
    for at_once in (None, 1):
        settings = changed(photos_at_once=at_once, short_sides=(64,), drop_block=False, dropout=0.0, batch_size=3)
        detector, batch = untrained(discs, tmp_path, settings)
        detector.objectives()
        detector.model.train()
        parts = list(detector.losses(batch))
        assert len(parts) == (1 if at_once is None else 3)
        sum(value for part in parts for value in part.values()).backward()
        gradients.append({name: p.grad for name, p in detector.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-3, atol=1e-6)


def test_the_adversary_raises_what_the_detector_lowers(discs, tmp_path: Path) -> None:
    detector, batch = untrained(discs, tmp_path, changed(adversary_weight=0.5, dropout=0.0))
    detector.objectives()
    detector.model.train()
    torch.manual_seed(5)
    plain = sum(value for part in detector.losses(batch) for value in part.values())
    torch.manual_seed(5)
    (against,) = (part["drop_block"] for part in detector.adversary_losses(batch))
    assert float(against.detach()) == pytest.approx(-0.5 * float(plain.detach()), rel=1e-4)
    detector.model.zero_grad()
    against.backward()
    moved = {name for name, p in detector.model.named_parameters() if p.grad is not None}
    assert moved and all(name.startswith("drop_block.") for name in moved)


def test_detections_are_the_mean_over_scales_and_mirror_images(discs, tmp_path: Path) -> None:
    settings = changed(test_short_sides=SIDES, min_score=0.0, nms_iou=1.0)
    detector, _ = untrained(discs, tmp_path, settings)
    detector.begin_detecting()
    sample = discs[0].samples[0]
    boxes = discs[1][sample.image_id]["boxes"]
    image = end_to_end.read_photo(sample)
    scores, moved = torch.zeros(12, 2), torch.zeros(12, 2, 4)
    for side in SIDES:
        for mirrored in (False, True):
            photo = show(image, PhotoView(side, mirrored), 2000, detector.colours)
            with torch.inference_mode():
                output = detector._output(photo, boxes, sample.size)
            scores += mean_class_probabilities(output.refine) / 4
            moved += sum(decode_boxes(boxes, delta[:, 1:]) for delta in output.deltas) / 8
    detections = detector.detect(sample, boxes)
    assert len(detections) == 24 and detections.scores is not None
    torch.testing.assert_close(detections.scores, scores.flatten().sort(descending=True).values)
    best = int(scores.argmax())
    torch.testing.assert_close(detections.boxes[0], clip(moved.reshape(-1, 4), sample.size)[best])
    assert len(detector.detect(sample, boxes[:0])) == 0


def test_a_photo_is_resized_coloured_and_mirrored_and_boxes_follow() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:, :30] = (200, 100, 50)
    caffe = ColourSettings(order="bgr", mean=(100, 60, 20), deviation=(1, 2, 5))
    shown = show(image, PhotoView(80), 2000, caffe)
    assert shown.pixels.shape == (3, 80, 120) and shown.scale == (2.0, 2.0)
    assert shown.pixels[:, 40, 10].tolist() == pytest.approx([(50 - 20) / 5, (100 - 60) / 2, 200 - 100])
    mirrored = show(image, PhotoView(80, True, (1.0, 2.0, 0.0)), 2000, caffe)
    assert mirrored.pixels[:, 40, 110].tolist() == pytest.approx([6.0, (102 - 60) / 2, 101.0])
    box = torch.tensor([[0.0, 10, 30, 20]])
    assert shown.boxes(box, (40, 60)).tolist() == [[0, 20, 60, 40]]
    assert mirrored.boxes(box, (40, 60)).tolist() == [[60, 20, 120, 40]]
    assert show(image, PhotoView(80), 60, caffe).pixels.shape == (3, 40, 60)  # the longer side has its limit


def test_views_are_drawn_for_each_photo_and_lit_along_the_colours_of_imagenet() -> None:
    torch.manual_seed(0)
    views = random_views(400, EndToEndSettings(short_sides=(64, 96, 128), lighting=0.1))
    assert {view.short_side for view in views} == {64, 96, 128}
    assert 150 < sum(view.mirrored for view in views) < 250
    light = torch.tensor([view.light for view in views])
    strongest = torch.tensor([0.5675, 0.5808, 0.5836])
    along = light @ strongest  # the first direction, of which the spread is 0.1 * 0.2175 * 255
    assert float(along.std()) == pytest.approx(0.1 * 0.2175 * 255, rel=0.15)
    assert random_views(3, EndToEndSettings())[0].light == (0.0, 0.0, 0.0)
    assert random_views(0, EndToEndSettings()) == []


def test_batches_hold_every_photo_once_and_a_part_of_them_reads_only_its_own(discs, tmp_path: Path) -> None:
    examples = make_examples(mobilenet_context(tmp_path, discs[0]), MIST, discs[1], no_maps, lambda sample: None)
    torch.manual_seed(3)
    batches = end_to_end_batches(examples, 4, MIST.end_to_end, IMAGENET, torch.device("cpu"))
    assert sorted(image_id for batch in batches for image_id in batch.image_ids) == sorted(discs[0].image_ids)
    assert [len(batch.photos) for batch in batches] == [4, 2]
    (last,) = batches[1:]
    assert last.image_ids == batches[1].image_ids
    for photo, again in zip(last.photos, batches[1].photos, strict=True):
        assert torch.equal(photo.pixels, again.pixels) and photo.view == again.view


def test_photos_are_decoded_on_threads_ahead_of_the_steps(discs, tmp_path: Path, monkeypatch) -> None:
    read, threads = batches_module.shown_sample, set()

    def watched(*arguments):
        threads.add(threading.current_thread() is threading.main_thread())
        return read(*arguments)

    monkeypatch.setattr(batches_module, "shown_sample", watched)
    train(discs, tmp_path, changed(num_epochs=1, short_sides=(64,), drop_block=False))
    assert threads == {False}


@pytest.mark.parametrize("ahead", [0, 1, 3, 10])
def test_items_made_ahead_come_in_order_and_a_fault_when_its_turn_comes(ahead: int) -> None:
    asked = []

    def make(number: int) -> int:
        asked.append(number)
        if number == 5:
            raise UserError("five")
        return number * number

    made_ahead = ReadAhead([1, 2, 3, 4], make, ahead)
    assert list(made_ahead) == [1, 4, 9, 16] and len(made_ahead) == 4 and made_ahead[-1] == 16
    asked.clear()
    assert list(made_ahead[2:]) == [9, 16] and sorted(asked) == [3, 4]
    came = []
    with pytest.raises(UserError, match="five"):
        for item in ReadAhead([4, 5, 6], make, ahead):
            came.append(item)
    assert came == [16]
    assert list(ReadAhead([], make, ahead)) == []


def test_weights_that_are_not_finite_are_refused_by_name(discs, tmp_path: Path) -> None:
    detector, _ = untrained(discs, tmp_path, MIST)
    state = {name: value.clone() for name, value in detector.model.state_dict().items()}
    state["hidden.3.weight"][0, 0] = float("nan")
    from weaksam.store.weights import load_into

    with pytest.raises(UserError, match=r"wants finite weights, found NaN or infinity in 'hidden\.3\.weight'"):
        load_into(detector.model, state, "the detector")


def test_a_loss_that_is_not_finite_names_the_photo(discs, tmp_path: Path, monkeypatch) -> None:
    photo, read = discs[0].samples[2], end_to_end.photo_losses

    def poisoned(output, example, settings):
        losses = read(output, example, settings)
        bad = example.sample.image_id == photo.image_id
        return {name: value * float("nan") if bad else value for name, value in losses.items()}

    monkeypatch.setattr(end_to_end, "photo_losses", poisoned)
    with pytest.raises(UserError, match=f"wanted a finite .*, found nan on the images {photo.image_id}:"):
        train(discs, tmp_path, changed(batch_size=1, drop_block=False))


def test_proposals_of_other_photos_are_refused(discs, tmp_path: Path) -> None:
    dataset, store = discs
    fewer = replace(dataset, samples=dataset.samples[:4])
    with pytest.raises(UserError, match="wanted the proposals of the 4 train photos, found a store of 6 photos"):
        wsod.run(mobilenet_context(tmp_path, fewer), MIST, {"train": store}, store, no_maps)


def test_what_cannot_work_is_one_sentence(discs, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="at least one shorter side"):
        EndToEndSettings(short_sides=())
    with pytest.raises(ValidationError, match="deviations must be above 0"):
        ColourSettings(deviation=(1, 0, 1))
    with pytest.raises(UserError, match=r"wanted a loss scale for float16, found wsod\.end_to_end\.optimizer=sgd"):
        train(discs, tmp_path, changed(optimizer="sgd", precision="float16"))


def recipe(name: str) -> RunSettings:
    return load_settings(RunSettings, CONFIGS / f"{name}.yaml")


@pytest.mark.parametrize(
    ("name", "steps", "falls"),
    [("voc07_mist", 30_000, (20_000, 26_700)), ("voc12_mist", 32_000, (20_000, 26_700)),
     ("coco14_mist", 125_000, (82_500, 115_000))],
)  # fmt: skip
def test_mist_recipes_say_what_was_published(name: str, steps: int, falls: tuple[int, int]) -> None:
    """The numbers of ``docs/method.md, MIST``."""
    settings = recipe(name).wsod
    training = settings.end_to_end
    assert (training.num_steps, settings.batch_size, settings.lr, settings.weight_decay) == (
        steps,
        8,
        1e-5,
        5e-4,
    )
    assert tuple(round(steps * milestone) for milestone in training.milestones) == falls
    assert settings.seeds == MistSettings(share=0.15, max_iou=0.2)
    assert (settings.box_regression, settings.background_column) == (True, True)
    assert (settings.hidden, settings.roi_size) == (4096, 7)
    assert training.drop_block and not training.last_relu and training.frozen_stages == 2
    assert (training.adversary_lr, training.adversary_gamma, training.drop_rate) == (
        1e-5,
        3.0,
        0.3,
    )
    assert (
        training.lighting,
        training.bias_lr_factor,
        training.bias_weight_decay,
    ) == (0.1, 2.0, 0.0)
    assert training.short_sides == (480, 576, 688, 864, 1000, 1200)
    assert sorted(training.test_short_sides) == [480, 576, 688, 800, 864, 1000, 1200] and training.flip_test
    assert input_colours(recipe(name).backbone) == CaffeColours(mean=(122.77, 115.95, 102.98))
    assert training.warmup_ratio == pytest.approx(1 / 3) and settings.warmup_steps == 200


@pytest.mark.parametrize(
    ("name", "epochs", "falls", "lr"),
    [("voc07_oicr", 50, (36,), 8e-6), ("voc12_oicr", 25, (18,), 8e-6), ("coco14_oicr", 12, (8, 11), 1e-5)],
)
def test_oicr_recipes_say_what_was_published(name: str, epochs: int, falls: tuple[int, ...], lr: float) -> None:
    """The numbers of ``docs/method.md, OICR``."""
    settings = recipe(name).wsod
    training = settings.end_to_end
    assert (settings.num_epochs, settings.lr, settings.weight_decay) == (epochs, lr, 5e-4)
    assert tuple(round(epochs * milestone) for milestone in training.milestones) == falls
    assert (training.branch_lr_factor, training.warmup_ratio, settings.warmup_steps) == (
        10,
        0.001,
        500,
    )
    assert not (training.drop_block or settings.box_regression or training.flip_test)
    assert training.last_relu and settings.seeds == OicrSettings(share=0.9) and settings.nms_iou == 0.3
    as_released = IMAGENET if name == "coco14_oicr" else CaffeColours(mean=(124, 117, 104))
    assert input_colours(recipe(name).backbone) == as_released
