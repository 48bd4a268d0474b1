"""Run the missing stages of a run up to the pseudo boxes that prompt concealed objects."""

from __future__ import annotations

from pathlib import Path

import torch

from weaksam.config import UserError, listed, load_settings, settings_from
from weaksam.data.dataset import gives_tags, images_folder
from weaksam.data.photos import scan_photos
from weaksam.models.ranks import ranks
from weaksam.pipeline.running import recorded_settings, run_stages
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run
from weaksam.recipes.concealed import ConcealedSettings
from weaksam.recipes.concealed.fused_labels import PSEUDO_GT
from weaksam.recipes.concealed.photos import images_of
from weaksam.store.records import read_record

LAST = "pseudo_gt"
"""The last stage that is needed."""


def finish_boxes(settings: ConcealedSettings) -> None:
    """Finish the pseudo ground truth of ``settings.boxes_run`` where boxes prompt and it is not finished.

    The run follows ``labels.config``, else its own record, and resumes as every run does; of several processes all
    take part. Raises `UserError` where there is neither, where the run has no tags, or other photos than
    ``data.train``.
    """
    if not settings.prompted_by_boxes:
        return
    unfinished = _unfinished(settings) if ranks().first else None
    values = ranks().from_first(None if unfinished is None else unfinished.model_dump(mode="json"))
    if values is not None:
        threads = torch.get_num_threads()
        run_stages(settings_from(RunSettings, values, "the first process"), None, LAST)
        torch.set_num_threads(threads)


def _unfinished(settings: ConcealedSettings) -> RunSettings | None:
    """The settings of the run that is to be finished; None where its pseudo ground truth is."""
    out, config = settings.boxes_run, settings.labels.config
    if config is None and _is_recorded(out):
        return None
    if out.resolve() == settings.out.resolve():
        raise UserError(f"wanted a folder of its own for the run that makes boxes, found out={out}: name another")
    of_run = _recorded(out) if config is None else _configured(config, out, images_of(settings.data.train))
    _require_tags(of_run, config or out / "run.json")
    _require_photos(settings, of_run)
    if config is not None and (out / PSEUDO_GT).is_file() and open_run(of_run).finished(LAST):
        return None
    return of_run


def _is_recorded(out: Path) -> bool:
    """Whether ``out`` holds pseudo boxes, and its record, where there is one, knows of them."""
    record = read_record(out / "run.json")
    return (out / PSEUDO_GT).is_file() and (record is None or f"stage {LAST}" in record.get("hashes", {}))


def _recorded(out: Path) -> RunSettings:
    """The settings that the run in ``out`` was made with."""
    if not (out / "run.json").is_file():
        raise UserError(
            f"wanted the pseudo boxes of a run in {out}, or the run.json of one that made some of its stages, found "
            "neither: set labels.run to the folder of a run, or labels.config to a config of 'weaksam pseudo-gt' that "
            "makes them there"
        )
    return recorded_settings(out)


def _configured(config: Path, out: Path, images: Path | None) -> RunSettings:
    """The settings in ``config`` for a run in ``out``, with the photos ``images`` where it names none."""
    given = load_settings(RunSettings, config)
    train = given.data.train
    if train.images is None:
        train = train.model_copy(update={"images": images})
    return given.model_copy(update={"out": out, "data": given.data.model_copy(update={"train": train})})


def _require_tags(of_run: RunSettings, source: Path) -> None:
    """`UserError` where the settings from ``source`` name no tags, of which the boxes are made."""
    if of_run.data.without_tags or not gives_tags(of_run.data.train):
        raise UserError(
            f"wanted tags of the photos of the run that makes boxes, found none in {source}: set data.train.tags in a "
            "config, and labels.config to it"
        )


def _require_photos(settings: ConcealedSettings, of_run: RunSettings) -> None:
    """`UserError` where photos of ``data.train`` are not among those of the run."""
    images = images_of(settings.data.train)
    folder = images_folder(of_run.data.train, "train")
    if images is None or images == folder:
        return
    others = sorted(set(scan_photos(images).photos) - set(scan_photos(folder).photos))
    if others:
        raise UserError(
            f"wanted the photos of {images} in the run that makes their boxes, found {len(others)} that are not in its "
            f"{folder} ({listed(others, 3)}): set data.train.images to the run's photos, or make boxes of these"
        )
