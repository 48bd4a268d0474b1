"""Take finished proposals from a store instead of prompting, as far as the settings about boxes keep them."""

from __future__ import annotations

from typing import Any

import torch

from weaksam.data.proposals.given import GivenProposals, given_store, photo_hashes, record_photos
from weaksam.engine.context import RunContext
from weaksam.stages.proposals.candidates import Candidates
from weaksam.stages.proposals.settings import USED_WITH_GIVEN, ProposalSettings
from weaksam.stages.proposals.suppression import drop_equal_corners, filter_by_size
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.boxes import nms
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.proposals import PROPOSAL_COLUMNS, Proposals


def run_given(
    context: RunContext, settings: ProposalSettings, dataset: Dataset, split: str, given: GivenProposals | None = None
) -> Store:
    """Take the proposals of every photo of ``dataset`` from the store ``settings.given`` names; returns them sealed.

    ``given``: that store, where the caller has opened it already; what lies on disk must still be what it opened.
    The columns are those of `run`, the fingerprint that of the given store, the photos and the settings that decide
    about given boxes. Raises `UserError` as `given_store` and `GivenProposals.of` do.
    """
    given = given or given_store(settings.given, dataset, split)
    rules = ProposalSettings(**settings.model_dump(include=set(USED_WITH_GIVEN)))
    inputs = {"dataset": dataset.fingerprint, "given": given.fingerprint}
    fingerprint = stage_fingerprint("proposals", rules, inputs)
    folder = store_folder(context.out, "proposals", split, fingerprint)
    context.log.write("given proposals", split=split, store=str(given.store.folder), knows_photos=given.knows_photos)
    store = Store(
        folder, stage="proposals", fingerprint=fingerprint, image_ids=dataset.image_ids, columns=PROPOSAL_COLUMNS
    )
    record_photos(folder, photo_hashes(dataset))

    def row(image_id: str) -> dict[str, Any]:
        sample = dataset.by_id[image_id]
        return choose_given(given.of(sample), sample, rules).as_row()

    return store.fill(row, progress=f"proposals ({split})", cheap=True)


def choose_given(given: Proposals, sample: Sample, settings: ProposalSettings) -> Proposals:
    """Of a photo's given proposals, best score first, those that stay, in order.

    Sizes, then suppression best first, then equal corners, then the first ``max_proposals``; sources stay as they are.
    """
    candidates = Candidates(given.boxes, given.scores, given.sources, torch.arange(len(given)))
    candidates = filter_by_size(candidates, sample.size, settings)
    candidates = candidates[nms(candidates.boxes, candidates.scores, settings.nms_iou)]
    return given[drop_equal_corners(candidates, settings.dedupe).rows[: settings.max_proposals]]
