"""Masks of prompt boxes: points beside them, the choice among three, the second pass, overlaps and quality."""

from dataclasses import dataclass, replace

import pytest
import torch

from tests.helpers import CPU, noise_photo, random_sam
from weaksam.sam.batches import BatchLimit
from weaksam.sam.box_masks import BoxMaskSettings, box_prompts, choose_masks, mask_quality, masks_of_boxes
from weaksam.sam.nano.segmenter import SamNano
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Embedding, Masks, boxes_in_photo
from weaksam.structures.masks import box_mask, mask_from_rle


def one_prompt(shapes, iou, size=(8, 8)):
    """``Masks`` of one prompt from three rectangles (x1, y1, x2, y2) in a frame of 8 x 8."""
    masks = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    for k, (x1, y1, x2, y2) in enumerate(shapes):
        masks[0, k, y1:y2, x1:x2] = True
    return Masks(masks, torch.tensor([iou]), torch.ones(1, 3), boxes_in_photo(masks, size), size)


def test_the_choice_of_a_mask():
    masks = one_prompt([(2, 2, 4, 4), (2, 2, 6, 6), (0, 0, 8, 8)], [0.7, 0.8, 0.9])
    box = torch.tensor([[2.0, 2.0, 6.0, 5.0]])
    assert choose_masks(masks, box, "predicted_iou").tolist() == [2]
    assert choose_masks(masks, box, "box_agreement").tolist() == [1]  # IoU 4/12, 12/16, 12/64
    assert choose_masks(masks, box, "combined").tolist() == [1]  # 0.23, 0.6, 0.17
    masks = replace(masks, stability=torch.tensor([[0.9, 0.8, 0.7]]), iou=torch.tensor([[0.95, 0.3, 0.9]]))
    assert choose_masks(masks, box, "stability").tolist() == [0]
    assert choose_masks(masks, box, "combined").tolist() == [0]  # 0.32, 0.23, 0.17
    nothing = (0, 0, 0, 0)
    masks = one_prompt([nothing, (2, 2, 6, 6), nothing], [0.9, 0.1, 0.8])
    for choice in ("predicted_iou", "box_agreement", "stability", "combined"):
        assert choose_masks(masks, box, choice).tolist() == [1]


def test_box_mask_covers_every_pixel_the_box_touches():
    mask = box_mask(torch.tensor([1.5, -3.0, 3.2, 2.0]), (4, 6))
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[0:2, 1:4] = True
    assert torch.equal(mask, expected)


def frame(*shapes, size=(8, 8)):
    """Bool masks (1, 3, H, W) of up to three rectangles (x1, y1, x2, y2), the rest empty."""
    masks = torch.zeros(1, 3, *size, dtype=torch.bool)
    for k, (x1, y1, x2, y2) in enumerate(shapes):
        masks[0, k, y1:y2, x1:x2] = True
    return masks


@dataclass(frozen=True)
class Scripted:
    """A segmenter that answers a box with the masks that the script has for it, and a point prompt with others."""

    answers: dict
    size: tuple = (8, 8)
    name = fingerprint = "scripted"

    def encode(self, image):
        return Embedding(self.size)

    def predict(self, embedding, prompts, *, min_pred_iou=None):
        keys = [tuple(box) for box in prompts.boxes.int().tolist()]
        if prompts.points is not None:
            keys = [(*key, *points) for key, points in zip(keys, prompts.points[:, 0].tolist(), strict=True)]
        masks = torch.cat([frame(*self.answers[key][0], size=self.size) for key in keys])
        iou = torch.tensor([self.answers[key][1] for key in keys])
        return Masks(masks, iou, torch.full_like(iou, 0.5), boxes_in_photo(masks, self.size), self.size)


def segmented(answers, *boxes, free=None, size=(8, 8), **settings):
    """Masks (P, H, W) and `BoxMasks` of ``boxes``, answered by the script."""
    scripted = Scripted(answers, size)
    prompts = Prompts(boxes=torch.tensor(boxes).float().reshape(-1, 4))
    result = masks_of_boxes(scripted, scripted.encode(None), prompts, BoxMaskSettings(**settings), free=free)
    return [mask_from_rle(rle) for rle in result.rles], result


