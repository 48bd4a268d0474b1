"""Suggest the training photos of a run whose true boxes would help most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weaksam.config import UserError
from weaksam.data.sample_photos import read_photo
from weaksam.engine.context import RunContext
from weaksam.evaluation.label_trust import doubt
from weaksam.evaluation.suggestions import Suggestion, as_rows, chosen_photos, reason, suggestion
from weaksam.models.backbones.features import build_features
from weaksam.models.backbones.inputs import input_photo
from weaksam.models.backbones.weights import input_colours
from weaksam.pipeline.pictured import pictured
from weaksam.pipeline.plan import STAGES, with_backbone
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.state import SUGGESTIONS, Run, open_run, require_finished
from weaksam.report.insights import label_trust
from weaksam.stages.clues.backbone_training import deepest_map
from weaksam.store.files import write_json_atomic
from weaksam.store.progress import progress
from weaksam.structures.instances import Instances
from weaksam.structures.photo_labels import NO_LABELS, PhotoLabels

BEFORE = ("clues", "proposals", "wsod", "pseudo_gt")
"""Stages that must be finished: without pseudo labels nothing can be doubted."""
SIDE = 224
"""Longer side in pixels at which photos are compared."""


def suggest(out: Path, num: int, file: Path | None = None) -> list[str]:
    """The ``num`` training photos of the run in ``out`` to draw true boxes on, one line each, best first.

    Their details are written as JSON to ``file`` (OUT/suggestions.json). Raises `UserError` where the run has no
    pseudo labels yet, and for fewer than one photo; photos that were boxed (data.train.labels) are not named again.
    """
    if num < 1:
        raise UserError(f"wanted at least one photo to suggest, found {num}: ask for more")
    run = open_run(recorded_settings(out))
    require_finished(run, BEFORE)
    for stage in STAGES:
        if run.finished(stage.name):
            stage.run(run)
    suggestions = suggested(run, num)
    classes = run.context.train.classes
    file = out / SUGGESTIONS if file is None else file
    write_json_atomic(file, {"photos": as_rows(suggestions, classes)})
    lines = [f"{of.image_id}  doubt {of.doubt:.2f}: {reason(of, classes)}" for of in suggestions]
    return [*lines, f"{len(suggestions)} of {len(run.context.train)} photos, with their boxes: {file}"]


def suggested(run: Run, num: int) -> list[Suggestion]:
    """The suggestions of an opened run whose finished stages have run; photos that have boxes already are left out."""
    photos = run.context.train
    results = pictured(run)
    trust = label_trust(results)
    believed = {image_id: boxes.without_crowd() for image_id, boxes in (results.pseudo_gt or {}).items()}
    doubts = {}
    for sample in photos:
        boxes = believed.get(sample.image_id, Instances.empty())
        of_photo = trust.get(sample.image_id)
        doubts[sample.image_id] = 1.0 if of_photo is None else doubt(of_photo, sample.tags, boxes.labels.tolist())
    features = photo_features(with_backbone(run, run.results["backbone"]))
    given = torch.tensor([has_boxes(run.context.labels.get(sample.image_id, NO_LABELS)) for sample in photos])
    rows = chosen_photos(torch.tensor(list(doubts.values())), features, num, given)
    chosen = [photos.samples[row] for row in rows]
    return [
        suggestion(
            sample.image_id,
            doubts[sample.image_id],
            sample.tags,
            believed.get(sample.image_id, Instances.empty()),
            trust.get(sample.image_id),
        )
        for sample in chosen
    ]


def has_boxes(labels: PhotoLabels) -> bool:
    """Whether somebody drew boxes on the photo, or said that nothing more is on it."""
    return labels.complete or len(labels.boxes) > 0


@torch.inference_mode()
def photo_features(context: RunContext) -> Tensor:
    """A row ``(P, D)`` for each training photo: the mean of the backbone's deepest map over its positions."""
    backbone = context.backbone
    name = deepest_map(backbone)
    network: Any = build_features(backbone, maps=(name,)).to(context.device)
    rows = []
    for sample in progress(context.train.samples, len(context.train), "comparing photos"):
        pixels = input_photo(read_photo(sample), SIDE, input_colours(backbone)).to(context.device)
        rows.append(network(pixels)[name].float().mean(dim=(2, 3))[0].cpu())
    return torch.stack(rows)
