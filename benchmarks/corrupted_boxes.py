"""Retrain on true boxes of which a share is corrupted, without RoI drop and with the limits that its plot proposes.

    python benchmarks/corrupted_boxes.py OUT [OUT ...] [--share 0.3] [--gates a b ...] [--thresholds loss ...]
    python benchmarks/corrupted_boxes.py OUT [OUT ...] --dino [key=value ...] [--query-drop key=value ...]

Each OUT is the folder of a run of one seed whose clue stage is finished (it gives the backbone) and whose training and
test photos have true boxes. Of its training boxes ``--share`` are corrupted, by the run's seed: a third gets another
class, a third is moved by a third to two thirds of its sides, and of a third only a part is left (half of each side).
The limits of RoI drop are those that `weaksam roi-drop plot` proposes after ``--at`` of the training on these same
boxes. ``--dino`` trains DINO instead, with these settings, without and with query drop. Each training is the real
retrain stage with the same first weights and order of photos, in OUT/corrupted/VARIANT; an interrupted one resumes, a
finished one is only read.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from retrain_oracles import measured, plain
from retrain_variants import cell

from weaksam.config import UserError, load_settings
from weaksam.data.formats.coco import write_instances
from weaksam.engine.context import RunContext
from weaksam.engine.detectors.copy_paste import NO_COPY_PASTE
from weaksam.engine.detectors.early import foreground_regions
from weaksam.engine.seeds import derive_seed
from weaksam.evaluation.roi_drop_figures import RoiDropFigures, roi_drop_text
from weaksam.evaluation.roi_drop_proposals import GATES, THRESHOLDS, DropProposal, proposals
from weaksam.evaluation.roi_errors import wrong_boxes
from weaksam.models.roi.roi_drop import RoiDropSettings
from weaksam.pipeline.plan import stage_named, with_backbone
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.state import open_run, require_finished
from weaksam.report.roi_drop_plot import write_roi_drop_plot
from weaksam.stages import retrain
from weaksam.stages.retrain.settings import AnyRetrainSettings, DinoRetrainSettings
from weaksam.structures import boxes as box_ops
from weaksam.structures.instances import Instances

KINDS = ("class", "shift", "part")
HEADER = "| taught | seeds | AP50 | AP75 | AP .5:.95 | AP50 of each | limits (class, box) |\n" + "|---" * 7 + "|"


def corrupted(
    truths: Mapping[str, Instances], sizes: Mapping[str, tuple[int, int]], num_classes: int, share: float, seed: int
) -> tuple[dict[str, Instances], list[str]]:
    """True boxes of which ``share`` are corrupted, by thirds of each of `KINDS`; and the kind of each box or ``true``.

    ``sizes``: (H, W) by image id. Boxes are counted through all photos in the order of ``truths``.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "corrupted boxes"))
    num = sum(map(len, truths.values()))
    kinds = ["true"] * num
    for place, row in enumerate(torch.randperm(num, generator=generator)[: round(share * num)].tolist()):
        kinds[row] = KINDS[place % len(KINDS)]
    of_box = iter(kinds)
    boxes = {}
    for image_id, truth in truths.items():
        of_photo = [next(of_box) for _ in range(len(truth))]
        rows = [
            corrupted_box(plain(truth)[torch.tensor([row])], kind, num_classes, generator)
            for row, kind in enumerate(of_photo)
        ]
        joined = Instances.cat(rows)
        boxes[image_id] = joined.replace(boxes=box_ops.clip(joined.boxes, sizes[image_id]))
    return boxes, kinds


