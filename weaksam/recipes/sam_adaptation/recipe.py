"""Adapt a segmenter to photos, and measure it before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from weaksam.config import UserError, fingerprint_of
from weaksam.data.dataset import load_dataset, load_photos
from weaksam.data.formats.mask_pictures import chosen, read_mask_pictures
from weaksam.engine.device import pick_device
from weaksam.engine.log import RunLog
from weaksam.engine.output_folder import owned_together
from weaksam.engine.seeds import seed_everything
from weaksam.models.ranks import ranks
from weaksam.recipes.sam_adaptation.adaptable import adaptable
from weaksam.recipes.sam_adaptation.instances import LabelledPhotos, divided, labelled
from weaksam.recipes.sam_adaptation.measuring import measure
from weaksam.recipes.sam_adaptation.networks import AdaptableNetwork
from weaksam.recipes.sam_adaptation.settings import AdaptSettings, AdaptSplit
from weaksam.recipes.sam_adaptation.training import Adaptation, train
from weaksam.sam.build import build_segmenter
from weaksam.sam.lora import load_lora, save_lora
from weaksam.sam.merged_export import write_checkpoint
from weaksam.store.files import write_json_atomic
from weaksam.terminal import say

LORA = "lora.safetensors"
"""The adapted updates below OUT, for ``segmenter.lora``."""


def adapt(settings: AdaptSettings) -> dict[str, Any]:
    """Adapt the segmenter of ``settings``, write its updates to OUT/lora.safetensors, and return the figures.

    A second call with the same settings goes on where the first stopped. With test photos OUT/metrics.json holds IoU
    and F1 by kind of prompt before (*direct*) and after. Processes that torchrun or Slurm started adapt together: each
    takes its share of the photos of a step, and the first one measures and writes. Raises `UserError` for data or a
    segmenter that cannot be used.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with owned_together(settings.out, fingerprint_of(settings), settings.device) as device:
        return _adapted(settings, device)


def _adapted(settings: AdaptSettings, device: torch.device) -> dict[str, Any]:
    """The figures of `adapt`, on the first rank; the others, which train along, return none."""
    seed_everything(settings.seed)
    segmenter = build_segmenter(settings.segmenter, device)
    network = adaptable(segmenter, legacy=settings.legacy)
    refuse_masks(network, settings, segmenter.name)
    photos, source = training_photos(settings)
    test = measured_photos(settings)
    if test is not None:
        require_masks(test)
    direct = measured(network, test, settings, "direct") if test is not None and ranks().first else {}
    adaptation = Adaptation(network, photos, settings)
    say(
        f"adapt-sam: {len(adaptation.layers)} layers of {segmenter.name}, "
        f"{sum(parameter.numel() for parameter in adaptation.weights.parameters()):,} numbers, {len(photos)} photos; "
        f"prompts from {source}"
    )
    log = RunLog(settings.out / "log.jsonl" if ranks().first else None)
    train(adaptation, settings.out / "training", [segmenter.fingerprint, photos.fingerprint], log)
    if not ranks().first:
        return {}
    facts = {"prompts": settings.prompts, "prompt": settings.prompt, "photos": len(photos), "targets": settings.targets}
    save_lora(settings.out / LORA, network.encoder, facts)
    figures: dict[str, Any] = {"prompts_from": source, "settings": settings.model_dump(mode="json")}
    if test is not None:
        figures |= {"direct": direct, "adapted": measured(network, test, settings, "adapted")}
    write_json_atomic(settings.out / "metrics.json", figures)
    return figures


def evaluate(settings: AdaptSettings, lora: Path | None = None) -> dict[str, Any]:
    """IoU and F1 by kind of prompt on ``settings.data.test``, of the segmenter or with the updates of ``lora``."""
    photos = measured_photos(settings)
    if photos is None:
        raise UserError("wanted photos to measure on, found none: set data.test.images and data.test.truth")
    network = adaptable(build_segmenter(settings.segmenter, pick_device(settings.device)), legacy=settings.legacy)
    if lora is not None:
        load_lora(lora, network.encoder)
    return measured(network, photos, settings, "direct" if lora is None else "adapted")


