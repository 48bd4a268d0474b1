"""`weaksam <command>`: reads the command line and calls the pipeline; heavy imports wait inside the commands."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

STAGE_NAMES = ("clues", "proposals", "wsod", "pseudo_gt", "retrain", "wsis")
"""The stages in order, as words only: the pipeline holds the same names (a test compares them)."""

app = typer.Typer(
    help="Image-level tags in; boxes, masks, a trained detector and a trained instance segmenter out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Check a dataset, or make a synthetic one.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [key=value]...", help="a YAML file, then settings that override it"),
]
Images = Annotated[Path | None, typer.Option(help="folder of training photos (JPEG, PNG, WebP or BMP)")]
Tags = Annotated[
    Path | None,
    typer.Option(help="what is in each photo: CSV, JSON, JSONL, one folder per class, or VOC ImageSets/Main"),
]
Out = Annotated[Path | None, typer.Option(help="folder for everything the run makes")]
Seed = Annotated[int | None, typer.Option(help="the one seed of the run")]


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with a user's mistake ending in one sentence and exit code 2, and Ctrl-C in exit code 130.

    With ``WEAKSAM_DEBUG=1`` in the environment mistakes keep their traceback.
    """

    @functools.wraps(function)
    def guard(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            print("\ninterrupted: rerun the same command to resume", file=sys.stderr)
            raise typer.Exit(130) from None
        except (ValueError, OSError) as error:
            if os.environ.get("WEAKSAM_DEBUG"):
                raise
            print(f"weaksam: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(2) from None

    return guard


def split_arguments(arguments: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    """``[CONFIG] [key=value]...`` -> (config path or None, overrides); anything else is a ``UserError``."""
    from weaksam.config import UserError

    configs = [a for a in arguments or () if "=" not in a]
    if len(configs) > 1:
        raise UserError(
            f"wanted one config file and key=value settings, found {' and '.join(map(repr, configs))}: "
            "write settings as key=value, without spaces around '='"
        )
    return (Path(configs[0]) if configs else None), [a for a in arguments or () if "=" in a]


def load_run_settings(arguments: Sequence[str] | None, **options: Any) -> Any:
    """``RunSettings`` from the command line: YAML, then ``key=value``, then the options that were given."""
    from weaksam.config import load_settings
    from weaksam.run import RunSettings

    config, overrides = split_arguments(arguments)
    keys = {"images": "data.train.images", "tags": "data.train.tags", "sam": "segmenter.weights"}
    keys |= {"out": "out", "seed": "seed"}
    overrides += [f"{keys[name]}={value}" for name, value in options.items() if value is not None]
    return load_settings(RunSettings, config, overrides)


@app.command()
@guarded
def run(
    arguments: Arguments = None,
    images: Images = None,
    tags: Tags = None,
    out: Out = None,
    seed: Seed = None,
    until: Annotated[str | None, typer.Option(help=f"last stage to run: {', '.join(STAGE_NAMES)}")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="first stage to run; the ones before it must be finished")
    ] = None,
) -> None:
    """Run the whole pipeline, or a part of it; rerunning the same command resumes where it stopped."""
    settings = load_run_settings(arguments, images=images, tags=tags, out=out, seed=seed)
    from weaksam import pipeline

    pipeline.run(settings, start=start, until=until)


def _add_stage_command(stage: str, help: str, name: str | None = None) -> None:
    """A command that runs up to ``stage``: the stage's own name, or ``name`` in the stage's group."""

    def command(
        arguments: Arguments = None, images: Images = None, tags: Tags = None, out: Out = None, seed: Seed = None
    ) -> None:
        settings = load_run_settings(arguments, images=images, tags=tags, out=out, seed=seed)
        from weaksam import pipeline

        pipeline.run(settings, until=stage)

    group, name = (app, stage.replace("_", "-")) if name is None else (clues_app, name)
    group.command(name, help=f"{help} Earlier stages run first where they are not finished.")(guarded(command))


class _RunByDefault(typer.core.TyperGroup):
    """A group whose command ``run`` is meant where none of its commands is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] != ["--help"] and (not args or args[0] not in self.commands):
            args = ["run", *args]
        return super().parse_args(ctx, args)


clues_app = typer.Typer(
    cls=_RunByDefault,
    help="Train the classifier on the tags and find peak points: clues [CONFIG] [key=value]..., or measure them: eval.",
    rich_markup_mode=None,
)
app.add_typer(clues_app, name="clues")
_add_stage_command("clues", "Train the classifier on the tags and find peak points (meant without 'run' too).", "run")


@clues_app.command("eval")
@guarded
def clues_eval(
    out: Annotated[Path, typer.Argument(help="folder of a run whose clues are finished")],
    json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure a run's clues: pointing game, points per object, objects hit, mIoU of the maps; with the protocol."""
    from weaksam import pipeline
    from weaksam.report.clue_report import clue_json, clue_text

    print((clue_json if json else clue_text)(*pipeline.measure_clues(out)))


@app.command()
@guarded
def proposals(
    arguments: Arguments = None,
    images: Images = None,
    tags: Tags = None,
    sam: Annotated[
        str | None, typer.Option(help="segmenter: a SAM .pth file, a folder or hub id of transformers; or offline")
    ] = None,
    out: Out = None,
    seed: Seed = None,
) -> None:
    """Boxes of what may be an object in each photo: needs nothing but photos, and uses tags where it has them.

    The frozen segmenter is prompted with a grid of points and, with --tags, with the peaks of a classifier trained on
    them; folders name classes only with a CONFIG. Rerunning the same command resumes.
    """
    settings = load_run_settings(arguments, images=images, tags=tags, sam=sam, out=out, seed=seed)
    from weaksam import pipeline
    from weaksam.run import without_tags

    config, _ = split_arguments(arguments)
    if config is None and settings.data.train.tags is None and settings.data.train.truth is None:
        settings = without_tags(settings)

    pipeline.run(settings, until="proposals")


_add_stage_command("wsod", "Train the weakly supervised detector on tags and proposals.")
_add_stage_command("pseudo_gt", "Choose the detections that serve as pseudo ground truth.")
_add_stage_command("retrain", "Train Faster R-CNN on the pseudo ground truth.")
_add_stage_command("wsis", "Turn pseudo boxes into pseudo masks and train Mask R-CNN.")


@app.command("eval")
@guarded
def evaluate(
    truth: Annotated[Path, typer.Option(help="true boxes: COCO JSON, VOC XML folder or YOLO labels")],
    detections: Annotated[
        Path, typer.Option(help="COCO results, a run's store of detections, or VOC's comp4_det_test_CLASS.txt files")
    ],
    metrics: Annotated[str, typer.Option(help="comma-separated: voc, voc11, corloc, coco, mask")] = "voc,corloc,coco",
    images: Annotated[Path | None, typer.Option(help="folder of photos: only theirs count; needed for YOLO")] = None,
    image_list: Annotated[
        Path | None,
        typer.Option("--list", help="only these images count: a name a line (VOC's lists), or COCO JSON"),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="comma-separated, or a file of one a line: the order of VOC or YOLO classes")
    ] = None,
    tags: Annotated[Path | None, typer.Option(help="tags for CorLoc; by default those of the true boxes")] = None,
    proposals: Annotated[
        Path | None, typer.Option(help="store (or table) of proposals: measure CorLoc's naive baselines as well")
    ] = None,
    nms: Annotated[float | None, typer.Option(help="suppress detections of a class above this IoU first")] = None,
    max_boxes: Annotated[int | None, typer.Option(min=1, help="keep so many best detections of an image")] = None,
    min_score: Annotated[float | None, typer.Option(help="drop detections with a lower score")] = None,
    pixel_inclusive: Annotated[
        bool, typer.Option("--pixel-inclusive", help="x2, y2 of two COCO files are the last pixel inside (VOC AP)")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure any detections against any truth, and print the protocol with every figure."""
    from weaksam.report.files import detection_filter, evaluate_files, figures_text, parse_classes

    figures = evaluate_files(
        truth,
        detections,
        metrics.split(","),
        images=images,
        image_list=image_list,
        classes=parse_classes(classes),
        tags=tags,
        proposals=proposals,
        keep=detection_filter(min_score, nms, max_boxes),
        pixel_inclusive=pixel_inclusive,
    )
    print(figures_text(figures, as_json=json))


@app.command()
@guarded
def recall(
    proposals: Annotated[
        list[str],
        typer.Option(help="[NAME=]PATH of a store, COCO results (.json) or flat table (.parquet); repeat to compare"),
    ],
    truth: Annotated[Path, typer.Option(help="true boxes: COCO JSON, VOC XML folder or YOLO labels")],
    images: Annotated[Path | None, typer.Option(help="folder of photos: only theirs count; needed for YOLO")] = None,
    matching: Annotated[str, typer.Option(help="coco, best-match or one-to-one")] = "coco",
    order: Annotated[str, typer.Option(help="which boxes come first: score, or file for the file's order")] = "score",
    counts: Annotated[str, typer.Option(help="numbers of boxes of the table")] = "50,100,200,300,500",
    count_difficult: Annotated[bool, typer.Option("--count-difficult", help="difficult objects count too")] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="also by the objects' class")] = False,
    json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
    plot: Annotated[Path | None, typer.Option(help="also draw the curves (.png, .svg or .pdf)")] = None,
) -> None:
    """Measure how many true objects proposals cover, by IoU and number of boxes, and print the protocol."""
    from weaksam.report import recall_report

    if plot is not None:
        recall_report.check_plot(plot)
    measured = recall_report.measure_recall(
        recall_report.named_sets(proposals),
        truth,
        images,
        matching=matching,  # type: ignore[arg-type]
        order=order,  # type: ignore[arg-type]
        counts=recall_report.parse_counts(counts),
        count_difficult=count_difficult,
        per_class=per_class,
        curve=plot is not None,
    )
    print(recall_report.recall_json(measured) if json else recall_report.recall_text(measured))
    if plot is not None:
        from weaksam.report.recall_plot import write_plot

        write_plot(plot, measured)


boxes_app = typer.Typer(
    help="Bring other tools' proposals in, take ours out, look at them.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(boxes_app, name="boxes")
ImageList = Annotated[
    Path | None, typer.Option("--list", help="the images the file was made for, in order: a name a line, or COCO JSON")
]


@boxes_app.command("import")
@guarded
def boxes_import(
    source: Annotated[Path, typer.Argument(help="pickle of wetectron, mmdet or detectron, COCO results, flat table")],
    out: Annotated[Path, typer.Option(help="folder of the store to write")],
    image_list: ImageList = None,
    images: Annotated[Path | None, typer.Option(help="folder of the photos")] = None,
    layout: Annotated[str | None, typer.Option(help="wetectron, mmdet or detectron; told from the file")] = None,
    corners: Annotated[
        str, typer.Option(help="x2, y2 there are the last pixel (inclusive), the first beyond (half-open), or auto")
    ] = "auto",
) -> None:
    """Write another tool's proposals as a sealed store; a pickle is read without running anything in it."""
    from weaksam.data.proposal_exchange import import_proposals

    choices: dict[str, Any] = {"layout": layout, "corners": corners}
    print(import_proposals(source, out, image_list=image_list, photos=images, **choices))


@boxes_app.command("export")
@guarded
def boxes_export(
    source: Annotated[Path, typer.Argument(help="folder of a store of proposals")],
    out: Annotated[Path, typer.Option(help="file to write: .json (COCO results) or .parquet (one line per box)")],
    image_list: Annotated[Path | None, typer.Option("--list", help="COCO file that numbers the images")] = None,
    images: Annotated[Path | None, typer.Option(help="folder of the photos, for --masks")] = None,
    category_id: Annotated[int, typer.Option(help="category of every proposal in COCO results")] = 1,
    masks: Annotated[bool, typer.Option("--masks", help="write the masks too (RLE, COCO results only)")] = False,
) -> None:
    """Write a store of proposals as COCO results or as a flat Parquet table."""
    from weaksam.data.proposal_exchange import export_proposals

    print(export_proposals(source, out, image_list=image_list, photos=images, category_id=category_id, masks=masks))


@boxes_app.command("draw")
@guarded
def boxes_draw(
    source: Annotated[Path, typer.Argument(help="folder of a store of proposals")],
    images: Annotated[Path, typer.Option(help="folder of the photos")],
    image: Annotated[str, typer.Option(help="which photo: its name, ending and folders may be left out")],
    out: Annotated[Path, typer.Option(help="picture to write (.png or .jpg)")],
    most: Annotated[int, typer.Option(min=1, help="most proposals of a source to draw, best first")] = 25,
) -> None:
    """Draw one photo's proposals, a panel for each source: grid, coarse, fine, cross, joint."""
    from weaksam.report.proposal_picture import draw_stored

    print(draw_stored(source, images, image, out, most))


@app.command()
@guarded
def report(out: Annotated[Path, typer.Argument(help="folder of a run")]) -> None:
    """Write OUT/report.html and OUT/metrics.json of a finished run again."""
    from weaksam import pipeline

    pipeline.rewrite_report(out)


@app.command()
@guarded
def doctor() -> None:
    """Print versions, what works here, and one command for each thing that does not."""
    from weaksam.report.doctor import diagnose

    healthy = diagnose(print)
    raise typer.Exit(0 if healthy else 1)


@data_app.command("check")
@guarded
def data_check(
    arguments: Arguments = None,
    images: Images = None,
    tags: Tags = None,
    truth: Annotated[Path | None, typer.Option(help="true boxes: COCO JSON, VOC XML folder or YOLO labels")] = None,
) -> None:
    """List what is wrong with a dataset, one line each; changes nothing. Exit code 1 when something was found."""
    from weaksam.data.check import check_data

    given = [] if truth is None else [f"data.train.truth={truth}"]
    settings = load_run_settings([*(arguments or ()), *given], images=images, tags=tags)
    problems = check_data(settings.data)
    print("\n".join(problems) if problems else "nothing wrong was found")
    raise typer.Exit(1 if problems else 0)


@data_app.command("synth")
@guarded
def data_synth(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="how scenes look, such as size=256")
    ] = None,
    train: Annotated[int, typer.Option(help="number of training scenes")] = 160,
    test: Annotated[int, typer.Option(help="number of test scenes")] = 60,
    seed: Annotated[int, typer.Option(help="other scenes for another seed, the same bytes for the same")] = 0,
) -> None:
    """Write synthetic scenes with exact boxes, masks and tags, on which everything can be tried offline."""
    from weaksam.config import load_settings
    from weaksam.data.synthetic import SceneSettings, write_dataset

    paths = write_dataset(out, load_settings(SceneSettings, None, arguments or ()), train, test, seed)
    print("\n".join(f"{name}: {path}" for name, path in paths.items()))


def run_tool(start: str | None = None, until: str | None = None) -> None:
    """What a script in ``tools/`` does: the stages from ``start``, which needs those before it, to ``until``."""
    tool = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    def command(arguments: Arguments = None) -> None:
        settings = load_run_settings(arguments)
        from weaksam import pipeline

        pipeline.run(settings, start=start, until=until)

    tool.command(help=f"Run the stages {start or STAGE_NAMES[0]} to {until or STAGE_NAMES[-1]}.")(guarded(command))
    tool()


def main() -> None:
    """Entry point of the ``weaksam`` command."""
    app(prog_name="weaksam")


if __name__ == "__main__":
    main()
