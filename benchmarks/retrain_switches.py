"""Retrain with one setting on or off at a time, and print AP50, AP75 and AP of the network and of what ships.

    python benchmarks/retrain_switches.py OUT [OUT ...] [--variants a b ...] [--share 0.3] [--set key=value ...]

Each OUT is the folder of an ordinary run of one seed whose pseudo ground truth is finished and whose training and test
photos have true boxes; its stages before the retraining are read and not made again, and its own settings (with those
of ``--set``, below ``retrain``) and seed hold. Variants of the pseudo ground truth choose it anew from the same
detections. A variant whose name begins with ``removed_`` is taught the true boxes without ``--share`` of them, drawn by
the run's seed, in place of the pseudo ground truth; ``true_boxes`` all of them. Each training is the real retrain stage
with the same first weights and order of photos, in OUT/switches/NAME; an interrupted one resumes, a finished one is
only read. ``--on train`` measures the same networks on the training photos, whose true boxes no training reads: there
a default may be chosen. What ships are the weak detector's and the network's detections merged and voted. The seconds
are those of the processor, of training and test detections, kept from the run that trained. True boxes serve the
evaluation and these variants alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from retrain_oracles import measured_detections, open_finished, plain
from retrain_variants import cell

from weaksam.config import Settings, load_settings
from weaksam.data.detection_stores import instances_of
from weaksam.engine.seeds import derive_seed
from weaksam.evaluation.voc import VocResult
from weaksam.pipeline.plan import with_backbone
from weaksam.pipeline.state import Run
from weaksam.stages import pseudo_gt as pseudo_gt_stage
from weaksam.stages import retrain
from weaksam.stages.retrain.candidates import candidate_detections, voted
from weaksam.structures.instances import Instances

AnySettings = TypeVar("AnySettings", bound=Settings)

SWITCHES: Mapping[str, tuple[str, ...]] = {
    "base": (),
    "tags": ("retrain.negatives.rule=tags",),
    "detections": ("retrain.negatives.rule=detections",),
    "tags_heads": ("retrain.negatives.rule=tags", "retrain.negatives.anchors=false"),
    "detections_heads": ("retrain.negatives.rule=detections", "retrain.negatives.anchors=false"),
    "partly": (
        "retrain.negatives.rule=detections",
        "retrain.negatives.partly_iou=0.5",
        "retrain.negatives.min_score=0.02",
    ),
    "near": ("retrain.negatives.rule=detections", "retrain.negatives.near_iou=0.3"),
    "confident": ("retrain.negatives.confident=0.8",),
    "background_iou": ("retrain.background_iou=0.1",),
    "given_proposals": ("retrain.given_proposals=100",),
    "not_pasted": ("retrain.copy_paste.probability=0",),
    "mosaic": ("retrain.mosaic.probability=0.5",),
    "teacher": ("retrain.teacher.weight=1",),
    "split_box": ("retrain.split.box_share=0.2",),
    "split_class": ("retrain.split.class_share=0.2",),
    "split_teacher": ("retrain.teacher.weight=1", "retrain.split.teacher_share=0.2"),
    "roi_drop": ("retrain.roi_drop.gate=joint",),
    "start_weak": ("retrain.start=weak",),
    "zones": ("pseudo_gt.ignore_from=0.5",),
    "quantile": ("pseudo_gt.class_threshold=quantile",),
    "f_beta": ("pseudo_gt.class_threshold=f_beta",),
}
"""The settings of each variant."""
NETWORK = ("network: AP50", "AP75", "AP .5:.95")
SHIPS = ("ships: AP50", "ships: AP75", "ships: AP .5:.95")
VARIANTS = (*SWITCHES, *(f"removed_{name}" for name in SWITCHES), "true_boxes")


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
    texts = switches_of(variant, "pseudo_gt")
    if not texts:
        return dict(run.results["pseudo_gt"])
    settings = settings_with(run.settings.pseudo_gt, texts)
    tags = {sample.image_id: sample.tags for sample in run.context.train}
    detections = run.results["weak_detector"].detections("train")
    return pseudo_gt_stage.choose_all(detections, tags, len(run.context.train.classes), settings)


def switches_of(variant: str, section: str) -> list[str]:
    """The ``key=value`` texts of a variant below ``section``."""
    texts = SWITCHES.get(variant.removeprefix("removed_"), ())
    return [text.removeprefix(f"{section}.") for text in texts if text.startswith(f"{section}.")]


def scores(run: Run, variant: str, share: float, extra: Sequence[str], split: str = "test") -> dict[str, float]:
    """AP50, AP75 and AP on ``split`` of the network of a variant and of what ships, and CPU seconds."""
    context = with_backbone(run, run.results["backbone"])
    context = replace(context, out=run.context.out / "switches" / variant)
    settings = settings_with(
        run.settings.retrain, [*extra, *switches_of(variant, "retrain"), f"detect_train={split == 'train'}"]
    )
    weak, proposals = run.results["weak_detector"], run.results["proposals"]
    inputs = {"weak_detector": weak, "proposals": proposals, "segmenter": lambda: run.mask_segmenter}
    start = time.process_time()
    network = retrain.run(context, settings, boxes_of(run, variant, share), **inputs)
    seconds = kept_seconds(context.out / f"cpu_seconds_{network.stores['test'].fingerprint}.json", start)
    merged = candidate_detections(context, settings, weak, network, "retrain")["merged"]
    ships = voted(context, settings, merged, proposals, "retrain")[split]
    of_network = measured_detections(run, network.detections(split), split)
    of_ships = measured_detections(run, instances_of(ships), split)
    return {
        **dict(zip(NETWORK, aps(of_network), strict=True)),
        **dict(zip(SHIPS, aps(of_ships), strict=True)),
        "CPU s": seconds,
    }


def aps(result: VocResult) -> tuple[float, float, float]:
    """AP50, AP75 and AP .5:.95."""
    return result.mean(0.5), result.mean(0.75), result.average()


def kept_seconds(path: Path, start: float) -> float:
    """CPU seconds of this process since ``start``, or those that an earlier process that trained wrote to ``path``."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(time.process_time() - start), encoding="utf-8")
    return float(json.loads(path.read_text(encoding="utf-8")))


