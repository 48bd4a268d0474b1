"""Find out which error of the pseudo ground truth costs what: retrain on it with one kind of error mended at a time.

    python benchmarks/retrain_oracles.py OUT [--runs a b ...]

OUT is the folder of an ordinary run whose pseudo ground truth is finished and whose training and test photos have true
boxes (a training photo without true boxes is left out); its stages before the retraining are read and not made again,
and its own settings and seed hold. Each training is the real retrain stage with the same first weights and order of
photos, in OUT/oracles/NAME (the pseudo ground truth as it is: the run's own, in OUT/retrain); an interrupted one
resumes, a finished one is only read. The true boxes of the training photos serve this diagnosis alone: nothing is
chosen by it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from weaksam.config import UserError
from weaksam.engine.detectors.result import DetectorResult
from weaksam.evaluation.protocol import AP_IOUS
from weaksam.evaluation.pseudo_gt_kinds import sort_boxes
from weaksam.evaluation.text import number
from weaksam.evaluation.voc import VocResult, voc_ap
from weaksam.pipeline.plan import stage_named, with_backbone
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.state import Run, open_run, require_finished
from weaksam.stages import retrain
from weaksam.structures.instances import Instances

STAGES_BEFORE = ("clues", "proposals", "wsod", "pseudo_gt")
Oracle = Callable[[Instances, Instances], Instances]
"""What is taught on one photo, of its true objects and its pseudo ground truth."""


def as_it_is(truth: Instances, pseudo_gt: Instances) -> Instances:
    """The pseudo ground truth itself."""
    return plain(pseudo_gt)


def only_found(truth: Instances, pseudo_gt: Instances) -> Instances:
    """The true boxes of the objects that the pseudo ground truth found."""
    return plain(truth)[objects_of_kind("found", truth, pseudo_gt)]


def missed_ignored(truth: Instances, pseudo_gt: Instances) -> Instances:
    """The pseudo ground truth, and the objects that it missed as regions to ignore."""
    missed = plain(truth)[objects_of_kind("missed", truth, pseudo_gt)]
    return Instances.cat([plain(pseudo_gt), missed.replace(crowd=torch.ones(len(missed), dtype=torch.bool))])


def missed_added(truth: Instances, pseudo_gt: Instances) -> Instances:
    """The pseudo ground truth, and the true boxes of the objects that it missed."""
    return Instances.cat([plain(pseudo_gt), plain(truth)[objects_of_kind("missed", truth, pseudo_gt)]])


def moved(truth: Instances, pseudo_gt: Instances) -> Instances:
    """The pseudo ground truth, each box moved to the true box of its class that it overlaps most.

    Boxes that meet the same object become one; those that meet none stay.
    """
    met = sort_boxes(truth, pseudo_gt).met
    return Instances.cat([plain(truth)[met[met >= 0].unique()], plain(pseudo_gt)[met < 0]])


def true_boxes(truth: Instances, pseudo_gt: Instances) -> Instances:
    """The true boxes, those of difficult objects too; crowds are ignored."""
    return plain(truth).replace(crowd=truth.crowd)


ORACLES: Mapping[str, tuple[str, Oracle]] = {
    "as_it_is": ("pseudo ground truth as it is", as_it_is),
    "only_found": ("(a) true boxes of the objects that it found", only_found),
    "missed_ignored": ("(b) missed objects ignored", missed_ignored),
    "missed_added": ("(c) missed objects added", missed_added),
    "moved": ("(d) each box moved to the true box that it meets", moved),
    "true_boxes": ("true boxes", true_boxes),
}
"""What each run is taught, by its name: in words, and as a function."""


def plain(instances: Instances) -> Instances:
    """Boxes and labels alone."""
    return Instances(instances.boxes, instances.labels)


def objects_of_kind(kind: str, truth: Instances, pseudo_gt: Instances) -> torch.Tensor:
    """Bool ``(T,)``: the true objects that the pseudo ground truth found, missed, or that are ignored."""
    return torch.tensor([of_object == kind for of_object in sort_boxes(truth, pseudo_gt).objects], dtype=torch.bool)


def open_finished(out: Path) -> Run:
    """The run in ``out`` with the results of the stages before the retraining; `UserError` where something lacks."""
    run = open_run(recorded_settings(out))
    if run.truths["train"] is None or run.truths["test"] is None:
        raise UserError(
            f"wanted true boxes of the training and the test photos of the run in {out}, found none of one of them: "
            "set data.train.truth and data.test.truth"
        )
    require_finished(run, STAGES_BEFORE)
    for name in STAGES_BEFORE:
        stage_named(name).run(run)
    return run


def taught(run: Run, oracle: Oracle) -> dict[str, Instances]:
    """What a run is taught, by image id of every training photo that has a truth."""
    pseudo_gt = run.results["pseudo_gt"]
    return {image_id: oracle(truth, pseudo_gt[image_id]) for image_id, truth in run.true_train.truths.items()}


def retrained(run: Run, name: str) -> tuple[dict[str, Instances], DetectorResult]:
    """The oracle annotations of that name, and the detector that was trained on them, or was before."""
    context = with_backbone(run, run.results["backbone"])
    annotations = taught(run, ORACLES[name][1])
    if name != "as_it_is":
        context = replace(context, out=run.context.out / "oracles" / name)
    settings, proposals = run.settings.retrain, run.results["proposals"]
    return annotations, retrain.run(context, settings, annotations, proposals=proposals, files="network_detections")


def measured(run: Run, result: DetectorResult) -> VocResult:
    """AP of a detector's test detections at all thresholds."""
    return measured_detections(run, result.detections("test"))


def measured_detections(run: Run, detections: Mapping[str, Instances], split: str = "test") -> VocResult:
    """AP of detections on the photos of ``split``, by image id, at all thresholds."""
    truth = run.truths[split]
    assert truth is not None
    return voc_ap(truth.instances, truth.only(detections), truth.num_classes, ious=AP_IOUS)


def rows(run: Run, names: list[str]) -> Iterator[str]:
    """A line of the table per run, each as soon as it is trained."""
    for name in names:
        annotations, result = retrained(run, name)
        ap = measured(run, result)
        boxes = sum(len(of_photo.without_crowd()) for of_photo in annotations.values())
        ignored = sum(map(len, annotations.values())) - boxes
        photos = sum(len(of_photo.without_crowd()) > 0 for of_photo in annotations.values())
        figures = (number(ap.mean(0.5)), number(ap.mean(0.75)), number(ap.average()))
        yield "| " + " | ".join([ORACLES[name][0], str(photos), str(boxes), str(ignored), *figures]) + " |"


def main() -> None:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of a run whose pseudo ground truth is finished")
    parser.add_argument("--runs", nargs="+", choices=list(ORACLES), default=list(ORACLES), help="which of them; all")
    arguments = parser.parse_args()
    run = open_finished(arguments.out)
    lines = [
        "| taught | photos with a box | boxes | ignored | AP50 | AP75 | AP .5:.95 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows(run, arguments.runs):
        lines.append(row)
        print(row, flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
