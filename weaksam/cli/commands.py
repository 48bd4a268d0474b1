"""Assemble every ``weaksam <command>`` in the order in which help lists them, without importing torch."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from typing import Any

import typer
import typer.core

from weaksam.cli import (
    adapting,
    boxes,
    concealed,
    data,
    init,
    labels,
    measuring,
    panoramas,
    predicting,
    pseudo_gt,
    review,
    roi_drop,
    settings,
    stages,
    suggesting,
)
from weaksam.cli.arguments import EXIT_CODES, Json, guarded
from weaksam.terminal import answer

ORDER = ("run", "clues", "proposals", "wsod", "pseudo-gt", "retrain", "wsis")
"""The commands that come first in the help, as the data flows; then the others, as they are added."""


class _AsDataFlows(typer.core.TyperGroup):
    """A group whose help lists the stages in order, groups among them."""

    def list_commands(self, ctx: Any) -> list[str]:
        others = [name for name in super().list_commands(ctx) if name not in ORDER]
        return [*ORDER, *others]


class _RunByDefault(typer.core.TyperGroup):
    """A group whose command ``run`` is meant where none of its commands is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] != ["--help"] and (not args or args[0] not in self.commands):
            args = ["run", *args]
        return super().parse_args(ctx, args)


def group(help: str, commands: dict[str, Callable[..., None]], **options: Any) -> typer.Typer:
    """Commands under one name, each with a user's mistakes guarded."""
    commands_group = typer.Typer(help=help, rich_markup_mode=None, pretty_exceptions_enable=False, **options)
    for name, command in commands.items():
        commands_group.command(name)(guarded(command))
    return commands_group


def doctor(json: Json = False) -> None:
    """Print versions, the device, what works here, and the one command that mends what does not.

    Exit code 1 when something that is needed does not work.
    """
    from weaksam.cli.doctor import findings, verdict

    results = []
    for finding in findings():
        results.append(finding)
        if not json:
            answer(finding.text, style=None if finding.works else "red")
    healthy = all(finding.works for finding in results)
    if json:
        answer(dumps({"healthy": healthy, "findings": [finding._asdict() for finding in results]}, indent=1))
    else:
        answer(verdict(results), style="green" if healthy else "red")
    raise typer.Exit(0 if healthy else 1)


EXIT_CODES_TEXT = "\n".join(["\b", "Exit codes:", *(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES)])
"""For the end of the help; click keeps the lines of a paragraph that begins with a backspace."""


app = group(
    "Image-level tags in; boxes, masks, a trained detector and a trained instance segmenter out.",
    {
        "run": stages.run,
        "proposals": stages.proposals,
        "wsod": stages.up_to("wsod", "Train the weakly supervised detector on tags and proposals."),
        "retrain": stages.up_to(
            "retrain", "Train Faster R-CNN or DINO on the pseudo ground truth, and choose whose detections to hand on."
        ),
        "wsis": stages.up_to("wsis", "Turn pseudo boxes into pseudo masks and train Mask R-CNN."),
        "predict": predicting.predict,
        "export-model": predicting.export_model,
        "export": labels.export_labels,
        "import": labels.import_labels,
        "convert-weights": labels.convert_weights,
        "eval": measuring.evaluate,
        "eval-maps": measuring.evaluate_maps,
        "recall": measuring.recall,
        "report": measuring.report,
        "show": measuring.show,
        "suggest": suggesting.suggest,
        "verify": measuring.verify,
        "init": init.init,
        "plan": stages.plan,
        "settings": settings.settings,
        "doctor": doctor,
    },
    cls=_AsDataFlows,
    no_args_is_help=True,
    add_completion=False,
    epilog=EXIT_CODES_TEXT,
)
clues = stages.up_to("clues", "Train the classifier on the tags and find peak points ('run' may be left out).")
app.add_typer(
    group(
        "Train the classifier on the tags and find peak points: clues [CONFIG] [key=value]..., or measure them: eval.",
        {"run": clues, "eval": measuring.evaluate_clues},
        cls=_RunByDefault,
    ),
    name="clues",
)
choose = stages.up_to("pseudo_gt", "Choose the detections that serve as pseudo ground truth ('run' may be left out).")
app.add_typer(
    group(
        "Choose the detections that serve as pseudo ground truth: pseudo-gt [CONFIG] [key=value]..., measure it: eval, "
        "or write it as COCO JSON or VOC XML: export.",
        {"run": choose, "eval": pseudo_gt.evaluate_pseudo_gt, "export": pseudo_gt.export_pseudo_gt},
        cls=_RunByDefault,
    ),
    name="pseudo-gt",
)
app.add_typer(
    group(
        "Adapt a segmenter to photos by weak labels: adapt-sam [CONFIG] [key=value]..., measure it: eval, or write it "
        "as a plain checkpoint: export.",
        {"run": adapting.adapt_sam, "eval": adapting.evaluate_adapted, "export": adapting.export_adapted},
        cls=_RunByDefault,
    ),
    name="adapt-sam",
)
app.add_typer(
    group(
        "Segment concealed objects from scribbles, points or tags: concealed run [CONFIG] [key=value]...; predict; or "
        "draw scribbles from masks.",
        {"run": concealed.run, "predict": concealed.predict, "scribbles": concealed.scribbles},
        no_args_is_help=True,
    ),
    name="concealed",
)
app.add_typer(
    group(
        "Train a compact segmenter for panoramas (GoodSAM-style): run, use it: predict, render a data set: synth.",
        {"run": panoramas.run, "predict": panoramas.predict, "synth": panoramas.synth},
        no_args_is_help=True,
    ),
    name="panorama",
)
app.add_typer(
    group("Train with what a reviewer decided in a run's report.", {"apply": review.apply}, no_args_is_help=True),
    name="review",
)
app.add_typer(
    group(
        "Draw the errors of regions by their loss, and propose thresholds of RoI drop: plot.",
        {"plot": roi_drop.plot},
        no_args_is_help=True,
    ),
    name="roi-drop",
)
app.add_typer(
    group(
        "Import other tools' proposals, export ours, draw them.",
        {"import": boxes.import_boxes, "export": boxes.export_boxes, "draw": boxes.draw_boxes},
        no_args_is_help=True,
    ),
    name="boxes",
)
app.add_typer(
    group(
        "Check a dataset, make a synthetic one, or corrupt photos.",
        {"check": data.check, "synth": data.synth, "camouflage": data.camouflage, "corrupt": data.corrupt},
        no_args_is_help=True,
    ),
    name="data",
)
