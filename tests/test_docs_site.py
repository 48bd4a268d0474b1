"""The site of the pages: every page is in its navigation once, and the settings' page holds every section."""

import importlib.util

import pytest
import yaml

from tests.helpers import ROOT
from weaksam.pipeline.settings import RunSettings

GENERATED = {"settings.md"}


def listed_pages(nav: list) -> list[str]:
    """The pages of a navigation, in order."""
    pages = []
    for entry in nav:
        for item in entry.values() if isinstance(entry, dict) else [entry]:
            pages += listed_pages(item) if isinstance(item, list) else [item]
    return pages


def test_every_page_is_in_the_navigation_once() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = listed_pages(config["nav"])
    docs = ROOT / "docs"
    assert sorted(pages) == sorted({path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} | GENERATED)


def test_the_settings_page_has_a_table_for_every_section() -> None:
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    for page, section in hooks.STAGE_PAGES.items():
        table = hooks.with_settings(page, "# The stage\n").split(f"# The stage\n\n## All settings of `{section}`\n\n")[
            1
        ]
        assert (ROOT / "docs" / page).is_file() and table.startswith("| ") and f"| `{section}" in table
    assert hooks.with_settings("faq.md", "text") == "text"
    page = hooks.settings_page()
    plain = {"out", "seed", "device", "threads", "workers", "mask_segmenter", "embedding_cache", "ceiling"}
    assert set(hooks.SECTIONS) | plain == set(RunSettings.model_fields)
    for section in hooks.SECTIONS:
        assert f"\n## {section}\n" in page
    assert "| `wsod.extent.share` | `0.5` | number, at least 0, at most 1 |" in page
