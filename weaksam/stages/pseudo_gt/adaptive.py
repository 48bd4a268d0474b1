"""Turn a weak detector's boxes on the training images into pseudo ground truth (PGT)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from weaksam.config import Settings, UserError, fingerprint_of
from weaksam.data.detection_stores import detection_store, instances_of
from weaksam.data.formats.coco import write_instances
from weaksam.engine.context import RunContext
from weaksam.store.store import Store, stage_fingerprint, store_folder
from weaksam.structures.boxes import area, pairwise_ioa
from weaksam.structures.instances import Instances


class PseudoGtSettings(Settings):
    """How detections become pseudo ground truth."""

    method: Literal["adaptive", "top1"] = Field(
        default="adaptive", description="'adaptive' keeps several boxes per class, 'top1' the best-scored one"
    )
    min_score_norm: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="lowest score kept, as a share of the way from a class's worst to its best (tau_s)",
    )
    containment: float = Field(
        default=0.85, gt=0, le=1, description="share of a box inside a larger one at which it is dropped (tau_o)"
    )


def adaptive_pseudo_gt(
    detections: Instances, tags: Iterable[int], settings: PseudoGtSettings | None = None
) -> Instances:
    """Pseudo ground truth of one image: for every tag the well-scored boxes that do not lie inside another.

    WeakSAM, Algorithm 2, made well-defined. Within each class that is a tag:

    1. scores are min-max normalised over the class's detections in this image; equal ones all become 1;
    2. boxes below ``min_score_norm`` go (the paper writes >, here >=);
    3. of two boxes that lie in each other by ``containment`` or more, the better-scored stays, where the paper's
       rule deletes both; then a box that lies in a larger kept one by that share goes, whatever its score.

    So every tag with a detection keeps at least one box. Boxes without area are never kept. The result comes by
    label, best score first, with the detections' own scores; no tag or no detection gives no box.
    """
    settings = settings or PseudoGtSettings()
    chosen = []
    for label in sorted(set(tags)):
        rows = _candidates(detections, label)
        rows = rows[normalised_scores(_scores(detections)[rows]) >= settings.min_score_norm]
        chosen.append(rows[drop_contained(detections.boxes[rows], settings.containment)])
    return detections[_joined(chosen)]


def top1_pseudo_gt(detections: Instances, tags: Iterable[int]) -> Instances:
    """Pseudo ground truth of one image: for every tag its best-scored box, the first of equals.

    The result comes by label; boxes without area are never kept; no tag or no detection gives no box.
    """
    return detections[_joined([_candidates(detections, label)[:1] for label in sorted(set(tags))])]


def normalised_scores(scores: Tensor) -> Tensor:
    """Scores ``(N,)`` moved to [0, 1] so that the least is 0 and the greatest 1; equal scores all become 1."""
    if len(scores) == 0 or scores.max() == scores.min():
        return torch.ones_like(scores, dtype=torch.float64)
    exact = scores.double()
    return (exact - exact.min()) / (exact.max() - exact.min())


def drop_contained(boxes: Tensor, containment: float) -> Tensor:
    """Indices ``(K,)`` int64, ascending, of the boxes ``(N, 4)``, best first, that remain when contained ones go.

    A box is contained where ``containment`` or more of its own area lies in another. Of two boxes contained in each
    other the first stays; any other contained box goes when the larger one stays. N >= 1 boxes leave at least one.
    """
    inside = pairwise_ioa(boxes.double(), boxes.double()) >= containment  # (N, N): row lies in column
    mutual = inside & inside.T
    distinct: list[int] = []
    for row in range(len(boxes)):
        if not mutual[row, distinct].any():
            distinct.append(row)
    # Without mutual pairs a box can only be contained in a strictly larger one: decide the largest first
    sizes = area(boxes.double()).tolist()
    kept: list[int] = []
    for row in sorted(distinct, key=lambda one: -sizes[one]):
        if not inside[row, kept].any():
            kept.append(row)
    return torch.tensor(sorted(kept), dtype=torch.int64)


def run(context: RunContext, settings: PseudoGtSettings, detections: Store | Mapping[str, Instances]) -> Store:
    """Make the pseudo ground truth of the training images, one row per image, and write OUT/pseudo_gt/train.json.

    ``detections``: what the weak detector found on the training images, its sealed store or instances by image id;
    an image it does not name has none and keeps an empty row.
    """
    inputs = {"data": context.train.fingerprint, "detections": _fingerprint(detections)}
    fingerprint = stage_fingerprint("pseudo_gt", settings, inputs)
    folder = store_folder(context.out, "pseudo_gt", "train", fingerprint)
    store = detection_store(folder, "pseudo_gt", fingerprint, context.train, masks=False)
    by_id = instances_of(detections) if isinstance(detections, Store) else detections

    def compute(image_id: str) -> dict[str, Any]:
        tags = context.train.by_id[image_id].tags
        found = by_id.get(image_id, Instances.empty())
        made = top1_pseudo_gt(found, tags) if settings.method == "top1" else adaptive_pseudo_gt(found, tags, settings)
        return {"boxes": made.boxes, "labels": made.labels, "scores": _scores(made)}

    store.fill(compute, "pseudo ground truth")
    made = instances_of(store)
    write_instances(context.out / "pseudo_gt" / "train.json", context.train, made)
    empty = sum(len(one) == 0 for one in made.values())
    context.log.write("pseudo_gt", boxes=sum(map(len, made.values())), images=len(made), images_without_box=empty)
    return store


def _candidates(detections: Instances, label: int) -> Tensor:
    """Rows ``(K,)`` of one class with an area, best score first, equal scores in their given order."""
    rows = ((detections.labels == label) & (area(detections.boxes) > 0)).nonzero()[:, 0]
    return rows[_scores(detections)[rows].argsort(descending=True, stable=True)]


def _scores(detections: Instances) -> Tensor:
    if detections.scores is None and len(detections):
        raise UserError("pseudo ground truth needs a score per detection, found none: give the output of a detector")
    return torch.zeros(0) if detections.scores is None else detections.scores


def _joined(rows: list[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.int64), *rows])


def _fingerprint(detections: Store | Mapping[str, Instances]) -> str:
    if isinstance(detections, Store):
        return detections.fingerprint
    rows = {
        image_id: [one.boxes.tolist(), one.labels.tolist(), _scores(one).tolist()]
        for image_id, one in detections.items()
    }
    return fingerprint_of(rows)
