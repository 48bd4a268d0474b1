"""Published detectors start ours: torchvision's own model computes the same, and every misfit is one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import FrozenBatchNorm2d

from tests.helpers import instances
from weaksam.config import UserError
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn, detect, target_of, training_losses
from weaksam.models.detectors.first_weights import FirstWeights, folded, load_first_weights, own_names
from weaksam.models.detectors.mask_rcnn import MaskDetectorSettings, build_mask_rcnn
from weaksam.models.detectors.published import read_published
from weaksam.store.weights import load_state, save_weights
from weaksam.structures.instances import Instances

NUM_CLASSES = 2
BACKBONE = BackboneSettings(name="resnet50", weights="none")
PUBLISHED = MaskDetectorSettings(
    short_side=64,
    long_side=96,
    pyramid="full",
    fpn_channels=256,
    representation=1024,
    trainable_layers=3,
    rpn_pre_nms=60,
    rpn_post_nms=40,
    min_score=0.0,
    mask_channels=256,
    mask_layers=4,
)
NARROW = PUBLISHED.model_copy(update={"fpn_channels": 8, "representation": 16, "mask_channels": 8, "mask_layers": 1})
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
PRODUCT = "backbone.body.layer1.0.conv1.weight"


@pytest.fixture(scope="module")
def theirs() -> GeneralizedRCNN:
    """Torchvision's own detector with random weights and batch-norm statistics, in float64."""
    torch.manual_seed(0)
    numbers = {f"rpn_{when}_nms_top_n_{use}": n for when, n in (("pre", 60), ("post", 40)) for use in ("train", "test")}
    model = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES + 1,
        rpn_batch_size_per_image=PUBLISHED.rpn_batch,
        box_batch_size_per_image=PUBLISHED.roi_batch,
        box_score_thresh=0.0,
        min_size=64,  # the size of the images, which stay as they are
        max_size=96,
        _skip_resize=True,  # which in training would draw a random number
        **numbers,
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.2, 0.6),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                nn.init.uniform_(tensor, low, high)
    # Scores that differ, so that a wrong tensor shows
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.3)
    return model.double()