def test_an_empty_mask_becomes_its_box():
    boxes = [(2, 1, 6, 5), (0, 0, 3, 3)]
    answers = {boxes[0]: ([], [0.9, 0.9, 0.9]), boxes[1]: ([(0, 0, 3, 2)], [0.8, 0.9, 0.9])}
    masks, result = segmented(answers, *boxes, size=(10, 12))
    assert torch.equal(masks[0], box_mask(torch.tensor(boxes[0]), (10, 12)))
    assert result.predicted_iou.tolist() == pytest.approx([0.0, 0.8])
    assert result.box_agreement.tolist() == pytest.approx([1.0, 6 / 9])
    assert result.stability.tolist() == [0.0, 0.5]
    assert result.quality.tolist() == pytest.approx([0.0, 0.8 * 6 / 9])
    assert segmented(answers)[1].quality.shape == (0,)


def test_quality_is_a_product_in_0_to_1():
    quality = mask_quality(torch.tensor([1.2, -0.1, 0.5]), torch.tensor([0.5, 1.0, 0.5]))
    assert quality.tolist() == pytest.approx([0.5, 0.0, 0.25])


LEFT, RIGHT, INNER = (0, 0, 5, 4), (3, 0, 8, 4), (1, 1, 3, 3)
CLAIMS = {box: ([box], [iou, 0.0, 0.0]) for box, iou in ((LEFT, 0.6), (RIGHT, 0.9), (INNER, 0.7))}
"""Three boxes whose masks fill them: RIGHT meets LEFT in two columns, INNER lies inside LEFT."""


@pytest.mark.parametrize(
    ("overlaps", "areas"),
    [
        ("off", [20, 20, 4]),
        ("score", [20 - 8 - 4, 20, 4]),  # RIGHT, then INNER, then LEFT
        ("smaller", [20 - 4, 20 - 8, 4]),  # INNER, then LEFT, the first of equals, then RIGHT
    ],
)
def test_overlaps(overlaps, areas):
    masks, result = segmented(CLAIMS, LEFT, RIGHT, INNER, overlaps=overlaps)
    assert [int(mask.sum()) for mask in masks] == areas
    if overlaps != "off":
        assert int(torch.stack(masks).sum(0).max()) == 1
        own = [[20 / 20, 20 / 20, 1], [12 / 20, 20 / 20, 1]][overlaps == "score"]
        own[1] = own[1] if overlaps == "score" else 12 / 20
        assert result.box_agreement.tolist() == pytest.approx(own)


def test_a_swallowed_mask_keeps_its_pixels_and_is_not_trusted():
    answers = {LEFT: ([LEFT], [0.9, 0, 0]), INNER: ([INNER], [0.5, 0, 0])}
    masks, result = segmented(answers, LEFT, INNER, overlaps="score")
    assert [int(mask.sum()) for mask in masks] == [20, 4]
    assert result.quality.tolist() == pytest.approx([0.9, 0.0])


def test_regions_to_ignore_take_no_pixels():
    masks, result = segmented(CLAIMS, LEFT, RIGHT, overlaps="score", free=torch.tensor([False, True]))
    assert [int(mask.sum()) for mask in masks] == [20, 20]
    assert result.quality.tolist() == pytest.approx([0.6, 0.9])


def test_a_mask_is_cleaned_before_it_takes_pixels():
    box = (0, 0, 8, 8)
    ring = frame((0, 0, 5, 5))[0, 0]
    ring[2, 2] = False
    ring[7, 7] = True
    answer = Masks(
        torch.stack([ring, ring, ring])[None],
        torch.tensor([[0.9, 0.1, 0.1]]),
        torch.ones(1, 3),
        torch.tensor([[box] * 3]).float(),
        (8, 8),
    )

    class Ring(Scripted):
        def predict(self, embedding, prompts, *, min_pred_iou=None):
            return answer

    prompts = Prompts(boxes=torch.tensor([box]).float())
    settings = BoxMaskSettings(min_fragment=0.1, max_hole=0.1)
    (rle,) = masks_of_boxes(Ring({}), Embedding((8, 8)), prompts, settings).rles
    assert torch.equal(mask_from_rle(rle), frame((0, 0, 5, 5))[0, 0])


