"""Hold pictures that were drawn of photos, with the lines below them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """One embedded picture: a ``data:`` address and the line below it."""

    caption: str
    uri: str


@dataclass(frozen=True)
class GalleryPhoto:
    """The pictures made of one photo, side by side."""

    name: str
    tags: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Gallery:
    """Photos under a title, one a line, with a sentence that explains what is drawn."""

    title: str
    text: str
    photos: list[GalleryPhoto]
