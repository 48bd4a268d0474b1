"""From pseudo boxes to pseudo masks and a Mask R-CNN or Mask2Former: the files and stores of a run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import UNTRAINED_BACKBONE, context, training_history
from weaksam.config import UserError
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.models.detectors.mask2former.losses import mask2former_losses
from weaksam.models.detectors.mask2former.settings import MaskLossSettings
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.wsis import Mask2FormerWsisSettings, WsisSettings, run
from weaksam.store.files import file_sha256
from weaksam.store.records import write_record
from weaksam.store.weights import load_state, save_weights
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_from_rle, pairwise_mask_iou, rle_from_mask

TINY = WsisSettings(
    short_side=64,
    long_side=96,
    fpn_channels=16,
    representation=32,
    mask_channels=16,
    mask_layers=1,
    num_epochs=1,
    batch_size=2,
    warmup_steps=1,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    min_score=0.0,
    max_boxes=5,
)


@pytest.fixture(scope="module")
def disc(tmp_path_factory):
    """Two photos of a bright disc on a dark ground, the second without a pseudo box, and the disc's mask."""
    folder = tmp_path_factory.mktemp("disc")
    rows, columns = np.mgrid[:64, :96]
    inside = (rows - 32) ** 2 + (columns - 50) ** 2 <= 20**2
    samples = []
    for number in range(2):
        noise = np.random.default_rng(number).integers(-8, 8, (64, 96, 3))
        image = np.where(inside[..., None], 210, 40) + noise
        path = folder / f"{number}.png"
        Image.fromarray(image.astype(np.uint8)).save(path)
        truth = Instances(torch.tensor([[30.0, 12.0, 71.0, 53.0]]), torch.tensor([1]))
        samples.append(Sample(path.name, path, (64, 96), (1,), truth, number + 10))
    return Dataset("disc", ("square", "disc"), (1, 2), tuple(samples), ()), torch.from_numpy(inside)


def test_a_run_from_boxes_to_masks(tmp_path, disc):
    dataset, inside = disc
    run_context = context(tmp_path, dataset, test=dataset, backbone=UNTRAINED_BACKBONE)
    pseudo = {"0.png": dataset.by_id["0.png"].truth.replace(scores=torch.tensor([0.75]))}
    detector = tmp_path / "detector" / "weights.safetensors"
    save_weights(detector, build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2).state_dict())
    write_record(detector.with_name("manifest.json"), {"weights_sha256": file_sha256(detector)})
    result = run(run_context, TINY, RegionTreeSegmenter(), pseudo, detector)

    content = json.loads((tmp_path / "wsis" / "pseudo_masks_train.json").read_text())
    assert [image["id"] for image in content["images"]] == [10, 11]
    (annotation,) = content["annotations"]
    assert (annotation["image_id"], annotation["category_id"], annotation["score"]) == (10, 2, 0.75)
    assert annotation["bbox"] == [30, 12, 41, 41]
    assert float(pairwise_mask_iou([annotation["segmentation"]], [rle_from_mask(inside)])) > 0.9

    rows = json.loads((tmp_path / "wsis" / "detections_test.json").read_text())
    assert {row["image_id"] for row in rows} == {10, 11}
    assert all(row["segmentation"]["size"] == [64, 96] for row in rows)
    assert set(load_state(result.weights)) == set(build_mask_rcnn(UNTRAINED_BACKBONE, TINY, 2).state_dict())
    detections = result.detections("test")["0.png"]
    assert detections.masks is not None and len(detections.masks) == len(detections) <= 5

    again = run(run_context, TINY, RegionTreeSegmenter(), pseudo, detector)
    assert again.weights == result.weights and again.pseudo_masks.folder == result.pseudo_masks.folder


class Unasked:
    """A segmenter that cannot be asked."""

    name = fingerprint = "unasked"


def test_true_masks_are_kept_for_the_ceiling(tmp_path, disc):
    dataset, inside = disc
    run_context = context(tmp_path, dataset, backbone=UNTRAINED_BACKBONE)
    rle = rle_from_mask(inside)
    truth = {s.image_id: s.truth.replace(masks=(rle,)) for s in dataset}
    result = run(run_context, TINY, Unasked(), truth, name="wsis_ceiling")
    assert [row["rles"] for row in result.pseudo_masks.rows()] == [[rle], [rle]]
    assert dict(result.stores) == {}
    assert (tmp_path / "wsis_ceiling" / "pseudo_masks_train.json").is_file()


def test_given_weights_with_and_without_a_mask_head_start_the_training(tmp_path, disc):
    dataset, _ = disc
    pseudo = {"0.png": dataset.by_id["0.png"].truth}
    states = {
        "faster": build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2).state_dict(),
        "mask": build_mask_rcnn(UNTRAINED_BACKBONE, TINY, 2).state_dict(),
        "half": build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 2).state_dict() | {"roi_heads.mask_x": torch.ones(1)},
        "classes": build_faster_rcnn(UNTRAINED_BACKBONE, TINY, 3).state_dict(),
    }
    for name, state in states.items():
        file = tmp_path / f"{name}.safetensors"
        save_weights(file, state)
        settings = TINY.model_copy(update={"init": file})
        run_context = context(tmp_path / name, dataset, test=dataset, backbone=UNTRAINED_BACKBONE)
        if name in ("faster", "mask"):
            assert run(run_context, settings, RegionTreeSegmenter(), pseudo).weights.is_file()
            continue
        with pytest.raises(UserError, match=r"wsis\.init") as caught:
            run(run_context, settings, RegionTreeSegmenter(), pseudo)
        assert "\n" not in str(caught.value)


