"""Black photos, photos of one pixel and of one pixel's width: every segmenter answers them, with shapes as always."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import CPU, noise_photo, random_sam
from tests.sam.transformers.toys import write_toy
from weaksam.sam.box_masks import BoxMaskSettings, masks_of_boxes
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.sam.narrow_photos import widened
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import Masks, Segmenter
from weaksam.sam.transformers.segmenter import TransformersSam
from weaksam.stages.proposals import ProposalSettings, propose
from weaksam.structures.clue_points import CluePoints

SIZES = ((1, 1), (3000, 1), (1, 3000), (40, 40))


def official(folder: Path) -> Segmenter:
    torch.save(random_sam(3).state_dict(), folder / "toy.pth")
    return SegmentAnything.load(folder / "toy.pth", CPU)


MAKERS: dict[str, Callable[[Path], Segmenter]] = {
    "tree": lambda folder: build_segmenter(SegmenterSettings(family="tree"), CPU),
    "nano": lambda folder: build_segmenter(SegmenterSettings(family="nano"), CPU),
    "official": official,
    "sam": lambda folder: TransformersSam.load(write_toy("sam", folder / "toy"), CPU),
    "sam2": lambda folder: TransformersSam.load(write_toy("sam2", folder / "toy"), CPU),
}


@pytest.fixture(scope="module", params=MAKERS)
def segmenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


def columns(answer: Masks) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Type of each column of an answer, and its shape without the number of prompts."""
    tensors = (answer.masks, answer.iou, answer.stability, answer.boxes)
    return [(tensor.dtype, tuple(tensor.shape[1:])) for tensor in tensors]


@pytest.mark.parametrize("size", SIZES)
def test_no_prompt_is_answered_with_the_columns_of_an_answer(segmenter: Segmenter, size: tuple[int, int]) -> None:
    embedding = segmenter.encode(np.zeros((*size, 3), np.uint8))
    answer = segmenter.predict(embedding, Prompts(torch.tensor([[[0.5, 0.5]]])))
    for prompts in (Prompts(torch.zeros(0, 1, 2)), Prompts(boxes=torch.zeros(0, 4))):
        nothing = segmenter.predict(embedding, prompts)
        assert len(nothing) == 0 and nothing.size == size
        assert columns(nothing) == columns(answer)
        assert nothing.full(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)).shape == (0, *size)
    assert answer.full(torch.tensor([0]), torch.tensor([2])).shape == (1, *size)


@pytest.mark.parametrize("rules", ["ours", "original"])
@pytest.mark.parametrize("size", SIZES)
def test_an_odd_photo_has_proposals_that_a_store_takes(segmenter: Segmenter, size: tuple[int, int], rules: str) -> None:
    black = np.zeros((*size, 3), np.uint8)
    without_grid = ProposalSettings(rules=rules, grid_side=0, ask_for_regions=False)
    assert len(propose(segmenter, black, CluePoints.none(), without_grid)) == 0
    prompted = CluePoints.of(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
    for clues, settings in ((prompted, without_grid), (None, ProposalSettings(rules=rules, grid_side=2))):
        proposals = propose(segmenter, black, clues, settings)
        row = proposals.as_row()
        assert len(row["boxes"]) == len(row["scores"]) == len(row["sources"]) == len(row["rles"])
        assert torch.isfinite(row["boxes"]).all()


def test_masks_of_boxes_on_odd_photos(segmenter: Segmenter) -> None:
    for height, width in SIZES:
        black = np.zeros((height, width, 3), np.uint8)
        whole = torch.tensor([[0.0, 0.0, width, height]])
        embedding = segmenter.encode(black)
        masks = masks_of_boxes(segmenter, embedding, Prompts(boxes=whole), BoxMaskSettings())
        assert masks.rles[0]["size"] == [height, width] and masks.predicted_iou.shape == (1,)
        settings = BoxMaskSettings(mask_choice="box_agreement", second_pass=True)
        masks = masks_of_boxes(segmenter, embedding, Prompts(boxes=torch.zeros(0, 4)), settings)
        assert masks.rles == [] and masks.predicted_iou.shape == (0,)


@pytest.mark.parametrize(
    ("size", "side", "wanted"),
    [
        ((3000, 1), 1024, (1024, 1)),
        ((1, 3000), 1024, (1, 1024)),
        ((2, 5000), 1024, (1, 1024)),
        ((2048, 1), 1024, (2048, 1)),  # half a pixel is rounded up to one
        ((2049, 1), 1024, (1024, 1)),
        ((1, 1), 1024, (1, 1)),
        ((60, 80), 64, (60, 80)),
    ],
)
def test_a_photo_that_would_lose_its_width_keeps_a_pixel(
    size: tuple[int, int], side: int, wanted: tuple[int, int]
) -> None:
    photo = noise_photo(size)
    assert widened(photo, side).shape == (*wanted, 3)
    if size == wanted:
        assert widened(photo, side) is photo
