"""The figures of a run's stages, counted by hand."""

import pytest
import torch

from tests.evaluation.masks import rectangles
from weaksam.evaluation.settings import EvaluationSettings
from weaksam.evaluation.stage_figures import (
    corloc_figures,
    mask_figures,
    peak_figures,
    pseudo_mask_figures,
    recall_figures,
)
from weaksam.evaluation.stage_summaries import wsis_summary
from weaksam.evaluation.truth import Truth
from weaksam.structures.clue_points import COARSE, CluePeaks
from weaksam.structures.instances import Instances


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


@pytest.fixture
def masked_truth():
    """Two photos of 40 x 40: a cat of 10 x 10, and nothing."""
    objects = {"a": rectangles([(0, 0, 10, 10)]), "b": Instances.empty()}
    return Truth(objects, {"a": (0,), "b": ()}, {"a": (40, 40), "b": (40, 40)}, 1)


def test_masks_are_measured_in_every_way(masked_truth):
    detections = {"a": rectangles([(0, 0, 10, 8)], scores=[0.4]), "z": rectangles([(0, 0, 1, 1)], scores=[0.9])}
    figures = mask_figures(masked_truth, detections, EvaluationSettings(painted_min_score=0.3), "NMS")
    assert list(figures) == ["test_masks", "test_coco_masks", "test_coco_boundaries", "test_miou", "test_pq"]
    assert figures["test_pq"]["pq"] == pytest.approx(0.8)
    assert figures["test_miou"]["background"] == pytest.approx(3100 / 3120)  # both photos
    # Width 1: rings of 100 - 64 and 80 - 48 pixels share two sides of 8 and the edge of 8 between them
    assert figures["test_coco_boundaries"]["ap50"] == 1 and figures["test_coco_boundaries"]["ap75"] == 0
    assert all(values["protocol"].endswith("detector: NMS") for values in figures.values())
    assert mask_figures(masked_truth, detections, EvaluationSettings(), "")["test_pq"]["pq"] == 0


def test_pseudo_masks_are_all_painted(masked_truth, truth):
    pseudo = {"a": rectangles([(0, 0, 10, 8)], scores=[0.1])}
    figures = pseudo_mask_figures(masked_truth, pseudo)
    assert list(figures) == ["train_pseudo_masks", "train_mask_iou", "train_miou", "train_pq"]
    assert figures["train_mask_iou"]["mask_iou"] == figures["train_pq"]["pq"] == pytest.approx(0.8)
    assert figures["train_pseudo_masks"]["recall"] == 1
    assert pseudo_mask_figures(truth, pseudo) == {}
    summary = wsis_summary({"train": masked_truth, "test": None}, pseudo, {}, EvaluationSettings(), "")
    assert summary.quality == "pseudo-mask IoU 0.800" and summary.figures == figures


def test_corloc_leaves_out_photos_without_a_truth(truth):
    objects = {i: objects.replace(scores=torch.ones(len(objects))) for i, objects in truth.instances.items()}
    boxes = {"a": torch.tensor([[0.0, 0, 10, 10]]), "b": torch.zeros(0, 4), "z": torch.tensor([[0.0, 0, 1, 1]])}
    figures = corloc_figures(truth, {**objects, "z": objects["a"]}, boxes)
    assert list(figures) == [f"train_corloc{name}" for name in ("", "_largest", "_whole", "_random")]
    assert figures["train_corloc"]["per_class"] == [1.0, 1.0]
    # The only proposal of a is its cat; b has none; the whole image is too large for all
    assert figures["train_corloc_largest"]["per_class"] == figures["train_corloc_random"]["per_class"] == [0.5, 0.0]
    assert figures["train_corloc_whole"]["per_class"] == [0.0, 0.0]
