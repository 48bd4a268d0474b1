"""The figures of a run's stages, counted by hand."""

import pytest
import torch

from weaksam.evaluation.settings import EvaluationSettings
from weaksam.evaluation.stage_figures import corloc_figures, mask_figures, peak_figures, recall_figures
from weaksam.structures.clue_points import COARSE, CluePeaks


def peaks_at(*points: list[float]) -> CluePeaks:
    """Peaks of class 0 at xy ``points``."""
    labels = torch.zeros(len(points), dtype=torch.int64)
    return CluePeaks(torch.tensor(points), labels, torch.full((len(points),), COARSE), torch.ones(len(points)))


def test_peaks_count_inside_a_true_box_of_their_own_class(truth):
    peaks = {
        # Inside the cat; on its far edge, which is outside; a cat's peak inside the dog
        "a": peaks_at([9.5, 0.5], [10.0, 5.0], [25.0, 25.0]),
        "b": CluePeaks.none(),
    }
    figures = peak_figures(truth, peaks.__getitem__)
    assert figures["inside"] == pytest.approx(1 / 3) and figures["num_peaks"] == 3
    assert peak_figures(truth, lambda _: peaks["b"])["inside"] is None


def test_recall_counts_photos_without_proposals(truth):
    figures = recall_figures(truth, {"a": torch.tensor([[0.0, 0, 10, 10]])}, EvaluationSettings(recall_counts=(1,)))
    assert [row["recall"]["0.5"] for row in figures["rows"]] == pytest.approx([1 / 3, 1 / 3])


def test_masks_are_not_measured_without_true_masks(truth):
    assert mask_figures(truth, {}, EvaluationSettings(), "") == {}


def test_corloc_leaves_out_photos_without_a_truth(truth):
    objects = {i: objects.replace(scores=torch.ones(len(objects))) for i, objects in truth.instances.items()}
    boxes = {"a": torch.tensor([[0.0, 0, 10, 10]]), "b": torch.zeros(0, 4), "z": torch.tensor([[0.0, 0, 1, 1]])}
    figures = corloc_figures(truth, {**objects, "z": objects["a"]}, boxes)
    assert list(figures) == [f"train_corloc{name}" for name in ("", "_largest", "_whole", "_random")]
    assert figures["train_corloc"]["per_class"] == [1.0, 1.0]
    # The only proposal of a is its cat; b has none; the whole image is too large for all
    assert figures["train_corloc_largest"]["per_class"] == figures["train_corloc_random"]["per_class"] == [0.5, 0.0]
    assert figures["train_corloc_whole"]["per_class"] == [0.0, 0.0]
