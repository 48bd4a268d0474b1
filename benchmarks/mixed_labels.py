"""Train with boxes of some photos, points or counts beside the tags, and print AP50, AP75 and AP beside boxes alone.

    python benchmarks/mixed_labels.py OUT [OUT ...] [--variants a b ...] [--pseudo-gt | --weak] [--set key=value ...]

Each OUT is the folder of an ordinary run of one seed whose pseudo ground truth is finished and whose training and test
photos have true boxes; its clues and proposals are read, and its own settings (with those of ``--set``, below
``retrain``) and seed hold. Labels are drawn from the true boxes by the run's seed:

* ``tags``: none; ``mixed_5``, ``mixed_10``, ``mixed_20``: all boxes of so many percent of the photos, marked complete;
  the photos of a smaller share are among those of a larger one;
* ``points``: a point on every object, drawn inside the middle third of its true box, photos marked complete;
* ``counts``: the number of objects of every class of every photo;
* ``suggest_10``, ``suggest_20``: the photos that ``weaksam suggest`` names, in its order, until they hold so many true
  boxes; ``random_10``, ``random_20``: photos in an order drawn by the seed, as many boxes. All their boxes are drawn;
* ``alone_5``, ``alone_10``, ``alone_20``: the network alone, taught the boxed photos of ``mixed_N`` and no others, with
  as many steps as an ordinary training on all photos.

Each is the real stages from the proposals on, in OUT/mixed/NAME; an interrupted one resumes, a finished one is only
read. ``--weak`` ends with the weak detector. Proposals are prompted for anew where there are points; boxes alone are
put before the run's own, as the stage does. What ships are the weak detector's and the network's test detections
merged and voted. With ``--pseudo-gt`` nothing is trained: the table says what the labels make of the run's own
detections, precision and recall of the believed boxes at IoU 0.5.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from retrain_oracles import measured, measured_detections, open_finished, plain
from retrain_switches import NETWORK, SHIPS, aps, settings_with
from retrain_variants import cell

from weaksam.config import fingerprint_of
from weaksam.data.detection_stores import instances_of
from weaksam.engine.context import RunContext
from weaksam.engine.seeds import derive_seed
from weaksam.evaluation.pseudo_gt import pseudo_gt_quality
from weaksam.pipeline.plan import with_backbone
from weaksam.pipeline.state import Run
from weaksam.pipeline.suggesting import suggested
from weaksam.stages import clues as clue_stage
from weaksam.stages import proposals as proposal_stage
from weaksam.stages import pseudo_gt as pseudo_gt_stage
from weaksam.stages import retrain, wsod
from weaksam.stages.proposals.labelled import with_given_boxes
from weaksam.stages.retrain.candidates import candidate_detections, voted
from weaksam.stages.wsod.photo_features import PhotoFeatures, unread_features
from weaksam.store.store import Store, store_folder
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import Marks, PhotoLabels, labels_fingerprint
from weaksam.structures.proposals import PROPOSAL_COLUMNS, Proposals

SHARES = (5, 10, 20)
"""Percent of the photos that are boxed."""
DRAWN = (10, 20)
"""True boxes that are drawn on suggested, or random, photos."""
VARIANTS = (
    "tags",
    *(f"mixed_{share}" for share in SHARES),
    "points",
    "counts",
    *(f"{way}_{num}" for num in DRAWN for way in ("random", "suggest")),
    *(f"alone_{share}" for share in SHARES),
)
COUNTED = ("boxes", "ignored")
PSEUDO_GT = (*COUNTED, "precision", "recall")
WEAK = ("weak: AP50", "weak: AP75", "weak: AP .5:.95")
COLUMNS = (*WEAK, *NETWORK, *SHIPS)


def boxed_photos(image_ids: Sequence[str], percent: int, seed: int, *, as_drawn: bool = False) -> list[str]:
    """So many percent of the photos, at least one, drawn by ``seed``; more percent hold all that fewer do.

    Sorted by name, or ``as_drawn``.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "boxed photos"))
    order = torch.randperm(len(image_ids), generator=generator).tolist()
    chosen = [image_ids[row] for row in order[: max(1, round(len(image_ids) * percent / 100))]]
    return chosen if as_drawn else sorted(chosen)


