"""The region tree: trees, nodes and pairs on painted photos whose regions are known to the pixel."""

import higra
import numpy as np
import pytest
import torch

from weaksam.sam.prompts import Prompts
from weaksam.sam.protocol import boxes_in_photo
from weaksam.sam.region_tree.objectness import spread_out
from weaksam.sam.region_tree.segmenter import RegionTreeSegmenter, pick_three
from weaksam.sam.region_tree.settings import RegionTreeSettings
from weaksam.sam.region_tree.watershed import (
    best_distinct,
    build_tree,
    depth_first,
    edge_weights,
    inside_spans,
    lab_from_rgb,
    node_boxes,
    pixel_graph,
    region_masks,
    salient_nodes,
    touching,
    working_frame,
)
from weaksam.structures.boxes import nms


def nested_photo() -> np.ndarray:
    """Grey (80, 100); a red plate at rows and columns 10-70, on it a dark one at 20-50, on that a white one at 30-40.

    Apart from them a blue block at rows 30-60, columns 80-95.
    """
    image = np.full((80, 100, 3), 128, dtype=np.uint8)
    image[10:70, 10:70] = (200, 60, 60)
    image[20:50, 20:50] = (90, 20, 20)
    image[30:40, 30:40] = (250, 250, 250)
    image[30:60, 80:95] = (40, 60, 200)
    return image


@pytest.fixture(scope="module")
def segmenter():
    return RegionTreeSegmenter()


@pytest.fixture(scope="module")
def embedding(segmenter):
    return segmenter.encode(nested_photo())


def higra_tree(seed=0, frame=(9, 13)):
    lab = np.random.default_rng(seed).random((*frame, 3)).astype(np.float32) * 50
    return build_tree(lab, 0.0)[0]


def leaves_under(tree):
    """Leaves of every node, by walking up from each leaf."""
    parents = tree.parents()
    leaves = [set() for _ in range(tree.num_vertices())]
    for leaf in range(tree.num_leaves()):
        node = leaf
        leaves[node].add(leaf)
        while node != parents[node]:
            node = parents[node]
            leaves[node].add(leaf)
    return leaves