TINY_QUERIES = Mask2FormerWsisSettings(
    short_side=64,
    long_side=96,
    channels=32,
    encoder_layers=1,
    decoder_layers=2,
    encoder_width=16,
    decoder_width=16,
    num_heads=4,
    num_queries=5,
    losses=MaskLossSettings(num_points=64),
    num_epochs=2,
    batch_size=1,
    min_score=0.0,
    max_boxes=5,
    detect_train=True,
)


def test_a_run_from_boxes_to_mask2former(tmp_path, disc):
    dataset, _ = disc
    pseudo = {"0.png": dataset.by_id["0.png"].truth}
    results = []
    for name in ("first", "second"):
        run_context = context(tmp_path / name, dataset, test=dataset, backbone=UNTRAINED_BACKBONE)
        results.append(run(run_context, TINY_QUERIES, RegionTreeSegmenter(), pseudo))
    first, second = results
    assert first.fingerprint == second.fingerprint
    assert first.weights.read_bytes() == second.weights.read_bytes()
    assert [set(epoch) for epoch in training_history(first.weights.parent)] == [
        {"loss_class", "loss_mask", "loss_dice"}
    ] * 2
    rows = json.loads((tmp_path / "first" / "wsis" / "detections_test.json").read_text())
    assert rows and all(row["segmentation"]["size"] == [64, 96] and 0 <= row["score"] <= 1 for row in rows)
    assert json.loads((tmp_path / "first" / "wsis" / "detections_train.json").read_text()) == rows
    detections = first.detections("test")["0.png"]
    boxes = [box_from_rle(rle).tolist() for rle in detections.masks]
    assert detections.boxes.tolist() == boxes and 0 < len(detections) <= 5

    again = run(run_context, TINY_QUERIES.model_copy(update={"min_score": 0.5}), RegionTreeSegmenter(), pseudo)
    assert again.weights == second.weights  # which detections are kept is no matter of the training


def test_mask2former_killed_between_epochs_ends_with_the_bytes_of_an_unbroken_training(tmp_path, disc, monkeypatch):
    dataset, _ = disc
    pseudo = {"0.png": dataset.by_id["0.png"].truth}
    settings = TINY_QUERIES.model_copy(update={"num_epochs": 3, "detect_train": False})
    weights = []
    for name in ("unbroken", "killed"):
        run_context = context(tmp_path / name, dataset, backbone=UNTRAINED_BACKBONE)
        if name == "killed":
            steps = iter((True, True))  # one photo has a box: a step is an epoch

            def dying(*arguments, steps=steps):
                if next(steps, False):
                    return mask2former_losses(*arguments)
                raise KeyboardInterrupt

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr("weaksam.engine.detectors.mask2former.mask2former_losses", dying)
                run(run_context, settings, RegionTreeSegmenter(), pseudo)
        weights.append(run(run_context, settings, RegionTreeSegmenter(), pseudo).weights)
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_regions_to_ignore_reach_the_training_of_masks(tmp_path, disc):
    dataset, inside = disc
    rle = rle_from_mask(inside)
    objects = dataset.by_id["0.png"].truth.replace(masks=(rle,))
    crowd = objects.replace(crowd=torch.tensor([True]))
    run_context = context(tmp_path, dataset, backbone=UNTRAINED_BACKBONE)
    with pytest.raises(UserError, match="wants at least one box"):
        run(run_context, TINY_QUERIES, Unasked(), {"0.png": crowd})
    both = Instances.cat([objects, crowd])
    result = run(run_context, TINY_QUERIES, Unasked(), {"0.png": both}, name="both")
    plain = run(run_context, TINY_QUERIES, Unasked(), {"0.png": objects}, name="plain")
    # The only object lies in the ignored region: no point inside it teaches its mask
    masks = [training_history(of.weights.parent)[0]["loss_mask"] for of in (result, plain)]
    assert masks[0] != masks[1]
    content = json.loads((tmp_path / "both" / "pseudo_masks_train.json").read_text())
    assert [annotation["iscrowd"] for annotation in content["annotations"]] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [TINY, TINY_QUERIES])
def test_a_second_round_starts_anew_and_resumes(tmp_path, disc, settings, monkeypatch):
    dataset, _ = disc
    pseudo = {sample.image_id: Instances(sample.truth.boxes, sample.truth.labels) for sample in dataset}
    settings = settings.model_copy(update={"num_epochs": 1, "detect_train": False})
    arguments = (RegionTreeSegmenter(), pseudo)
    once = run(context(tmp_path / "once", dataset, backbone=UNTRAINED_BACKBONE), settings, *arguments)
    twice = settings.model_copy(update={"rounds": 2})
    whole = run(context(tmp_path / "whole", dataset, backbone=UNTRAINED_BACKBONE), twice, *arguments)
    first = next((tmp_path / "whole" / "wsis" / "store").glob(f"weights-{once.fingerprint[:8]}*"))
    assert (first / "weights.safetensors").read_bytes() == once.weights.read_bytes()
    assert whole.weights.read_bytes() != once.weights.read_bytes()
    assert "agreement" in whole.pseudo_masks.columns
    assert len(training_history(whole.weights.parent)) == 1

    def interrupted(*_):
        raise KeyboardInterrupt

    # Killed in the comparison, and run again
    broken = context(tmp_path / "broken", dataset, backbone=UNTRAINED_BACKBONE)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("weaksam.stages.wsis.rounds.pairwise_mask_iou", interrupted)
        run(broken, twice, *arguments)
    resumed = run(broken, twice, *arguments)
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()