def boxed_until(order: Sequence[str], truths: Mapping[str, Instances], num: int) -> list[str]:
    """The first photos of ``order`` that together have ``num`` true boxes or more; all where they have fewer."""
    chosen: list[str] = []
    for image_id in order:
        if sum(len(truths[name]) for name in chosen) >= num:
            break
        chosen.append(image_id)
    return chosen


def order_of(run: Run, variant: str) -> list[str]:
    """The training photos as they are suggested, or in an order drawn by the run's seed, as the variant wants."""
    if variant.startswith("suggest"):
        return [suggestion.image_id for suggestion in suggested(run, len(run.context.train))]
    return boxed_photos(run.context.train.image_ids, 100, run.settings.seed, as_drawn=True)


def labels_of(variant: str, truths: Mapping[str, Instances], seed: int, order: Sequence[str]) -> dict[str, PhotoLabels]:
    """What a variant labels on the photos of ``truths``, by image id; ``order``: see `order_of`."""
    kind, _, number = variant.partition("_")
    if kind in ("suggest", "random"):
        return boxed(boxed_until(order, truths, int(number)), truths)
    if kind in ("mixed", "alone"):
        return boxed(boxed_photos(sorted(truths), int(number), seed), truths)
    if kind == "points":
        return {
            name: PhotoLabels(marks=middle_points(name, truth, seed), complete=True) for name, truth in truths.items()
        }
    if kind == "counts":
        return {name: PhotoLabels(counts=counts_of(truth)) for name, truth in truths.items()}
    return {}


def boxed(names: Sequence[str], truths: Mapping[str, Instances]) -> dict[str, PhotoLabels]:
    """These photos with all their true boxes, complete."""
    return {name: PhotoLabels(plain(truths[name]), (None,) * len(truths[name]), complete=True) for name in names}


