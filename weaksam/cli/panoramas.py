"""Define ``weaksam panorama``: train a compact segmenter for panoramas, use it, and render a data set to try it on."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from weaksam.cli.arguments import Arguments, Json, split_arguments
from weaksam.terminal import answer


def run(arguments: Arguments = None, json: Json = False) -> None:
    """Masks and pseudo maps, then the student, then its test: OUT/student.safetensors and OUT/metrics.json.

    Settings: data.train.images (panoramas without labels), data.photos.images and .labels (pinhole photos that teach
    the assistant) or assistant.weights=FOLDER, data.test.images and .labels, data.vertical_degrees (what a panorama's
    height covers), windows.size and .stride, segmenter.weights, student.steps. The same command resumes.
    """
    from weaksam.config import load_settings
    from weaksam.pipeline.panorama import run_panorama
    from weaksam.recipes.panorama import PanoramaSettings, text

    figures = run_panorama(load_settings(PanoramaSettings, *split_arguments(arguments)))
    if figures:  # the first process has them
        answer(dumps(figures, indent=1) if json else text(figures))


def predict(
    student: Annotated[Path, typer.Argument(help="OUT/student.safetensors of weaksam panorama run")],
    photos: Annotated[list[Path], typer.Argument(help="panoramas, or folders of them")],
    out: Annotated[Path, typer.Option(help="folder for a class map and a picture of each")] = Path("panoramas"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
) -> None:
    """Segment whole panoramas: OUT/NAME.png holds the class of each pixel, OUT/NAME_picture.jpg shows it."""
    from weaksam.engine.device import pick_device
    from weaksam.recipes.panorama import load_student
    from weaksam.recipes.panorama import predict as predict_all

    loaded = load_student(student, pick_device(device))
    written = predict_all(loaded, photos, out)
    answer(f"{len(written)} panoramas in {out}: " + ", ".join(f"{n} {name}" for n, name in enumerate(loaded.classes)))


def synth(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="how scenes look, such as height=128")
    ] = None,
    train: Annotated[int, typer.Option(help="number of panoramas to learn from")] = 60,
    test: Annotated[int, typer.Option(help="number of panoramas to measure on")] = 20,
    photos: Annotated[int, typer.Option(help="number of pinhole photos")] = 200,
    seed: Annotated[int, typer.Option(help="other streets for another seed, the same bytes for the same")] = 0,
) -> None:
    """Render streets as panoramas and pinhole photos with the exact class of every pixel, and OUT/panorama.yaml."""
    from weaksam.config import load_settings
    from weaksam.scenes.panoramas import StreetSettings, write_panoramas

    paths = write_panoramas(out, load_settings(StreetSettings, None, arguments or ()), train, test, photos, seed)
    answer("\n".join(f"{name}: {path}" for name, path in paths.items()))
