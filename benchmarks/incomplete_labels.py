"""Retrain with each setting for incomplete labels on or off, and print AP50, AP75 and AP over the seeds.

    python benchmarks/incomplete_labels.py OUT [OUT ...] [--variants a b ...] [--share 0.3] [--set key=value ...]

Each OUT is the folder of an ordinary run of one seed whose pseudo ground truth is finished and whose training and test
photos have true boxes; its stages before the retraining are read and not made again, and its own settings (with those
of ``--set``, below ``retrain``) and seed hold. A variant whose name begins with ``removed_`` is taught the true boxes
without ``--share`` of them, drawn by the run's seed, in place of the pseudo ground truth; ``true_boxes`` all of them.
Each training is the real retrain stage with the same first weights and order of photos, in
OUT/incomplete/NAME; an interrupted one resumes, a finished one is only read. True boxes serve the evaluation and these
variants alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from retrain_oracles import measured, open_finished, plain
from retrain_variants import cell

from weaksam.config import load_settings
from weaksam.engine.seeds import derive_seed
from weaksam.pipeline.plan import with_backbone
from weaksam.pipeline.state import Run
from weaksam.stages import retrain
from weaksam.structures.instances import Instances

RULES: Mapping[str, tuple[str, ...]] = {
    "all": (),
    "tags": ("negatives.rule=tags",),
    "detections": ("negatives.rule=detections",),
    "tags_heads": ("negatives.rule=tags", "negatives.anchors=false"),
    "detections_heads": ("negatives.rule=detections", "negatives.anchors=false"),
    "partly": ("negatives.rule=detections", "negatives.partly_iou=0.5", "negatives.min_score=0.02"),
    "near": ("negatives.rule=detections", "negatives.near_iou=0.3"),
    "confident": ("negatives.confident=0.8",),
    "background_iou": ("background_iou=0.1",),
    "given_proposals": ("given_proposals=100",),
}
"""The settings below ``retrain`` of each variant."""
VARIANTS = (*RULES, *(f"removed_{name}" for name in RULES), "true_boxes")


def without_share(truths: Mapping[str, Instances], share: float, seed: int) -> dict[str, Instances]:
    """True boxes of which ``share`` is removed, by image id; boxes are counted through all photos in their order.

    A photo may lose all its boxes; a share of 0 removes none.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "removed boxes"))
    num = sum(map(len, truths.values()))
    kept = torch.ones(num, dtype=torch.bool)
    kept[torch.randperm(num, generator=generator)[: round(share * num)]] = False
    of_photos = kept.split([len(truth) for truth in truths.values()])
    return {
        image_id: plain(truth)[of_photo] for (image_id, truth), of_photo in zip(truths.items(), of_photos, strict=True)
    }


def boxes_of(run: Run, variant: str, share: float) -> dict[str, Instances]:
    """What a variant is taught, by image id of the training photos."""
    if variant == "true_boxes":
        return without_share(run.true_train.truths, 0.0, run.settings.seed)
    if variant.startswith("removed_"):
        return without_share(run.true_train.truths, share, run.settings.seed)
    return dict(run.results["pseudo_gt"])


def scores(run: Run, variant: str, share: float, extra: Sequence[str]) -> dict[str, float]:
    """AP50, AP75 and AP of the detector of a variant, trained now or before."""
    context = with_backbone(run, run.results["backbone"])
    context = replace(context, out=run.context.out / "incomplete" / variant)
    written = run.settings.retrain.model_dump(mode="json", exclude_unset=True)
    texts = [*extra, *RULES.get(variant.removeprefix("removed_"), ()), "detect_train=false"]
    settings = settings_with(type(run.settings.retrain), written, texts)
    boxes = boxes_of(run, variant, share)
    inputs = {name: run.results[name] for name in ("weak_detector", "proposals")}
    ap = measured(run, retrain.run(context, settings, boxes, **inputs))
    return {"AP50": ap.mean(0.5), "AP75": ap.mean(0.75), "AP": ap.average()}


def settings_with(
    kind: type[retrain.AnyRetrainSettings], written: Mapping[str, object], texts: Sequence[str]
) -> retrain.AnyRetrainSettings:
    """Settings of this kind: those ``written``, changed by ``key=value`` texts."""
    changed = load_settings(kind, None, texts)
    return kind(**{**written, **changed.model_dump(mode="json", exclude_unset=True)})


def line(variant: str, of_seeds: Sequence[Mapping[str, float]]) -> str:
    """A row of the table over the seeds."""
    cells = [cell([of_seed[name] for of_seed in of_seeds]) for name in ("AP50", "AP75", "AP")]
    each = " / ".join(f"{of_seed['AP50']:.3f}" for of_seed in of_seeds)
    return "| " + " | ".join([variant, str(len(of_seeds)), *cells, each]) + " |"


def main() -> None:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path, nargs="+", metavar="OUT", help="runs of one config with several seeds")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="which of them; all")
    parser.add_argument("--share", type=float, default=0.3, help="share of the true boxes that is removed; 0.3")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="further settings of the retraining")
    arguments = parser.parse_args()
    runs = [open_finished(out) for out in arguments.outs]
    lines = ["| variant | seeds | AP50 | AP75 | AP .5:.95 | AP50 of each |", "|---" * 6 + "|"]
    for variant in arguments.variants:
        lines.append(line(variant, [scores(run, variant, arguments.share, arguments.set) for run in runs]))
        print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