def test_lab_of_known_colours():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]]], dtype=np.uint8)
    expected = [[0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(lab_from_rgb(colours)[0], expected, atol=0.1)


def test_working_frame_shrinks_and_never_enlarges():
    assert working_frame(np.zeros((1000, 2000, 3), np.uint8), 256).shape == (128, 256, 3)
    assert working_frame(np.zeros((50, 20, 3), np.uint8), 256).shape == (50, 20, 3)
    assert working_frame(np.zeros((1, 3000, 3), np.uint8), 256).shape == (2, 256, 3)


def test_depth_first_order_makes_every_node_a_slice():
    tree = higra_tree()
    leaves = leaves_under(tree)
    area = np.array([len(members) for members in leaves])
    rank, first = depth_first(tree, area)
    assert sorted(rank) == list(range(tree.num_leaves()))
    for node, members in enumerate(leaves):
        assert {
            leaf for leaf in range(tree.num_leaves()) if first[node] <= rank[leaf] < first[node] + area[node]
        } == members


def test_node_boxes_enclose_their_leaves():
    tree = higra_tree()
    boxes = node_boxes(tree, (9, 13))
    for node, members in enumerate(leaves_under(tree)):
        y, x = np.divmod(np.array(sorted(members)), 13)
        assert boxes[node].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_masks_and_membership_agree_with_the_measured_area():
    lab = lab_from_rgb(nested_photo())
    nodes = salient_nodes(*build_tree(lab, 1.0), lab.shape[:2], 0.002, 0.97)
    index = torch.arange(len(nodes.area))
    masks = region_masks(nodes.pixels[None], nodes.spans, torch.zeros_like(index), nodes.frame)
    assert torch.equal(masks.sum((1, 2)), nodes.area)
    rank = nodes.pixels.argsort().expand(len(index), -1)
    assert torch.equal(inside_spans(rank, nodes.spans), masks.flatten(1))


def test_touching_is_four_neighbourhood():
    # Places 0, 1, 5 and 15 of a 4 x 4 frame are the pixels (0, 0), (0, 1), (1, 1) and (3, 3)
    spans = torch.tensor([[0, 1], [1, 2], [5, 6], [15, 16]], dtype=torch.int32)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = True  # side by side
    expected[1, 2] = expected[2, 1] = True  # one above the other; 0 and 2 meet at a corner only
    assert torch.equal(touching(torch.arange(16), spans, (4, 4)), expected)
    # A node touches neither itself nor what lies in it
    assert not touching(torch.arange(16), torch.tensor([[0, 8], [0, 4], [1, 2]]), (4, 4)).any()


def touching_masks(masks):
    """The plain way: shift every mask by a pixel and see whether it meets another, where none of two overlap."""
    right, down = masks[:, :, 1:].flatten(1).float(), masks[:, 1:].flatten(1).float()
    met = masks[:, :, :-1].flatten(1).float() @ right.T + masks[:, :-1].flatten(1).float() @ down.T
    overlap = masks.flatten(1).float() @ masks.flatten(1).float().T
    return (met + met.T > 0) & (overlap == 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_touching_equals_the_plain_way_on_nodes_of_a_tree(seed):
    lab = np.random.default_rng(seed).random((30, 41, 3)).astype(np.float32) * 50
    nodes = salient_nodes(*build_tree(lab, 1.0), lab.shape[:2], 0.002, 0.97)
    top = nodes.salience.argsort(descending=True)[:60]
    masks = region_masks(nodes.pixels[None], nodes.spans[top], torch.zeros_like(top), nodes.frame)
    expected = touching_masks(masks)
    assert 0 < expected.sum() < expected.numel() / 2
    assert torch.equal(touching(nodes.pixels, nodes.spans[top, 0], nodes.frame), expected)


@pytest.mark.parametrize("shape", [(9, 13), (2, 2), (1, 5), (5, 1)])
def test_edge_weights_equal_those_of_higra(shape):
    values = (np.random.default_rng(3).random((*shape, 3)) * 100).astype(np.float32)
    expected = higra.weight_graph(pixel_graph(*shape), values, higra.WeightFunction.L2)
    np.testing.assert_array_equal(edge_weights(values), expected)


@pytest.mark.parametrize("num", [1, 7, 40, 500])
def test_best_distinct_equals_the_first_of_a_full_suppression(num):
    draw = torch.Generator().manual_seed(5)
    corners = torch.rand(400, 2, generator=draw) * 40
    boxes = torch.cat([corners, corners + 5 + torch.rand(400, 2, generator=draw) * 40], 1)
    scores = (torch.rand(400, generator=draw) * 20).round() / 20  # many equal scores
    assert torch.equal(best_distinct(boxes, scores, 0.5, num), nms(boxes, scores, 0.5)[:num])


def test_a_point_gives_the_nested_regions_it_lies_in(segmenter, embedding):
    answer = segmenter.predict(embedding, Prompts(torch.tensor([[[35.0, 35.0]]])))
    assert answer.masks.shape == (1, 3, 80, 100)
    wanted = torch.tensor([[30, 30, 40, 40], [20, 20, 50, 50], [10, 10, 70, 70]]).float()
    assert (answer.boxes[0] - wanted).abs().max() <= 1
    small, middle, large = answer.masks[0]
    assert not (small & ~middle).any()
    assert not (middle & ~large).any()
    assert answer.masks[0, :, 35, 35].all()
    assert ((answer.iou > 0) & (answer.iou <= 1)).all()


def test_a_box_gives_the_region_that_fits_it(segmenter, embedding):
    wanted = torch.tensor([[80.0, 30.0, 95.0, 60.0], [21.0, 19.0, 51.0, 50.0]])
    answer = segmenter.predict(embedding, Prompts(boxes=wanted))
    best = answer.iou.argmax(1)
    rows = torch.arange(2)
    assert (answer.boxes[rows, best] - torch.tensor([[80.0, 30, 95, 60], [20, 20, 50, 50]])).abs().max() <= 1
    assert (answer.iou[rows, best] > 0.7).all()
    # Smoothing gives every object a thin rim of the same box: the rim is not the answer
    block = answer.full(rows, best)[0]
    assert block[31:59, 81:94].all()
    assert block.sum() <= 17 * 32


def test_points_of_a_class_are_answered_by_what_covers_them_and_spares_the_background(segmenter, embedding):
    two = torch.tensor([[[35.0, 35.0], [15.0, 15.0]], [[25.0, 25.0], [15.0, 60.0]]])
    answer = segmenter.predict(embedding, Prompts(two, torch.tensor([[1, 1], [1, 0]])))
    best = answer.iou.argmax(1)
    plate, square = answer.full(torch.arange(2), best)
    assert plate[35, 35]
    assert plate[15, 15]
    assert square[25, 25]
    assert not square[60, 15]


def test_padding_points_change_nothing(segmenter, embedding):
    bare = segmenter.predict(embedding, Prompts(torch.tensor([[[35.0, 35.0]]])))
    padded = segmenter.predict(
        embedding, Prompts(torch.tensor([[[35.0, 35.0], [90.0, 40.0]]]), torch.tensor([[1, -1]]))
    )
    assert torch.equal(bare.masks, padded.masks)
    assert torch.equal(bare.iou, padded.iou)


def test_no_prompt_gives_empty_tensors(segmenter, embedding):
    for prompts in (Prompts(torch.zeros(0, 1, 2)), Prompts(boxes=torch.zeros(0, 4))):
        answer = segmenter.predict(embedding, prompts)
        assert answer.masks.shape == (0, 3, 80, 100)
        assert answer.iou.shape == (0, 3)
        assert answer.boxes.shape == (0, 3, 4)


def test_regions_hold_every_object_best_first_without_duplicates(segmenter, embedding):
    regions = segmenter.regions(embedding, 50)
    for box in ([10, 10, 70, 70], [20, 20, 50, 50], [30, 30, 40, 40], [80, 30, 95, 60]):
        assert (regions.boxes - torch.tensor(box)).abs().amax(1).min() <= 1
    assert (regions.scores.diff() <= 0).all()
    assert regions.scores.max() <= 1
    few = segmenter.regions(embedding, 3)
    assert torch.equal(few.boxes, regions.boxes[:3])
    y, x = regions.masks[0].nonzero().T
    assert regions.boxes[0].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_an_object_of_two_colours_is_a_touching_pair():
    # Top and bottom half meet the differing backgrounds more softly than each other: no node holds just the two
    image = np.zeros((80, 80, 3), dtype=np.uint8)
    image[:40] = (150, 150, 150)
    image[40:] = (70, 70, 70)
    image[20:40, 20:60] = (230, 230, 230)
    image[40:60, 20:60] = (0, 0, 0)
    wanted = torch.tensor([20.0, 20.0, 60.0, 60.0])

    def nearest(num_paired):
        tree = RegionTreeSegmenter(RegionTreeSettings(ranking="salience", num_paired=num_paired))
        return (tree.regions(tree.encode(image), 300).boxes - wanted).abs().amax(1).min()

    assert nearest(num_paired=0) > 5
    assert nearest(num_paired=40) <= 1


@pytest.mark.parametrize("ranking", ["objectness", "salience"])
@pytest.mark.parametrize("noise", [False, True])
def test_every_region_is_what_was_measured_of_it(ranking, noise):
    photo = np.random.default_rng(2).integers(0, 256, (60, 90, 3), dtype=np.uint8) if noise else nested_photo()
    tree = RegionTreeSegmenter(RegionTreeSettings(ranking=ranking)).encode(photo)
    masks = tree.masks(torch.arange(len(tree.area)))
    assert torch.equal(masks.sum((1, 2)), tree.area)
    assert torch.equal(boxes_in_photo(masks, tree.size), tree.boxes)
    for name in ("scores", "stability", "fill"):
        assert ((getattr(tree, name) >= 0) & (getattr(tree, name) <= 1)).all()
    assert masks[-1].all()
    assert not tree.listed[-1]
    flat = masks[tree.nested].flatten(1).float()
    shared, area = flat @ flat.T, flat.sum(1)
    assert ((shared == 0) | (shared == torch.minimum(area[:, None], area))).all()


def test_scores_of_regions_fall_and_the_best_of_every_place_lead():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 6], [50, 50, 60, 60]])
    # The second lies within IoU 0.9 of the first, the third within 0.6 of it: lowered twice, once, the last never
    lowered = spread_out(boxes, torch.tensor([0.9, 0.8, 0.8, 0.5]))
    torch.testing.assert_close(lowered, torch.tensor([0.9, 0.8 * 0.36, 0.8 * 0.6, 0.5]))
    assert spread_out(boxes[:0], torch.zeros(0)).shape == (0,)


