"""The retrained backbone starts from that of the weak detector, where the tags trained it."""

from pathlib import Path

import pytest
import torch

from tests import helpers
from tests.helpers import UNTRAINED_BACKBONE, draw_squares
from weaksam.config import UserError, fingerprint_of
from weaksam.engine.detectors.result import DetectorResult
from weaksam.engine.training_job import TrainingJob
from weaksam.engine.training_state import seal
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.wsod.network import WsodNetwork, wsod_trunk
from weaksam.stages.retrain import DinoRetrainSettings, RetrainSettings, run
from weaksam.stages.retrain.start import started
from weaksam.store.weights import load_state

STILL = RetrainSettings(
    short_side=64,
    long_side=96,
    fpn_channels=8,
    representation=8,
    num_epochs=1,
    lr=1e-12,
    weight_decay=0.0,
    detect_train=False,
    rpn_pre_nms=20,
    rpn_post_nms=10,
    flip_test=False,
    trainable_layers=2,
    start="weak",
)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return draw_squares(tmp_path_factory.mktemp("squares"))


def weak_detector(folder: Path, frozen: bool = False) -> DetectorResult:
    """A sealed weak detector with random weights; a frozen one has a head alone."""
    torch.manual_seed(7)
    network = WsodNetwork(wsod_trunk(UNTRAINED_BACKBONE, frozen_stages=0), 2, hidden=8, roi_size=2, num_branches=1)
    folder.mkdir(parents=True)
    seal(network.streams if frozen else network, TrainingJob(folder, "weak", "wsod", 0, num_epochs=1), [])
    return DetectorResult(folder / "weights.safetensors", "weak", {}, UNTRAINED_BACKBONE)


def truth_of(dataset):
    return {sample.image_id: sample.truth for sample in dataset}


def test_the_trained_backbone_is_that_of_the_weak_detector(tmp_path, squares):
    weak = weak_detector(tmp_path / "weak")
    context = helpers.context(tmp_path / "out", squares, test=squares, backbone=UNTRAINED_BACKBONE)
    result = run(context, STILL, truth_of(squares), weak_detector=weak)
    trained, of_weak = load_state(result.weights), load_state(weak.weights)
    compared = 0
    for name, value in trained.items():
        key = f"trunk.{name.removeprefix('backbone.')}"
        convolution = name.startswith("backbone.body.") and name.endswith("weight") and value.ndim == 4
        # The last two of six stages train; those before have their batch-norm folded
        if convolution and key in of_weak and int(name.split(".")[2]) >= 14:
            torch.testing.assert_close(value, of_weak[key], rtol=0, atol=1e-6)
            compared += 1
    assert compared > 5
    plain = run(context, STILL.model_copy(update={"start": "backbone"}), truth_of(squares), weak_detector=weak)
    assert plain.fingerprint != result.fingerprint
    again = run(context, STILL, truth_of(squares), weak_detector=weak)
    assert again.fingerprint == result.fingerprint
    assert result.backbone.adapted == tmp_path / "weak" / "backbone.safetensors"
    (tmp_path / "weak" / "backbone.safetensors").write_bytes(b"changed")
    with pytest.raises(UserError, match="is damaged"):
        run(context, STILL, truth_of(squares), weak_detector=weak)


def test_without_a_backbone_that_the_tags_trained_it_is_one_sentence(tmp_path, squares):
    context = helpers.context(tmp_path / "out", squares, backbone=UNTRAINED_BACKBONE)
    frozen = weak_detector(tmp_path / "frozen", frozen=True)
    other = BackboneSettings(name="resnet50", weights="none")
    for own, weak, words in (
        (None, None, "wants a weak detector, found none"),
        (None, frozen, r"found a frozen one: set wsod\.mode=end_to_end or clues\.finetune_epochs"),
        (other, frozen, r"found retrain\.backbone \(resnet50\) beside it"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            started(context, "weak", own, weak, "retrain")
        assert "\n" not in str(caught.value)
        assert started(context, "backbone", own, weak, "retrain") is context
    tuned = helpers.context(
        tmp_path, squares, backbone=UNTRAINED_BACKBONE.model_copy(update={"adapted": tmp_path / "tuned"})
    )
    assert started(tuned, "weak", None, frozen, "retrain") is tuned


@pytest.mark.parametrize("kind", [RetrainSettings, DinoRetrainSettings])
def test_by_default_no_fingerprint_changes(kind):
    assert kind().start == "backbone" and "start" not in str(kind()._as_before.get("start", ""))
    assert fingerprint_of(kind()) != fingerprint_of(kind(start="weak"))
