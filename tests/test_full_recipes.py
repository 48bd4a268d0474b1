"""The recipes from tags to masks hold the published numbers of every stage, written out here.

Sources: the training recipes of WeakTr's authors for VOC and COCO, the released code of WeakSAM (prompting, MIST,
pseudo ground truth) and detectron2's schedules of Mask R-CNN and Mask2Former; those of Faster and Mask R-CNN are
compared in `tests/test_recipe_numbers.py`.
"""

from pathlib import Path

import pytest

from tests.helpers import ROOT
from weaksam.config import UserError, fingerprint_of, load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.stages.wsis import Mask2FormerWsisSettings

NAMES = ("voc12", "coco14")


def recipe(name: str, *overrides: str) -> RunSettings:
    return load_settings(RunSettings, ROOT / "configs" / f"{name}.yaml", overrides)


@pytest.mark.parametrize(("name", "lr"), [("voc12", 6e-4), ("coco14", 2e-4)])
def test_weaktr_is_trained_by_its_authors_recipe(name: str, lr: float) -> None:
    clues = recipe(f"{name}_full").clues
    training, views, network = clues.weaktr_training, clues.weaktr_training.views, clues.weaktr
    assert (training.lr, training.weight_decay, training.num_epochs, training.batch_size) == (lr, 0.03, 60, 64)
    assert (training.warmup_epochs, training.warmup_lr, training.min_lr) == (5, 1e-6, 1e-5)
    # rand-m9-mstd0.5-inc1, colour jitter 0.4, random erasing 0.25, crops and flips at 224 pixels
    assert (views.operations, views.magnitude, views.magnitude_spread) == (2, 9, 0.5)
    assert (views.colour_jitter, views.erase, views.flip, training.image_size) == (0.4, 0.25, True, 224)
    # DeiT-S/16 from its ImageNet weights, a token per class, fusion of attention features with r = 8
    assert network.weights.endswith("deit-small-patch16-224") and network.class_slots == "same"
    assert (network.width, network.depth, network.patch_size, network.drop_path) == (384, 12, 16, 0.1)
    assert (network.fusion, network.reduction) == ("feature_max", 8)
    assert fingerprint_of(clues) == fingerprint_of(recipe(f"weaktr_{name[:-2]}").clues)


@pytest.mark.parametrize("name", NAMES)
def test_points_and_prompts_are_those_of_the_release(name: str) -> None:
    settings = recipe(f"{name}_full")
    clues, proposals = settings.clues, settings.proposals
    assert (clues.peak_kernel, clues.cross_kernel, clues.min_peak, clues.max_peaks) == (17, 129, 0.9, 25)
    assert (clues.cross_layers, clues.cross_points, clues.flip) == ((5, 12), "clustered", True)
    assert Path(settings.segmenter.weights).name == "sam_vit_h_4b8939.pth"
    assert (proposals.grid_side, proposals.batch_size, proposals.clue_masks) == (32, 64, (1, 2))
    assert (proposals.min_pred_iou, proposals.min_stability, proposals.grid_nms_iou) == (0.3, 0.3, 0.3)
    assert (proposals.suppress, proposals.nms_iou, proposals.size_rule) == ("cross", 0.9, f"mist_{name[:-2]}")


@pytest.mark.parametrize(
    ("name", "steps"), [("voc12", (20_000, 26_700, 32_000)), ("coco14", (82_500, 115_000, 125_000))]
)
def test_the_weak_detector_and_its_boxes_are_those_of_the_release(name: str, steps: tuple[int, int, int]) -> None:
    settings = recipe(f"{name}_full")
    wsod, whole = settings.wsod, settings.wsod.end_to_end
    assert [round(share * whole.num_steps) for share in (*whole.milestones, 1)] == list(steps)
    assert (whole.optimizer, wsod.lr, wsod.weight_decay, wsod.batch_size) == ("adam", 1e-5, 5e-4, 8)
    assert (wsod.warmup_steps, whole.bias_lr_factor, whole.bias_weight_decay) == (200, 2, 0)
    assert (wsod.seeds.rule, wsod.seeds.share, wsod.seeds.max_iou) == ("mist", 0.15, 0.2)
    assert (wsod.hidden, wsod.roi_size, wsod.num_branches, whole.frozen_stages) == (4096, 7, 3, 2)
    assert whole.short_sides == (480, 576, 688, 864, 1000, 1200) and whole.most_long_side == 2000
    assert whole.test_short_sides == (480, 576, 688, 800, 864, 1000, 1200) and whole.flip_test
    assert (wsod.min_score, wsod.nms_iou, wsod.max_boxes, whole.drop_block, whole.drop_rate) == (0, 0.3, 100, True, 0.3)
    pseudo_gt = settings.pseudo_gt
    assert (pseudo_gt.rule, pseudo_gt.min_score_norm, pseudo_gt.containment) == ("adaptive", 0.3, 0.85)


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_behind_the_clues_is_that_of_the_recipe_with_mist(name: str) -> None:
    full, mist = recipe(f"{name}_full"), recipe(f"{name}_mist")
    for section in ("seed", "backbone", "segmenter", "proposals", "wsod", "pseudo_gt", "retrain", "wsis"):
        assert fingerprint_of(getattr(full, section)) == fingerprint_of(getattr(mist, section)), section


@pytest.mark.parametrize("name", NAMES)
def test_mask2former_is_taken_from_its_own_recipe(name: str) -> None:
    file = ROOT / "configs" / f"{name}_mask2former.yaml"
    full = recipe(f"{name}_full", f"wsis=@{file}", "wsis.min_score=0.01")
    assert isinstance(full.wsis, Mask2FormerWsisSettings) and full.wsis.min_score == 0.01  # later overrides win
    plain = recipe(f"{name}_full", f"wsis=@{file}").wsis
    assert fingerprint_of(plain) == fingerprint_of(recipe(f"{name}_mask2former").wsis)
    for section in ("data", "clues", "proposals", "wsod", "pseudo_gt", "retrain"):
        assert fingerprint_of(getattr(full, section)) == fingerprint_of(getattr(recipe(f"{name}_full"), section))


def test_a_section_of_another_file_that_has_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=r"wanted a section 'wsis' in .*other.yaml, found none: name a file that has"):
        recipe("voc12_full", f"wsis=@{tmp_path / 'other.yaml'}")
    with pytest.raises(UserError, match=r"wanted a YAML file at .*absent.yaml, found nothing"):
        recipe("voc12_full", f"wsis=@{tmp_path / 'absent.yaml'}")
    # A value that is no section stays text, and so does a path of that name
    assert recipe("voc12_full", "out=@runs").out == Path("@runs")
    (tmp_path / "kinds.yaml").write_text("pseudo_gt: top1\nretrain: {roi_drop: {gate: independent}}\n")
    taken = recipe(
        "voc12_full", f"pseudo_gt=@{tmp_path / 'kinds.yaml'}", f"retrain.roi_drop=@{tmp_path / 'kinds.yaml'}"
    )
    assert taken.pseudo_gt.rule == "top1" and taken.retrain.roi_drop.gate == "independent"
