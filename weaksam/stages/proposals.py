"""Prompt the frozen segmenter with a grid and with clue points, and keep the boxes of its masks as proposals."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from weaksam.artifacts import Store, stage_fingerprint, store_folder
from weaksam.config import Settings
from weaksam.data.given_proposals import GivenSettings, given_store, photo_hashes, record_photos
from weaksam.data.proposal_files import store_columns
from weaksam.data.reading import read_ahead
from weaksam.sam.batches import BatchLimit, encode_all
from weaksam.sam.candidates import Candidates, MaskPile, candidates_of, canonical_order
from weaksam.sam.prompts import COARSE, CROSS, GRID, CluePoints, Prompts, clue_prompts, grid_prompts, predict_batches
from weaksam.sam.protocol import Embedding, Proposer, Segmenter
from weaksam.sam.suppression import Dedupe, SizeRule, Suppression, best_of, deduped, sized, suppress_duplicates
from weaksam.structures.boxes import inclusive_from_xyxy, nms
from weaksam.structures.masks import Rle

if TYPE_CHECKING:
    from weaksam.data.dataset import Dataset, Sample
    from weaksam.data.proposal_files import ImageProposals
    from weaksam.engine.context import RunContext

COLUMNS = {"boxes": "boxes", "scores": "floats", "sources": "ints", "rles": "rles", "mask_size": "ints"}
CluesOf = Callable[[str], CluePoints]
"""image_id -> the clue points of that photo."""
Kind = Literal["coarse", "fine", "cross"]

ORIGINAL_RULES: Mapping[str, Any] = {
    "grid_side": 32,
    "min_pred_iou": 0.3,
    "min_stability": 0.3,
    "grid_nms_iou": 0.3,
    "grid_corners": "inclusive",
    "ask_for_regions": False,
    "joint_of_one": True,
    "keep_empty": True,
    "suppress": "cross",
    "suppression": "first_seen",
    "size_rule": "none",
    "max_proposals": None,
}
"""What ``rules=original`` sets, as far as it is not set itself: the released WeakSAM's sequence (section 2)."""
GIVEN_RULES: Mapping[str, Any] = {"size_rule": "none", "nms_iou": 1.0}
"""What is preset for given boxes: who made them chose sizes and suppression; 1 suppresses nothing."""
USED_WITH_GIVEN = frozenset({"size_rule", "min_side", "max_area", "nms_iou", "dedupe", "max_proposals"})
"""The settings that decide about given boxes; the others belong to prompts."""
CUDA_PHOTOS_AT_ONCE = 8


