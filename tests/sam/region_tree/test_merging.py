"""Superpixels and their mergers: every measure against a plain count on the masks."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from weaksam.sam.region_tree.merging import (
    CRITERIA,
    FEATURES,
    ORDERS,
    borders,
    cut_superpixels,
    describe,
    first_of_each,
    merge,
    merged_regions,
    node_sums,
)
from weaksam.sam.region_tree.objectness import bundled
from weaksam.sam.region_tree.watershed import build_tree, lab_from_rgb

FRAME = (24, 31)


@pytest.fixture(scope="module")
def lab():
    noise = np.random.default_rng(1).random((*FRAME, 3)).astype(np.float32)
    return ndimage.gaussian_filter(noise, (1.5, 1.5, 0)) * 200


@pytest.fixture(scope="module")
def superpixels(lab):
    return cut_superpixels(lab, *build_tree(lab, 0.5), 20)


def node_masks(tree, labels):
    """Bool ``(V, h, w)`` of every node, by uniting children in order."""
    num = tree.num_vertices()
    masks = np.zeros((num, *labels.shape), dtype=bool)
    for node in range(num):
        if node < tree.num_leaves():
            masks[node] = labels == node
        if node != tree.root():
            masks[tree.parents()[node]] |= masks[node]
    return masks


def plain_outline(mask, lab):
    """Pixel sides, summed Lab distance and mean own colour of the pixels across, along the border of a mask."""
    sides, distance = 0, 0.0
    for axis in (0, 1):
        before, after = (mask[:-1], mask[1:]) if axis == 0 else (mask[:, :-1], mask[:, 1:])
        sides += (before != after).sum()
        distance += np.linalg.norm(np.diff(lab, axis=axis), axis=-1)[before != after].sum()
    return sides, distance


def test_superpixels_are_connected_and_measured(superpixels, lab):
    num = len(superpixels.area)
    assert 20 <= num <= 30
    for label in range(num):
        mask = superpixels.labels == label
        assert ndimage.label(mask)[1] == 1
        y, x = mask.nonzero()
        assert superpixels.area[label] == len(y)
        assert superpixels.boxes[label].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        np.testing.assert_allclose(superpixels.color[label], lab[mask].mean(0), rtol=1e-5)
        np.testing.assert_allclose(superpixels.center[label], [x.mean(), y.mean()])
        assert superpixels.rim[label] == mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()


def test_borders_of_a_grid_counted_by_hand():
    grid = np.array([[0, 0, 1], [2, 2, 1]])
    lab = np.zeros((2, 3, 3), dtype=np.float32)
    lab[..., 0] = [[1, 1, 4], [2, 3, 9]]
    ends, length, step = borders(grid, lab, 3)
    assert ends.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert length.tolist() == [1, 2, 1]
    assert step.tolist() == [3, 1 + 2, 6]


@pytest.mark.parametrize("order", ORDERS)
def test_sums_of_every_node_equal_a_plain_count(superpixels, lab, order):
    tree = merge(superpixels, order)
    sums = node_sums(superpixels, tree)
    usual = superpixels.step.sum() / superpixels.length.sum()
    for node, mask in enumerate(node_masks(tree, superpixels.labels)):
        y, x = mask.nonzero()
        sides, distance = plain_outline(mask, lab)
        assert sums.area[node] == len(y)
        assert sums.boxes[node].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert sums.outline[node] == pytest.approx(sides)
        assert sums.step_out[node] * max(sides, 1) == pytest.approx(distance, rel=1e-4, abs=1e-2)
        np.testing.assert_allclose(sums.color[node], lab[mask].mean(0), rtol=1e-4)
        assert sums.variance[node] == pytest.approx(lab[mask].var(0).sum(), rel=1e-3, abs=1e-2)
        assert sums.rim[node] == mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()
    features, _ = describe(superpixels, tree, sums)
    assert np.isfinite(features).all()
    middle = len(superpixels.area) + 2
    assert features[middle, 5] == pytest.approx(np.log(sums.step_out[middle] / usual + 0.1), abs=1e-4)


def test_the_ring_has_the_colour_of_the_superpixels_around():
    lab = np.zeros((4, 8, 3), dtype=np.float32)
    lab[:, 2:5, 0], lab[:, 5:, 0] = 40, 90
    superpixels = cut_superpixels(lab, *build_tree(lab, 0.0), 3)
    sums = node_sums(superpixels, merge(superpixels, "color"))
    middle = int(np.flatnonzero(superpixels.color[:, 0] == 40)[0])
    assert len(superpixels.area) == 3
    np.testing.assert_allclose(sums.ring[middle], [45, 0, 0])  # four sides of 0, four of 90
    assert sums.step_out[middle] == pytest.approx(45)  # steps of 40 and of 50


def test_regions_come_once_and_agreement_counts_the_orders(superpixels):
    regions = merged_regions(superpixels, 0.001, 0.9)
    masks = []
    for tree, (first, last) in zip(regions.tree, regions.spans, strict=True):
        mask = np.zeros(FRAME[0] * FRAME[1], dtype=bool)
        mask[regions.pixels[int(tree), int(first) : int(last)]] = True
        masks.append(mask.reshape(FRAME))
    assert [mask.sum() for mask in masks] == regions.area.tolist()
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    agreement = FEATURES.index("agreement")
    for mask, features in list(zip(masks, regions.features, strict=True))[-15:]:
        trees = [node_masks(merge(superpixels, order), superpixels.labels) for order in ORDERS]
        holding = [order for order, nodes in zip(ORDERS, trees, strict=True) if (nodes == mask).all((1, 2)).any()]
        assert features[agreement] == pytest.approx(np.log(len(holding)))
        order = features[agreement + 1 :]
        assert ORDERS[int(order.argmax())] == holding[0]
        assert order.sum() == 1
    assert regions.features.shape[1] == len(FEATURES)
    assert ((regions.stability >= 0) & (regions.stability <= 1)).all()


def test_the_criteria_merge_what_they_say():
    # A row of four blocks, dark red, dark blue, light red, light blue: colour pairs by lightness, chroma by hue
    lab = np.zeros((6, 24, 3), dtype=np.float32)
    lab[:, :6], lab[:, 6:12], lab[:, 12:18], lab[:, 18:] = (10, 10, 0), (10, 0, 10), (90, 0, 10), (90, 10, 0)
    superpixels = cut_superpixels(lab, *build_tree(lab, 0.0), 4)
    wanted = {"color": {(0, 12), (12, 24)}, "chroma": {(6, 18)}}
    assert set(wanted) <= set(CRITERIA)
    for order, spans in wanted.items():
        sums = node_sums(superpixels, merge(superpixels, order))
        node_spans = {(int(box[0]), int(box[2])) for box in sums.boxes[4:]}
        assert spans <= node_spans


def test_a_flat_frame_has_no_regions():
    lab = lab_from_rgb(np.full((5, 7, 3), 90, dtype=np.uint8))
    superpixels = cut_superpixels(lab, *build_tree(lab, 1.0), 50)
    assert len(superpixels.area) == 1
    regions = merged_regions(superpixels, 0.001, 0.97)
    assert regions.features.shape == (0, len(FEATURES))
    assert bundled()(torch.from_numpy(regions.features).float()).shape == (0,)


def test_first_of_each_row():
    rows = np.array([[1, 2], [0, 5], [1, 2], [1, 3], [0, 5], [1, 2]])
    first, count = first_of_each(rows)
    assert first.tolist() == [0, 1, 3]
    assert count.tolist() == [3, 2, 1]
    assert first_of_each(np.zeros((0, 3)))[0].shape == (0,)


def test_the_bundled_ranker_prefers_a_clear_disc_to_its_background_and_to_scraps():
    image = np.full((60, 80, 3), 90, dtype=np.uint8)
    image += np.random.default_rng(0).integers(0, 12, image.shape, dtype=np.uint8)
    y, x = np.mgrid[:60, :80]
    disc = (x - 45) ** 2 + (y - 30) ** 2 < 15**2
    image[disc] = (220, 60, 40)
    lab = lab_from_rgb(image)
    regions = merged_regions(cut_superpixels(lab, *build_tree(lab, 0.5), 100), 0.0005, 0.97)
    best = int(bundled()(torch.from_numpy(regions.features).float()).argmax())
    assert abs(regions.boxes[best] - [31, 16, 60, 45]).max() <= 2
