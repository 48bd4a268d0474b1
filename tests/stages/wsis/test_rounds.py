"""Weights of masks, and further rounds of training on masks that segmenter and network agree about."""

import pytest
import torch

from tests.helpers import UNTRAINED_BACKBONE, context, draw_squares
from weaksam.engine.detectors.photos import load_photo
from weaksam.engine.pseudo_masks import make_pseudo_masks
from weaksam.models.detectors.mask_rcnn import build_mask_rcnn, paste_masks, predict_masks
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.wsis.rounds import compare_masks, masks_among_detections, masks_of_boxes_by
from weaksam.stages.wsis.settings import PseudoMaskSettings, WsisSettings
from weaksam.stages.wsis.weights import mask_weights, training_masks
from weaksam.structures.instances import Instances
from weaksam.structures.masks import combined_rle, mask_from_rle, rle_from_mask

SMALL = WsisSettings(short_side=64, long_side=96, fpn_channels=16, representation=32, mask_channels=16, mask_layers=1)
QUALITY, AGREEMENT = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([1.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("settings", "agreement", "expected"),
    [
        ({}, None, None),
        ({"mask_weights": "quality"}, None, [0.9, 0.5, 0.2]),
        ({"min_mask_quality": 0.5}, None, [1, 1, 0]),
        ({"mask_weights": "quality", "min_mask_quality": 0.3}, None, [0.9, 0.5, 0]),
        ({}, AGREEMENT, [1, 0.5, 1]),
        ({"mask_weights": "quality", "min_mask_quality": 0.3}, AGREEMENT, [0.9, 0.25, 0]),
    ],
)
def test_weights(settings, agreement, expected):
    weights = mask_weights(QUALITY, agreement, PseudoMaskSettings(**settings))
    assert (weights if expected is None else weights.tolist()) == (expected and pytest.approx(expected))


def test_certainty_weighs_where_views_are_fused():
    certainty = torch.tensor([0.25, 1.0, 0.5])
    settings = PseudoMaskSettings(mask_weights="certainty", ensemble_views=2, min_mask_quality=0.3)
    assert mask_weights(QUALITY, AGREEMENT, settings, certainty).tolist() == [0.25, 0.5, 0.0]
    with pytest.raises(ValueError, match="set ensemble_views to 2 or more"):
        PseudoMaskSettings(mask_weights="certainty")


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return draw_squares(tmp_path_factory.mktemp("squares"))


def rectangle(size, x1, y1, x2, y2):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return rle_from_mask(mask)


@pytest.fixture
def pseudo_masks(tmp_path, squares):
    """A context, and a store of masks that were given: on each photo the left 20 columns of every square."""
    run_context = context(tmp_path, squares, backbone=UNTRAINED_BACKBONE)
    given = {}
    for sample in squares:
        boxes = sample.truth.boxes.int().tolist()
        masks = tuple(rectangle(sample.size, x1, y1, x1 + 20, y2) for x1, y1, _, y2 in boxes)
        given[sample.image_id] = Instances(sample.truth.boxes, sample.truth.labels, masks=masks)
    return run_context, make_pseudo_masks(run_context, PseudoMaskSettings(), RegionTreeSegmenter(), given, "wsis")


@pytest.mark.parametrize("agreed_masks", ["segmenter", "network", "mean"])
def test_masks_are_compared_by_hand(pseudo_masks, squares, agreed_masks):
    """The network has the whole square of label 0 (IoU 20 / 26) and nothing of label 1."""
    run_context, store = pseudo_masks

    def network_masks(image_id, objects, thresholds):
        assert thresholds == {"segmenter": (0.5,), "network": (0.5, 0.5), "mean": (0.5, 0.25, 0.75)}[agreed_masks]
        size = squares.by_id[image_id].size
        masks = []
        for (x1, y1, x2, y2), label in zip(objects.boxes.int().tolist(), objects.labels.tolist(), strict=True):
            shapes = {0.5: (x1, y1, x2, y2), 0.25: (x1, y1, x2, y2), 0.75: (x1 + 22, y1, x2, y2)}
            masks.append(None if label else [rectangle(size, *shapes[threshold]) for threshold in thresholds])
        return masks

    settings = PseudoMaskSettings(rounds=2, agreed_iou=0.75, agreed_masks=agreed_masks)
    compared = compare_masks(run_context, settings, store, network_masks, "network", 2, "wsis")
    widths = {"segmenter": {20}, "network": {26}, "mean": {24}}[agreed_masks]  # 20 inside, and 4 that are sure
    for row in compared.rows():
        assert row["agreement"].tolist() == pytest.approx(
            [0.0 if label else 20 / 26 for label in row["labels"].tolist()]
        )
        areas = [int(mask_from_rle(rle).sum()) // 26 for rle in row["rles"]]
        assert all(
            area in ({20} if label else widths) for area, label in zip(areas, row["labels"].tolist(), strict=True)
        )
    weights = training_masks(compared, settings)["1.png"].mask_weights
    assert weights.tolist() == pytest.approx([20 / 26, 0.0])
    doubtful = settings.model_copy(update={"agreed_iou": 0.8})
    kept = compare_masks(run_context, doubtful, store, network_masks, "network", 2, "wsis")
    assert [row["rles"] for row in kept.rows()] == [row["rles"] for row in store.rows()]


def test_masks_of_a_network_are_those_in_the_boxes_on_both_views(pseudo_masks, squares):
    run_context, store = pseudo_masks
    torch.manual_seed(0)
    model = build_mask_rcnn(UNTRAINED_BACKBONE, SMALL, 2)
    torch.nn.init.normal_(model.roi_heads.mask_predictor.mask_fcn_logits.weight, std=5.0)
    objects = training_masks(store, SMALL)["1.png"]
    masks = masks_of_boxes_by(model, SMALL, run_context)("1.png", objects, (0.25, 0.75))
    photo = load_photo(squares.by_id["1.png"], SMALL.short_side, SMALL.long_side)
    for row, (likely, sure) in enumerate(masks):
        box, label = objects.boxes[row, None], objects.labels[row, None] + 1
        assert photo.image.shape[1:] == (64, 96)  # boxes need no scaling
        mirrored = torch.stack([96 - box[:, 2], box[:, 1], 96 - box[:, 0], box[:, 3]], 1)
        views = [predict_masks(model, photo.image, box, label)]
        views.append(predict_masks(model, photo.image.flip(-1), mirrored, label).flip(-1))
        mean = torch.stack(views).mean(0)
        for rle, threshold in ((likely, 0.25), (sure, 0.75)):
            assert rle == paste_masks(mean, box, (64, 96), threshold)[0]
        assert int(mask_from_rle(likely).sum()) > int(mask_from_rle(sure).sum())


def test_masks_among_detections_are_of_the_class_and_overlap_most():
    size = (10, 10)
    detected = Instances(
        torch.zeros(3, 4),
        torch.tensor([0, 0, 1]),
        torch.tensor([0.9, 0.1, 0.8]),
        (rectangle(size, 0, 0, 3, 3), rectangle(size, 0, 0, 5, 5), rectangle(size, 0, 0, 6, 6)),
    )
    objects = Instances(torch.zeros(2, 4), torch.tensor([0, 2]), masks=(rectangle(size, 0, 0, 6, 6),) * 2)
    masks_of = masks_among_detections({"a": detected, "b": detected[torch.zeros(0, dtype=torch.int64)]})
    assert masks_of("a", objects, (0.5, 0.25)) == [[detected.masks[1]] * 2, None]
    assert masks_of("b", objects, (0.5,)) == [None, None]


def test_pixels_of_one_or_all_masks():
    left, right = rectangle((4, 6), 0, 0, 4, 4), rectangle((4, 6), 2, 0, 6, 4)
    assert combined_rle([left, right], "both") == rectangle((4, 6), 2, 0, 4, 4)
    assert combined_rle([left, right], "either") == rectangle((4, 6), 0, 0, 6, 4)
