"""Compare rules of pseudo ground truth and ways to tighten boxes on finished runs, one mechanism a row.

    python benchmarks/extent.py OUT [OUT ...] [--masks]

Each OUT is the folder of a run of one set whose weak detector is finished; several are seeds of one config, and a row
gives their mean. Nothing is trained: the stored detections of the weak detector are moved, and the pseudo ground truth
is chosen from them anew. Columns: precision and recall of the believed boxes on the training photos, their number, the
share of them that have an IoU of 0.75 with an object of their own, the mean IoU of those right at 0.5, the ignored
regions and the share of the missed objects that they cover, and AP of the moved detections on the test photos. True
boxes serve this measurement alone. ``--masks`` adds rows in which a box becomes that of the mask that it prompts, which
reads every photo.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from retrain_oracles import measured_detections

from weaksam.data.sample_photos import read_photo
from weaksam.evaluation.pseudo_gt import pseudo_gt_quality
from weaksam.evaluation.pseudo_gt_zones import count_zones
from weaksam.evaluation.text import number
from weaksam.pipeline.plan import stage_named
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.state import Run, open_run, require_finished
from weaksam.sam.box_masks import BoxMaskSettings, masks_of_boxes
from weaksam.sam.prompts import Prompts
from weaksam.stages import pseudo_gt
from weaksam.stages.pseudo_gt.settings import AdaptiveSettings, PseudoGtSettings, Top1Settings
from weaksam.structures.box_voting import BoxVotingSettings, voted_detections
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances
from weaksam.structures.masks import box_from_rle
from weaksam.structures.proposals import Proposals

STAGES_BEFORE = ("clues", "proposals", "wsod")
Move = Callable[[Run, str, str, Instances], Instances]
"""Moved detections of one photo, of a run, a split, an image id and its detections."""


def as_they_are(run: Run, split: str, image_id: str, detections: Instances) -> Instances:
    """The detections themselves."""
    return detections


def voted(**settings: float) -> Move:
    """Boxes moved to the vote of the proposals, by the named `BoxVotingSettings`."""
    voting = BoxVotingSettings(**settings)

    def move(run: Run, split: str, image_id: str, detections: Instances) -> Instances:
        return voted_detections(detections, proposals_of(run, split, image_id), voting)

    return move


def proposals_of(run: Run, split: str, image_id: str) -> Proposals:
    """The stored proposals of a photo."""
    return Proposals.from_row(run.results["proposals"][split][image_id])


def mask_boxes(least_iou: float) -> Move:
    """Each box becomes that of the mask that it prompts, where the two overlap by ``least_iou`` or more."""

    def move(run: Run, split: str, image_id: str, detections: Instances) -> Instances:
        if len(detections) == 0:
            return detections
        image = read_photo(run.splits[split].by_id[image_id])
        embedding, prompts = run.segmenter.encode(image), Prompts(boxes=detections.boxes)
        masks = masks_of_boxes(run.segmenter, embedding, prompts, BoxMaskSettings())
        boxes = torch.stack([box_from_rle(mask) for mask in masks.rles])
        agree = pairwise_iou(boxes, detections.boxes).diagonal() >= least_iou
        return detections.replace(boxes=torch.where(agree[:, None], boxes, detections.boxes))

    return move


@dataclass(frozen=True)
class Mechanism:
    """What a row of the table does: how detections move, and which of them are pseudo ground truth."""

    move: Move = as_they_are
    rule: PseudoGtSettings = field(default_factory=AdaptiveSettings)


MECHANISMS: Mapping[str, Mechanism] = {
    "top-1": Mechanism(rule=Top1Settings()),
    "adaptive, the larger box wins (Algorithm 2)": Mechanism(rule=AdaptiveSettings(larger_share=0)),
    "adaptive, larger_share=0.5": Mechanism(rule=AdaptiveSettings(larger_share=0.5)),
    "adaptive, larger_share=0.9": Mechanism(rule=AdaptiveSettings(larger_share=0.9)),
    "adaptive (default)": Mechanism(),
    "adaptive, min_score_norm=0.5": Mechanism(rule=AdaptiveSettings(min_score_norm=0.5)),
    "top-1, ignore_from=0.5": Mechanism(rule=Top1Settings(ignore_from=0.5)),
    "top-1, ignore_from=0.9": Mechanism(rule=Top1Settings(ignore_from=0.9)),
    "top-1, ignore_from=1": Mechanism(rule=Top1Settings(ignore_from=1)),
    "adaptive, ignore_from=0.5": Mechanism(rule=AdaptiveSettings(ignore_from=0.5)),
    "adaptive, ignore_from=0.9": Mechanism(rule=AdaptiveSettings(ignore_from=0.9)),
    "adaptive, ignore_from=1": Mechanism(rule=AdaptiveSettings(ignore_from=1)),
    "voted, share 0.5": Mechanism(voted()),
    "voted, share 1": Mechanism(voted(share=1)),
    "voted, 100 proposals": Mechanism(voted(num_proposals=100)),
    "voted, least IoU 0.5": Mechanism(voted(least_iou=0.5)),
}
OF_MASKS: Mapping[str, Mechanism] = {
    "box of the mask": Mechanism(mask_boxes(0.0)),
    "box of the mask at IoU 0.5": Mechanism(mask_boxes(0.5)),
    "box of the mask at IoU 0.7": Mechanism(mask_boxes(0.7)),
}
COLUMNS = ["precision", "recall", "boxes", "share75", "IoU", "ignored", "covered", "AP50", "AP75", "AP"]


def open_detected(out: Path) -> Run:
    """The run in ``out`` with the results of the stages up to the weak detector; `UserError` where one lacks."""
    run = open_run(recorded_settings(out))
    require_finished(run, STAGES_BEFORE)
    for name in STAGES_BEFORE:
        stage_named(name).run(run)
    return run


def moved_detections(run: Run, split: str, move: Move) -> dict[str, Instances]:
    """The weak detector's detections of a split after ``move``, by image id."""
    detections = run.results["weak_detector"].detections(split)
    return {image_id: move(run, split, image_id, of_photo) for image_id, of_photo in detections.items()}


