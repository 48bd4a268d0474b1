"""Retrain on the pseudo ground truth of finished runs in several ways, and print AP50, AP75 and AP over the seeds.

    python benchmarks/retrain_variants.py OUT [OUT ...] [--variants a b ...] [--drop key=value ...]

Each OUT is the folder of an ordinary run of one seed whose pseudo ground truth is finished; its stages before the
retraining are read and not made again, and its own settings and seed hold. Each training is the real retrain stage in
OUT/variants/NAME (shared with `retrain_oracles.py`: the run's own rule in OUT/retrain, true boxes in OUT/oracles); an
interrupted one resumes, a finished one is only read. True boxes serve the evaluation, and the variant ``true_boxes``,
which is the ceiling of the same detector.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from retrain_oracles import measured, open_finished, retrained

from weaksam.config import load_settings
from weaksam.engine.detectors.result import DetectorResult
from weaksam.evaluation.pseudo_gt import pseudo_gt_quality
from weaksam.models.roi.roi_drop import RoiDropSettings
from weaksam.pipeline.plan import with_backbone
from weaksam.pipeline.state import Run
from weaksam.stages import pseudo_gt as pseudo_gt_stage
from weaksam.stages import retrain
from weaksam.stages.pseudo_gt.settings import (
    AdaptivePaperSettings,
    AdaptiveReleasedSettings,
    AdaptiveSettings,
    PseudoGtSettings,
    Top1Settings,
)
from weaksam.structures.instances import Instances

RULES: Mapping[str, PseudoGtSettings] = {
    "top1": Top1Settings(),
    "adaptive": AdaptiveSettings(),
    "adaptive_paper": AdaptivePaperSettings(),
    "adaptive_released": AdaptiveReleasedSettings(),
    "roi_drop": AdaptiveSettings(),
}
"""The rule of pseudo ground truth of each variant that has one; ``roi_drop`` drops regions besides."""
VARIANTS = ("weak_detector", *RULES, "true_boxes")


def boxes_of(run: Run, variant: str) -> dict[str, Instances]:
    """The pseudo ground truth of a variant, by image id of the training photos."""
    detections = run.results["weak_detector"].detections("train")
    tags = {sample.image_id: sample.tags for sample in run.context.train}
    rule = RULES[variant]
    return {
        image_id: pseudo_gt_stage.choose_pseudo_gt(detections.get(image_id, Instances.empty(scored=True)), tagged, rule)
        for image_id, tagged in tags.items()
    }


def detector_of(run: Run, variant: str, drop: RoiDropSettings) -> DetectorResult:
    """The detector of a variant: the run's weak one, or one that was retrained."""
    if variant == "weak_detector":
        return run.results["weak_detector"]
    if variant == "true_boxes":
        return retrained(run, "true_boxes")[1]
    if variant != "roi_drop" and RULES[variant] == run.settings.pseudo_gt:
        return retrained(run, "as_it_is")[1]
    context = with_backbone(run, run.results["backbone"])
    context = replace(context, out=run.context.out / "variants" / variant)
    update = {"detect_train": False} | ({"roi_drop": drop} if variant == "roi_drop" else {})
    settings, proposals = run.settings.retrain.model_copy(update=update), run.results["proposals"]
    return retrain.run(context, settings, boxes_of(run, variant), proposals=proposals)


def figures_of(run: Run, variant: str, drop: RoiDropSettings) -> dict[str, float]:
    """Precision and recall of what is taught, and average precisions on the test photos."""
    ap = measured(run, detector_of(run, variant, drop))
    figures = {"AP50": ap.mean(0.5), "AP75": ap.mean(0.75), "AP .5:.95": ap.average()}
    if variant in RULES:
        taught, truths = boxes_of(run, variant), run.true_train.truths
        precision, recall, _ = pseudo_gt_quality(truths, taught, len(run.context.train.classes)).total()
        figures |= {"precision": precision, "recall": recall}
    return figures


def cell(values: Sequence[float], places: int = 3) -> str:
    """One value, or mean and sample standard deviation of several."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.{places}f}"
    return f"{statistics.mean(values):.{places}f} ± {statistics.stdev(values):.{places}f}"


def row(variant: str, figures: Sequence[Mapping[str, float]]) -> str:
    """A line of the table over the seeds."""
    cells = [
        cell([of_seed[name] for of_seed in figures if name in of_seed])
        for name in ("precision", "recall", "AP50", "AP75", "AP .5:.95")
    ]
    each = " / ".join(f"{of_seed['AP50']:.3f}" for of_seed in figures)
    return "| " + " | ".join([variant, str(len(figures)), *cells, each]) + " |"


def main() -> None:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path, nargs="+", metavar="OUT", help="runs of one config with several seeds")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="which of them; all")
    parser.add_argument(
        "--drop", nargs="+", default=["gate=joint"], metavar="key=value", help="settings of RoI drop; gate=joint"
    )
    arguments = parser.parse_args()
    drop = load_settings(RoiDropSettings, None, arguments.drop)
    runs = [open_finished(out) for out in arguments.outs]
    lines = ["| variant | seeds | precision | recall | AP50 | AP75 | AP .5:.95 | AP50 of each |", "|---" * 8 + "|"]
    for variant in arguments.variants:
        lines.append(row(variant, [figures_of(run, variant, drop) for run in runs]))
        print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
