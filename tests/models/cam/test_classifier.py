"""Tag classifier, peaks and clue seeds on values worked out by hand (specification, section 1.4)."""

import pytest
import torch

from weaksam.models.cam.classifier import train_tag_classifier
from weaksam.stages.clues.maps import min_max
from weaksam.stages.clues.peaks import find_peaks
from weaksam.stages.wsod.seeds.class_maps import instance_seeds, region_contrast


def golden_map() -> torch.Tensor:
    found = torch.zeros(64, 64)
    for (row, column), value in {(10, 10): 1.0, (10, 17): 0.95, (10, 19): 0.94, (40, 40): 0.91, (60, 5): 0.89}.items():
        found[row, column] = value
    return found


def test_golden_peaks_are_the_two_published_ones() -> None:
    assert find_peaks(golden_map(), kernel=17, min_value=0.9).tolist() == [[10, 10], [40, 40]]


def test_peaks_of_the_mirrored_map_are_mirrored() -> None:
    assert find_peaks(golden_map().flip(1), kernel=17, min_value=0.9).tolist() == [[53, 10], [23, 40]]


def test_a_corner_plateau_gives_one_peak_and_hides_nobody() -> None:
    found = torch.zeros(64, 64)
    found[:8, :8] = 1.0
    found[50, 30] = 0.99
    peaks = find_peaks(found, kernel=17, min_value=0.9).tolist()
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


def test_contrast_by_hand() -> None:
    class_map = torch.tensor([[[4.0, 4.0, 0.0, 0.0]]])  # (1, 1, 4)
    masks = torch.tensor(
        [[[1, 1, 0, 0]], [[1, 0, 0, 0]], [[1, 1, 1, 0]], [[1, 1, 1, 1]], [[0, 0, 0, 0]], [[0, 0, 1, 0]]]
    )
    # exact: 4 * 0.5; part: (4 - 4/3) sqrt(3/16); too large: 8/3 sqrt(3/16); the rest can not split or points away
    part = (8 / 3) * (3 / 16) ** 0.5
    assert region_contrast(class_map, masks.bool())[:, 0].tolist() == pytest.approx([2.0, part, part, 0.0, 0.0, 0.0])


def test_contrast_ignores_a_constant() -> None:
    class_map, masks = torch.randn(2, 5, 6), torch.rand(7, 5, 6) > 0.5
    torch.testing.assert_close(region_contrast(class_map, masks), region_contrast(class_map + 3.0, masks))


def test_contrast_of_nothing_is_empty() -> None:
    assert region_contrast(torch.zeros(2, 3, 3), torch.zeros(0, 3, 3, dtype=torch.bool)).shape == (0, 2)
    assert region_contrast(torch.zeros(0, 3, 3), torch.ones(4, 3, 3, dtype=torch.bool)).shape == (4, 0)


def test_two_instances_are_two_seeds_and_parts_or_unions_do_not_return() -> None:
    class_map = torch.zeros(1, 8, 20)
    class_map[0, 2:6, 1:6] = 2.0
    class_map[0, 2:6, 14:18] = 1.8
    masks = torch.zeros(5, 8, 20, dtype=torch.bool)
    masks[0, 2:6, 14:18] = True  # second object
    masks[1, 2:6, 1:3] = True  # part of the first
    masks[2, 2:6, 1:6] = True  # first object
    masks[3, 2:6, 1:7] = True  # first object and a bit
    masks[4, 0:2, 0:20] = True  # background
    index, which, weight = instance_seeds(class_map, masks, share=0.5, max_seeds=5)
    assert index.tolist() == [2, 0]
    assert which.tolist() == [0, 0]
    assert weight[0] == 1.0
    assert 0.5 <= weight[1] < 1.0


def test_seeds_of_flat_maps_and_of_no_region_are_empty() -> None:
    flat, masks = torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    assert len(instance_seeds(flat, masks)[0]) == 0
    assert len(instance_seeds(torch.rand(1, 4, 4), masks[:0])[0]) == 0


def test_the_tag_classifier_separates_and_its_map_averages_to_its_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    tags = (torch.arange(40) % 2).float()[:, None]
    pooled = torch.randn(40, 6, generator=generator) * 0.3
    pooled[:, 2] += 2.0 * tags[:, 0]
    classifier = train_tag_classifier(pooled, tags, weight_decay=0.01)
    assert ((classifier.logits(pooled) > 0).float() == tags).all()
    assert classifier.weight[0].abs().argmax() == 2
    features = torch.randn(6, 3, 5, generator=generator)
    logit = classifier.class_maps(features).mean(dim=(1, 2)) + classifier.bias
    torch.testing.assert_close(logit, classifier.logits(features.mean(dim=(1, 2))[None])[0])


def test_the_tag_classifier_is_the_minimum() -> None:
    generator = torch.Generator().manual_seed(1)
    pooled, tags = torch.randn(30, 4, generator=generator), (torch.rand(30, 2, generator=generator) > 0.5).float()
    found = train_tag_classifier(pooled, tags, weight_decay=0.1)
    weight = found.weight.clone().requires_grad_()
    logits = torch.nn.functional.linear((pooled - found.mean) / found.deviation, weight, found.bias)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, tags) + 0.05 * weight.square().sum()
    loss.backward()
    assert weight.grad is not None and weight.grad.abs().max() < 1e-3
