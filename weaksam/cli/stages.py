"""Define the commands that run stages: the whole pipeline, each stage, and what the scripts in ``tools/`` do."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from typing import Annotated, Any

import typer

from weaksam.cli.arguments import Arguments, Images, Json, Out, Seed, Tags, guarded, load_run_settings, split_arguments
from weaksam.cli.launching import AddressOption, LauncherOption, Launching, WorkersOption, command_words, launched
from weaksam.stages import STAGE_NAMES
from weaksam.terminal import answer, is_silent


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
    launcher: LauncherOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    json: Json = False,
) -> None:
    """Run the whole pipeline, or a part of it; rerunning the same command resumes where it stopped."""
    options = {"images": images, "tags": tags, "out": out, "seed": seed}
    settings = load_run_settings(arguments, **options)
    words = command_words("run", arguments, **options, until=until, **{"from": start}, json=json)
    run_settings(settings, start, until, json, Launching(launcher, workers, address, words))


def run_settings(
    settings: Any, start: str | None, until: str | None, json: bool = False, launching: Launching | None = None
) -> None:
    """Run the stages from ``start`` to ``until``, and print the metrics as JSON or, alone with ``--quiet``, the report.

    A process beside the first one, which reports nothing, prints nothing. ``launching`` may start others.
    """
    from weaksam import pipeline

    settings, actors = launched(settings, launching or Launching())
    metrics = pipeline.run(settings, start=start, until=until, actors=actors)
    if metrics and json:
        answer(dumps(metrics, indent=1))
    elif metrics and is_silent():
        answer(f"report: {settings.out / 'report.html'}")


def plan(
    arguments: Arguments = None,
    images: Images = None,
    tags: Tags = None,
    out: Out = None,
    until: Annotated[str | None, typer.Option(help=f"last stage of the run: {', '.join(STAGE_NAMES)}")] = None,
    json: Json = False,
) -> None:
    """Say before a run how long it takes, how much disk and memory, and what serves better where tags will not do.

    Three photos, and more where these do not show every class, go through all stages in a folder that is deleted.
    """
    settings = load_run_settings(arguments, images=images, tags=tags, out=out)
    from weaksam import pipeline

    expected = pipeline.plan_run(settings, until)
    answer(dumps(expected.as_dict(), indent=1) if json else expected.text())


def up_to(stage: str, help: str) -> Callable[..., None]:
    """A command that runs the stages up to ``stage``; ``help`` says in one sentence what that one does."""

    def command(
        arguments: Arguments = None,
        images: Images = None,
        tags: Tags = None,
        out: Out = None,
        seed: Seed = None,
        launcher: LauncherOption = None,
        workers: WorkersOption = None,
        address: AddressOption = None,
        json: Json = False,
    ) -> None:
        options = {"images": images, "tags": tags, "out": out, "seed": seed}
        settings = load_run_settings(arguments, **options)
        words = command_words(stage.replace("_", "-"), arguments, **options, json=json)
        run_settings(settings, None, stage, json, Launching(launcher, workers, address, words))

    command.__doc__ = f"{help} Earlier stages run first where they are not finished."
    return command


def proposals(
    arguments: Arguments = None,
    images: Images = None,
    tags: Tags = None,
    sam: Annotated[
        str | None, typer.Option(help="segmenter: a SAM .pth file, a folder or hub id of transformers; or offline")
    ] = None,
    out: Out = None,
    seed: Seed = None,
    launcher: LauncherOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    json: Json = False,
) -> None:
    """Boxes of what may be an object in each photo: needs nothing but photos, and uses tags where it has them.

    The frozen segmenter is prompted with a grid of points and, with --tags, with the peaks of a classifier trained on
    them; folders name classes only with a CONFIG. Rerunning the same command resumes.
    """
    options = {"images": images, "tags": tags, "sam": sam, "out": out, "seed": seed}
    settings = load_run_settings(arguments, **options)
    from weaksam.pipeline.settings import without_tags

    config, _ = split_arguments(arguments)
    if config is None and settings.data.train.tags is None and settings.data.train.truth is None:
        settings = without_tags(settings)
    words = command_words("proposals", arguments, **options, json=json)
    run_settings(settings, None, "proposals", json, Launching(launcher, workers, address, words))


def tool(start: str | None = None, until: str | None = None) -> typer.Typer:
    """The command of a script in ``tools/``: the stages from ``start``, which needs those before it, to ``until``."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    def command(arguments: Arguments = None, json: Json = False) -> None:
        run_settings(load_run_settings(arguments), start, until, json)

    app.command(help=f"Run the stages {start or STAGE_NAMES[0]} to {until or STAGE_NAMES[-1]}.")(guarded(command))
    return app