class ProposalSettings(Settings):
    """Which prompts are put and which answers become proposals, or which finished proposals are taken instead.

    ``rules`` names a preset for all that is not set: ``ours``, whose result depends on no order, or ``original``, the
    released code's sequence; docs/proposals.md says why they differ. The grid's side and thresholds are, unless given,
    those of ``GRID_DEFAULTS`` for the segmenter. One that lists its regions itself (the region tree) is asked for its
    ``max_proposals`` best instead of being prompted with the grid.
    """

    rules: Literal["ours", "original"] = Field(default="ours", description="preset for all that is not set below")
    given: GivenSettings = Field(default=GivenSettings(), description="finished stores to take proposals from")
    grid_side: int | None = Field(default=None, ge=0, le=256, description="grid points a side; 0 puts no grid")
    grid_masks: tuple[int, ...] = Field(default=(0, 1, 2), description="masks of a grid prompt to keep, 0 the smallest")
    min_pred_iou: float | None = Field(default=None, ge=0, le=1, description="grid masks must be predicted above this")
    min_stability: float | None = Field(default=None, ge=0, le=1, description="grid masks must be at least this stable")
    grid_nms_iou: float | None = Field(default=None, ge=0, le=1, description="suppression among the grid's boxes")
    grid_corners: Literal["half_open", "inclusive"] = Field(
        default="half_open", description="corners whose IoU that suppression measures; SAM's generator: inclusive"
    )
    ask_for_regions: bool = Field(default=True, description="a segmenter that lists its regions is not put the grid")
    kinds: tuple[Kind, ...] = Field(default=("coarse", "fine", "cross"), description="clue points that prompt")
    joint_kinds: tuple[Kind, ...] = Field(
        default=("coarse", "fine"), description="kinds whose points of a class also prompt together; never cross"
    )
    joint_of_one: bool = Field(default=False, description="join a class with one point too, for the same boxes again")
    clue_masks: tuple[int, ...] = Field(default=(1, 2), description="masks of a clue prompt to keep, 0 the smallest")
    keep_empty: bool = Field(default=False, description="an empty clue mask gives the first pixel's box, else none")
    suppress: Literal["all", "cross"] = Field(default="all", description="boxes suppressed against each other")
    suppression: Suppression = Field(default="best_first", description="by score, or score-free in order of prompts")
    nms_iou: float = Field(default=0.9, ge=0, le=1, description="boxes that overlap by more are the same")
    size_rule: SizeRule = Field(default="min_side", description="least side: min_side, or a published detector's")
    min_side: float = Field(default=16.0, ge=0, description="shortest side by the rule min_side, photo pixels")
    max_area: float = Field(default=1.0, gt=0, le=1, description="largest box, as a fraction of the photo")
    dedupe: Dedupe = Field(
        default="none", description="drop boxes whose corners round alike: pixel (MIST), eighth (OICR)"
    )
    max_proposals: int | None = Field(default=300, ge=1, description="most proposals of a photo; clue prompts go first")
    batch_size: int = Field(default=64, ge=1, description="prompts answered at a time; halved where memory runs out")
    photos_at_once: int | None = Field(
        default=None, ge=1, description="photos encoded at a time; None: 8 on CUDA, else 1"
    )
    read_ahead: int = Field(default=4, ge=0, description="photos decoded on threads ahead of the segmenter")

    # The content of a given store is fingerprinted as an input, wherever it lies
    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset(
        {"rules", "given", "batch_size", "photos_at_once", "read_ahead"}
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_rules(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset: dict[str, Any] = {}
        if values.get("rules") == "original":
            preset |= ORIGINAL_RULES
        if GivenSettings.are_in(values.get("given")):
            preset |= {**GIVEN_RULES, **({"size_rule": "min_side"} if "min_side" in values else {})}
        return {**preset, **values}


@dataclass(frozen=True)
class Grid:
    """Points a side and thresholds of the dense grid, see ``ProposalSettings``."""

    grid_side: int
    min_pred_iou: float
    min_stability: float
    grid_nms_iou: float


_MILD = Grid(16, 0.1, 0.0, 0.7)
GRID_DEFAULTS = {"sam_nano": _MILD, "tree": _MILD, "": Grid(32, 0.3, 0.3, 0.3)}
"""By the beginning of the segmenter's name: milder for the offline ones, whose predicted IoU ranks less well, with a
quarter of the points; as published for every SAM (section 2.1)."""


@dataclass(frozen=True)
class Proposals:
    """The N proposals of one photo, best score first (by the original rules: in the order of the prompts).

    ``boxes``: float32 ``(N, 4)`` half-open xyxy in photo pixels; ``scores``: ``(N,)`` predicted IoU; ``sources``:
    ``(N,)`` numbers into ``prompts.SOURCES`` (the highest of the prompts a box stands for); ``rles``: N masks in the
    segmenter's working frame of ``mask_size`` (h, w), which covers the whole photo. N = 0 is a photo in which the
    segmenter found nothing.
    """

    boxes: Tensor
    scores: Tensor
    sources: Tensor
    rles: tuple[Rle, ...]
    mask_size: tuple[int, int]


def propose(
    segmenter: Segmenter,
    image: np.ndarray,
    points: Tensor,
    labels: Tensor,
    settings: ProposalSettings,
    kinds: Tensor | None = None,
) -> Proposals:
    """Proposals of one photo, uint8 ``(H, W, 3)``, encoded once: see `propose_encoded`.

    ``points (P, 2)`` xy in photo pixels, ``labels (P,)`` the class each speaks for (-1: none) and ``kinds (P,)`` the
    map each was found on (see ``CluePoints``; all coarse if not given). P = 0 leaves the grid alone.
    """
    clues = CluePoints.of(points, labels, COARSE) if kinds is None else CluePoints(points, labels, kinds)
    return propose_encoded(segmenter, segmenter.encode(image), clues, settings)


def propose_encoded(
    segmenter: Segmenter,
    embedding: Embedding,
    clues: CluePoints,
    settings: ProposalSettings,
    limit: BatchLimit | None = None,
) -> Proposals:
    """Proposals of one encoded photo; WeakSAM section 2, with one encoding where the original makes 4 + 2C.

    No mask at all gives no proposals: a whole-photo box is never invented. By the default rules the result does not
    depend on the order of the points; by the original ones boxes come in the order grid, coarse, fine, cross and only
    the cross boxes are suppressed, first seen first. ``limit`` bounds the prompts of a batch (``batch_size`` if None).
    """
    limit = limit or BatchLimit(settings.batch_size)
    if settings.suppression == "best_first":
        clues = clues.in_canonical_order()
    pile = MaskPile()
    found = Candidates.cat(
        [
            grid_candidates(segmenter, embedding, settings, pile, limit),
            clue_candidates(segmenter, embedding, clues, settings, pile, limit),
        ]
    )
    kept = choose(found, embedding.size, settings)
    return Proposals(kept.boxes, kept.scores, kept.sources, pile.rles(kept.rows), pile.frame)


def grid_of(segmenter_name: str, settings: ProposalSettings) -> Grid:
    """The settings' grid, with the defaults of the segmenter for what is not set."""
    default = next(grid for beginning, grid in GRID_DEFAULTS.items() if segmenter_name.startswith(beginning))
    given = {name: getattr(settings, name) for name in asdict(default)}
    return replace(default, **{name: value for name, value in given.items() if value is not None})


def grid_candidates(
    segmenter: Segmenter, embedding: Embedding, settings: ProposalSettings, pile: MaskPile, limit: BatchLimit
) -> Candidates:
    """Dense sampling (section 2.1): thresholds, then suppression by predicted IoU, best first. None if it is off."""
    grid = grid_of(segmenter.name, settings)
    if grid.grid_side == 0:
        return Candidates.none()
    if settings.ask_for_regions and isinstance(segmenter, Proposer):
        most = sys.maxsize if settings.max_proposals is None else settings.max_proposals
        regions = segmenter.proposals(embedding, most)
        sources = torch.full((len(regions.boxes),), GRID)
        return Candidates(regions.boxes, regions.scores, sources, pile.add(regions.masks))
    points, point_labels, sources, _ = grid_prompts(embedding.size, grid.grid_side)
    parts: list[Candidates] = []
    batches = predict_batches(segmenter, embedding, points, point_labels, limit, min_pred_iou=grid.min_pred_iou)
    for answer in batches:
        good = (answer.iou > grid.min_pred_iou) & (answer.stability >= grid.min_stability)
        parts.append(candidates_of(answer, sources[: len(answer)], settings.grid_masks, pile, good)[0])
    found = Candidates.cat(parts)
    if settings.suppression == "best_first":
        found = canonical_order(found)
    corners = inclusive_from_xyxy(found.boxes) if settings.grid_corners == "inclusive" else found.boxes
    return found[nms(corners, found.scores, grid.grid_nms_iou)]


def clue_candidates(
    segmenter: Segmenter,
    embedding: Embedding,
    clues: CluePoints,
    settings: ProposalSettings,
    pile: MaskPile,
    limit: BatchLimit,
) -> Candidates:
    """Clue prompts (section 2.2): the larger masks, whatever their predicted IoU, in the published order."""
    parts: list[Candidates] = []
    places: list[Tensor] = [torch.zeros(0, dtype=torch.int64)]
    for prompts in clue_prompts(clues, settings.kinds, settings.joint_kinds, settings.joint_of_one):
        for found, at in _answers(segmenter, embedding, prompts, settings, pile, limit):
            parts.append(found)
            places.append(at)
    return Candidates.cat(parts)[torch.cat(places).argsort(stable=True)]


def _answers(
    segmenter: Segmenter,
    embedding: Embedding,
    prompts: Prompts,
    settings: ProposalSettings,
    pile: MaskPile,
    limit: BatchLimit,
) -> Iterator[tuple[Candidates, Tensor]]:
    """Candidates of each batch of clue ``prompts``, with the place ``(N,)`` of the prompt each comes from."""
    start = 0
    for answer in predict_batches(segmenter, embedding, prompts.points, prompts.point_labels, limit):
        end = start + len(answer)
        found, which = candidates_of(
            answer, prompts.sources[start:end], settings.clue_masks, pile, empty=settings.keep_empty
        )
        yield found, prompts.places[start:end][which]
        start = end


def choose(found: Candidates, size: tuple[int, int], settings: ProposalSettings) -> Candidates:
    """Of all candidates of a photo ``(H, W)`` those that become proposals, in order.

    By score: sizes first, so that a box too small suppresses nothing, then suppression in canonical order. In the order
    of the prompts: suppression first and sizes after it, where the original's detectors have them.
    """
    first_seen = settings.suppression == "first_seen"
    if not first_seen:
        found = canonical_order(_sized(found, size, settings))
    scope = found.sources == CROSS if settings.suppress == "cross" else torch.ones(len(found), dtype=torch.bool)
    found = suppress_duplicates(found, scope, settings.nms_iou, settings.suppression)
    if first_seen:
        found = _sized(found, size, settings)
    return best_of(deduped(found, settings.dedupe), settings.max_proposals)


def _sized(found: Candidates, size: tuple[int, int], settings: ProposalSettings) -> Candidates:
    return sized(found, size, settings.size_rule, settings.min_side, settings.max_area)


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


def run_given(context: RunContext, settings: ProposalSettings, dataset: Dataset, split: str) -> Store:
    """Take the proposals of every photo of ``dataset`` from the store ``settings.given`` names; returns them sealed.

    The columns are those of `run`, the fingerprint that of the given store, the photos and the settings that decide
    about given boxes. Raises `UserError` as `given_store` and `GivenProposals.of` do.
    """
    given = given_store(settings.given, dataset, split)
    rules = ProposalSettings(**settings.model_dump(include=set(USED_WITH_GIVEN)))
    inputs = {"dataset": dataset.fingerprint, "given": given.fingerprint}
    fingerprint = stage_fingerprint("proposals", rules, inputs)
    folder = store_folder(context.out, "proposals", split, fingerprint)
    context.log.write("given proposals", split=split, store=str(given.store.folder), knows_photos=given.knows_photos)
    store = Store(folder, stage="proposals", fingerprint=fingerprint, image_ids=dataset.image_ids, columns=COLUMNS)
    record_photos(folder, photo_hashes(dataset))

    def row(image_id: str) -> dict[str, Any]:
        sample = dataset.by_id[image_id]
        return store_columns(choose_given(given.of(sample), sample, rules))

    return store.fill(row, progress=f"proposals ({split})")


def choose_given(found: ImageProposals, sample: Sample, settings: ProposalSettings) -> ImageProposals:
    """Of a photo's given proposals, best score first, those that stay, in order.

    Sizes, then suppression best first, then equal corners, then the first ``max_proposals``; sources stay as they are.
    """
    every = Candidates(found.boxes, found.scores, found.sources, torch.arange(len(found)))
    left = _sized(every, sample.size, settings)
    left = left[nms(left.boxes, left.scores, settings.nms_iou)]
    return found[deduped(left, settings.dedupe).rows[: settings.max_proposals]]


def columns_of(found: Proposals) -> dict[str, Any]:
    """The proposals of one photo as a row of the store, see ``COLUMNS``."""
    return {
        "boxes": found.boxes,
        "scores": found.scores,
        "sources": found.sources,
        "rles": list(found.rles),
        "mask_size": torch.tensor(found.mask_size),
    }
