"""Run the recipe for concealed objects, alone or in several processes, and write its report."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml
from PIL import Image

from weaksam.config import fingerprint_of
from weaksam.engine.output_folder import owned_together
from weaksam.models.ranks import ranks
from weaksam.pipeline.concealed_boxes import finish_boxes
from weaksam.recipes.concealed import ConcealedResult, ConcealedSettings
from weaksam.recipes.concealed import run as run_recipe
from weaksam.recipes.concealed.choosing import recorded_scores
from weaksam.recipes.concealed.fused_labels import stored_map
from weaksam.recipes.concealed.testing import AS_IS, map_file
from weaksam.report.concealed_page import ConcealedPage, DrawnRow
from weaksam.sam.ensemble import pixel_weights, uncertainty
from weaksam.store.records import read_record

REPORT = "report.html"
NUM_PHOTOS = 8
"""Photos of either split in the report."""


def run_concealed(settings: ConcealedSettings) -> ConcealedResult | None:
    """Labels, training, test and report; see `weaksam.recipes.concealed.run`.

    Where boxes of a run prompt that is not finished up to its pseudo ground truth, its missing stages run first.
    Processes that were started together (tools/dist_train.sh, torchrun, Slurm) train together; the first one reports,
    the others return None.
    """
    with owned_together(settings.out, fingerprint_of(settings), settings.device):
        finish_boxes(settings)
        result = run_recipe(settings)
        if ranks().first:
            page_of(result).write(settings.out / REPORT)
        ranks().wait()
        return result if ranks().first else None


def page_of(result: ConcealedResult) -> ConcealedPage:
    """The page of a run that is done."""
    settings = result.settings
    manifest = read_record(settings.out / "training" / "manifest.json") or {}
    scores = recorded_scores(settings.out / "validation")
    return ConcealedPage(
        title=f"Concealed objects: {settings.out.name}",
        labels=result.targets.figures,
        reports=result.reports,
        losses=manifest.get("history", []),
        scores={epoch + 1: score for epoch, score in sorted(scores.items())},
        train=_training_rows(result),
        test=_test_rows(result),
        settings=yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False),
    )


def _spread(image_ids: tuple[str, ...]) -> list[str]:
    """At most `NUM_PHOTOS` of them, evenly spread."""
    rows = np.linspace(0, len(image_ids) - 1, min(NUM_PHOTOS, len(image_ids))).round().astype(int)
    return [image_ids[row] for row in rows.tolist()]


def _training_rows(result: ConcealedResult) -> list[DrawnRow]:
    """Training photos with their weak labels, fused map, weights and, where known, truth."""
    store, photos, labels = result.targets.labels, result.train, result.settings.labels
    if store is None:
        return []
    kept, rows = set(result.targets.photos.image_ids), []
    for image_id in _spread(photos.image_ids):
        fused = stored_map(store, photos, image_id)
        of_map = uncertainty(fused, labels.relative_to)
        maps: dict[str, Any] = {}
        if photos.scribbles:
            shade = photos.labels(image_id).numpy()
            maps["labels (white: object)"] = np.select([shade == 1, shade == 0], [1.0, 0.4], 0.0)
        maps["fused"] = fused.numpy()
        maps["weights"] = pixel_weights(fused, labels.weights).numpy()
        if photos.truth:
            maps["truth"] = photos.mask(image_id).numpy().astype(np.float32)
        state = "trains" if image_id in kept else "left out"
        note = f"{state}; absolute uncertainty {of_map.absolute:.3f}, relative {of_map.relative:.3f}"
        rows.append(DrawnRow(image_id, note, photos.image(image_id), maps))
    return rows


def _test_rows(result: ConcealedResult) -> list[DrawnRow]:
    """Test photos with the saved map and, where known, truth."""
    if result.test is None:
        return []
    rows = []
    for image_id in _spread(result.test.image_ids):
        with Image.open(map_file(result.settings.out / AS_IS, image_id)) as picture:
            maps = {"map": np.asarray(picture) / 255.0}
        if result.test.truth:
            maps["truth"] = result.test.mask(image_id).numpy().astype(np.float32)
        rows.append(DrawnRow(image_id, "", result.test.image(image_id), maps))
    return rows