def middle_points(image_id: str, truth: Instances, seed: int) -> Marks:
    """A point in the middle third of each box along both sides, drawn by ``seed``."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "points", image_id))
    share = (1 + torch.rand(len(truth), 2, generator=generator)) / 3
    starts, ends = truth.boxes[:, :2], truth.boxes[:, 2:]
    return Marks.of_points(starts + share * (ends - starts), truth.labels)


def counts_of(truth: Instances) -> dict[int, int]:
    """The number of objects by label."""
    return {int(label): int((truth.labels == label).sum()) for label in truth.labels.unique()}


def labelled_proposals(run: Run, context: RunContext) -> Store:
    """Proposals of the training photos with what is labelled: the stage's, or the run's with boxes in front."""
    known, labels = run.results["proposals"]["train"], context.labels
    if labels_fingerprint(labels, "marks"):
        clues, settings = run.results["clues"], run.settings.proposals
        arguments = (context, settings, run.segmenter, clue_stage.clue_points(clues), context.train, "train")
        return proposal_stage.run(*arguments, clue_fingerprint=clues.fingerprint)
    fingerprint = fingerprint_of({"proposals": known.fingerprint, "boxes": labels_fingerprint(labels, "boxes")})
    folder = store_folder(context.out, "proposals", "train", fingerprint)
    image_ids = context.train.image_ids
    store = Store(folder, stage="proposals", fingerprint=fingerprint, image_ids=image_ids, columns=PROPOSAL_COLUMNS)

    def row(image_id: str) -> dict[str, Any]:
        of_photo = Proposals.from_row(known[image_id])
        size = context.train.by_id[image_id].size
        return with_given_boxes(of_photo, labels.get(image_id, PhotoLabels()), size).as_row()

    return store.fill(row, "proposals", cheap=True)


def scores(
    run: Run, variant: str, extra: Sequence[str], photos: PhotoFeatures, only_weak: bool = False
) -> dict[str, float]:
    """The figures of a variant, nan for what it has not; trained now or before."""
    truths, out = run.true_train.truths, run.context.out / "mixed" / variant
    labels = labels_of(variant, truths, run.settings.seed, order_of(run, variant))
    context = replace(with_backbone(run, run.results["backbone"]), out=out, labels=labels)
    settings = settings_with(run.settings.retrain, [*extra, "detect_train=false"])
    if variant.startswith("alone"):
        steps = settings.num_steps or settings.num_epochs * -(-len(context.train) // settings.batch_size)
        boxes = {image_id: plain(truths[image_id]) for image_id in labels}
        settings = settings.model_copy(update={"num_steps": steps})
        network = retrain.run(context, settings, boxes, proposals=run.results["proposals"])
        return dict.fromkeys(COLUMNS, float("nan")) | dict(zip(NETWORK, aps(measured(run, network)), strict=True))
    proposals = dict(run.results["proposals"])
    if labels_fingerprint(labels, "boxes", "marks"):
        proposals["train"] = labelled_proposals(run, context)
    weak, pseudo_gt = run.results["weak_detector"], run.results["pseudo_gt"]
    if labels:
        clues = run.results["clues"]
        weak = wsod.run(context, run.settings.wsod, proposals, clues, clue_stage.class_maps(clues), photos=photos)
    of_weak = dict(zip(WEAK, aps(measured(run, weak)), strict=True))
    if only_weak:
        return of_weak
    if labels:
        chosen = pseudo_gt_stage.run(
            context, run.settings.pseudo_gt, weak.stores["train"], proposals=proposals["train"]
        )
        pseudo_gt = instances_of(chosen)
    network = retrain.run(context, settings, pseudo_gt, weak_detector=weak, proposals=proposals)
    merged = candidate_detections(context, settings, weak, network, "retrain")["merged"]
    ships = instances_of(voted(context, settings, merged, proposals, "retrain")["test"])
    return {
        **of_weak,
        **dict(zip(NETWORK, aps(measured(run, network)), strict=True)),
        **dict(zip(SHIPS, aps(measured_detections(run, ships)), strict=True)),
    }


def pseudo_gt_scores(run: Run, variant: str) -> dict[str, float]:
    """What a variant's labels make of the run's detections: believed boxes, ignored regions, precision and recall."""
    truths = run.true_train.truths
    tags = {sample.image_id: sample.tags for sample in run.context.train}
    detections = run.results["weak_detector"].detections("train")
    chosen = pseudo_gt_stage.choose_all(detections, tags, len(run.context.train.classes), run.settings.pseudo_gt)
    labels = labels_of(variant, truths, run.settings.seed, order_of(run, variant))
    context = replace(run.context, labels=labels)
    zoned = pseudo_gt_stage.with_labels(context, chosen, detections, run.results["proposals"]["train"])
    believed = {image_id: boxes.without_crowd() for image_id, boxes in zoned.items()}
    quality = pseudo_gt_quality(truths, believed, len(run.context.train.classes), iou=0.5).as_dict()
    num_boxes = sum(map(len, believed.values()))
    counts = {"boxes": float(num_boxes), "ignored": float(sum(map(len, zoned.values())) - num_boxes)}
    return {**counts, "precision": quality["precision"], "recall": quality["recall"]}


def main() -> None:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path, nargs="+", metavar="OUT", help="runs of one config with several seeds")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="which of them; all")
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--pseudo-gt", action="store_true", help="train nothing, measure the pseudo ground truth")
    ends.add_argument("--weak", action="store_true", help="train and measure the weak detector alone")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="further settings of the retraining")
    arguments = parser.parse_args()
    runs = [open_finished(out) for out in arguments.outs]
    features = [unread_features(with_backbone(run, run.results["backbone"]), run.settings.wsod) for run in runs]
    columns = PSEUDO_GT if arguments.pseudo_gt else WEAK if arguments.weak else COLUMNS
    lines = ["| " + " | ".join(["labels", "seeds", *columns]) + " |", "|---" * (len(columns) + 2) + "|"]
    for variant in arguments.variants:
        if arguments.pseudo_gt:
            of_seeds = [pseudo_gt_scores(run, variant) for run in runs]
        else:
            of_seeds = [
                scores(run, variant, arguments.set, of_run, arguments.weak)
                for run, of_run in zip(runs, features, strict=True)
            ]
        cells = [cell([of_seed[name] for of_seed in of_seeds], 0 if name in COUNTED else 3) for name in columns]
        lines.append("| " + " | ".join([variant, str(len(runs)), *cells]) + " |")
        print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
