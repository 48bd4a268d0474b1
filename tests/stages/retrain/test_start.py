"""Where a detector starts: a backbone of its own, every backbone, and published weights with what they expect."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import helpers
from tests.helpers import NANO_BACKBONE, UNTRAINED_BACKBONE, draw_squares
from weaksam.config import UserError
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.initial_weights import detector_backbone, read_initial
from weaksam.engine.log import RunLog
from weaksam.models.backbones.colours import IMAGENET, CaffeColours
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages import wsis
from weaksam.stages.retrain import RetrainSettings, run
from weaksam.stages.wsis import WsisSettings
from weaksam.store.weights import load_state
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

TINY = RetrainSettings(
    short_side=64,
    long_side=96,
    pyramid="full",
    fpn_channels=8,
    representation=16,
    trainable_layers=1,
    num_steps=2,
    batch_size=2,
    warmup_steps=0,
    rpn_pre_nms=30,
    rpn_post_nms=10,
    max_boxes=5,
    min_score=0.0,
    detect_train=False,
)
RESNET = BackboneSettings(name="resnet50", weights="none")
BACKBONES = {
    "mobilenet_v2": UNTRAINED_BACKBONE,
    "resnet50": RESNET,
    "vgg16": BackboneSettings(name="vgg16", weights="none"),
    "sam_nano": NANO_BACKBONE,
}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A detector of the same size by detectron2's names, whose stages are none of them folded."""
    torch.manual_seed(5)
    model = build_faster_rcnn(RESNET, TINY.model_copy(update={"trainable_layers": 5}), 2)
    renames = {
        r"backbone\.body\.0\.0\.": "backbone.bottom_up.stem.conv1.",
        r"backbone\.body\.0\.1\.": "backbone.bottom_up.stem.conv1.norm.",
        r"backbone\.body\.([4-7])\.": lambda match: f"backbone.bottom_up.res{int(match[1]) - 2}.",
        r"(bottom_up\.res.*)\.bn(\d)\.": r"\1.conv\2.norm.",
        r"(bottom_up\.res.*)\.downsample\.0\.": r"\1.shortcut.",
        r"(bottom_up\.res.*)\.downsample\.1\.": r"\1.shortcut.norm.",
        r"backbone\.fpn\.inner_blocks\.(\d)\.0\.": lambda match: f"backbone.fpn_lateral{int(match[1]) + 2}.",
        r"backbone\.fpn\.layer_blocks\.(\d)\.0\.": lambda match: f"backbone.fpn_output{int(match[1]) + 2}.",
        r"rpn\.head\.conv\.0\.0\.": "proposal_generator.rpn_head.conv.",
        r"rpn\.head\.cls_logits\.": "proposal_generator.rpn_head.objectness_logits.",
        r"rpn\.head\.bbox_pred\.": "proposal_generator.rpn_head.anchor_deltas.",
        r"box_head\.fc6\.": "box_head.fc1.",
        r"box_head\.fc7\.": "box_head.fc2.",
    }
    state = {}
    for key, value in model.state_dict().items():
        name = key
        for pattern, replacement in renames.items():
            name = re.sub(pattern, replacement, name)
        if "box_predictor.cls_score" in name:
            value = torch.cat([value[1:], value[:1]])  # the background comes last
        elif "box_predictor.bbox_pred" in name:
            value = value[4:]
        state[name] = value
    return state


