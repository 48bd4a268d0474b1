"""Peaks of class maps and clusters of peaks on values worked out by hand (docs/method.md, Clues)."""

from __future__ import annotations

import pytest
import torch

from weaksam.stages.clues import ClueSettings, photo_peaks
from weaksam.stages.clues.maps import ClassMaps, min_max
from weaksam.stages.clues.peaks import cluster_points, find_peaks, map_peaks
from weaksam.structures.clue_points import COARSE, CROSS


def golden_map() -> torch.Tensor:
    class_map = torch.zeros(64, 64)
    for (row, column), value in {(10, 10): 1.0, (10, 17): 0.95, (10, 19): 0.94, (40, 40): 0.91, (60, 5): 0.89}.items():
        class_map[row, column] = value
    return class_map


def test_golden_peaks_are_the_two_published_ones() -> None:
    assert find_peaks(golden_map(), kernel=17, min_value=0.9).tolist() == [[10, 10], [40, 40]]


def test_peaks_of_the_mirrored_map_are_mirrored() -> None:
    assert find_peaks(golden_map().flip(1), kernel=17, min_value=0.9).tolist() == [[53, 10], [23, 40]]


def test_a_corner_plateau_gives_one_peak_and_hides_nobody() -> None:
    class_map = torch.zeros(64, 64)
    class_map[:8, :8] = 1.0
    class_map[50, 30] = 0.99
    peaks = find_peaks(class_map, kernel=17, min_value=0.9).tolist()
    assert len(peaks) == 2
    assert peaks[1] == [30, 50]
    assert 3 <= peaks[0][0] <= 4 and 3 <= peaks[0][1] <= 4


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_zero_and_constant_maps_have_no_peak(value: float) -> None:
    assert find_peaks(min_max(torch.full((20, 20), value))).shape == (0, 2)


def test_max_peaks_keeps_the_highest() -> None:
    assert find_peaks(golden_map(), kernel=17, min_value=0.5, max_peaks=1).tolist() == [[10, 10]]


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd, found 16: use 17"):
        find_peaks(golden_map(), kernel=16)


def test_peaks_are_scaled_to_photo_pixel_centres() -> None:
    maps = torch.zeros(1, 4, 8)
    maps[0, 1, 6] = 2.0
    search = {"kernel": 3, "min_value": 0.9, "max_peaks": 25}
    points, labels, heights = map_peaks([maps[None]], torch.tensor([5]), (4, 8), (40, 160), **search)
    assert points.tolist() == [[130.0, 15.0]]  # (6.5 * 20, 1.5 * 10)
    assert labels.tolist() == [5]
    assert heights.tolist() == pytest.approx([1.0])
    nothing = torch.zeros(0, dtype=torch.int64)
    assert len(map_peaks([maps[None, :0]], nothing, (4, 8), (40, 160), **search)[0]) == 0


def test_maps_of_all_scales_are_cut_at_0_and_summed() -> None:
    low, high = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 2, 4)
    low[..., 0], low[..., 1] = 1.0, -9.0
    high[..., 3] = 2.0
    search = {"kernel": 3, "min_value": 0.9, "max_peaks": 25}
    points, labels, _ = map_peaks([low, high], torch.tensor([7]), (2, 4), (20, 40), **search)
    assert labels.tolist() == [7] and points[0].tolist()[0] == 35.0  # 2 at the right beats 1 at the left


def test_two_far_groups_are_two_clusters() -> None:
    left, right = torch.tensor([[10.0, 10.0]]), torch.tensor([[90.0, 50.0]])
    offsets = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    points = torch.cat([left + offsets, right + offsets])  # 10 points: k = 2
    assert cluster_points(points).tolist() == [[10.0, 10.0], [90.0, 50.0]]
    assert torch.equal(cluster_points(points.flip(0)), cluster_points(points))


@pytest.mark.parametrize(("count", "clusters"), [(0, 0), (1, 1), (4, 1), (9, 1), (10, 2), (23, 4)])
def test_one_cluster_for_every_five_points(count: int, clusters: int) -> None:
    points = torch.rand(count, 2, generator=torch.Generator().manual_seed(count)) * 100
    centres = cluster_points(points)
    assert centres.shape == (clusters, 2)
    assert torch.equal(centres, cluster_points(points))
    if clusters == 1:
        torch.testing.assert_close(centres[0], points.mean(dim=0))


def test_coinciding_points_are_one_cluster() -> None:
    assert cluster_points(torch.tensor([[3.0, 4.0]]).repeat(30, 1)).tolist() == [[3.0, 4.0]]


def one_hot(*places: tuple[int, int]) -> torch.Tensor:
    maps = torch.zeros(len(places), 64, 64)
    for row, (y, x) in enumerate(places):
        maps[row, y, x] = 1.0
    return maps


def test_kinds_are_searched_with_their_own_windows_and_clusters_have_no_class() -> None:
    close = torch.zeros(1, 1, 64, 64)
    close[0, 0, 10, 10], close[0, 0, 10, 40] = 1.0, 0.95  # 30 apart: two peaks of a window of 17, one of 129
    maps = ClassMaps(torch.tensor([4]), torch.ones(5), {COARSE: (close,), CROSS: (close,)}, (64, 64), (64, 64))
    peaks = photo_peaks(maps, ClueSettings())
    assert peaks.kinds.tolist() == [COARSE, COARSE, CROSS]
    assert peaks.labels.tolist() == [4, 4, -1]
    assert peaks.points.tolist() == [[10.5, 10.5], [40.5, 10.5], [10.5, 10.5]]
    assert photo_peaks(maps, ClueSettings(kinds=("cross",), cross_points="per_class")).labels.tolist() == [4]
    assert photo_peaks(maps, ClueSettings(kinds=("fine",))).points.shape == (0, 2)


def test_cross_peaks_of_all_maps_are_clustered_per_class_or_kept() -> None:
    # two classes, five heads each: one class's maps peak at the left, the other's at the right
    maps = torch.stack([one_hot((5, 5), (50, 50))] * 5)  # (N = 5, L = 2, 64, 64)
    class_maps = ClassMaps(torch.tensor([0, 2]), torch.ones(3), {CROSS: (maps,)}, (64, 64), (64, 64))
    assert len(photo_peaks(class_maps, ClueSettings(cross_points="all")).points) == 10
    per_class = photo_peaks(class_maps, ClueSettings(cross_points="per_class"))
    assert per_class.labels.tolist() == [0, 2] and per_class.points.tolist() == [[5.5, 5.5], [50.5, 50.5]]
    clustered = photo_peaks(class_maps, ClueSettings())
    assert clustered.labels.tolist() == [-1, -1] and clustered.points.tolist() == per_class.points.tolist()
