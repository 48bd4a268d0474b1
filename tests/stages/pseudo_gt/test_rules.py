"""The cases A to H of docs/method.md by every rule, each counted by hand."""

import json

import pytest

from tests.helpers import context, instances
from weaksam.config import UserError, load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.stages.pseudo_gt import choose_pseudo_gt, run
from weaksam.stages.pseudo_gt.settings import (
    AdaptivePaperSettings,
    AdaptiveReleasedSettings,
    AdaptiveSettings,
    Top1Settings,
    TopKSettings,
)
from weaksam.structures.dataset import Dataset, Sample

RULES = {
    "adaptive": AdaptiveSettings(),
    "adaptive_paper": AdaptivePaperSettings(),
    "adaptive_released": AdaptiveReleasedSettings(),
    "top1": Top1Settings(),
    "topk": TopKSettings(k=2),
}


def apart(number):
    """A 10 x 10 box that meets no other ``apart`` box."""
    return [500 + 20 * number, 500, 510 + 20 * number, 510]


def row(*scores):
    """Boxes of class 0 that do not meet, with these scores in this order."""
    return instances([apart(number) for number in range(len(scores))], None, list(scores))


def over(scores, *boxes):
    """Boxes of class 0 with ``scores``, the last one apart from the others."""
    return instances([*boxes, apart(0)], None, list(scores))


def every(scores, **others):
    """The scores that every rule keeps, but for those named otherwise."""
    return {rule: others.get(rule, scores) for rule in RULES}


TWINS = [0, 0, 10, 9], [0, 0, 10, 10]
SMALL_IN_LARGE = [50, 50, 70, 70], [0, 0, 200, 200]
CASES = {
    # Normalised 1, .875, 0 and divided 1.125, 1, .125: the third goes, then the first two lie in each other
    "A, two nearly identical boxes": (
        over([0.9, 0.8, 0.1], *TWINS),
        every([], adaptive=[0.9], top1=[0.9], topk=[0.9, 0.8]),
    ),
    # Normalised 1, .58, .21, 0; divided 1.05, .63, .26, .05
    "B, scores of a weak detector": (
        row(0.20, 0.12, 0.05, 0.01),
        every([0.20, 0.12], top1=[0.20]),
    ),
    # Normalised 1, .11, 0; divided 2, 1.11, 1
    "C, all scores high": (
        row(0.9, 0.5, 0.45),
        every([0.9], adaptive_released=[0.9, 0.5, 0.45], topk=[0.9, 0.5]),
    ),
    # Normalised 0 / 0, taken as 1; divided 3e7
    "D, equal scores": (
        row(0.3, 0.3, 0.3),
        every([0.3, 0.3, 0.3], top1=[0.3], topk=[0.3, 0.3]),
    ),
    "E, a single box": (row(0.002), every([0.002])),
    # Normalised 0, 1, .78, .11; divided .001, 1.001, .78, .11
    "F, unsorted": (
        row(0.001, 0.9, 0.7, 0.1),
        every([0.9, 0.7], adaptive_released=[0.001, 0.9, 0.7], top1=[0.9]),
    ),
    # Normalised 1, .55, 0; divided 1.01, .56, .01
    "G, a small box inside a large one": (
        over([0.9, 0.5, 0.01], *SMALL_IN_LARGE),
        every([0.5], adaptive=[0.9], top1=[0.9], topk=[0.9, 0.5]),
    ),
    # The only detections are of class 1, and the photo is tagged 0
    "H, no detection of a tag": (instances([apart(0)], [1], [0.9]), every([])),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rule", RULES)
def test_every_case_by_every_rule(rule, name):
    detections, kept = CASES[name]
    chosen = choose_pseudo_gt(detections, [0], RULES[rule])
    assert chosen.scores.tolist() == pytest.approx(kept[rule])
    assert set(chosen.labels.tolist()) <= {0}


@pytest.mark.parametrize("rule", RULES)
def test_a_photo_without_a_box_is_listed_in_the_file(rule, tmp_path):
    samples = tuple(Sample(f"{n}.jpg", tmp_path / "x", (600, 600), (0,), None, n, sha256=str(n)) for n in (1, 2))
    train = Dataset("train", ("cat", "dog"), (1, 2), samples)
    store = run(context(tmp_path, train), RULES[rule], {"1.jpg": CASES["H, no detection of a tag"][0]})
    assert [len(row["boxes"]) for row in store.rows()] == [0, 0]
    content = json.loads((tmp_path / "pseudo_gt" / "train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["1.jpg", "2.jpg"] and content["annotations"] == []


def test_the_paper_keeps_above_the_threshold_and_ours_at_it():
    detections = row(1.0, 0.5, 0.0)  # normalised 1, .5, 0
    assert len(choose_pseudo_gt(detections, [0], AdaptivePaperSettings(min_score_norm=0.5))) == 1
    assert len(choose_pseudo_gt(detections, [0], AdaptiveSettings(min_score_norm=0.5))) == 2


def test_the_released_rule_follows_the_order_of_the_detections():
    detections = row(0.9, 0.001)
    assert choose_pseudo_gt(detections, [0], AdaptiveReleasedSettings()).scores.tolist() == pytest.approx([0.9])
    turned = choose_pseudo_gt(row(0.001, 0.9), [0], AdaptiveReleasedSettings())
    assert turned.scores.tolist() == pytest.approx([0.001, 0.9])


def test_a_dropped_box_still_drops_others_by_the_printed_rule():
    # The middle lies in the large one, the small one in the middle only
    detections = over([0.9, 0.8, 0.7, 0.1], [84, 0, 104, 10], [60, 0, 104, 40], [0, 0, 100, 100])
    assert choose_pseudo_gt(detections, [0], AdaptiveSettings()).scores.tolist() == pytest.approx([0.9, 0.7])
    for rule in ("adaptive_paper", "adaptive_released"):
        assert choose_pseudo_gt(detections, [0], RULES[rule]).scores.tolist() == pytest.approx([0.7])


def test_rules_are_a_section_and_old_names_are_answered():
    def rule(*overrides):
        return load_settings(RunSettings, None, overrides).pseudo_gt

    assert rule() == AdaptiveSettings() and rule("pseudo_gt=top1") == Top1Settings()
    assert rule("pseudo_gt=topk", "pseudo_gt.k=5") == TopKSettings(k=5)
    assert rule("pseudo_gt.min_score_norm=0.2") == AdaptiveSettings(min_score_norm=0.2)
    assert rule("pseudo_gt.rule=adaptive_paper", "pseudo_gt.containment=0.9") == AdaptivePaperSettings(containment=0.9)
    with pytest.raises(UserError, match=r"pseudo_gt.method is now pseudo_gt.rule: rename it"):
        rule("pseudo_gt.method=top1")
    with pytest.raises(UserError, match=r"'pseudo_gt.k' belongs to pseudo_gt=topk, found pseudo_gt=adaptive"):
        rule("pseudo_gt.k=5")
    with pytest.raises(UserError, match=r"pseudo_gt.path"):
        rule("pseudo_gt=given")