@pytest.fixture
def file(published: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save({"model": published, "iteration": 89_999}, tmp_path / "model_final.pth")
    return tmp_path / "model_final.pth"


def context(out: Path, dataset: Dataset, backbone: BackboneSettings = UNTRAINED_BACKBONE) -> RunContext:
    return helpers.context(out, dataset, test=dataset, backbone=backbone, log=RunLog(out / "log.jsonl"))


def truth_of(dataset: Dataset) -> dict[str, Instances]:
    return {sample.image_id: sample.truth for sample in dataset}


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_trains_and_detects_at_several_scales_and_mirrored(
    name: str, tmp_path: Path, squares: Dataset
) -> None:
    scales = {"scales": (0.75, 1.25), "test_scales": (0.75, 1.5), "flip_test": True, "weight_average": 0.9}
    settings = TINY.model_copy(update={**scales, "backbone": BACKBONES[name], "max_boxes": 100})
    several = run(context(tmp_path, squares), settings, truth_of(squares))
    assert several.backbone.name == name
    single = run(
        context(tmp_path, squares),
        settings.model_copy(update={"test_scales": (1.0,), "flip_test": False}),
        truth_of(squares),
    )
    assert single.weights == several.weights  # scales at test are no part of the training
    boxes = [sum(map(len, result.detections("test").values())) for result in (several, single)]
    assert boxes[0] > boxes[1] > 0
    plain = run(context(tmp_path, squares), settings.model_copy(update={"scales": ()}), truth_of(squares))
    assert plain.weights != several.weights


def test_a_backbone_of_its_own_is_trained_and_counts_by_its_bytes(tmp_path: Path, squares: Dataset) -> None:
    settings = TINY.model_copy(update={"backbone": NANO_BACKBONE})
    own = run(context(tmp_path, squares), settings, truth_of(squares))
    as_the_runs = run(context(tmp_path, squares, NANO_BACKBONE), TINY, truth_of(squares))
    assert own.weights == as_the_runs.weights and own.backbone == NANO_BACKBONE
    assert run(context(tmp_path, squares), TINY, truth_of(squares)).weights != own.weights


def test_a_published_detector_starts_it_and_brings_its_colours_and_strides(
    tmp_path: Path, squares: Dataset, file: Path, published: dict[str, Tensor]
) -> None:
    """The backbone's own weights are not read: a file of them need not be there."""
    absent = BackboneSettings(name="resnet50", weights=str(tmp_path / "absent.pth"))
    settings = TINY.model_copy(update={"backbone": absent, "init": file, "lr": 1e-12, "weight_decay": 0.0})
    result = run(context(tmp_path, squares), settings, truth_of(squares))
    assert result.backbone.colours == CaffeColours(mean=(123.675, 116.28, 103.53))
    assert (result.backbone.stride_in, result.backbone.weights) == ("1x1", "none")
    state = load_state(result.weights)
    torch.testing.assert_close(state["rpn.head.conv.0.0.weight"], published["proposal_generator.rpn_head.conv.weight"])
    scores = published["roi_heads.box_predictor.cls_score.weight"]
    torch.testing.assert_close(state["roi_heads.box_predictor.cls_score.weight"], scores[[2, 0, 1]])
    # Colours and strides that are set stay
    told = absent.model_copy(update={"colours": IMAGENET, "stride_in": "3x3"})
    kept = detector_backbone(
        context(tmp_path, squares),
        settings.model_copy(update={"backbone": told}),
        read_initial(file, "retrain"),
        "retrain",
    )
    assert (kept.colours, kept.stride_in) == (IMAGENET, "3x3")


def test_mask_rcnn_goes_on_in_the_ways_of_the_detector_it_starts_from(
    tmp_path: Path, squares: Dataset, file: Path
) -> None:
    shared = set(WsisSettings.model_fields) - {"rounds"}  # these mean other rounds
    settings = WsisSettings(
        **{**TINY.model_dump(include=shared), "backbone": RESNET, "init": file, "lr": 1e-12},
        mask_channels=8,
        mask_layers=1,
    )
    segmenter = RegionTreeSegmenter()
    result = wsis.run(context(tmp_path, squares), settings, segmenter, truth_of(squares))
    assert (result.backbone.colours.order, result.backbone.stride_in) == ("bgr", "1x1")
    masks = [masked.masks for masked in result.detections("test").values() if len(masked)]
    assert masks and all(of_photo is not None for of_photo in masks)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": None}, "is a detector with resnet50 and a full pyramid, found mobilenet_v2 and a full one"),
        (
            {"pyramid": "short"},
            "found resnet50 and a short one: set retrain.backbone.name=resnet50 retrain.pyramid=full",
        ),
        (
            {"fpn_channels": 16},
            r"of shape \(16, 256, 1, 1\), but the file holds \(8, .*set its sizes in retrain to those",
        ),
    ],
)
def test_a_published_detector_of_another_make_is_one_sentence(
    tmp_path: Path, squares: Dataset, file: Path, changes: dict[str, object], words: str
) -> None:
    settings = TINY.model_copy(update={"backbone": RESNET, "init": file, **changes})
    with pytest.raises(UserError, match=words) as caught:
        run(context(tmp_path, squares), settings, truth_of(squares))
    assert "\n" not in str(caught.value)