@pytest.fixture(scope="module")
def file(theirs: GeneralizedRCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its state dict as a ``.pth`` file."""
    path = tmp_path_factory.mktemp("published") / "detector.pth"
    torch.save(theirs.state_dict(), path)
    return path


def state_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.state_dict().items())


def started(path: Path, settings: MaskDetectorSettings = PUBLISHED) -> GeneralizedRCNN:
    """Our detector with the file's weights, in float64, where rounding does not reorder proposals of like scores."""
    model = build_faster_rcnn(BACKBONE, settings, NUM_CLASSES).double()
    first = FirstWeights(read_published(path, "the detector").state, "the detector", "retrain")
    assert load_first_weights(model, first) == []
    return model


def losses_of(model: GeneralizedRCNN) -> dict[str, Tensor]:
    """Losses of both images, the second without a box, with batch-norm as it is."""
    boxes = instances([[8, 8, 42, 42], [44, 18, 82, 52]], [0, 1])
    targets = [target_of(boxes), target_of(Instances.empty())]
    targets = [target | {"boxes": target["boxes"].double()} for target in targets]
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.manual_seed(1)
    return model(list(IMAGES.double()), targets)


def test_torchvisions_detector_gives_the_same_boxes_scores_and_losses(theirs: GeneralizedRCNN, file: Path) -> None:
    ours = started(file)
    with torch.inference_mode():
        expected = theirs.eval()(list(IMAGES.double()))
    for detection, other in zip(detect(ours, list(IMAGES.double())), expected, strict=True):
        assert len(other["boxes"]) > 20 and set(other["labels"].tolist()) == {1, 2}
        assert torch.equal(detection["labels"], other["labels"])
        torch.testing.assert_close(detection["scores"], other["scores"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(detection["boxes"], other["boxes"], rtol=1e-9, atol=1e-7)
    losses, expected_losses = losses_of(ours), losses_of(theirs)
    assert losses.keys() == expected_losses.keys()
    for name, value in expected_losses.items():
        # torchvision's loss of the anchors is float32 whatever the input is
        least = 1e-9 if value.dtype == torch.float64 else 1e-6
        torch.testing.assert_close(losses[name].double(), value.double(), rtol=least, atol=least)
    sizes = [anchors.tolist()[0] for anchors in theirs.rpn.anchor_generator.cell_anchors]
    assert sizes == [anchors.tolist()[0] for anchors in ours.rpn.anchor_generator.cell_anchors]


def test_frozen_stages_are_folded_after_loading_and_the_rest_keeps_its_batch_norm(file: Path) -> None:
    ours = started(file)
    frozen = [key for key in ours.state_dict() if re.match(r"backbone\.body\.(0|4)\.", key)]
    assert not any("bn" in key or "running" in key for key in frozen)
    assert sum("running_var" in key for key in ours.state_dict()) == 53 - 11  # the stem's, and 10 of layer1
    assert not any(p.requires_grad for name, p in ours.named_parameters() if name in frozen)


def test_torchvisions_published_files_add_nothing_to_the_variance(
    theirs: GeneralizedRCNN, file: Path, tmp_path: Path
) -> None:
    """Torchvision sets the epsilon of those files to 0; ours stays, and the variance gives way."""
    name = Path(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.url).name
    state = load_state(file)
    small = {key: value.float() * 1e-4 if key.endswith("running_var") else value for key, value in state.items()}
    torch.save(small, tmp_path / name)
    read = read_published(tmp_path / name, "the detector").state
    norm = FrozenBatchNorm2d(64, eps=0.0)
    norm.load_state_dict({part: small[f"backbone.body.bn1.{part}"] for part in norm.state_dict()})
    ours = FrozenBatchNorm2d(64)
    ours.load_state_dict({part: read[f"backbone.body.bn1.{part}"] for part in norm.state_dict()})
    x = torch.randn(1, 64, 2, 2)
    torch.testing.assert_close(ours(x), norm(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(FrozenBatchNorm2d(64)(x), norm(x), rtol=1e-2)


def narrow_state(num_classes: int, masks: bool, seed: int = 0) -> dict[str, Tensor]:
    """A small detector's tensors, none folded, in torchvision's names."""
    torch.manual_seed(seed)
    settings = NARROW.model_copy(update={"trainable_layers": 5})
    model = (build_mask_rcnn if masks else build_faster_rcnn)(BACKBONE, settings, num_classes)
    names = {"0.0.": "conv1.", "0.1.": "bn1.", **{f"{3 + layer}.": f"layer{layer}." for layer in range(1, 5)}}
    return {
        re.sub(r"^backbone\.body\.(0\.0\.|0\.1\.|\d\.)", lambda m: f"backbone.body.{names[m[1]]}", key): value
        for key, value in state_of(model)
    }


def start(state: dict[str, Tensor], masks: bool = False, num_classes: int = NUM_CLASSES, **options: bool):
    """Our narrow detector, started, with what was said about it."""
    torch.manual_seed(9)
    model = (build_mask_rcnn if masks else build_faster_rcnn)(BACKBONE, NARROW, num_classes)
    notes = load_first_weights(model, FirstWeights(state, "retrain.init (x.pth)", "retrain"), **options)
    return model, notes


def test_every_tensor_reaches_its_place() -> None:
    state = narrow_state(NUM_CLASSES, masks=True)
    model, notes = start(state, masks=True)
    assert notes == [] and PRODUCT in state
    renamed = own_names(state)
    assert all(
        torch.equal(value, renamed[key]) for key, value in state_of(model) if not re.match(r"backbone.body.[04]", key)
    )
    wide = build_mask_rcnn(BACKBONE, NARROW.model_copy(update={"trainable_layers": 5}), NUM_CLASSES)
    assert list(folded(renamed, wide.state_dict())) == list(renamed)  # nothing to fold where all stages train


def test_a_mask_head_is_left_out_with_a_note_or_stays_new() -> None:
    with_masks = narrow_state(NUM_CLASSES, masks=True)
    _, (note,) = start(with_masks)
    assert note == (
        "retrain.init (x.pth) is a Mask R-CNN: its mask head (6 tensors, roi_heads.mask_head.0.0.weight ...) is left "
        "out"
    )
    model, notes = start(narrow_state(NUM_CLASSES, masks=False), masks=True)
    fresh, _ = start(with_masks, masks=True)
    key = "roi_heads.mask_head.0.0.weight"
    assert notes == [] and not torch.equal(model.state_dict()[key], fresh.state_dict()[key])
    half = {name: value for name, value in with_masks.items() if "mask_fcn_logits" not in name}
    refused(half, "lack 2 of them", masks=True)


def test_another_number_of_classes_is_refused_or_its_layers_start_anew() -> None:
    for masks in (False, True):
        state = narrow_state(5, masks)
        refused(
            state,
            "wants a detector of 2 classes, found one of 5 classes: give another, or start its last layers anew with "
            "retrain.new_classes=true",
            masks=masks,
        )
        model, (note,) = start(state, masks, new_classes=True)
        assert note == "retrain.init (x.pth) has 5 classes: the layers that tell 2 classes start anew"
        for key in ("roi_heads.box_head.fc6.weight", "rpn.head.cls_logits.bias"):
            assert torch.equal(model.state_dict()[key], state[key])
        assert len(model.roi_heads.box_predictor.cls_score.weight) == 3
        same, notes = start(narrow_state(2, masks), masks, new_classes=True)
        assert notes == [] and bool(same.roi_heads.box_predictor.cls_score.weight.isfinite().all())


def refused(state: dict[str, Tensor], words: str, masks: bool = False) -> None:
    with pytest.raises(UserError) as caught:
        start(state, masks)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_misfits_are_one_sentence_each() -> None:
    state = narrow_state(NUM_CLASSES, masks=False)
    refused({**state, "roi_heads.extra": torch.zeros(1)}, "bring 1 unknown ones")
    refused({**state, "backbone.body.layer1.0.extra.weight": torch.zeros(1)}, "'backbone.body.4.0.extra.weight'")
    refused({key: value for key, value in state.items() if key != PRODUCT}, "lack 2 of them")
    refused({**state, "rpn.head.cls_logits.bias": torch.zeros(4)}, "wants 'rpn.head.cls_logits.bias' of shape (3,)")
    without_variance = {key: value for key, value in state.items() if key != "backbone.body.bn1.running_var"}
    refused(without_variance, "'backbone.body.0.0.bias'")
    refused({**state, "rpn.head.cls_logits.bias": torch.full((3,), torch.nan)}, "found NaN or infinity")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("layer1.0.conv1.weight", "found a classifier, which can be retrain.backbone.weights (its first tensor is"),
        ("res2_0_branch2a_w", "found a classifier"),
        ("features.0.weight", "found a classifier"),
        ("bbox_head.cls_branches.0.weight", "found a detector with queries, such as DINO"),
        ("transformer.level_embed", "found a detector with queries, such as DINO"),
        ("head.classification_head.conv.0.0.weight", "found a detector of one stage"),
        ("neck.convs.0", "found tensors of another network (its first tensor is 'neck.convs.0')"),
    ],
)
def test_other_networks_are_named(key: str, words: str) -> None:
    refused({key: torch.zeros(3)}, words)


def test_a_safetensors_file_of_theirs_is_the_same(file: Path, tmp_path: Path) -> None:
    save_weights(tmp_path / "detector.safetensors", load_state(file))
    states = [read_published(path, "it").state for path in (file, tmp_path / "detector.safetensors")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_losses_are_finite_from_published_weights(file: Path) -> None:
    ours = started(file).float()
    losses = training_losses(ours, list(IMAGES), [target_of(instances([[8, 8, 42, 42]])), target_of(instances([]))])
    assert all(bool(value.isfinite()) for value in losses.values())
