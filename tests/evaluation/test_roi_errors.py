"""Errors of regions by their loss, and the thresholds of RoI drop proposed from them: values by hand."""

import numpy as np
import pytest
import torch

from tests.helpers import instances
from weaksam.config import load_settings
from weaksam.evaluation.roi_drop_figures import RoiDropFigures, roi_drop_text
from weaksam.evaluation.roi_drop_proposals import GATES, THRESHOLDS, limit_of, proposals, propose
from weaksam.evaluation.roi_errors import ForegroundRegions, dropped_by_epoch, error_bins, separation, wrong_boxes
from weaksam.models.roi.roi_drop import RoiDropSettings, dropped_regions


def regions_of(class_loss, box_loss, wrong, batches=None) -> ForegroundRegions:
    losses = {"class": np.array(class_loss, np.float64), "box": np.array(box_loss, np.float64)}
    batch = np.zeros(len(wrong), int) if batches is None else np.array(batches)
    return ForegroundRegions(losses, np.array(wrong, bool), batch, num_photos=3)


def test_a_box_is_wrong_without_a_true_box_of_its_class_at_half_iou():
    truth = instances([[0, 0, 40, 40], [60, 0, 100, 40]], [0, 1], crowd=[False, False], difficult=[True, False])
    boxes = instances(
        [[0, 0, 40, 20], [0, 0, 40, 19], [0, 0, 40, 40], [60, 0, 100, 40], [200, 0, 240, 40]], [0, 0, 1, 1, 1]
    )
    # Half of it, IoU 0.5; less than half; right place, wrong class; right; nowhere
    assert wrong_boxes(truth, boxes).tolist() == [False, True, True, False, True]
    crowd = truth.replace(crowd=torch.tensor([False, True]))
    assert wrong_boxes(crowd, boxes).tolist() == [False, True, True, True, True]
    assert wrong_boxes(instances([]), boxes).all() and len(wrong_boxes(truth, instances([]))) == 0


def test_bins_count_regions_and_their_errors():
    bins = error_bins(np.array([0.0, 0.1, 0.3, 0.5, 0.9, 1.0, 7.0]), np.array([0, 1, 0, 1, 1, 0, 1], bool), 1.0, 4)
    assert bins.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert bins.counts.tolist() == [2, 1, 1, 3] and bins.wrong.tolist() == [1, 0, 1, 2]  # the last holds 7 as well
    assert bins.error_rate.tolist() == pytest.approx([1 / 2, 0, 1, 2 / 3])
    empty = error_bins(np.zeros(0), np.zeros(0, bool))
    assert empty.counts.sum() == 0 and np.isnan(empty.error_rate).all() and empty.as_dict()["error_rate"] == [None] * 20
    assert error_bins(np.linspace(0, 1, 101) * 50, np.zeros(101, bool)).edges[-1] == pytest.approx(49.5)


def test_values_are_compared_within_a_batch():
    regions = regions_of([2, 4, 3, 10, 10], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1])
    assert regions.values("class", "loss").tolist() == [2, 4, 3, 10, 10]
    assert regions.values("class", "normalised").tolist() == [0, 1, 0.5, 0, 0]  # equal losses are all 0
    assert regions.values("class", "share").tolist() == pytest.approx([1 / 3, 1, 2 / 3, 1, 1 / 2])
    assert regions.error_rate == pytest.approx(2 / 5)


def test_separation_is_the_chance_that_a_wrong_region_has_the_higher_loss():
    # Wrong at 3 and 1 against right at 1 and 2: 3 beats both, 1 ties with one and loses to the other
    assert separation(np.array([1.0, 2, 3, 1]), np.array([0, 0, 1, 1], bool)) == pytest.approx(2.5 / 4)
    assert np.isnan(separation(np.ones(3), np.ones(3, bool)))


def by_tens(*rates: float) -> tuple[np.ndarray, np.ndarray]:
    """Ten regions at each of the values 1, 2, 3, ..., of which these shares are wrong."""
    values = np.repeat(np.arange(1.0, len(rates) + 1), 10)
    wrong = np.concatenate([np.arange(10) < round(10 * rate) for rate in rates])
    return values, wrong


def test_the_limit_lies_where_more_than_half_are_wrong_above():
    # The fitted curve is .1 .3 .55 .55 .9: the third and the fourth are levelled, (.7 + .4) / 2
    assert limit_of(*by_tens(0.1, 0.3, 0.7, 0.4, 0.9)) == 2.5
    # A half is not more than half: .1 .5 .5 .9 .9
    assert limit_of(*by_tens(0.1, 0.6, 0.4, 0.9, 0.9)) == 3.5
    assert limit_of(*by_tens(0.1, 0.2, 0.2, 0.9)) is None  # ten regions are too few
    assert limit_of(*by_tens(0.1, 0.2, 0.3, 0.2)) is None  # never
    assert limit_of(*by_tens(0.9, 0.9, 0.9)) is None  # everything
    assert limit_of(*by_tens(0.9, 0.4, 0.1)) is None  # falls: levelled to .47
    assert limit_of(np.zeros(0), np.zeros(0, bool)) is None


