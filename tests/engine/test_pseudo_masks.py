"""Stores of pseudo masks: what decides them, peaks that prompt, quality, and objects that can have no mask."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers import UNTRAINED_BACKBONE, context, draw_squares
from weaksam.config import UserError, fingerprint_of
from weaksam.data.detection_stores import instances_key
from weaksam.data.formats.coco import write_instances
from weaksam.data.sample_photos import read_photo
from weaksam.engine.pseudo_masks import (
    StoredPeaks,
    make_pseudo_masks,
    peaks_of_boxes,
    stored_certainties,
    stored_qualities,
    usable_pseudo_gt,
)
from weaksam.engine.seeds import derive_seed
from weaksam.sam.batches import BatchLimit
from weaksam.sam.box_masks import box_prompts, masks_of_boxes
from weaksam.sam.ensemble import fused_boxes
from weaksam.sam.flipped_views import draw_views
from weaksam.sam.prompts import Prompts
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.wsis.settings import PseudoMaskSettings
from weaksam.stages.wsis.weights import training_masks
from weaksam.structures.clue_points import CluePeaks
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_from_rle, rle_from_mask


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Photos of squares with true boxes, the last without any."""
    return draw_squares(tmp_path_factory.mktemp("squares"))


def pseudo_boxes(dataset):
    return {sample.image_id: Instances(sample.truth.boxes, sample.truth.labels) for sample in dataset}


def test_a_store_holds_what_one_photo_after_the_other_gives(tmp_path, squares):
    run_context, segmenter = context(tmp_path, squares, backbone=UNTRAINED_BACKBONE), RegionTreeSegmenter()
    pseudo = pseudo_boxes(squares)
    first = squares.image_ids[0]
    pseudo[first] = Instances.empty()
    settings = PseudoMaskSettings(mask_choice="combined")
    store = make_pseudo_masks(run_context, settings, segmenter, pseudo, "wsis")
    for image_id, row in zip(squares.image_ids, store.rows(), strict=True):
        if image_id == first:
            assert len(row["boxes"]) == 0 and row["rles"] == []
            continue
        embedding = segmenter.encode(read_photo(squares.by_id[image_id]))
        masks = masks_of_boxes(segmenter, embedding, Prompts(boxes=pseudo[image_id].boxes), settings)
        assert row["rles"] == masks.rles
        for name in ("predicted_iou", "stability", "box_agreement"):
            assert torch.equal(row[name], getattr(masks, name))
        assert torch.equal(stored_qualities(store)[image_id], masks.quality)
        assert bool((masks.quality > 0.5).all())


def test_settings_as_before_find_the_masks_of_before(tmp_path, squares):
    """The key is the one of the version that knew no other settings, and its trainings are found again."""
    run_context, segmenter = context(tmp_path, squares, backbone=UNTRAINED_BACKBONE), RegionTreeSegmenter()
    pseudo = pseudo_boxes(squares)
    store = make_pseudo_masks(run_context, PseudoMaskSettings(), segmenter, pseudo, "wsis")
    assert store.fingerprint == fingerprint_of(
        {
            "stage": "wsis pseudo masks",
            "mask_choice": "predicted_iou",
            "segmenter": segmenter.fingerprint,
            "train": squares.fingerprint,
            "pseudo_gt": instances_key(pseudo),
        }
    )
    other = make_pseudo_masks(run_context, PseudoMaskSettings(overlaps="score"), segmenter, pseudo, "wsis")
    assert other.fingerprint != store.fingerprint


def test_masks_are_fused_over_views_of_their_photo(tmp_path, squares):
    run_context, segmenter = context(tmp_path, squares, backbone=UNTRAINED_BACKBONE), RegionTreeSegmenter()
    pseudo = pseudo_boxes(squares)
    pseudo[squares.image_ids[1]] = Instances.empty()
    settings = PseudoMaskSettings(ensemble_views=3, mask_weights="certainty")
    store = make_pseudo_masks(run_context, settings, segmenter, pseudo, "wsis")
    plain = make_pseudo_masks(run_context, PseudoMaskSettings(), segmenter, pseudo, "wsis")
    assert store.fingerprint != plain.fingerprint and store[squares.image_ids[1]]["rles"] == []
    other_seed = replace(run_context, seed=run_context.seed + 1)
    assert make_pseudo_masks(other_seed, settings, segmenter, pseudo, "wsis").fingerprint != store.fingerprint
    assert make_pseudo_masks(other_seed, PseudoMaskSettings(), segmenter, pseudo, "wsis").folder == plain.folder
    certainty = stored_certainties(store)
    weights = {image_id: of.mask_weights for image_id, of in training_masks(store, settings).items()}
    for sample in squares:
        row = store[sample.image_id]
        generator = torch.Generator().manual_seed(derive_seed(run_context.seed, "wsis", "views", sample.image_id))
        views, prompts = draw_views(3, generator), Prompts(boxes=pseudo[sample.image_id].boxes)
        fused = fused_boxes(segmenter, read_photo(sample), prompts, settings, views, BatchLimit(2))
        assert row["rles"] == fused.rles and torch.equal(row["stability"], fused.stability)
        assert torch.equal(weights[sample.image_id], certainty[sample.image_id])


