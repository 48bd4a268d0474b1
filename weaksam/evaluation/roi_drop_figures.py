"""Gather what is known of a detector's foreground regions and RoI drop: errors by loss, proposals, shares dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weaksam.evaluation.protocol import json_number
from weaksam.evaluation.roi_drop_proposals import MIN_REGIONS, RATE, DropProposal
from weaksam.evaluation.roi_errors import RIGHT_IOU, ErrorBins, ForegroundRegions, error_bins, separation
from weaksam.evaluation.text import number, table_lines

NUM_PARTS = 10
"""Rows of the table of error rates: as many regions in each."""


@dataclass(frozen=True)
class RoiDropFigures:
    """Foreground regions after ``share`` of the training of a run's stage, and the thresholds that they propose.

    ``dropped``: the share of foreground regions that left each term of the run's own training, epoch by epoch; empty
    where it had no RoI drop or is not finished.
    """

    stage: str
    share: float
    regions: ForegroundRegions
    proposals: Sequence[DropProposal]
    dropped: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def protocol(self) -> str:
        """What was measured, in words."""
        return (
            f"foreground regions that a step would sample after {self.share:.0%} of the training of {self.stage} "
            f"(without RoI drop), one pass over the {self.regions.num_photos} training photos with true boxes, in its "
            f"batches and views; wrong: the pseudo box of the region has IoU < {RIGHT_IOU:g} with every true box of "
            "its class (crowds are none); normalised: 0 to 1 over a batch's foreground"
        )

    @property
    def rule(self) -> str:
        """How thresholds are proposed, in words."""
        return (
            f"the least value above which more than {RATE:.0%} of the regions are wrong, by an error rate fitted as a "
            f"curve that never falls; none with fewer than {MIN_REGIONS} regions above, or where all would go; the "
            "joint gate's two limits are at one quantile"
        )

    def bins(self, term: str, threshold: str) -> ErrorBins:
        """Regions and errors by the loss of ``term``, as it is (``loss``) or ``normalised``."""
        values = self.regions.values(term, threshold)
        return error_bins(values, self.regions.wrong, None if threshold == "loss" else 1.0)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them, nan as null."""
        terms = {
            term: {
                "separation": json_number(separation(losses, self.regions.wrong)),
                **{threshold: self.bins(term, threshold).as_dict() for threshold in ("loss", "normalised")},
            }
            for term, losses in self.regions.losses.items()
        }
        return {
            "stage": self.stage,
            "share": self.share,
            "num_photos": self.regions.num_photos,
            "num_regions": len(self.regions),
            "error_rate": json_number(self.regions.error_rate),
            "terms": terms,
            "proposals": [proposal.as_dict(self.stage, self.share) for proposal in self.proposals],
            "dropped_by_epoch": {term: list(shares) for term, shares in self.dropped.items()},
            "protocol": self.protocol,
            "rule": self.rule,
        }


def roi_drop_text(figures: RoiDropFigures) -> str:
    """The error rate by tenths of the regions, the proposals with what they drop, and their settings."""
    regions = figures.regions
    lines = [
        f"{len(regions)} foreground regions of {regions.num_photos} photos after {figures.share:.0%} of the training "
        f"of {figures.stage}; error rate {number(regions.error_rate)}",
        "",
        *_parts_lines(regions),
        "",
        *_proposal_lines(figures.proposals),
    ]
    settings = [(proposal, proposal.settings(figures.stage, figures.share)) for proposal in figures.proposals]
    usable = [" ".join(texts) for _, texts in settings if texts]
    lines += ["", "settings:" if usable else "no threshold is proposed: RoI drop would take more right than wrong"]
    for term, shares in figures.dropped.items():
        usable.append(f"dropped of the {term} term, by epoch: {' '.join(f'{share:.3f}' for share in shares)}")
    return "\n".join([*lines, *usable, "", f"protocol: {figures.protocol}", f"proposed: {figures.rule}"])


def _parts_lines(regions: ForegroundRegions) -> list[str]:
    """A row for each tenth of the regions, lowest losses first: for each term its highest loss and its error rate."""
    header, columns = ["regions"], [[f"{part + 1}/{NUM_PARTS}" for part in range(NUM_PARTS)]]
    columns[0].append("separation")
    for term, losses in regions.losses.items():
        parts = np.array_split(np.argsort(losses, kind="stable"), NUM_PARTS)
        header += [f"{term} loss up to", "error rate"]
        columns.append([f"{losses[part].max():.3f}" if len(part) else "-" for part in parts] + [""])
        rates = [number(float(regions.wrong[part].mean()) if len(part) else None) for part in parts]
        columns.append([*rates, number(separation(losses, regions.wrong))])
    return table_lines(header, list(zip(*columns, strict=True)))


def _proposal_lines(proposals: Sequence[DropProposal]) -> list[str]:
    """A row per proposal: limits, and by term the shares of regions dropped, wrong among these, and wrong caught."""
    terms = list(proposals[0].limits) if proposals else []
    header = ["gate", "threshold"]
    for term in terms:
        header += [f"{term} limit", "dropped", "wrong of these", "of all wrong"]
    rows = []
    for proposal in proposals:
        row = [proposal.gate, proposal.threshold]
        for term in terms:
            limit = proposal.limits.get(term)
            known = [proposal.dropped[term], proposal.wrong[term], proposal.caught[term]]
            row += (
                ["-"] * 4
                if not proposal.dropped[term]
                else ["-" if limit is None else f"{limit:g}"] + [number(value) for value in known]
            )
        rows.append(row)
    return table_lines(header, rows)
