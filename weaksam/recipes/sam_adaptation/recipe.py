"""Adapt a segmenter to photos, and measure it before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from weaksam.config import UserError
from weaksam.data.dataset import SplitSettings, load_dataset
from weaksam.engine.device import pick_device
from weaksam.engine.log import RunLog
from weaksam.engine.seeds import seed_everything
from weaksam.recipes.sam_adaptation.instances import LabelledPhotos, labelled
from weaksam.recipes.sam_adaptation.measuring import measure
from weaksam.recipes.sam_adaptation.networks import AdaptableNetwork, adaptable
from weaksam.recipes.sam_adaptation.settings import AdaptSettings
from weaksam.recipes.sam_adaptation.training import Adaptation, train
from weaksam.sam.build import build_segmenter
from weaksam.sam.lora import load_lora, save_lora
from weaksam.store.files import write_json_atomic
from weaksam.terminal import say

LORA = "lora.safetensors"
"""The adapted updates below OUT, for ``segmenter.lora``."""
KINDS = ("box", "point", "coarse_box")
"""Kinds of prompts that are measured."""


def adapt(settings: AdaptSettings) -> dict[str, Any]:
    """Adapt the segmenter of ``settings``, write its updates to OUT/lora.safetensors, and return the figures.

    A second call with the same settings goes on where the first stopped. With test photos OUT/metrics.json holds IoU
    and F1 by kind of prompt before (*direct*) and after. Raises `UserError` for data or a segmenter that cannot be
    used.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    seed_everything(settings.seed)
    segmenter = build_segmenter(settings.segmenter, pick_device(settings.device))
    network = adaptable(segmenter)
    photos, source = training_photos(settings)
    test = None if settings.data.test is None else photos_of(settings.data.test, "test")
    log = RunLog(settings.out / "log.jsonl")
    direct = {} if test is None else measured(network, test, settings, "direct")
    adaptation = Adaptation(network, photos, settings)
    say(
        f"adapt-sam: {len(adaptation.layers)} layers of {segmenter.name}, "
        f"{sum(parameter.numel() for parameter in adaptation.weights.parameters()):,} numbers, {len(photos)} photos; "
        f"prompts from {source}"
    )
    train(adaptation, settings.out / "training", [segmenter.fingerprint, photos.fingerprint], log)
    facts = {"prompts": settings.prompts, "prompt": settings.prompt, "photos": len(photos), "targets": settings.targets}
    save_lora(settings.out / LORA, network.encoder, facts)
    figures: dict[str, Any] = {"prompts_from": source, "settings": settings.model_dump(mode="json")}
    if test is not None:
        figures |= {"direct": direct, "adapted": measured(network, test, settings, "adapted")}
    write_json_atomic(settings.out / "metrics.json", figures)
    return figures


def evaluate(settings: AdaptSettings, lora: Path | None = None) -> dict[str, Any]:
    """IoU and F1 by kind of prompt on ``settings.data.test``, of the segmenter or with the updates of ``lora``."""
    if settings.data.test is None:
        raise UserError("wanted photos to measure on, found none: set data.test.images and data.test.truth")
    network = adaptable(build_segmenter(settings.segmenter, pick_device(settings.device)))
    if lora is not None:
        load_lora(lora, network.encoder)
    return measured(network, photos_of(settings.data.test, "test"), settings, "direct" if lora is None else "adapted")


def measured(network: AdaptableNetwork, photos: LabelledPhotos, settings: AdaptSettings, what: str) -> dict[str, Any]:
    """The figures of every kind of prompt in `KINDS`, with the protocol."""
    if not photos.has_masks:
        raise UserError("wanted true masks of the test photos to measure on, found boxes: give a truth with masks")
    return {
        kind: measure(
            network,
            photos,
            kind,
            seed=settings.seed,
            num_points=settings.num_points,
            title=f"adapt-sam: {what}, {kind}",
        ).as_dict()
        for kind in KINDS
    }


def training_photos(settings: AdaptSettings) -> tuple[LabelledPhotos, str]:
    """The photos to adapt to with their instances, and in words where the prompts come from.

    Raises `UserError` where nothing can be read, and where the labels are boxes and masks are needed.
    """
    split = settings.data.train
    if settings.prompts == "pseudo_gt":
        assert settings.run is not None, "the settings see to that"
        file = settings.run / "pseudo_gt" / "train.json"
        if not file.is_file():
            raise UserError(
                f"wanted the pseudo boxes of a run at {file}, found none: run 'weaksam pseudo-gt' there first, or set "
                "run to its folder"
            )
        photos = photos_of(SplitSettings(images=split.images, truth=file), "train")
        return photos, f"pseudo boxes of {settings.run}, made from tags"
    photos = photos_of(split, "train")
    if not photos.has_masks and (settings.targets == "true" or settings.prompt == "coarse_box"):
        wanted = "targets=true" if settings.targets == "true" else "prompt=coarse_box"
        raise UserError(f"wanted masks in {split.truth} for {wanted}, found boxes: give masks, or set prompt=box")
    return photos, f"{'masks' if photos.has_masks else 'boxes'} of {split.truth}"


def photos_of(split: SplitSettings, name: str) -> LabelledPhotos:
    """The photos of a split with their true instances; raises `UserError` where there is none."""
    if split.truth is None:
        raise UserError(f"wanted masks or boxes of the {name} photos' instances, found none: set data.{name}.truth")
    dataset = load_dataset(split, name=name)
    return labelled(dataset, dataset.truths, str(split.truth))


def text(figures: Mapping[str, Any]) -> str:
    """The figures as a table for the terminal; a sentence where nothing was measured."""
    blocks = {name: figures[name] for name in ("direct", "adapted") if name in figures}
    if not blocks:
        return "nothing was measured: set data.test.images and data.test.truth"
    lines = ["prompt       " + "".join(f"{name + ' IoU':>14}{name + ' F1':>13}" for name in blocks)]
    for kind in KINDS:
        cells = "".join(f"{of[kind]['iou']:14.4f}{of[kind]['f1']:13.4f}" for of in blocks.values())
        lines.append(f"{kind:<13}{cells}")
    return "\n".join([*lines, next(iter(blocks.values()))["box"]["protocol"]])
