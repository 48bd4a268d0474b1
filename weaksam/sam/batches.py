"""Encode photos and decode prompts in batches, which are halved where the device runs out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.sam.prompts import Prompts, of_equal_length
from weaksam.sam.protocol import NUM_MASKS, Embedding, Masks, Segmenter
from weaksam.structures.devices import moved_together

T = TypeVar("T")


@runtime_checkable
class BatchEncoder(Protocol):
    """A segmenter that encodes several photos at once, to the embeddings that ``encode`` gives one by one."""

    def encode_batch(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        """Embed upright RGB photos, uint8 ``(H, W, 3)`` of any sizes, in order; none of none."""
        ...


class BatchLimit:
    """How many items go through the device at once: ``size`` at first, half of it whenever memory runs out.

    The smaller size stays, so a run pays for it once; ``note`` gets one sentence when it is found. ``what`` names the
    items for that sentence.
    """

    def __init__(self, size: int, what: str = "prompts", note: Callable[[str], None] | None = None) -> None:
        assert size >= 1, f"a batch holds at least one of the {what}, found a limit of {size}"
        self.size, self.what = size, what
        self._note = note
        self._noted = size

    def halve(self) -> None:
        """Make batches half as large; raises `UserError` where they hold one item already."""
        if self.size == 1:
            raise UserError(
                f"wanted memory for one of the {self.what} at a time on the device, found too little: free the device, "
                "use a smaller segmenter or set device=cpu"
            )
        self.size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def fitted(self) -> None:
        """Say, after a batch went through, how far the size had to come down for it."""
        if self.size < self._noted and self._note is not None:
            self._note(f"the device ran out of memory: {self.size} {self.what} at a time from here on")
        self._noted = self.size


def in_batches(total: int, limit: BatchLimit, compute: Callable[[slice], T]) -> Iterator[T]:
    """``compute`` of consecutive slices of ``total`` items, at most ``limit.size`` each; nothing for 0.

    A batch for which the device has no memory is taken again in halves, see `BatchLimit`.
    """
    start = 0
    while start < total:
        part = slice(start, min(start + limit.size, total))
        answer = _unless_out_of_memory(compute, part)
        if answer is None:  # what the failed batch held is free only now
            limit.size = part.stop - part.start  # a short batch failed: its own half is the next to try
            limit.halve()
            continue
        limit.fitted()
        yield answer
        start = part.stop


def _unless_out_of_memory(compute: Callable[[slice], T], part: slice) -> T | None:
    try:
        return compute(part)
    except torch.OutOfMemoryError:
        return None


def predict_batches(
    segmenter: Segmenter,
    embedding: Embedding,
    prompts: Prompts,
    limit: BatchLimit,
    min_pred_iou: float | None = None,
) -> Iterator[Masks]:
    """Answers of P ``prompts`` in order, at most ``limit.size`` of them at a time; nothing for P = 0.

    Masks not above ``min_pred_iou`` may be empty, see ``Segmenter.predict``.
    """

    def answer(part: slice) -> Masks:
        return segmenter.predict(embedding, prompts[part], min_pred_iou=min_pred_iou)

    yield from in_batches(len(prompts), limit, answer)


@dataclass(frozen=True)
class DecodedPrompts:
    """Logits ``(P, 3, g, g)``, predicted IoU and stability ``(P, 3)`` and photo boxes ``(P, 3, 4)``, on one device."""

    logits: Tensor
    iou: Tensor
    stability: Tensor
    boxes: Tensor


def decode_prompts(
    prompts: Prompts,
    side: int,
    device: torch.device,
    at_once: int,
    decode: Callable[[Prompts], tuple[Tensor, Tensor, Tensor, Tensor]],
) -> DecodedPrompts:
    """``decode`` of P ``prompts``, at most ``at_once`` of equal length together, in their order; P = 0 gives none.

    ``decode`` returns the four fields of `DecodedPrompts` for prompts without padding; ``side`` is the logits' g.
    """
    num = len(prompts)
    logits = torch.empty(num, NUM_MASKS, side, side, device=device)
    iou, stability, boxes = (torch.zeros(num, NUM_MASKS, *shape, device=device) for shape in ((), (), (4,)))
    for rows, together in of_equal_length(prompts, at_once):
        answer = decode(together)
        (device_rows,) = moved_together([rows], device)
        logits[device_rows], iou[device_rows], stability[device_rows], boxes[device_rows] = answer
    return DecodedPrompts(logits, iou, stability, boxes)


def chosen_maps(logits: Tensor, p_index: Tensor, k_index: Tensor) -> Tensor:
    """The maps ``(N, g, g)`` of ``logits`` (P, 3, g, g) at ``p_index`` and ``k_index`` (N,), wherever these lie."""
    p_there, k_there = moved_together([p_index, k_index], logits.device)
    return logits[p_there, k_there]


def encode_all(segmenter: Segmenter, images: Iterable[np.ndarray], limit: BatchLimit) -> Iterator[Embedding]:
    """The embedding of each photo, uint8 ``(H, W, 3)``, in order, ``limit.size`` photos at a time.

    A segmenter without ``encode_batch`` gets one after the other. At most one batch of photos and embeddings is held.
    """
    remaining = iter(images)
    if not isinstance(segmenter, BatchEncoder):
        yield from (segmenter.encode(image) for image in remaining)
        return
    while batch := list(islice(remaining, limit.size)):
        for embeddings in in_batches(len(batch), limit, lambda part: segmenter.encode_batch(batch[part])):
            yield from embeddings