def figures_of(run: Run, mechanism: Mechanism) -> dict[str, float]:
    """The figures of one row on one run, by `COLUMNS`."""
    num_classes, truths = len(run.context.train.classes), run.true_train.truths
    tags = {sample.image_id: sample.tags for sample in run.context.train}
    boxes = pseudo_gt.choose_all(moved_detections(run, "train", mechanism.move), tags, num_classes, mechanism.rule)
    quality = pseudo_gt_quality(truths, boxes, num_classes)
    tight = pseudo_gt_quality(truths, boxes, num_classes, iou=0.75)
    zones = count_zones(truths, boxes, num_classes)
    precision, recall, num = quality.total()
    ap = measured_detections(run, moved_detections(run, "test", mechanism.move))
    values = (precision, recall, num, tight.total()[0], quality.mean_overlap())
    zone_values = (sum(zones.num_ignored), zones.covered_share)
    return dict(zip(COLUMNS, (*values, *zone_values, ap.mean(0.5), ap.mean(0.75), ap.average()), strict=True))


def rows(runs: Sequence[Run], mechanisms: Mapping[str, Mechanism]) -> Iterator[str]:
    """A line of the table per mechanism, each the mean over the runs."""
    for name, mechanism in mechanisms.items():
        of_runs = [figures_of(run, mechanism) for run in runs]
        means = {column: statistics.fmean(figures[column] for figures in of_runs) for column in COLUMNS}
        cells = [cell(column, value) for column, value in means.items()]
        yield "| " + " | ".join([name, *cells]) + " |"


def cell(column: str, value: float) -> str:
    """A figure as text: counts whole, shares with three places, nothing where there is none."""
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if column in ("boxes", "ignored") else number(value)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path, nargs="+", metavar="OUT", help="runs of one config with several seeds")
    parser.add_argument("--masks", action="store_true", help="also boxes of the masks that boxes prompt")
    arguments = parser.parse_args()
    runs = [open_detected(out) for out in arguments.outs]
    print("| mechanism | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|", flush=True)
    for line in rows(runs, {**MECHANISMS, **(OF_MASKS if arguments.masks else {})}):
        print(line, flush=True)


if __name__ == "__main__":
    main()
