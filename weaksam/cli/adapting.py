"""Define ``weaksam adapt-sam``: adapt a segmenter to photos with weak labels (WeSAM), measure it, and export it."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from weaksam.cli.arguments import Arguments, Json, split_arguments
from weaksam.cli.launching import LauncherOption, Launching, WorkersOption, command_words, launched
from weaksam.terminal import answer


def adapt_sam(
    arguments: Arguments = None,
    launcher: LauncherOption = None,
    workers: WorkersOption = None,
    json: Json = False,
) -> None:
    """Adapt a segmenter's image encoder to photos by weak labels: low-rank updates, OUT/lora.safetensors.

    Settings: data.train.images, data.train.truth (masks or boxes that prompt), data.test.images, data.test.truth,
    segmenter.weights, prompt=box|point|coarse_box|coarse_mask, prompts=pseudo_gt run=OUT, steps. Use the result as
    segmenter.lora=FILE. With --launcher torchrun or slurm several processes adapt together.
    """
    from weaksam.config import UserError, load_settings
    from weaksam.pipeline.adaptation_sheet import write_sheet
    from weaksam.recipes.sam_adaptation import LORA, AdaptSettings, adapt, text

    settings = load_settings(AdaptSettings, *split_arguments(arguments))
    if launcher == "ray" or (workers is not None and launcher in (None, "local")):
        raise UserError(
            f"wanted --launcher torchrun or slurm for several processes, found {launcher or 'none'}: an adaptation is "
            "one training, which only these two share"
        )
    words = command_words("adapt-sam", arguments, json=json)
    launched(settings, Launching(launcher, workers, None, words))
    figures = adapt(settings)
    if figures:  # the first process has them
        write_sheet(settings, settings.out / LORA)
        answer(dumps(figures, indent=1) if json else text(figures))


def evaluate_adapted(
    arguments: Arguments = None,
    lora: Annotated[Path | None, typer.Option(help="lora.safetensors to measure; none: the segmenter as it is")] = None,
    json: Json = False,
) -> None:
    """Measure IoU and F1 of every instance of data.test.truth by kind of prompt, with or without low-rank updates."""
    from weaksam.config import load_settings
    from weaksam.recipes.sam_adaptation import AdaptSettings, evaluate, text

    figures = evaluate(load_settings(AdaptSettings, *split_arguments(arguments)), lora)
    answer(dumps(figures, indent=1) if json else text({"direct" if lora is None else "adapted": figures}))


def export_adapted(
    lora: Annotated[Path, typer.Argument(help="lora.safetensors of an adaptation")],
    file: Annotated[Path, typer.Argument(help="what is written: a .pth file of segment-anything, or a folder or file")],
    arguments: Arguments = None,
) -> None:
    """Write the adapted segmenter as a plain checkpoint, its updates merged, for any program that reads the original.

    Settings name the segmenter: segmenter.weights, segmenter.family.
    """
    from weaksam.config import load_settings
    from weaksam.recipes.sam_adaptation import AdaptSettings, export

    answer(export(load_settings(AdaptSettings, *split_arguments(arguments)), lora, file))
