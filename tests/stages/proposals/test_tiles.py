"""Proposals in tiles find what lies across seams, keep its source and mask, and leave small photos as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.helpers import CPU, block_photo, context
from weaksam.data.dataset import SplitSettings, load_photos
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.stages import proposals as proposal_stage
from weaksam.stages.proposals import ProposalSettings, propose
from weaksam.stages.proposals.tiles import clues_in
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.clue_points import COARSE, GRID, CluePoints
from weaksam.structures.masks import boxes_from_masks, mask_from_rle
from weaksam.structures.proposals import Proposals
from weaksam.structures.tiling import Tile

TREE = build_segmenter(SegmenterSettings(family="tree"), CPU)


def wide_photo() -> np.ndarray:
    """A grey photo (160, 420) with a red block across the seam of its tiles, a blue one and a small green one."""
    image = np.full((160, 420, 3), 120, np.uint8)
    image[30:110, 120:230] = (220, 60, 60)
    image[20:60, 300:380] = (40, 60, 220)
    image[130:150, 20:50] = (30, 200, 40)
    return image


BLOCKS = torch.tensor([[120.0, 30, 230, 110], [300, 20, 380, 60], [20, 130, 50, 150]])


def test_blocks_across_seams_are_proposed() -> None:
    proposals = propose(TREE, wide_photo(), settings=ProposalSettings(tile=160, tile_overlap=0.25))
    overlap = pairwise_iou(BLOCKS, proposals.boxes)
    assert (overlap.max(dim=1).values > 0.8).all()
    assert proposals.mask_size == (160, 420) and proposals.has_masks
    best = int(overlap[0].argmax())
    mask = mask_from_rle(proposals.rles[best])
    assert mask.shape == (160, 420) and float(pairwise_iou(boxes_from_masks(mask[None]), BLOCKS[:1])) > 0.8
    assert (proposals.scores.diff() <= 0).all()
    assert float(pairwise_iou(proposals.boxes, proposals.boxes).fill_diagonal_(0).max()) <= 0.9


def test_a_photo_no_larger_than_a_tile_is_proposed_for_whole() -> None:
    whole = propose(TREE, block_photo(0), settings=ProposalSettings())
    tiled = propose(TREE, block_photo(0), settings=ProposalSettings(tile=160))
    assert torch.equal(whole.boxes, tiled.boxes) and whole.rles == tiled.rles


def test_clue_points_prompt_the_tiles_that_hold_them() -> None:
    clues = CluePoints.of(torch.tensor([[10.0, 5.0], [100.0, 50.0], [160.0, 60.0]]), torch.tensor([0, 1, 2]))
    inside = clues_in(clues, Tile(60, 40, 160, 100))
    assert inside.points.tolist() == [[40, 10]] and inside.labels.tolist() == [1]
    point = CluePoints.of(torch.tensor([[175.0, 70.0]]), torch.tensor([0]))  # on the red block
    settings = ProposalSettings(tile=160, grid_side=0, min_side=4)
    proposals = propose(TREE, wide_photo(), point, settings)
    assert len(proposals) > 0 and set(proposals.sources.tolist()) == {COARSE}
    with_grid = propose(TREE, wide_photo(), point, ProposalSettings(tile=160))
    assert {GRID, COARSE} <= set(with_grid.sources.tolist())


def test_the_stage_writes_what_the_function_proposes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(wide_photo()).save(tmp_path / "photos" / "a.png")
    Image.fromarray(block_photo(0)).save(tmp_path / "photos" / "b.png")
    photos = load_photos(SplitSettings(images=tmp_path / "photos"), name="train")
    settings = ProposalSettings(tile=160)
    store = proposal_stage.run(
        context(tmp_path, photos), settings, TREE, lambda image_id: CluePoints.none(), photos, "train"
    )
    for name, image in (("a.png", wide_photo()), ("b.png", block_photo(0))):
        stored, wanted = Proposals.from_row(store[name]), propose(TREE, image, settings=settings)
        assert torch.equal(stored.boxes, wanted.boxes) and stored.rles == wanted.rles
        assert stored.mask_size == wanted.mask_size
