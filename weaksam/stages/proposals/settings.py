"""Define the settings of the proposals: which prompts are put, which masks are kept, and the presets of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from weaksam.config import Settings
from weaksam.data.proposals.given import GivenSettings
from weaksam.structures.clue_points import KindName

SizeRule = Literal["none", "min_side", "oicr", "mist_voc", "mist_coco"]
Dedupe = Literal["none", "pixel", "eighth"]
Suppression = Literal["best_first", "first_seen"]

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
"""What ``rules=original`` sets, as far as it is not set itself: the sequence of WeakSAM's released code
(docs/method.md, Proposals)."""
GIVEN_RULES: Mapping[str, Any] = {"size_rule": "none", "nms_iou": 1.0}
"""What is preset for given boxes: who made them chose sizes and suppression; 1 suppresses nothing."""
USED_WITH_GIVEN = frozenset({"size_rule", "min_side", "max_area", "nms_iou", "dedupe", "max_proposals"})
"""The settings that decide about given boxes; the others belong to prompts."""


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
    kinds: tuple[KindName, ...] = Field(default=("coarse", "fine", "cross"), description="clue points that prompt")
    joint_kinds: tuple[KindName, ...] = Field(
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
    tile: int | None = Field(
        default=None,
        ge=64,
        description="propose in tiles of so many pixels a side, for photos far larger than the segmenter's input; each "
        "tile has its own max_proposals; None: in the whole photo",
    )
    tile_overlap: float = Field(default=0.25, ge=0, lt=0.9, description="share of its side that a tile has in common")
    read_ahead: int = Field(default=4, ge=0, description="photos decoded on threads ahead of the segmenter")

    # The content of a given store is fingerprinted as an input, wherever it lies
    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset(
        {"rules", "given", "batch_size", "photos_at_once", "read_ahead"}
    )

    _as_before: ClassVar[Mapping[str, Any]] = {"tile": None, "tile_overlap": 0.25}

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
quarter of the points; WeakSAM's for every SAM (docs/method.md, Proposals)."""


def grid_of(segmenter_name: str, settings: ProposalSettings) -> Grid:
    """The settings' grid, with the defaults of the segmenter for what is not set."""
    default = next(grid for beginning, grid in GRID_DEFAULTS.items() if segmenter_name.startswith(beginning))
    given = {name: getattr(settings, name) for name in asdict(default)}
    return replace(default, **{name: value for name, value in given.items() if value is not None})
