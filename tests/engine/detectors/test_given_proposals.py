"""Proposals of the run beside the network's own: which are read, where they lie in every view, and what they change."""

import pytest
import torch

from tests.helpers import CPU, UNTRAINED_BACKBONE, context, draw_squares, instances, proposal_store, proposals
from weaksam.config import UserError
from weaksam.data.detection_stores import instances_of
from weaksam.engine.detectors.augmentation import AugmentSettings
from weaksam.engine.detectors.batches import TrainingPhotos
from weaksam.engine.detectors.detecting import detect_photo
from weaksam.engine.detectors.given_proposals import SplitProposals
from weaksam.engine.detectors.photos import load_photo
from weaksam.engine.detectors.training import TrainableSettings
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, detect, target_of
from weaksam.stages import retrain
from weaksam.structures.instances import Instances
from weaksam.structures.proposals import Proposals

SETTINGS = TrainableSettings(
    short_side=64, long_side=96, fpn_channels=8, representation=8, rpn_pre_nms=20, rpn_post_nms=10, min_score=0.0
)
GIVEN = {"short_side": 64, "long_side": 64, "fpn_channels": 8, "representation": 8, "num_epochs": 1, "batch_size": 3}


def test_the_best_of_every_photo_are_read(tmp_path):
    rows = {"a": proposals((0, 0, 9, 9, 0.2), (0, 0, 5, 5, 0.9), (1, 1, 4, 4, 0.5)), "b": Proposals.none()}
    best = SplitProposals.best(proposal_store(tmp_path / "store", rows), 2)
    assert best.fingerprint == "made"
    assert best.boxes["a"].tolist() == [[0, 0, 5, 5], [1, 1, 4, 4]] and best.boxes["b"].shape == (0, 4)
    regions = best.as_regions()
    assert regions["a"].labels.tolist() == [0, 0] and len(regions["b"]) == 0


def test_boxes_that_a_cut_view_leaves_out_are_not_given(tmp_path):
    squares = draw_squares(tmp_path)
    truth = {sample.image_id: sample.truth for sample in squares}
    corners = dict.fromkeys(truth, instances([[0, 0, 4, 4], [60, 60, 64, 64]]))
    photos = TrainingPhotos(squares, truth, 640, 960, "test", regions={"given": corners})
    for batch in photos.epoch(0, 2, AugmentSettings(crop_size=64), seed=0):
        for target in batch.targets:
            assert bool((target["given_boxes"][:, 2:] - target["given_boxes"][:, :2] >= 1).all())
            assert len(target["given_boxes"]) == len(target["given_labels"]) <= 2


def test_the_head_samples_and_detects_given_proposals(tmp_path):
    torch.manual_seed(0)
    model = build_faster_rcnn(UNTRAINED_BACKBONE, SETTINGS, 2)
    image, box = torch.rand(3, 64, 96), torch.tensor([[10.0, 12.0, 40.0, 50.0]])
    target = target_of(instances([], [])) | {"tags": torch.ones(2, dtype=torch.bool), "given_boxes": box}
    batch, targets = model.transform([image], [target])
    features = model.backbone(batch.tensors)
    (own,), _ = model.train().rpn(batch, features, [{**targets[0], "given_boxes": box[:0]}])
    (both,), _ = model.rpn(batch, features, targets)
    assert len(both) == len(own) + 1 and both[-1].tolist() == box[0].tolist()
    model.roi_heads.nms_thresh = 1.0  # keep every box
    plain, given = detect(model, [image], masks=False), detect(model, [image], masks=False, given=[box])
    assert len(given[0]["boxes"]) == len(plain[0]["boxes"]) + 2  # one of each class
    assert len(detect(model, [image], masks=False, given=[box[:0]])[0]["boxes"]) == len(plain[0]["boxes"])


def test_given_proposals_lie_in_the_view_and_its_mirror_image(tmp_path, monkeypatch):
    torch.manual_seed(0)
    sample = draw_squares(tmp_path).samples[1]  # 96 x 64, which stays
    model = build_faster_rcnn(UNTRAINED_BACKBONE, SETTINGS, 2)
    heads, seen = model.roi_heads.postprocess_detections, []

    def watched(logits, deltas, of_photos, sizes):
        seen.append(of_photos[0][-1].tolist())
        return heads(logits, deltas, of_photos, sizes)

    monkeypatch.setattr(model.roi_heads, "postprocess_detections", watched)
    photo = load_photo(sample, 32, 96)  # half of each side
    detect_photo(model.eval(), [photo], SETTINGS, CPU, torch.tensor([[10.0, 20.0, 30.0, 60.0]]))
    assert seen == [[5, 10, 15, 30], [48 - 15, 10, 48 - 5, 30]]


def test_a_training_with_given_proposals_has_stores_of_its_own(tmp_path):
    squares = draw_squares(tmp_path)
    run = context(tmp_path / "out", squares, test=squares, backbone=UNTRAINED_BACKBONE)
    pseudo_gt = {sample.image_id: sample.truth for sample in squares}
    rows = {i: Proposals.of(truth.boxes) for i, truth in pseudo_gt.items()}
    stores = dict.fromkeys(("train", "test"), proposal_store(tmp_path / "store", rows))
    given = retrain.RetrainSettings(**GIVEN, given_proposals=5)
    with pytest.raises(UserError, match=r"retrain.given_proposals=5 wants the run's proposals, found none: take"):
        retrain.run(run, given, pseudo_gt)
    own, with_given = (
        retrain.run(run, settings, pseudo_gt, proposals=stores)
        for settings in (retrain.RetrainSettings(**GIVEN), given)
    )
    assert own.fingerprint != with_given.fingerprint
    detections = instances_of(with_given.stores["test"])
    assert set(detections) == set(squares.image_ids) and isinstance(detections["0.png"], Instances)
