"""Define ``weaksam adapt-sam``: adapt a segmenter to photos with weak labels (WeSAM), and measure it."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from weaksam.cli.arguments import Arguments, Json, split_arguments
from weaksam.terminal import answer


def adapt_sam(arguments: Arguments = None, json: Json = False) -> None:
    """Adapt a segmenter's image encoder to photos by weak labels: low-rank updates, OUT/lora.safetensors.

    Settings: data.train.images, data.train.truth (masks or boxes that prompt), data.test.images, data.test.truth,
    segmenter.weights, prompt=box|point|coarse_box, prompts=pseudo_gt run=OUT, steps. Use the result as
    segmenter.lora=FILE.
    """
    from weaksam.config import load_settings
    from weaksam.recipes.sam_adaptation import AdaptSettings, adapt, text

    figures = adapt(load_settings(AdaptSettings, *split_arguments(arguments)))
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
