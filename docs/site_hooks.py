"""What the site adds to the pages: tables of settings, on each stage's page and all together, and llms.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from weaksam.pipeline.settings_reference import settings_markdown, settings_under

SECTIONS = (
    "data",
    "classes",
    "backbone",
    "segmenter",
    "clues",
    "proposals",
    "wsod",
    "pseudo_gt",
    "retrain",
    "wsis",
    "evaluation",
)

STAGE_PAGES = {
    "clues.md": "clues",
    "weaktr.md": "clues.weaktr",
    "proposals.md": "proposals",
    "segmenters.md": "segmenter",
    "wsod.md": "wsod",
    "seeding.md": "wsod.seeds",
    "pseudo_gt.md": "pseudo_gt",
    "retrain.md": "retrain",
    "masks.md": "wsis",
    "data.md": "data",
    "evaluation.md": "evaluation",
}
"""The section whose settings end a page."""


def settings_page() -> str:
    """All settings, section by section."""
    parts = [
        "# Settings\n\nEach is set in the config or as `key=value` on the command line; `weaksam settings` prints them."
    ]
    parts += [f"## {section}\n\n{settings_markdown(settings_under(section))}" for section in SECTIONS]
    return "\n\n".join(parts) + "\n"


def with_settings(page: str, markdown: str) -> str:
    """The text of a page with the table of its stage's settings at the end; that of another page as it is."""
    section = STAGE_PAGES.get(page)
    if section is None:
        return markdown
    return f"{markdown.rstrip()}\n\n## All settings of `{section}`\n\n{settings_markdown(settings_under(section))}\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Add the settings to the page of a stage."""
    return with_settings(page.file.src_uri, markdown)


def on_files(files: Files, config: Any) -> Files:
    """Add the page of the settings."""
    files.append(File.generated(config, "settings.md", content=settings_page()))
    return files


def on_post_build(config: Any) -> None:
    """Write llms.txt: every page with its heading, for readers that are no people."""
    pages = []
    docs = Path(config["docs_dir"])
    for path in sorted(docs.rglob("*.md")):
        heading = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        pages.append(f"- [{heading}]({path.relative_to(docs).with_suffix('').as_posix()}/)")
    text = f"# {config['site_name']}\n\n> {config['site_description']}\n\n" + "\n".join(pages) + "\n"
    Path(config["site_dir"], "llms.txt").write_text(text, encoding="utf-8")
