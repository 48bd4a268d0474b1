"""The reference of settings: every key is there, with what the classes say, and can be given back as it is printed."""

import pytest

from weaksam.config import UserError, load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.settings_reference import settings_markdown, settings_text, settings_under


def test_every_setting_has_a_sentence_and_a_type() -> None:
    every = settings_under()
    assert len({setting.key for setting in every}) == len(every) > 400
    assert [setting.key for setting in every if not setting.sentence] == []
    assert [setting.key for setting in every if "=" in setting.type or "Annotated" in setting.type] == []


def test_one_number() -> None:
    [share] = settings_under("wsod.extent.share")
    assert (share.type, share.default, share.range) == ("number", "0.5", "at least 0, at most 1")
    assert settings_text([share]).splitlines()[0] == "wsod.extent.share=0.5  (number, at least 0, at most 1)"


def test_choices_and_optional_numbers() -> None:
    [mode], [threads] = settings_under("wsod.mode"), settings_under("threads")
    assert (mode.type, mode.default) == ("frozen | end_to_end", "frozen")
    assert (threads.type, threads.default, threads.range) == ("whole number or null", "null", "at least 1")


def test_a_tagged_section_names_its_kinds() -> None:
    seeds = settings_under("wsod.seeds")
    assert seeds[0].key == "wsod.seeds" and seeds[0].default == "relocation" and "mist" in seeds[0].type.split(" | ")
    share = [setting for setting in seeds if setting.key == "wsod.seeds (mist).share"]
    assert [setting.default for setting in share] == ["0.15"]
    assert not [setting for setting in seeds if setting.key.endswith(").rule")]  # the kind says it


def test_a_sentence_below_a_field_is_read_from_the_class_or_its_base() -> None:
    [proposals] = settings_under("retrain.given_proposals")
    assert proposals.key == "retrain (faster_rcnn).given_proposals" and "best proposals" in proposals.sentence
    assert any(setting.sentence.startswith("Mirror half") for setting in settings_under("retrain.flip"))  # of a base


@pytest.mark.parametrize("key", ["wsod.hidden", "retrain.short_side", "proposals", "segmenter", "clues"])
def test_what_is_printed_can_be_given(key: str) -> None:
    rows = [setting for setting in settings_under(key) if "(" not in setting.key and setting.default != "..."]
    texts = [f"{setting.key}={setting.default}" for setting in rows]
    assert load_settings(RunSettings, None, texts) == RunSettings()


def test_markdown_escapes_the_bars() -> None:
    table = settings_markdown(settings_under("wsod.mode"))
    assert table.splitlines()[2].startswith("| `wsod.mode` | `frozen` | frozen \\| end_to_end |")


def test_an_unknown_key_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"wanted a setting or a section, found 'wsod.hiden'.*'wsod.hidden'.*sections"):
        settings_under("wsod.hiden")