def settings_with(settings: AnySettings, texts: Sequence[str]) -> AnySettings:
    """``settings`` changed by ``key=value`` texts."""
    written = settings.model_dump(mode="json", exclude_unset=True)
    changed = load_settings(type(settings), None, texts).model_dump(mode="json", exclude_unset=True)
    return type(settings)(**{**written, **changed})


def line(variant: str, of_seeds: Sequence[Mapping[str, float]]) -> str:
    """A row of the table over the seeds."""
    cells = [cell([of_seed[name] for of_seed in of_seeds]) for name in (*NETWORK, *SHIPS)]
    seconds = cell([of_seed["CPU s"] for of_seed in of_seeds], 0)
    return "| " + " | ".join([variant, str(len(of_seeds)), *cells, seconds]) + " |"


def main() -> None:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path, nargs="+", metavar="OUT", help="runs of one config with several seeds")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="which of them; all")
    parser.add_argument("--share", type=float, default=0.3, help="share of the true boxes that is removed; 0.3")
    parser.add_argument("--on", choices=("train", "test"), default="test", help="photos to measure on; test")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="further settings of the retraining")
    arguments = parser.parse_args()
    runs = [open_finished(out) for out in arguments.outs]
    lines = ["| " + " | ".join(["variant", "seeds", *NETWORK, *SHIPS, "CPU s"]) + " |", "|---" * 9 + "|"]
    for variant in arguments.variants:
        lines.append(
            line(variant, [scores(run, variant, arguments.share, arguments.set, arguments.on) for run in runs])
        )
        print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
