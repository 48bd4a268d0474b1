"""Run the proposal stage: propose for every photo that the store does not hold yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from weaksam.data.proposals.given import photo_hashes, record_photos
from weaksam.data.sample_photos import read_photos_ahead
from weaksam.engine.context import RunContext
from weaksam.sam.batches import BatchLimit, encode_all
from weaksam.sam.protocol import Segmenter
from weaksam.stages.proposals.labelled import with_boxes_first, with_given_boxes
from weaksam.stages.proposals.prompting import propose_encoded, propose_photo
from weaksam.stages.proposals.settings import ProposalSettings
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.clue_points import TEXT, CluePoints
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import labels_fingerprint
from weaksam.structures.proposals import PROPOSAL_COLUMNS, Proposals
from weaksam.terminal import say

CUDA_PHOTOS_AT_ONCE = 8
"""Photos encoded at a time on a GPU where the settings leave it open."""
CluesOf = Callable[[str], CluePoints]
"""image_id -> the clue points of that photo."""
Hits = tuple[Callable[[str], Instances], str]
"""image_id -> what the words of classes find on that photo; and a fingerprint of all of it."""


def run(
    context: RunContext,
    settings: ProposalSettings,
    segmenter: Segmenter,
    clues_of: CluesOf,
    dataset: Dataset,
    split: str,
    *,
    clue_fingerprint: str = "",
    hits: Hits | None = None,
) -> Store:
    """Propose for every photo of ``dataset`` that the store of ``split`` does not hold yet; returns it sealed.

    ``clue_fingerprint`` names what ``clues_of`` answers from (the clue store's fingerprint), so that other clues
    make another store. On the training photos what was labelled beside the tags (``context.labels``) takes part: its
    points prompt like clue points, its boxes come first (`with_given_boxes`). ``hits``: what the classes' words find by
    image id, which comes before all but these, and its fingerprint. Columns: ``PROPOSAL_COLUMNS``; ``mask_size`` is
    ``[h, w]``. Photos are decoded ahead on threads and encoded several at a time; no more of them than that is ever
    held.
    """
    inputs = {"dataset": dataset.fingerprint, "segmenter": segmenter.fingerprint, "clues": clue_fingerprint}
    labels = context.labels if split == "train" else {}
    if labelled := labels_fingerprint(labels, "boxes", "masks", "marks"):
        inputs["labels"] = labelled
    if hits is not None:
        inputs["hits"] = hits[1]
    fingerprint = stage_fingerprint("proposals", settings, inputs)
    folder = store_folder(context.out, "proposals", split, fingerprint)
    store = Store(
        folder, stage="proposals", fingerprint=fingerprint, image_ids=dataset.image_ids, columns=PROPOSAL_COLUMNS
    )

    def note(sentence: str) -> None:
        say(f"proposals ({split}): {sentence}", error=True)
        context.log.write("out_of_memory", split=split, note=sentence)

    record_photos(folder, photo_hashes(dataset))
    at_once = settings.photos_at_once or (CUDA_PHOTOS_AT_ONCE if context.device.type == "cuda" else 1)
    photos, prompts = BatchLimit(at_once, "photos", note), BatchLimit(settings.batch_size, "prompts", note)

    def points_of(image_id: str) -> CluePoints:
        known = labels.get(image_id)
        return clues_of(image_id) if known is None else clues_of(image_id).with_given(*known.marks.all_points())

    def row(image_id: str, proposals: Proposals) -> dict[str, Any]:
        if hits is not None:
            of_photo, size = hits[0](image_id), dataset.by_id[image_id].size
            masks = of_photo.masks or (None,) * len(of_photo)
            proposals = with_boxes_first(proposals, of_photo.boxes, masks, size, TEXT)
        if image_id in labels:
            proposals = with_given_boxes(proposals, labels[image_id], dataset.by_id[image_id].size)
        return {"image_id": image_id, **proposals.as_row()}

    def rows(image_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        images = read_photos_ahead([dataset.by_id[image_id] for image_id in image_ids], settings.read_ahead)
        if settings.tile is not None:
            for image_id, image in zip(image_ids, images, strict=True):
                yield row(image_id, propose_photo(segmenter, image, points_of(image_id), settings, prompts))
            return
        for image_id, embedding in zip(image_ids, encode_all(segmenter, images, photos), strict=True):
            yield row(image_id, propose_encoded(segmenter, embedding, points_of(image_id), settings, prompts))

    return store.fill_parts(rows, progress=f"proposals ({split})")
