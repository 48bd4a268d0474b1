"""Labelled points prompt beside boxes, and labelled masks are taken as they are."""

from dataclasses import replace

import torch

from tests.helpers import UNTRAINED_BACKBONE, context, draw_squares, instances
from weaksam.data.sample_photos import read_photo
from weaksam.engine.labelled_masks import points_of_marks, with_given_masks
from weaksam.engine.pseudo_masks import make_pseudo_masks, prompts_of_boxes
from weaksam.sam.batches import BatchLimit
from weaksam.sam.box_masks import BoxMasks, box_prompts, masks_of_boxes
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.wsis.settings import PseudoMaskSettings
from weaksam.structures.clue_points import CluePeaks
from weaksam.structures.masks import rle_from_mask
from weaksam.structures.photo_labels import NO_LABELS, Marks, PhotoLabels


def marks(*points: tuple[float, float], label: int = 0) -> Marks:
    """Marks of points of one class."""
    return Marks.of_points(torch.tensor(points), torch.full((len(points),), label))


def test_a_box_has_the_points_of_the_mark_of_its_class_nearest_its_middle():
    objects = instances([(0, 0, 10, 10), (20, 0, 30, 10), (0, 0, 10, 10)], [0, 0, 1])
    of_boxes = points_of_marks(objects, PhotoLabels(marks=marks((1, 1), (6, 4))))
    assert [points.tolist() for points in of_boxes] == [[[6, 4]], [], []]
    assert [len(points) for points in points_of_marks(objects, NO_LABELS)] == [0, 0, 0]


def test_the_mask_of_a_labelled_box_is_the_labelled_one():
    other, own = (rle_from_mask(torch.full((4, 4), covered)) for covered in (False, True))
    masks = BoxMasks([other, other, other], *(torch.full((3,), 0.5) for _ in range(3)))
    objects = instances([(0, 0, 4, 4), (1, 0, 4, 4), (0, 0, 4, 4)], [0, 0, 1])
    labels = PhotoLabels(instances([(1, 0, 4, 4), (0, 0, 4, 4)]), (None, own))
    result = with_given_masks(masks, objects, labels)
    assert result.rles == [own, other, other]
    for values in (result.predicted_iou, result.stability, result.box_agreement):
        assert values.tolist() == [1.0, 0.5, 0.5]
    assert with_given_masks(masks, objects, NO_LABELS) is masks


def test_the_store_prompts_with_labelled_points_and_keeps_labelled_masks(tmp_path):
    squares = draw_squares(tmp_path)
    plain, segmenter = context(tmp_path / "out", squares, backbone=UNTRAINED_BACKBONE), RegionTreeSegmenter()
    pseudo = {sample.image_id: sample.truth for sample in squares}
    settings = PseudoMaskSettings()
    store = make_pseudo_masks(plain, settings, segmenter, pseudo, "wsis")
    first, second = squares.samples[0], squares.samples[1]
    own = torch.zeros(first.size, dtype=torch.bool)
    own[10:20, 10:20] = True
    middle = second.truth.boxes[:1, :2] + 3
    labels = {
        first.image_id: PhotoLabels(first.truth, (rle_from_mask(own),)),
        second.image_id: PhotoLabels(marks=Marks.of_points(middle, torch.tensor([0]))),
    }
    labelled = replace(plain, labels=labels)
    known = make_pseudo_masks(labelled, settings, segmenter, pseudo, "wsis")
    assert known.fingerprint != store.fingerprint
    assert known[first.image_id]["rles"][0] == rle_from_mask(own)
    assert known[first.image_id]["predicted_iou"][0] == known[first.image_id]["box_agreement"][0] == 1
    embedding = segmenter.encode(read_photo(second))
    prompts = box_prompts(second.truth.boxes, [middle, torch.zeros(0, 2)], 3)
    assert known[second.image_id]["rles"] == masks_of_boxes(segmenter, embedding, prompts, settings).rles
    third = squares.samples[2].image_id
    assert known[third]["rles"] == store[third]["rles"]
    # Of counts masks know nothing
    counted = replace(plain, labels={first.image_id: PhotoLabels(counts={0: 1})})
    assert make_pseudo_masks(counted, settings, segmenter, pseudo, "wsis").fingerprint == store.fingerprint


def test_a_box_without_a_mark_keeps_its_peaks(tmp_path):
    sample = draw_squares(tmp_path).samples[1]  # two squares, of class 0 and 1
    segmenter = RegionTreeSegmenter()
    embedding, boxes = segmenter.encode(read_photo(sample)), sample.truth
    middles = (boxes.boxes[:, :2] + boxes.boxes[:, 2:]) / 2
    peaks = CluePeaks(
        torch.cat([middles[1:] + 4, middles[1:] + 2, torch.zeros(1, 2)]),
        torch.tensor([1, 1, 1]),
        torch.ones(3).long(),
        torch.tensor([0.5, 0.7, 0.9]),
    )
    settings = PseudoMaskSettings(prompt_peaks=1)
    labels = PhotoLabels(marks=Marks.of_points(middles[:1], torch.tensor([0])))
    ours = prompts_of_boxes(boxes, peaks, settings, labels)
    result = masks_of_boxes(segmenter, embedding, ours, settings, BatchLimit(8))
    prompts = box_prompts(boxes.boxes, [middles[:1], middles[1:] + 2], 1)  # the highest peak lies outside
    assert result.rles == masks_of_boxes(segmenter, embedding, prompts, settings).rles
