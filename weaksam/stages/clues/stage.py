"""Run the clue stage: write the class maps and peaks of every photo, from the source that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weaksam.data.sample_photos import rows_reading_ahead
from weaksam.engine.context import RunContext
from weaksam.stages.clues.cam import CamSource
from weaksam.stages.clues.files import FilesSource
from weaksam.stages.clues.peaks import photo_peaks
from weaksam.stages.clues.settings import ClueSettings
from weaksam.stages.clues.source import ClueSource
from weaksam.stages.clues.store_rows import CLUE_COLUMNS, clue_row
from weaksam.stages.clues.text import TextSource
from weaksam.stages.clues.weaktr import WeakTrSource
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.dataset import Dataset


def build_source(context: RunContext, settings: ClueSettings, dataset: Dataset, split: str = "train") -> ClueSource:
    """The source that the settings name, for the photos of ``dataset``, which is that ``split`` of the run."""
    if settings.source == "text":
        return TextSource(context, settings, dataset, split, _source_of_maps(context, settings, dataset))
    return _source_of_maps(context, settings, dataset)


def _source_of_maps(context: RunContext, settings: ClueSettings, dataset: Dataset) -> ClueSource:
    """The source of class maps: a network that learnt the tags, or files."""
    if settings.maps_source == "files":
        return FilesSource(settings, dataset, context.train)
    if settings.maps_source == "weaktr":
        return WeakTrSource(context, settings, dataset)
    return CamSource(context, settings)


def run(context: RunContext, settings: ClueSettings, dataset: Dataset, split: str) -> Store:
    """Write maps and peaks of every photo of ``dataset`` that the store of ``split`` does not hold; returns it sealed.

    What the source must learn, it learns from ``context.train``, once for all splits. A photo without tags gets the
    classes that score high enough. Columns: see ``CLUE_COLUMNS``. Raises `UserError` as the source does.
    """
    source = build_source(context, settings, dataset, split)
    folder, fingerprint = _location(context, settings, source, dataset, split)
    store = Store(folder, stage="clues", fingerprint=fingerprint, image_ids=dataset.image_ids, columns=CLUE_COLUMNS)
    if store.sealed:
        return store
    source.prepare(*_location(context, settings, source, context.train, "train"))

    def row(image_id: str) -> dict[str, Any]:
        maps = source.map_classes(dataset, image_id)
        return clue_row(maps, photo_peaks(maps, settings))

    return store.fill_parts(rows_reading_ahead(dataset, row), progress=f"clues ({split})")


def _location(
    context: RunContext, settings: ClueSettings, source: ClueSource, dataset: Dataset, split: str
) -> tuple[Path, str]:
    """Folder and fingerprint of the clues of a split."""
    inputs = {"dataset": dataset.fingerprint, **source.inputs}
    fingerprint = stage_fingerprint("clues", settings.fingerprinted(), inputs)
    return store_folder(context.out, "clues", split, fingerprint), fingerprint