def corrupted_box(box: Instances, kind: str, num_classes: int, generator: torch.Generator) -> Instances:
    """One box (1, 4) with its label, changed as ``kind`` says; ``true`` leaves it.

    ``class``: any other class; ``shift``: moved along x and y by 1/3 to 2/3 of its sides, either way, so that the IoU
    with the true box is at most 2/7; ``part``: half of each side is left, at a random place in it.
    """
    draws = torch.rand(5, generator=generator)
    x1, y1, x2, y2 = box.boxes[0].tolist()
    width, height = x2 - x1, y2 - y1
    if kind == "class":
        other = 1 + int(draws[0] * (num_classes - 1))
        return box.replace(labels=(box.labels + other) % num_classes)
    if kind == "shift":
        along = (1 / 3 + draws[:2] / 3) * torch.where(draws[2:4] < 0.5, -1.0, 1.0)
        dx, dy = float(along[0]) * width, float(along[1]) * height
        return box.replace(boxes=box.boxes + torch.tensor([[dx, dy, dx, dy]]))
    if kind == "part":
        left, top = x1 + float(draws[0]) * width / 2, y1 + float(draws[1]) * height / 2
        return box.replace(boxes=torch.tensor([[left, top, left + width / 2, top + height / 2]]))
    return box


class CorruptedRun:
    """One run's photos with corrupted boxes, and the detectors trained on them."""

    def __init__(self, out: Path, share: float, at: float) -> None:
        self.run, self.at = open_run(recorded_settings(out)), at
        self.settings = self.run.settings.retrain.model_copy(update={"copy_paste": NO_COPY_PASTE})
        """Without pasted objects, which are cut out by masks of proposals: here the clues alone are finished."""
        self.truths = self.run.true_train.truths
        if not self.truths or self.run.truths["test"] is None:
            raise UserError(f"wanted true boxes of the training and the test photos of {out}, found none: set them")
        require_finished(self.run, ["clues"])
        stage_named("clues").run(self.run)
        dataset = self.run.context.train
        sizes = {sample.image_id: sample.size for sample in dataset}
        self.boxes, self.kinds = corrupted(self.truths, sizes, len(dataset.classes), share, self.run.settings.seed)
        folder = out / "corrupted"
        folder.mkdir(exist_ok=True)
        write_instances(folder / "boxes.json", dataset, self.boxes)

    def context(self, variant: str) -> RunContext:
        """The run's context, writing below OUT/corrupted/VARIANT."""
        context = with_backbone(self.run, self.run.results["backbone"])
        return replace(context, out=self.run.context.out / "corrupted" / variant)

    def figures(self) -> RoiDropFigures:
        """What `weaksam roi-drop plot` measures, on the corrupted boxes; its picture lies in OUT/corrupted."""
        context = self.context("early")
        early = retrain.run_early(context, self.settings, self.boxes, self.at)
        regions = foreground_regions(context, early, self.truths)
        figures = RoiDropFigures("retrain", self.at, regions, proposals(regions))
        write_roi_drop_plot(context.out.parent / "roi_drop.png", figures)
        return figures

    def scores(self, variant: str, drop: DropProposal | None) -> dict[str, float]:
        """AP50, AP75 and AP of a detector trained on the boxes (the true ones for ``true_boxes``)."""
        settings = self.settings.model_copy(update={"detect_train": False})
        if drop is not None:
            texts = [text.removeprefix("retrain.roi_drop.") for text in drop.settings("retrain", self.at)]
            settings = settings.model_copy(update={"roi_drop": load_settings(RoiDropSettings, None, texts)})
        return self.trained(variant, settings, true_boxes=variant == "true_boxes")

    def trained(self, variant: str, settings: AnyRetrainSettings, *, true_boxes: bool) -> dict[str, float]:
        """The same of a detector with these settings, trained on the corrupted or on the true boxes."""
        boxes = {i: plain(truth) for i, truth in self.truths.items()} if true_boxes else self.boxes
        ap = measured(self.run, retrain.run(self.context(variant), settings, boxes))
        return {"AP50": ap.mean(0.5), "AP75": ap.mean(0.75), "AP": ap.average()}


def described(run: CorruptedRun) -> str:
    """How many boxes are of each kind, and how many of them are wrong at IoU 0.5."""
    counts = ", ".join(f"{run.kinds.count(kind)} {kind}" for kind in ("true", *KINDS))
    wrong = sum(int(wrong_boxes(run.truths[i], boxes).sum()) for i, boxes in run.boxes.items())
    return f"{len(run.kinds)} boxes: {counts}; {wrong} wrong at IoU 0.5"


