"""Masks of prompt boxes: which of the three is chosen, and what an empty one becomes."""

import numpy as np
import torch

from weaksam.sam.box_masks import box_mask, choose_masks, masks_of_boxes
from weaksam.sam.protocol import Masks, boxes_in_photo
from weaksam.structures.masks import mask_from_rle


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
    nothing = (0, 0, 0, 0)
    masks = one_prompt([nothing, (2, 2, 6, 6), nothing], [0.9, 0.1, 0.8])
    for choice in ("predicted_iou", "box_agreement"):
        assert choose_masks(masks, box, choice).tolist() == [1]


def test_box_mask_covers_every_pixel_the_box_touches():
    mask = box_mask(torch.tensor([1.5, -3.0, 3.2, 2.0]), (4, 6))
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[0:2, 1:4] = True
    assert torch.equal(mask, expected)


class Blind:
    """A segmenter that finds nothing, as any may on a box of plain sky."""

    name = fingerprint = "blind"

    def encode(self, image):
        return image.shape[:2]

    def predict(self, embedding, prompts, *, min_pred_iou=None):
        empty = torch.zeros(len(prompts), 3, 8, 8, dtype=torch.bool)
        iou, stability = torch.full((len(prompts), 3), 0.9), torch.zeros(len(prompts), 3)
        return Masks(empty, iou, stability, boxes_in_photo(empty, embedding), embedding)


def test_an_empty_mask_becomes_its_box():
    boxes = torch.tensor([[2.0, 1.0, 6.0, 5.0]])
    rles, predicted = masks_of_boxes(Blind(), np.zeros((10, 12, 3), np.uint8), boxes, "predicted_iou")
    assert torch.equal(mask_from_rle(rles[0]), box_mask(boxes[0], (10, 12)))
    assert predicted.tolist() == [0.0]
