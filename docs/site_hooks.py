"""What the site adds to the pages: a table of all settings for each section, and llms.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from weaksam.pipeline.settings_reference import settings_markdown, settings_under

SECTIONS = ("data", "backbone", "segmenter", "clues", "proposals", "wsod", "pseudo_gt", "retrain", "wsis", "evaluation")


def settings_page() -> str:
    """All settings, section by section."""
    parts = [
        "# Settings\n\nEach is set in the config or as `key=value` on the command line; `weaksam settings` prints them."
    ]
    parts += [f"## {section}\n\n{settings_markdown(settings_under(section))}" for section in SECTIONS]
    return "\n\n".join(parts) + "\n"


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
        pages.append(f"- [{heading}]({path.relative_to(docs).with_suffix("").as_posix()}/)")
    text = f"# {config['site_name']}\n\n> {config['site_description']}\n\n" + "\n".join(pages) + "\n"
    Path(config["site_dir"], "llms.txt").write_text(text, encoding="utf-8")