def test_peaks_of_a_box_are_those_of_its_class_the_highest_first():
    objects = Instances(torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20]]), torch.tensor([0, 1]))
    points = torch.tensor([[1.0, 1], [6, 6], [7, 7], [30, 30]])
    labels, heights = torch.tensor([0, 1, 0, 0]), torch.tensor([0.5, 0.7, 0.9, 1.0])
    peaks = CluePeaks(points, labels, torch.zeros(4).long(), heights)
    of_boxes = peaks_of_boxes(objects, peaks)
    assert [xy.tolist() for xy in of_boxes] == [[[30, 30], [7, 7], [1, 1]], [[6, 6]]]
    assert box_prompts(objects.boxes, of_boxes, 1).points.tolist() == [[[7, 7]], [[6, 6]]]


class Remembering(RegionTreeSegmenter):
    """The region tree, which keeps the prompts it was asked."""

    def predict(self, embedding, prompts, **others):
        self.prompts = prompts
        return super().predict(embedding, prompts, **others)


def test_peaks_prompt_beside_the_boxes_if_asked_for(tmp_path, squares):
    run_context, segmenter = context(tmp_path, squares, backbone=UNTRAINED_BACKBONE), Remembering()
    image_id = squares.image_ids[0]
    objects = pseudo_boxes(squares)[image_id]
    centre = objects.boxes[0].view(2, 2).mean(0)
    peaks = CluePeaks(centre[None], objects.labels[:1], torch.zeros(1).long(), torch.ones(1))
    settings = PseudoMaskSettings(prompt_peaks=3)
    arguments = (run_context, settings, segmenter, {image_id: objects}, "wsis")
    with pytest.raises(UserError, match=r"wsis\.prompt_peaks=3") as caught:
        make_pseudo_masks(*arguments)
    assert "\n" not in str(caught.value)
    store = make_pseudo_masks(*arguments, StoredPeaks(lambda _: peaks, "one"))
    assert segmenter.prompts.points[0].tolist() == [centre.tolist()]
    assert make_pseudo_masks(*arguments, StoredPeaks(lambda _: peaks, "other")).fingerprint != store.fingerprint


def test_objects_without_a_place_on_the_photo_are_left_out_with_a_sentence(tmp_path, squares, capsys):
    run_context = context(tmp_path, squares, backbone=UNTRAINED_BACKBONE)
    image_id = squares.image_ids[0]
    height, width = squares.by_id[image_id].size
    good = [1.0, 1.0, width - 1.0, height - 1.0]
    boxes = torch.tensor([[width + 5.0, 3, width + 9, 9], good, [4.0, 4, 4, 9], good, [-5.0, -5, 0.5, 9]])
    whole = rle_from_mask(torch.ones(height, width, dtype=torch.bool))
    masks = (whole, whole, whole, rle_from_mask(torch.ones(3, 4, dtype=torch.bool)), whole)
    crowd = torch.tensor([True, True, False, False, False])
    objects = Instances(boxes, torch.arange(5) % 2, masks=masks, crowd=crowd)
    usable = usable_pseudo_gt(run_context, {image_id: objects}, "wsis")[image_id]
    assert usable.boxes.tolist() == [good] and usable.crowd.tolist() == [True]
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 4 and all(image_id in sentence for sentence in said)
    assert f"wanted a mask of {width} x {height} pixels on {image_id}, found one of 4 x 3" in said[2]
    untouched = pseudo_boxes(squares)[image_id]
    assert usable_pseudo_gt(run_context, {image_id: untouched}, "wsis")[image_id] is untouched


def test_numbers_of_masks_are_written_beside_them(tmp_path, squares):
    objects = pseudo_boxes(squares)
    numbers = {"mask_quality": {image_id: torch.full((len(of),), 0.25) for image_id, of in objects.items()}}
    write_instances(tmp_path / "masks.json", squares, objects, numbers)
    annotations = json.loads((tmp_path / "masks.json").read_text())["annotations"]
    assert len(annotations) == sum(map(len, objects.values()))
    assert all(annotation["mask_quality"] == 0.25 for annotation in annotations)


def test_masks_fit_the_boxes_of_squares(tmp_path, squares):
    run_context = context(tmp_path, squares, backbone=UNTRAINED_BACKBONE)
    settings = PseudoMaskSettings(second_pass=True, overlaps="smaller", min_fragment=0.2, max_hole=0.2)
    store = make_pseudo_masks(run_context, settings, RegionTreeSegmenter(), pseudo_boxes(squares), "wsis")
    for row in store.rows():
        own = np.array([box_from_rle(rle).tolist() for rle in row["rles"]]).reshape(-1, 4)
        assert np.abs(own - row["boxes"].numpy()).max(initial=0) <= 4