def test_a_second_pass_without_mask_prompts_asks_at_the_deepest_point():
    box, other = (0, 0, 5, 5), (6, 6, 8, 8)
    answers = {
        box: ([(0, 0, 3, 3)], [0.9, 0, 0]),
        (*box, 1.5, 1.5): ([(0, 0, 5, 4)], [0.7, 0, 0]),
        other: ([(6, 6, 8, 8)], [0.8, 0, 0]),
        (*other, 6.5, 6.5): ([], [0.9, 0.9, 0.9]),  # nothing at second: the first mask stays
    }
    masks, result = segmented(answers, box, other, second_pass=True)
    assert [int(mask.sum()) for mask in masks] == [20, 4]
    assert result.predicted_iou.tolist() == pytest.approx([0.7, 0.8])


def test_points_go_with_the_boxes_they_lie_in():
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20]])
    points = [torch.tensor([[5.0, 5], [12, 5], [1, 1], [2, 2]]), torch.tensor([[10.0, 0]]), torch.zeros(0, 2)]
    prompts = box_prompts(boxes, points, most=2)
    assert prompts.points.tolist() == [[[5, 5], [1, 1]], [[10, 0], [0, 0]], [[0, 0], [0, 0]]]
    assert prompts.point_labels.tolist() == [[1, 1], [1, -1], [-1, -1]]
    assert box_prompts(boxes, [xy[:0] for xy in points], most=2).points is None


@pytest.mark.parametrize("settings", [{}, {"second_pass": True, "mask_choice": "combined", "overlaps": "smaller"}])
def test_batches_equal_one_by_one(settings):
    """Several boxes, with and without points, in batches of two and all at once."""
    nano = SamNano.load()
    embedding = nano.encode(noise_photo((60, 80)))
    boxes = torch.tensor([[5.0, 5, 40, 50], [30, 10, 70, 55], [2, 2, 78, 58], [20, 20, 30, 30], [50, 5, 75, 25]])
    prompts = box_prompts(boxes, [box.view(2, 2).mean(0)[None] for box in boxes[:3]] + [torch.zeros(0, 2)] * 2, 1)
    results = [
        masks_of_boxes(nano, embedding, prompts, BoxMaskSettings(**settings), BatchLimit(size)) for size in (2, 64)
    ]
    assert results[0].rles == results[1].rles
    for name in ("predicted_iou", "stability", "box_agreement"):
        assert torch.allclose(getattr(results[0], name), getattr(results[1], name), atol=1e-5)


def test_a_second_pass_prompts_sam_with_the_logits_of_the_first():
    segmenter = SegmentAnything(random_sam(20), "toy", "toy")
    assert segmenter.sam.device == CPU
    embedding = segmenter.encode(noise_photo((50, 70), 2))
    boxes = torch.tensor([[5.0, 5, 40, 45], [20, 10, 60, 40]])
    first = segmenter.predict(embedding, Prompts(boxes=boxes))
    chosen = choose_masks(first, boxes, "predicted_iou")
    second = segmenter.predict(embedding, Prompts(boxes=boxes, mask_logits=first.logits[torch.arange(2), chosen]))
    again = choose_masks(second, boxes, "predicted_iou")
    expected = second.full(torch.arange(2), again)
    assert expected.flatten(1).any(1).all(), "the toy must find something at second"
    result = masks_of_boxes(segmenter, embedding, Prompts(boxes=boxes), BoxMaskSettings(second_pass=True))
    assert torch.equal(torch.stack([mask_from_rle(rle) for rle in result.rles]), expected)


def test_settings_as_before_leave_the_fingerprint_as_it_was():
    assert BoxMaskSettings().prompting_key() == {"mask_choice": "predicted_iou"}
    assert BoxMaskSettings(second_pass=True).prompting_key() == {"mask_choice": "predicted_iou", "second_pass": True}
