"""Proposals: grid and clue prompts on one encoding, suppressed without a trace of the order."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import block_photo, candidates, context, random_sam
from weaksam.config import Settings, UserError
from weaksam.data.loading import SplitSettings, load_dataset
from weaksam.sam.official.segmenter import SegmentAnything
from weaksam.sam.prompts import Prompts
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter
from weaksam.stages.proposals import ProposalSettings, choose_candidates, grid_of, propose, run
from weaksam.stages.proposals.candidates import canonical_order
from weaksam.structures.clue_points import COARSE, COARSE_JOINT, CluePoints
from weaksam.structures.masks import mask_from_rle


def toy_sam() -> SegmentAnything:
    return SegmentAnything(random_sam(5, decoder_depth=1), "toy", "0")


def test_suppression_does_not_depend_on_the_order():
    # The published example in half-open boxes: IoU 0.96, 0.81 and, between the second and third, 0.84
    boxes = [[0, 0, 100, 100], [0, 0, 96, 100], [0, 0, 81, 100], [200, 200, 251, 251]]
    settings = ProposalSettings(nms_iou=0.9, min_side=1)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        tied = choose_candidates(candidates([boxes[i] for i in order], [0.5] * 4), (300, 300), settings)
        # Among equals the first by coordinates stays: of the pair at 0.96 the one that ends at 96
        assert tied.boxes.tolist() == [boxes[2], boxes[1], boxes[3]]
        scores = [0.9, 0.8, 0.7, 0.6]
        scored = choose_candidates(
            candidates([boxes[i] for i in order], [scores[i] for i in order]), (300, 300), settings
        )
        assert scored.boxes.tolist() == [boxes[0], boxes[2], boxes[3]]
        again = choose_candidates(scored, (300, 300), settings)
        assert torch.equal(again.boxes, scored.boxes)


def test_of_equal_boxes_the_clue_prompts_stays():
    order = canonical_order(candidates([[0, 0, 9, 9]] * 3, [0.5] * 3, [0, 2, 1]))
    assert order.sources.tolist() == [2, 1, 0]


def test_small_and_large_boxes_are_dropped_at_the_limits():
    boxes = [[0, 0, 16, 50], [0, 0, 15.9, 50], [10, 0, 100, 90], [0, 0, 100, 91]]
    settings = ProposalSettings(min_side=16, max_area=0.81, nms_iou=1.0)
    kept = choose_candidates(candidates(boxes, [0.9, 0.8, 0.7, 0.6]), (100, 100), settings)
    assert kept.boxes.tolist() == [boxes[0], boxes[2]]


def test_the_grid_never_crowds_out_the_clues():
    boxes = [[i * 20, 0, i * 20 + 18, 18] for i in range(5)]
    regions = candidates(boxes, [0.9, 0.8, 0.7, 0.2, 0.1], [0, 0, 0, 1, 2])
    kept = choose_candidates(regions, (100, 100), ProposalSettings(max_proposals=3))
    assert kept.sources.tolist() == [0, 1, 2]
    assert kept.scores.tolist() == pytest.approx([0.9, 0.2, 0.1])


def test_clues_find_their_objects_in_a_painted_photo():
    clues = CluePoints.of(torch.tensor([[60.0, 40.0], [120.0, 90.0]]), torch.tensor([1, 0]))
    settings = ProposalSettings(grid_side=0, clue_masks=(0, 1, 2))
    proposals = propose(RegionTreeSegmenter(), block_photo(), clues, settings)
    assert proposals.mask_size == (120, 160)
    for wanted in ([30, 20, 90, 60], [100, 70, 150, 110]):
        at = (proposals.boxes - torch.tensor(wanted)).abs().amax(1).argmin()
        assert (proposals.boxes[at] - torch.tensor(wanted)).abs().max() <= 1
        mask = mask_from_rle(proposals.rles[at])
        x1, y1, x2, y2 = wanted
        assert mask[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
        assert mask.sum() <= (x2 - x1 + 2) * (y2 - y1 + 2)
    assert set(proposals.sources.tolist()) == {1}  # one point per class: nothing to join


def test_the_order_of_the_points_does_not_matter():
    clues = CluePoints.of(torch.tensor([[60.0, 40.0], [120.0, 90.0], [50.0, 30.0]]), torch.tensor([1, 0, 1]))
    proposals = propose(RegionTreeSegmenter(), block_photo(), clues)
    reordered = propose(RegionTreeSegmenter(), block_photo(), clues.select(torch.tensor([2, 0, 1])))
    assert torch.equal(proposals.boxes, reordered.boxes)
    assert torch.equal(proposals.sources, reordered.sources)
    assert proposals.rles == reordered.rles


def test_a_photo_is_encoded_once():
    class Counting(RegionTreeSegmenter):
        encodings = 0

        def encode(self, image):
            self.encodings += 1
            return super().encode(image)

    segmenter = Counting()
    points = torch.tensor([[60.0, 40.0], [50.0, 30.0], [120.0, 90.0]])
    propose(segmenter, block_photo(), CluePoints.of(points, torch.tensor([1, 1, 0])))
    assert segmenter.encodings == 1


def test_nothing_found_is_no_proposal_and_not_the_whole_photo():
    flat = np.full((60, 80, 3), 7, dtype=np.uint8)
    proposals = propose(RegionTreeSegmenter(), flat)
    assert proposals.boxes.shape == (0, 4)
    assert proposals.scores.shape == proposals.sources.shape == (0,)
    assert proposals.rles == ()
    unprompted = propose(RegionTreeSegmenter(), block_photo(), settings=ProposalSettings(grid_side=0))
    assert unprompted.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (block_photo().astype(np.float32), r"float32 \(120, 160, 3\)"),
        (block_photo()[..., 0], r"uint8 \(120, 160\)"),
        (np.zeros((9, 9, 4), np.uint8), r"uint8 \(9, 9, 4\)"),
    ],
)
def test_a_photo_of_another_kind_is_refused_in_one_sentence(image, found):
    with pytest.raises(UserError, match=rf"wanted a photo as uint8 \(H, W, 3\), found {found}: convert it"):
        propose(RegionTreeSegmenter(), image)


@pytest.mark.parametrize(
    ("points", "labels", "kinds"),
    [((2, 2), (3,), (2,)), ((2, 2), (2,), (1,)), ((2, 3), (2,), (2,)), ((2,), (), ()), ((1, 1, 2), (1, 1), (1, 1))],
)
def test_clue_points_that_do_not_fit_together_are_refused(points, labels, kinds):
    clues = CluePoints(torch.zeros(points), torch.zeros(labels).long(), torch.ones(kinds).long())
    with pytest.raises(UserError, match=r"wanted clue points \(P, 2\) with labels and kinds \(P,\), found"):
        propose(RegionTreeSegmenter(), block_photo(), clues)


def test_sam_is_prompted_with_grid_points_and_classes():
    sam, image = toy_sam(), block_photo()
    points = torch.tensor([[60.0, 40.0], [50.0, 30.0], [120.0, 90.0]])
    clues = CluePoints.of(points, torch.tensor([1, 1, 0]))
    # Keep everything: 2 masks for each of 3 points and for the class with two points, as far as none is empty
    all_of_them = ProposalSettings(grid_side=0, min_side=0, nms_iou=1.0)
    proposals = propose(sam, image, clues, all_of_them)
    embedding = sam.encode(image)
    single = sam.predict(embedding, Prompts.single_points(points))
    joint = sam.predict(embedding, Prompts(points[None, :2]))
    for source, answer in ((COARSE, single), (COARSE_JOINT, joint)):
        larger = answer.boxes[:, 1:].reshape(-1, 4)
        wanted = larger[larger[:, 2] > 0]
        assert len(wanted) > 0
        assert all((proposals.boxes == box).all(1).any() for box in wanted)
        assert (proposals.sources == source).any()
    assert len(proposals.boxes) <= 2 * 3 + 2 * 1
    assert (proposals.sources > 0).all()
    # With the grid on, its thresholds hold for the grid alone
    strict = ProposalSettings(grid_side=4, min_pred_iou=1.0, min_side=0, nms_iou=1.0)
    loose = ProposalSettings(
        grid_side=4, min_pred_iou=0.0, min_stability=0.0, grid_nms_iou=1.0, min_side=0, nms_iou=1.0
    )
    num_strict = len(propose(sam, image, clues, strict).boxes)
    num_loose = len(propose(sam, image, clues, loose).boxes)
    assert num_loose > num_strict >= len(proposals.boxes)


def test_the_grid_is_the_published_one_for_sam_and_milder_for_small_models():
    for name in ("sam_vit_h", "sam2_hiera_tiny", "edgetam"):
        published = grid_of(name, ProposalSettings())
        assert (published.grid_side, published.min_pred_iou, published.min_stability) == (32, 0.3, 0.3)
        assert published.grid_nms_iou == 0.3
    assert grid_of("tree", ProposalSettings()).grid_side == 16
    assert grid_of("sam_nano", ProposalSettings()).grid_side == 16
    assert grid_of("sam_nano", ProposalSettings(grid_side=0, min_stability=0.5)).grid_side == 0
    assert grid_of("sam_nano", ProposalSettings(grid_side=0, min_stability=0.5)).min_stability == 0.5


@pytest.fixture()
def dataset(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(block_photo(i)).save(folder / f"{i}.png")
    Image.new("RGB", (60, 40)).save(folder / "flat.png")
    names = [f"{i}.png" for i in range(3)] + ["flat.png"]
    (tmp_path / "tags.csv").write_text("image,tags\n" + "".join(f"{name},block\n" for name in names))
    return load_dataset(SplitSettings(images=folder, tags=tmp_path / "tags.csv"), name="train")


def clues(image_id):
    """One point on the red block of 0.png and 2.png, none elsewhere."""
    if image_id in ("0.png", "2.png"):
        return CluePoints.of(torch.tensor([[60.0, 40.0]]), torch.tensor([0]))
    return CluePoints.none()


def test_run_fills_a_store_that_reads_back_what_propose_gives(dataset, tmp_path):
    segmenter, settings = RegionTreeSegmenter(), ProposalSettings(max_proposals=20)
    store = run(context(tmp_path / "out", dataset), settings, segmenter, clues, dataset, "train")
    assert store.sealed
    assert [row["image_id"] for row in store.rows()] == list(dataset.image_ids)
    expected = propose(segmenter, block_photo(2), clues("2.png"), settings)
    row = store["2.png"]
    assert torch.equal(row["boxes"], expected.boxes)
    assert torch.equal(row["sources"], expected.sources)
    assert row["rles"] == list(expected.rles)
    assert row["mask_size"].tolist() == [120, 160]
    assert 1 in row["sources"]
    assert 1 not in store["1.png"]["sources"]
    assert store["flat.png"]["boxes"].shape == (0, 4)
    assert store["flat.png"]["rles"] == []


def test_other_clues_settings_or_segmenter_make_another_store(dataset, tmp_path):
    def folder(settings=None, segmenter=None, clue_fingerprint=""):
        ctx = context(tmp_path / "out", dataset)
        settings, segmenter = settings or ProposalSettings(), segmenter or RegionTreeSegmenter()
        return run(ctx, settings, segmenter, clues, dataset, "train", clue_fingerprint=clue_fingerprint).folder

    first = folder()
    assert folder(ProposalSettings(batch_size=5)) == first  # changes no result
    others = {folder(ProposalSettings(min_side=20)), folder(clue_fingerprint="other")}
    assert len(others) == 2
    assert first not in others


def test_settings_are_frozen_and_checked():
    assert issubclass(ProposalSettings, Settings)
    with pytest.raises(ValueError):
        ProposalSettings(nms_iou=1.5)
