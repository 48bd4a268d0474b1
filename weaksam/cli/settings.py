"""Print the settings of a run: type, default, range and a sentence for each."""

from __future__ import annotations

import json
from shutil import get_terminal_size
from typing import Annotated, Literal

import typer

from weaksam.terminal import answer

Section = Annotated[str | None, typer.Argument(help="a section or a key, such as wsod or retrain.lr; none: all")]
Format = Annotated[Literal["text", "markdown", "json"], typer.Option("--format", help="how they are printed")]


def settings(section: Section = None, form: Format = "text") -> None:
    """Print each setting with its type, default, range and meaning: all, a section's (wsod) or one (retrain.lr).

    What is printed before the brackets can be given to every command as it stands: retrain.lr=0.01. Of a section of
    several kinds, such as wsod.seeds, the kind stands in brackets.
    """
    from weaksam.pipeline.settings_reference import settings_markdown, settings_text, settings_under

    chosen = settings_under(section)
    if form == "json":
        answer(json.dumps([setting.as_dict() for setting in chosen], indent=1, ensure_ascii=False))
    else:
        answer(
            settings_markdown(chosen)
            if form == "markdown"
            else settings_text(chosen, min(100, get_terminal_size((100, 24)).columns))
        )
