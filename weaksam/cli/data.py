"""Define the commands of ``weaksam data``: check a dataset, render synthetic ones, and corrupt photos."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from weaksam.cli.arguments import Arguments, Images, Json, Tags, load_run_settings
from weaksam.terminal import all_printable, answer


def check(
    arguments: Arguments = None,
    images: Images = None,
    tags: Tags = None,
    truth: Annotated[Path | None, typer.Option(help="true boxes: COCO JSON, VOC XML folder or YOLO labels")] = None,
    json: Json = False,
) -> None:
    """List what is wrong with a dataset, one line each; changes nothing. Exit code 1 when something was found."""
    from weaksam.data.check import check_data

    given = [] if truth is None else [f"data.train.truth={truth}"]
    settings = load_run_settings([*(arguments or ()), *given], images=images, tags=tags)
    counts: list[str] = []
    problems = check_data(settings.data, counts)
    print_problems(counts, problems, json)
    raise typer.Exit(1 if problems else 0)


def print_problems(counts: Sequence[str], problems: Sequence[str], json: bool = False) -> None:
    """Print how much was read and what is wrong, line by line, since there may be a million lines."""
    if json:
        answer(dumps({"read": list(counts), "problems": list(problems)}, indent=1))
        return
    lines = all_printable(chain(counts, problems or ["nothing wrong was found"]))
    sys.stdout.writelines(f"{line}\n" for line in lines)


def synth(
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
    from weaksam.scenes.synthetic import SceneSettings, write_dataset

    paths = write_dataset(out, load_settings(SceneSettings, None, arguments or ()), train, test, seed)
    answer("\n".join(f"{name}: {path}" for name, path in paths.items()))


def camouflage(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="how scenes look, such as size=128"),
    ] = None,
    train: Annotated[int, typer.Option(help="number of training scenes")] = 120,
    validation: Annotated[int, typer.Option(help="number of validation scenes")] = 30,
    test: Annotated[int, typer.Option(help="number of test scenes")] = 60,
    seed: Annotated[int, typer.Option(help="other scenes for another seed, the same bytes for the same")] = 0,
) -> None:
    """Write scenes of objects that wear the texture behind them, with masks and scribbles, for weaksam concealed.

    Each split has the folders Imgs, GT and Scribble; labels=points num_points=10 draws points instead of scribbles.
    """
    from weaksam.config import load_settings
    from weaksam.scenes.camouflage import CamouflageSettings, write_camouflage

    settings = load_settings(CamouflageSettings, None, arguments or ())
    paths = write_camouflage(out, settings, train, validation, test, seed)
    answer("\n".join(f"{name}: {path}" for name, path in paths.items()))


def corrupt(
    images: Annotated[Path, typer.Argument(help="folder of photos")],
    out: Annotated[Path, typer.Argument(help="folder to write the corrupted photos to, as PNG of the same names")],
    corruption: Annotated[
        str,
        typer.Option(
            help="gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow, "
            "frost, fog, brightness, contrast, elastic_transform, pixelate or jpeg_compression"
        ),
    ],
    severity: Annotated[int, typer.Option(min=1, max=5, help="1 (weak) to 5")] = 3,
    seed: Annotated[int, typer.Option(help="other noise for another seed, the same bytes for the same")] = 0,
) -> None:
    """Write photos corrupted in the manner of COCO-C, so that a shift can be tried on any photos; labels stay valid.

    Needs the extra of that name: pip install 'weaksam[corruptions]'.
    """
    from weaksam.config import UserError, listed
    from weaksam.data.corruptions import CORRUPTIONS
    from weaksam.pipeline.corrupting import corrupt_folder

    if corruption not in CORRUPTIONS:
        raise UserError(
            f"wanted a corruption ({listed(CORRUPTIONS, len(CORRUPTIONS))}), found {corruption!r}: name one of them"
        )
    num = corrupt_folder(images, out, corruption, severity, seed)
    answer(f"{num} photos with {corruption} of severity {severity} in {out}")