def test_constants_state_the_colours(file: Path, published: dict[str, Tensor]) -> None:
    rgb = {"pixel_mean": torch.tensor([123.675, 116.28, 103.53]), "pixel_std": torch.tensor([58.395, 57.12, 57.375])}
    shaped = {key: value[:, None, None] for key, value in rgb.items()}
    torch.save({"model": published | shaped}, file)
    colours, stride_in = read_initial(file, "retrain").conventions
    assert (colours.order, stride_in) == ("rgb", "3x3")
    assert colours.mean == pytest.approx((123.675, 116.28, 103.53))
    assert colours.deviation == pytest.approx((58.395, 57.12, 57.375))
    torch.save({"model": published | {"pixel_mean": torch.tensor([1.0, 2, 3]), "pixel_std": torch.ones(3)}}, file)
    colours, stride_in = read_initial(file, "retrain").conventions
    assert (colours.order, colours.mean, stride_in) == ("bgr", (3, 2, 1), "1x1")
    torch.save({"model": published | {"pixel_mean": torch.ones(3), "pixel_std": torch.zeros(3)}}, file)
    with pytest.raises(UserError, match="three above 0 in 'pixel_std'"):
        read_initial(file, "retrain")


def test_other_classes_start_anew_when_asked(tmp_path: Path, squares: Dataset, file: Path) -> None:
    three = replace(squares, classes=("red", "blue", "green"), category_ids=(3, 7, 9))
    settings = TINY.model_copy(update={"backbone": RESNET, "init": file})
    with pytest.raises(
        UserError, match=r"of 3 classes \(red, blue, green\), found one of 2 classes: .*retrain\.new_classes=true"
    ):
        run(context(tmp_path, three), settings, truth_of(squares))
    result = run(context(tmp_path, three), settings.model_copy(update={"new_classes": True}), truth_of(squares))
    assert len(load_state(result.weights)["roi_heads.box_predictor.cls_score.weight"]) == 4
    assert "the layers that tell 3 classes (red, blue, green) start anew" in (tmp_path / "log.jsonl").read_text()


def test_the_same_number_of_other_classes_is_refused(tmp_path: Path, squares: Dataset) -> None:
    """Weights of ours keep the names of their classes, in the folder and in a copy of the file."""
    settings = TINY.model_copy(update={"pyramid": "short"})
    trained = run(context(tmp_path / "first", squares), settings, truth_of(squares))
    turned = replace(squares, classes=("blue", "red"))
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(trained.weights.read_bytes())
    for path in (trained.weights.parent, copy):
        start = settings.model_copy(update={"init": path})
        with pytest.raises(
            UserError, match=r"of 2 classes \(blue, red\), found one of 2 classes \(red, blue\)"
        ) as caught:
            run(context(tmp_path / "next", turned), start, truth_of(squares))
        assert "\n" not in str(caught.value)
    anew = start.model_copy(update={"new_classes": True, "lr": 1e-12, "weight_decay": 0.0})
    other_seed = replace(context(tmp_path / "next", turned), seed=1)
    states = [load_state(run(other_seed, anew, truth_of(squares)).weights), load_state(copy)]
    scores = [state["roi_heads.box_predictor.cls_score.weight"] for state in states]
    assert not torch.allclose(*scores, atol=1e-3)
    torch.testing.assert_close(*(state["roi_heads.box_head.fc6.weight"] for state in states))