def test_boxes_are_in_photo_pixels_whatever_the_working_frame():
    large = nested_photo().repeat(6, axis=0).repeat(6, axis=1)  # 480 x 600
    segmenter = RegionTreeSegmenter()
    regions = segmenter.regions(segmenter.encode(large), 50)
    assert regions.masks.shape[1:] == (205, 256)
    assert (regions.boxes - 6 * torch.tensor([10, 10, 70, 70])).abs().amax(1).min() <= 6
    full = segmenter.predict(segmenter.encode(large), Prompts(boxes=torch.tensor([[480.0, 180, 570, 360]])))
    mask = full.full(torch.tensor([0]), full.iou.argmax(1))[0]
    truth = torch.zeros(480, 600, dtype=torch.bool)
    truth[180:360, 480:570] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.93


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (60, 60)])
def test_a_flat_photo_answers_with_the_whole_and_lists_nothing(segmenter, shape):
    embedding = segmenter.encode(np.full((*shape, 3), 90, dtype=np.uint8))
    assert segmenter.regions(embedding, 10).boxes.shape == (0, 4)
    answer = segmenter.predict(embedding, Prompts(torch.tensor([[[0.0, 0.0]]])))
    assert answer.masks.all()
    assert (answer.iou == 0).all()
    assert answer.boxes[0, 0].tolist() == [0, 0, shape[1], shape[0]]


def test_pick_three_takes_the_best_of_clearly_different_size():
    area = torch.tensor([10, 12, 30, 40, 100])
    merit = torch.tensor([[0.5, 0.6, 0.2, 0.3, 0.0], [0.0, 0.4, 0.0, 0.0, 0.0], [0.0] * 5])
    # 12 puts out 10, 40 puts out 30: the best is repeated; without any merit the last, the whole photo, is taken
    picked = pick_three(merit, area, 1.5)
    assert picked[0].tolist() == [1, 1, 3]
    assert picked[1].tolist() == [1, 1, 1]
    assert picked[2].tolist() == [4, 4, 4]


def test_the_fingerprint_follows_the_settings():
    assert RegionTreeSegmenter().fingerprint == RegionTreeSegmenter(RegionTreeSettings()).fingerprint
    for other in ({"long_side": 384}, {"ranking": "salience"}):
        assert RegionTreeSegmenter(RegionTreeSettings(**other)).fingerprint != RegionTreeSegmenter().fingerprint