def test_terms_have_limits_of_their_own_and_the_joint_gate_two_at_one_quantile():
    class_loss, wrong = by_tens(0.0, 0.0, 1.0, 1.0)
    box_loss = 10 * class_loss
    regions = regions_of(class_loss, box_loss, wrong)
    independent = propose(regions, "independent", "loss")
    assert dict(independent.limits) == {"class": 2.5, "box": 25} and independent.usable
    assert dict(independent.dropped) == {"class": 0.5, "box": 0.5}
    assert dict(independent.wrong) == dict(independent.caught) == {"class": 1, "box": 1}
    assert dict(propose(regions, "joint", "loss").limits) == {"class": 2.5, "box": 25}
    assert propose(regions, "independent", "normalised").limits["class"] == pytest.approx(1.5 / 3)
    assert propose(regions, "independent", "share").limits["box"] == pytest.approx(0.5, abs=0.02)
    # The box loss says nothing: no limit for it, and one that nothing reaches in the settings
    flat = propose(regions_of(class_loss, np.ones(40), wrong), "independent", "loss")
    assert dict(flat.limits) == {"class": 2.5, "box": None} and flat.dropped["box"] == 0
    assert "retrain.roi_drop.box_limit=1000.0" in flat.settings("retrain", 0.3)
    nothing = propose(regions_of(np.ones(40), np.ones(40), wrong), "joint", "loss")
    assert not nothing.usable and nothing.settings("retrain", 0.3) == []


def test_the_mask_term_has_a_limit_too():
    class_loss, wrong = by_tens(0.0, 0.0, 1.0, 1.0)
    losses = {"class": class_loss, "box": class_loss, "mask": np.ones(40)}
    regions = ForegroundRegions(losses, wrong, np.zeros(40, int))
    assert dict(propose(regions, "independent", "loss").limits) == {"class": 2.5, "box": 2.5, "mask": None}
    assert not any("mask" in text for text in propose(regions, "independent", "loss").settings("wsis", 0.3))
    joint = propose(regions, "joint", "loss")
    assert set(joint.limits) == {"class", "box"} and joint.dropped["mask"] == 0.5
    losses["mask"] = class_loss
    assert "wsis.roi_drop.mask_limit=2.5" in propose(regions, "independent", "loss").settings("wsis", 0.3)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_roi_drop_takes_what_a_proposal_says(gate, threshold):
    """The proposal's settings, through RoI drop itself batch by batch, against the shares that it states."""
    draws = np.random.default_rng(0)
    wrong = draws.random(400) < 0.4
    losses = [draws.gamma(2, 1, 400) + 4 * wrong * draws.random(400) for _ in range(2)]
    regions = regions_of(*losses, wrong, np.repeat(np.arange(8), 50))
    proposal = propose(regions, gate, threshold)
    texts = [text.removeprefix("retrain.roi_drop.") for text in proposal.settings("retrain", 0.25)]
    settings = load_settings(RoiDropSettings, None, texts)
    assert settings.active(25, 100) and not settings.active(24, 100)
    taken = {"class": 0, "box": 0}
    for batch in range(8):
        rows = regions.batches == batch
        terms = {term: torch.from_numpy(regions.losses[term][rows]) for term in taken}
        dropped = dropped_regions(terms, torch.ones(50, dtype=torch.bool), settings)
        taken = {term: taken[term] + int(dropped[term].sum()) for term in taken}
    # Shares are rounded down to whole regions in each batch
    slack = 8 / 400 if threshold == "share" else 0.0025
    assert 0.05 < proposal.dropped["class"] < 0.6
    assert {term: count / 400 for term, count in taken.items()} == pytest.approx(dict(proposal.dropped), abs=slack)


def test_shares_dropped_come_from_the_history_of_a_training():
    history = [{"loss": 1.0, "dropped_class": 0.0, "dropped_box": 0.0}, {"dropped_class": 0.25, "dropped_box": 0.5}]
    assert dropped_by_epoch(history) == {"class": [0.0, 0.25], "box": [0.0, 0.5]}
    assert dropped_by_epoch([{"loss": 1.0}]) == {} == dropped_by_epoch([])


def test_the_text_shows_tenths_proposals_and_settings():
    class_loss, wrong = by_tens(0.0, 0.0, 1.0, 1.0)
    regions = regions_of(class_loss, class_loss[::-1], wrong)
    figures = RoiDropFigures("retrain", 0.3, regions, proposals(regions), {"class": [0.0, 0.125]})
    text = roi_drop_text(figures)
    lines = [line.split() for line in text.splitlines()]
    assert lines[0][:2] == ["40", "foreground"] and lines[0][-1] == "0.500"
    assert ["1/10", "1.000", "0.000", "1.000", "1.000"] in lines and [
        "10/10",
        "4.000",
        "1.000",
        "4.000",
        "0.000",
    ] in lines
    assert ["separation", "1.000", "0.000"] in lines
    assert ["independent", "loss", "2.5", "0.500", "1.000", "1.000", "-", "-", "-", "-"] in lines
    assert "retrain.roi_drop.gate=independent retrain.roi_drop.threshold=loss retrain.roi_drop.class_limit=2.5" in text
    assert "dropped of the class term, by epoch: 0.000 0.125" in text
    nothing = regions_of([], [], [])
    empty = roi_drop_text(RoiDropFigures("retrain", 0.3, nothing, proposals(nothing)))
    assert "error rate -" in empty and "no threshold is proposed" in empty