def export(settings: AdaptSettings, lora: Path, path: Path) -> str:
    """Write the segmenter of ``settings`` with the updates of ``lora`` merged as a plain checkpoint; says what.

    See `write_checkpoint`. Raises `UserError` for updates of another encoder, and as `build_segmenter` does.
    """
    segmenter = build_segmenter(settings.segmenter.model_copy(update={"lora": lora}), torch.device("cpu"))
    write_checkpoint(segmenter, path)
    return f"{path}: {segmenter.name} with the updates of {lora} in its weights"


def measured(network: AdaptableNetwork, photos: LabelledPhotos, settings: AdaptSettings, what: str) -> dict[str, Any]:
    """The figures of every kind of prompt that the settings ask for and the network takes, with the protocol."""
    require_masks(photos)
    return {
        kind: measure(
            network,
            photos,
            kind,
            seed=settings.seed,
            num_points=settings.num_points,
            title=f"adapt-sam: {what}, {kind}",
        ).as_dict()
        for kind in settings.measured
        if kind != "coarse_mask" or network.takes_masks
    }


def require_masks(photos: LabelledPhotos) -> None:
    """Raise `UserError` where the photos to measure on have boxes alone."""
    if not photos.has_masks:
        raise UserError("wanted true masks of the test photos to measure on, found boxes: give a truth with masks")


def refuse_masks(network: AdaptableNetwork, settings: AdaptSettings, name: str) -> None:
    """Raise `UserError` where masks are to prompt a network that takes none."""
    if settings.prompt == "coarse_mask" and not network.takes_masks:
        raise UserError(
            f"wanted a segmenter that a mask can prompt for prompt=coarse_mask, found {name}, which takes no "
            "masks: set prompt=coarse_box, or segmenter.weights to SAM or SAM 2"
        )


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
        photos = photos_of(AdaptSplit(images=split.images, truth=file), "train")
        photos = replace(photos, has_masks=False)  # some pseudo boxes come with a proposal's mask, others do not
        return photos, f"pseudo boxes of {settings.run}, made from tags"
    photos = photos_of(split, "train", settings.data.divide)
    if not photos.has_masks and (settings.targets == "true" or settings.prompt.startswith("coarse")):
        wanted = "targets=true" if settings.targets == "true" else f"prompt={settings.prompt}"
        raise UserError(f"wanted masks in {split.truth} for {wanted}, found boxes: give masks, or set prompt=box")
    source = split.truth if split.masks is None else split.masks.folder
    return photos, f"{'masks' if photos.has_masks else 'boxes'} of {source}"


def measured_photos(settings: AdaptSettings) -> LabelledPhotos | None:
    """The photos to measure on with their true instances; None where the settings name none."""
    data = settings.data
    if data.divide is not None:
        return photos_of(data.train, "train", data.divide, measured=True)
    return None if data.test is None else photos_of(data.test, "test")


def photos_of(split: AdaptSplit, name: str, divide: str | None = None, *, measured: bool = False) -> LabelledPhotos:
    """The photos of a split with their true instances, or with ``divide`` those to adapt to or to be ``measured``.

    Raises `UserError` where there is none.
    """
    if split.truth is None and split.masks is None:
        raise UserError(
            f"wanted masks or boxes of the {name} photos' instances, found none: set data.{name}.truth, or "
            f"data.{name}.masks"
        )
    if split.masks is None:
        dataset = load_dataset(split, name=name)
        samples = chosen(dataset.by_id, split.only)
        instances, what = dataset.truths, str(split.truth)
    else:
        samples = chosen(load_photos(split, name=name).by_id, split.only)
        instances, what = read_mask_pictures(split.masks, samples), str(split.masks.folder)
    ordered = [samples[image_id] for image_id in sorted(samples)]
    if divide is not None:
        ordered = list(divided(ordered, divide)[measured])
    return labelled(ordered, instances, what)


def text(figures: Mapping[str, Any]) -> str:
    """The figures as a table for the terminal; a sentence where nothing was measured."""
    blocks = {name: figures[name] for name in ("direct", "adapted") if name in figures}
    if not blocks:
        return "nothing was measured: set data.test.images and data.test.truth"
    lines = ["prompt       " + "".join(f"{name + ' IoU':>14}{name + ' F1':>13}" for name in blocks)]
    kinds = list(next(iter(blocks.values())))
    for kind in kinds:
        cells = "".join(f"{of[kind]['iou']:14.4f}{of[kind]['f1']:13.4f}" for of in blocks.values())
        lines.append(f"{kind:<13}{cells}")
    return "\n".join([*lines, next(iter(blocks.values()))[kinds[0]]["protocol"]])
