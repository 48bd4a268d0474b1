"""Compare the size that annotations state with the size of their photo, in words that every command uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weaksam.data.annotations import ImageTruth
from weaksam.structures.masks import Rle

Size = tuple[int, int]
"""(H, W) in pixels."""


def size_problem(stated: Size, photo: Size, whose: str) -> str | None:
    """A verb phrase on a photo of another size (H, W) than ``stated``, by ``whose`` words; None where they agree."""
    if stated == photo:
        return None
    kind = ""
    if stated == (photo[1], photo[0]):
        kind = ", its boxes may be drawn on the turned photo"
    elif factor := _scale(stated, photo):
        kind = f", its boxes may be drawn on a photo {factor} times as large"
    return f"is {_in_words(photo)} but {whose} says {_in_words(stated)}{kind}"


def truth_size_problems(truth: ImageTruth, photo: Size) -> Iterator[str]:
    """Verb phrases on the stated size and the masks of one image that are of another size than its photo (H, W)."""
    problem = None if truth.size is None else size_problem(truth.size, photo, "the truth")
    if problem is not None:
        yield problem
    else:
        yield from mask_size_problems(truth.instances.masks or (), photo, "a mask of the truth")


def mask_size_problems(masks: Sequence[Rle], photo: Size, whose: str) -> Iterator[str]:
    """A verb phrase for each size of ``masks`` that is not the photo's (H, W)."""
    for height, width in sorted({(int(mask["size"][0]), int(mask["size"][1])) for mask in masks}):
        problem = size_problem((height, width), photo, whose)
        if problem is not None:
            yield problem


def _in_words(size: Size) -> str:
    """Width x height, as photos' sizes are written."""
    return f"{size[1]} x {size[0]}"


def _scale(stated: Size, photo: Size) -> str | None:
    """How many times as large as the photo the stated size is, to a pixel; None where the shape is another."""
    if 0 in photo or 0 in stated:
        return None
    factor = stated[1] / photo[1]
    return f"{factor:.3g}" if abs(photo[0] * factor - stated[0]) <= max(1.0, factor) else None
