"""The stage: every photo's proposals into a store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from weaksam.data.proposals.given import photo_hashes, record_photos
from weaksam.data.read_ahead import read_ahead
from weaksam.sam.batches import BatchLimit, encode_all
from weaksam.sam.protocol import Segmenter
from weaksam.stages.proposals.prompts import CluePoints
from weaksam.stages.proposals.propose import Proposals, propose_encoded
from weaksam.stages.proposals.settings import ProposalSettings
from weaksam.store.store import Store, stage_fingerprint, store_folder

if TYPE_CHECKING:
    from weaksam.data.loading import Dataset
    from weaksam.engine.context import RunContext

COLUMNS = {"boxes": "boxes", "scores": "floats", "sources": "ints", "rles": "rles", "mask_size": "ints"}
CUDA_PHOTOS_AT_ONCE = 8
CluesOf = Callable[[str], CluePoints]
"""image_id -> the clue points of that photo."""


def run(
    context: RunContext,
    settings: ProposalSettings,
    segmenter: Segmenter,
    clues_of: CluesOf,
    dataset: Dataset,
    split: str,
    *,
    clue_fingerprint: str = "",
) -> Store:
    """Propose for every photo of ``dataset`` that the store of ``split`` does not hold yet; returns it sealed.

    ``clue_fingerprint`` names what ``clues_of`` answers from (the clue store's fingerprint), so that other clues
    make another store. Columns: ``COLUMNS``; ``mask_size`` is ``[h, w]``. Photos are decoded ahead on threads and
    encoded several at a time; no more of them than that is ever held.
    """
    inputs = {"dataset": dataset.fingerprint, "segmenter": segmenter.fingerprint, "clues": clue_fingerprint}
    fingerprint = stage_fingerprint("proposals", settings, inputs)
    folder = store_folder(context.out, "proposals", split, fingerprint)
    store = Store(folder, stage="proposals", fingerprint=fingerprint, image_ids=dataset.image_ids, columns=COLUMNS)

    def note(sentence: str) -> None:
        print(f"proposals ({split}): {sentence}", file=sys.stderr, flush=True)
        context.log.write("out_of_memory", split=split, note=sentence)

    record_photos(folder, photo_hashes(dataset))
    at_once = settings.photos_at_once or (CUDA_PHOTOS_AT_ONCE if context.device.type == "cuda" else 1)
    photos, prompts = BatchLimit(at_once, "photos", note), BatchLimit(settings.batch_size, "prompts", note)

    def rows(image_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        images = read_ahead([dataset.by_id[image_id].path for image_id in image_ids], settings.read_ahead)
        for image_id, embedding in zip(image_ids, encode_all(segmenter, images, photos), strict=True):
            found = propose_encoded(segmenter, embedding, clues_of(image_id), settings, prompts)
            yield {"image_id": image_id, **columns_of(found)}

    return store.fill_parts(rows, progress=f"proposals ({split})")


def columns_of(found: Proposals) -> dict[str, Any]:
    """The proposals of one photo as a row of the store, see ``COLUMNS``."""
    return {
        "boxes": found.boxes,
        "scores": found.scores,
        "sources": found.sources,
        "rles": list(found.rles),
        "mask_size": torch.tensor(found.mask_size),
    }
