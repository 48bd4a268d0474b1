"""Define ``weaksam concealed``: segment concealed objects from scribbles, points or tags (WS-SAM)."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from weaksam.cli.arguments import Arguments, Json, split_arguments
from weaksam.terminal import answer


def run(arguments: Arguments = None, json: Json = False) -> None:
    """Labels by a frozen segmenter, a network trained on them, maps of the test photos, figures, OUT/report.html.

    Settings: data.train.root, data.validation.root, data.test.root (folders with Imgs, GT, Scribble),
    labels.prompt=scribble|points|boxes, labels.views, labels.weights=soft|hard|off, labels.select, segmenter.weights,
    backbone.name, training.side, training.num_epochs. Maps lie in OUT/maps (as they are) and OUT/maps_min_max.

    From tags alone: labels.prompt=boxes with labels.run=FOLDER of a run of 'weaksam pseudo-gt', or labels.config=CONFIG
    of one that is made in OUT/boxes; its stages that are not finished run first.
    """
    from weaksam.config import load_settings
    from weaksam.pipeline.concealed import run_concealed
    from weaksam.recipes.concealed import ConcealedSettings

    result = run_concealed(load_settings(ConcealedSettings, *split_arguments(arguments)))
    if result is not None:  # the others of several processes say nothing
        answer(dumps(dict(result.figures), indent=1) if json else result.text())


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="OUT/model.safetensors of a run")],
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="folder of photos")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder for the maps, one PNG of 8 bits a photo")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
) -> None:
    """Draw the maps of new photos: OUT/maps as the network gives them, OUT/maps_min_max stretched to 0..1 each."""
    from weaksam.engine.device import pick_device
    from weaksam.recipes.concealed.photos import load_concealed
    from weaksam.recipes.concealed.predicting import MapPredictor
    from weaksam.recipes.concealed.settings import ConcealedSplit
    from weaksam.recipes.concealed.testing import save_maps

    predictor = MapPredictor.load(model, pick_device(device))
    loaded = load_concealed(ConcealedSplit(images=photos), "new")
    save_maps(out, loaded, predictor)
    answer(f"{len(loaded)} maps: {out / 'maps'}")


def scribbles(
    masks: Annotated[Path, typer.Argument(metavar="GT", help="folder of true masks (.png)")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder for scribbles, one PNG a mask")],
    kind: Annotated[str, typer.Option(help="scribble or points")] = "scribble",
    num_points: Annotated[int, typer.Option(min=1, help="points on the objects, and as many on the background")] = 1,
    width: Annotated[int, typer.Option(min=1, help="width of a stroke, pixels")] = 3,
    slips: Annotated[float, typer.Option(min=0, max=1, help="chance of a stroke or point to leave its object")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="other labels for another seed, the same for the same")] = 0,
) -> None:
    """Draw scribbles or points from true masks, as an annotator would: levels 0 nothing, 1 object, 2 background."""
    from weaksam.config import UserError
    from weaksam.data.scribble_sets import write_scribbles
    from weaksam.structures.scribbles import ScribbleStyle

    if kind not in ("scribble", "points"):
        raise UserError(f"wanted --kind scribble or points, found {kind!r}: name one of them")
    style = ScribbleStyle(kind, num_points, width, slips)  # type: ignore[arg-type]
    answer(f"{write_scribbles(masks, out, style, seed)} pictures of {kind}: {out}")