def line(variant: str, scores: Sequence[Mapping[str, float]], note: str = "") -> str:
    """A row of the table over the seeds."""
    cells = [cell([of_seed[name] for of_seed in scores]) for name in ("AP50", "AP75", "AP")]
    each = " / ".join(f"{of_seed['AP50']:.3f}" for of_seed in scores)
    return "| " + " | ".join([variant, str(len(scores)), *cells, each, note]) + " |"


def dino_lines(
    runs: Sequence[CorruptedRun], overrides: Sequence[str], query_drop: Sequence[str], *, with_ceiling: bool
) -> Iterator[str]:
    """A row per way of training DINO with the settings ``overrides``, each as soon as it is trained."""
    drop = [f"query_drop.{text}" for text in query_drop]
    ways = {"dino_all": ("corrupted, DINO, all queries", [])}
    ways["dino_drop"] = (f"corrupted, DINO, query drop: {' '.join(query_drop)}", drop)
    if with_ceiling:
        ways["dino_true_boxes"] = ("true boxes, DINO", [])
    for variant, (words, own) in ways.items():
        settings = load_settings(DinoRetrainSettings, None, ["detect_train=false", *overrides, *own])
        true_boxes = variant == "dino_true_boxes"
        yield line(words, [run.trained(variant, settings, true_boxes=true_boxes) for run in runs])


def main() -> None:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", type=Path, nargs="+", metavar="OUT", help="runs of one config with several seeds")
    parser.add_argument("--share", type=float, default=0.3, help="share of the boxes that is corrupted; 0.3")
    parser.add_argument("--at", type=float, default=0.3, help="share of the training at which limits are proposed; 0.3")
    parser.add_argument("--gates", nargs="+", choices=GATES, default=list(GATES), help="gates of RoI drop; both")
    parser.add_argument("--thresholds", nargs="+", choices=THRESHOLDS, default=["loss"], help="kinds of limits; loss")
    parser.add_argument("--no-ceiling", action="store_true", help="leave the true boxes out")
    parser.add_argument("--dino", nargs="*", metavar="key=value", help="train DINO instead, with these settings")
    parser.add_argument(
        "--query-drop", nargs="+", default=["gate=class"], metavar="key=value", help="its query drop; gate=class"
    )
    arguments = parser.parse_args()
    runs = [CorruptedRun(out, arguments.share, arguments.at) for out in arguments.outs]
    if arguments.dino is not None:
        for run in runs:
            print(f"{run.run.context.out}: {described(run)}\n\n{HEADER}", flush=True)
        for row in dino_lines(runs, arguments.dino, arguments.query_drop, with_ceiling=not arguments.no_ceiling):
            print(row, flush=True)
        return
    measured_figures = [run.figures() for run in runs]
    for run, figures in zip(runs, measured_figures, strict=True):
        print(f"{run.run.context.out}: {described(run)}\n{roi_drop_text(figures)}\n", flush=True)
    lines = [HEADER]
    lines.append(line("corrupted, all regions", [run.scores("all_regions", None) for run in runs]))
    print(lines[-1], flush=True)
    for gate in arguments.gates:
        for threshold in arguments.thresholds:
            chosen = [
                next(p for p in figures.proposals if (p.gate, p.threshold) == (gate, threshold))
                for figures in measured_figures
            ]
            usable = [(run, drop) for run, drop in zip(runs, chosen, strict=True) if drop.usable]
            note = "; ".join(", ".join(str(limit) for limit in drop.limits.values()) for drop in chosen)
            scores = [run.scores(f"{gate}_{threshold}", drop) for run, drop in usable]
            lines.append(line(f"corrupted, RoI drop: {gate}, {threshold}", scores, note))
            print(lines[-1], flush=True)
    if not arguments.no_ceiling:
        lines.append(line("true boxes", [run.scores("true_boxes", None) for run in runs]))
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
