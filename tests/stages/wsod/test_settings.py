"""Settings of the weak detector: the rule of the seeds as one section, and old names answered with the new ones."""

import pytest

from weaksam.config import UserError, load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.seeds.class_maps import ClassMapSeedSettings
from weaksam.stages.wsod.seeds.mist import MistSettings
from weaksam.stages.wsod.seeds.oicr import OicrSettings, OicrTopSettings
from weaksam.stages.wsod.seeds.pcl import PclSettings
from weaksam.stages.wsod.seeds.relocation import RelocationSettings
from weaksam.stages.wsod.seeds.scores import ScoresSettings


@pytest.mark.parametrize(
    ("overrides", "seeds"),
    [
        ([], RelocationSettings()),
        (["wsod.seeds.share=0.2"], RelocationSettings(share=0.2)),
        (["wsod.seeds=class_maps"], ClassMapSeedSettings()),
        (["wsod.seeds=scores", "wsod.seeds.score_nms=all_classes"], ScoresSettings(score_nms="all_classes")),
        (["wsod.seeds=oicr"], OicrSettings()),
        (["wsod.seeds=oicr_top"], OicrTopSettings()),
        (["wsod.seeds=mist", "wsod.seeds.share=0.2"], MistSettings(share=0.2)),
        (["wsod.seeds.rule=pcl", "wsod.seeds.centres=highest"], PclSettings(centres="highest")),
    ],
)
def test_the_rule_of_the_seeds_is_a_word_or_a_section(overrides: list[str], seeds: object) -> None:
    assert load_settings(RunSettings, None, overrides).wsod.seeds == seeds


RENAMED = {
    "mode=draft": "wsod.mode=frozen",
    "mode=full": "wsod.mode=end_to_end",
    "full.num_steps=5": "wsod.end_to_end",
    "seeds=clues": "wsod.seeds=relocation (or wsod.seeds=class_maps, where relocate_rounds was 0)",
    "relocate_rounds=0": "wsod.seeds.rounds (or wsod.seeds=class_maps, where it was 0)",
    "relocate_from=contrast": "wsod.seeds.start",
    "relocate_folds=4": "wsod.seeds.folds",
    "relocate_ridge=1": "wsod.seeds.ridge",
    "relocate_share=1": "wsod.seeds.share",
    "relocate_components=9": "wsod.seeds.components",
    "seed_share=1": "wsod.seeds.share (with wsod.seeds.rule=class_maps)",
    "max_seeds=1": "wsod.seeds.max_seeds (with wsod.seeds.rule=class_maps)",
    "score_share=1": "wsod.seeds.score_share (or wsod.seeds.share, with wsod.seeds.rule=oicr)",
    "several=false": "wsod.seeds.score_nms (true: per_class, false: all_classes)",
    "mist_share=0.2": "wsod.seeds.share (with wsod.seeds.rule=mist)",
    "mist_iou=0.2": "wsod.seeds.max_iou (with wsod.seeds.rule=mist)",
    "mist_compare=kept": "wsod.seeds.compare (with wsod.seeds.rule=mist)",
    "pcl_centres=graph": "wsod.seeds.centres (with wsod.seeds.rule=pcl)",
}


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_told_the_new_one(old: str, new: str) -> None:
    with pytest.raises(UserError) as caught:
        load_settings(RunSettings, None, [f"wsod.{old}"])
    key = old if old.startswith(("mode", "seeds")) else old.partition("=")[0].partition(".")[0]
    assert str(caught.value) == f"override wsod.{old}: wsod.{key} is now {new}: rename it"


def test_every_old_name_is_tried_above() -> None:
    tried = [old if old.startswith(("mode", "seeds")) else old.partition("=")[0] for old in RENAMED]
    assert sorted(name.partition(".")[0] for name in tried) == sorted(WsodSettings._renamed)


@pytest.mark.parametrize("rule", ["relocation", "class_maps", "scores", "oicr", "oicr_top", "mist", "pcl"])
def test_settings_of_a_rule_come_back_from_json(rule: str) -> None:
    settings = WsodSettings(seeds=rule)
    assert WsodSettings.model_validate(settings.model_dump(mode="json")) == settings
