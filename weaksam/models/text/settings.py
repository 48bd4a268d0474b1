"""Define the settings of asking for classes by their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from weaksam.config import Settings

Phrases = str | tuple[str, ...] | None
"""What a class is asked for by: a phrase, several, or None where no words name it."""


class ClassesSettings(Settings):
    """What is known of the classes beside their names."""

    prompts: dict[str, Phrases] = Field(
        {},
        description="phrases that text-prompted models are asked for instead of a class's name, by class, such as "
        '{bat: "a baseball bat"}; several count as one; null where no words name the class, as of a code of a defect',
    )

    @field_validator("prompts")
    @classmethod
    def _with_words(cls, prompts: Mapping[str, Phrases]) -> Mapping[str, Phrases]:
        for name, phrases in prompts.items():
            texts = (phrases,) if isinstance(phrases, str) else phrases
            if texts is not None and (not texts or not all(text.strip() for text in texts)):
                raise ValueError(f"wanted words for class {name!r}, found none: write a phrase, or null for no words")
        return prompts


class TextSettings(Settings):
    """The detector that is asked for classes by name, and how far it is believed."""

    model: Path | None = Field(
        None,
        description="folder or hub id of an OWLv2, Grounding DINO or SAM 3 model, such as "
        "google/owlv2-base-patch16-ensemble",
    )
    min_score: float | None = Field(
        None, gt=0, lt=1, description="least score of a hit; none: 0.2 OWLv2, 0.3 Grounding DINO, 0.5 SAM 3"
    )
    nms_iou: float = Field(0.5, gt=0, le=1, description="IoU above which two hits of a class are one object")
    most_hits: int = Field(20, ge=1, description="most hits of a class on a photo")
    ask: Literal["all", "tags"] = Field(
        "all",
        description="classes that a tagged photo is asked for; all: others too, whose hits are vetoed but tell how far "
        "the words of a class can be believed; tags: its tags alone, which is cheaper",
    )
    choice: Literal["tags", "text"] = Field(
        "tags",
        description="source of a class; tags: the words where they tell the photos with its tag from the others better "
        "than class maps do; text: the words wherever they hit",
    )
    as_proposals: bool = Field(
        False, description="hits are proposals too, before all others, beside the points that they prompt with"
    )
    fallback: Literal["cam", "weaktr", "files"] = Field(
        "cam", description="source of the class maps of all that the words do not find"
    )

    @model_validator(mode="after")
    def _comparable(self) -> TextSettings:
        if self.choice == "tags" and self.ask == "tags":
            raise ValueError("choice=tags compares photos with and without a tag, which ask=tags never asks: set one")
        return self


def phrases_of(classes: tuple[str, ...], prompts: Mapping[str, Phrases]) -> dict[int, tuple[str, ...]]:
    """The phrases of each class by its label: those of ``prompts``, else its name; none where the prompts say null.

    An underscore in a name is read as a space, since tokenizers know words.
    """
    phrases: dict[int, tuple[str, ...]] = {}
    for label, name in enumerate(classes):
        given = prompts.get(name, name.replace("_", " "))
        phrases[label] = () if given is None else (given,) if isinstance(given, str) else given
    return phrases
