"""From pseudo boxes to pseudo masks and a Mask R-CNN: the files and stores of a run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import UNTRAINED_BACKBONE, context
from weaksam.config import UserError
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.wsis import WsisSettings, run
from weaksam.store.files import file_sha256
from weaksam.store.records import write_record
from weaksam.store.weights import load_state, save_weights
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances
from weaksam.structures.masks import pairwise_mask_iou, rle_from_mask

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
