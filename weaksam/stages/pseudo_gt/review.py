"""Apply a reviewer's decisions to pseudo ground truth: boxes that are believed, and places where a class is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from weaksam.config import UserError, fingerprint_of, listed
from weaksam.data.review_decisions import Decision, Decisions, read_decisions
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances
from weaksam.structures.trusted_labels import on_one_of

Box = tuple[float, float, float, float]
"""Corners xyxy in pixels of a photo."""
TOLERANCE = 0.02
"""Pixels by which a corner in a report may differ from that of the box, which it states with two decimals."""
_OTHERS = "take the decisions of a review of this run's own report"


@dataclass(frozen=True)
class Review:
    """The decisions of all files that the settings name, in the order in which they were made."""

    files: tuple[Decisions, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of all decisions; "" without a file."""
        return fingerprint_of([file.fingerprint for file in self.files]) if self.files else ""

    def apply(self, pseudo_gt: Mapping[str, Instances], dataset: Dataset) -> dict[str, Instances]:
        """The pseudo ground truth after all decisions; the boxes of each file are those after the file before it.

        ``pseudo_gt``: by image id, of the photos of ``dataset``. An accepted box, also one that was ignored, is
        believed with score 1, and so is one that was relabelled or redrawn; a rejected one is taken out. Raises
        `UserError` for a box that is not there or is another one, a class that is no tag of the photo, and a redrawn
        box outside the photo.
        """
        reviewed = dict(pseudo_gt)
        for file in self.files:
            for image_id, decisions in _by_photo(file).items():
                for decision in decisions:
                    _check(decision, reviewed[image_id], dataset, file.path)
                reviewed[image_id] = _decided(reviewed[image_id], decisions, dataset)
        return reviewed

    def certain(self, dataset: Dataset) -> dict[str, Instances]:
        """Believed boxes that the reviewer accepted, relabelled or redrew, by image id, with score 1."""
        return self._certain_and_rejected(dataset)[0]

    def rejected(self, dataset: Dataset) -> dict[str, Instances]:
        """Boxes of which the reviewer said that no object of their class is there, by image id.

        Rejected ones, and those that were relabelled under the class that they had.
        """
        return self._certain_and_rejected(dataset)[1]

    def of_round(self, pseudo_gt: Mapping[str, Instances], dataset: Dataset) -> dict[str, Instances]:
        """Pseudo ground truth of a later round of training, with what the review made certain in it.

        New boxes that overlap a certain or a rejected one of their class by an IoU of 0.5 or more are left out, then
        the certain ones are added: the reviewer knew better than the detector.
        """
        certain, rejected = self._certain_and_rejected(dataset)
        return {
            image_id: _with_certain(boxes, certain.get(image_id), rejected.get(image_id))
            for image_id, boxes in pseudo_gt.items()
        }

    def _certain_and_rejected(self, dataset: Dataset) -> tuple[dict[str, Instances], dict[str, Instances]]:
        """`certain` and `rejected`; a later decision on a box takes the place of an earlier one."""
        certain: dict[str, list[tuple[Box, int]]] = {}
        rejected: dict[str, list[tuple[Box, int]]] = {}
        for file in self.files:
            for decision in file.rows:
                before, after = (dataset.classes.index(name) for name in (decision.label, decision.to_label))
                believed = certain.setdefault(decision.image_id, [])
                believed[:] = [row for row in believed if not (row[1] == before and _is_same(row[0], decision.box))]
                if decision.verdict != "reject":
                    believed.append((decision.to_box, after))
                if decision.verdict == "reject" or after != before:
                    rejected.setdefault(decision.image_id, []).append((decision.box, before))
        return _as_instances(certain), _as_instances(rejected)


NO_REVIEW = Review()
"""Nothing was decided."""


def read_review(paths: Sequence[Path], dataset: Dataset) -> Review:
    """The review in these files, in order.

    Raises `UserError` as `read_decisions` does, and for photos and classes that ``dataset`` does not have.
    """
    review = Review(tuple(map(read_decisions, paths)))
    for file in review.files:
        for decision in file.rows:
            if decision.image_id not in dataset.by_id:
                raise UserError(
                    f"wanted decisions on training photos in {file.path}, found {decision.image_id!r}: {_OTHERS}"
                )
            for name in (decision.label, decision.to_label):
                if name not in dataset.classes:
                    classes = listed(dataset.classes)
                    raise UserError(f"wanted a class of the run ({classes}) in {file.path}, found {name!r}: {_OTHERS}")
    return review


def _by_photo(file: Decisions) -> dict[str, list[Decision]]:
    by_photo: dict[str, list[Decision]] = {}
    for decision in file.rows:
        by_photo.setdefault(decision.image_id, []).append(decision)
    return by_photo


def _decided(boxes: Instances, decisions: Sequence[Decision], dataset: Dataset) -> Instances:
    """One photo's boxes after the decisions, in their order."""
    scores = torch.ones(len(boxes)) if boxes.scores is None else boxes.scores.clone()
    crowd = torch.zeros(len(boxes), dtype=torch.bool) if boxes.crowd is None else boxes.crowd.clone()
    corners, labels = boxes.boxes.clone(), boxes.labels.clone()
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for decision in decisions:
        row = decision.row
        kept[row] = decision.verdict != "reject"
        crowd[row], scores[row], labels[row] = False, 1.0, dataset.classes.index(decision.to_label)
        if decision.verdict == "redraw":
            corners[row] = torch.tensor(decision.to_box)
    return Instances(corners, labels, scores, crowd=None if boxes.crowd is None else crowd)[kept]


def _with_certain(boxes: Instances, certain: Instances | None, rejected: Instances | None) -> Instances:
    """`Review.of_round` of one photo."""
    certain = Instances.empty(scored=True) if certain is None else certain
    rejected = Instances.empty() if rejected is None else rejected
    if len(certain) + len(rejected) == 0:
        return boxes
    kept = boxes[~(on_one_of(boxes, certain) | on_one_of(boxes, rejected))]
    return Instances.cat([kept, certain if boxes.scores is not None else certain.replace(scores=None)])


def _as_instances(rows: Mapping[str, Sequence[tuple[Box, int]]]) -> dict[str, Instances]:
    """Boxes and labels of each photo that has some, with score 1."""
    return {
        image_id: Instances(
            torch.tensor([box for box, _ in of_photo]),
            torch.tensor([label for _, label in of_photo]),
            torch.ones(len(of_photo)),
        )
        for image_id, of_photo in rows.items()
        if of_photo
    }


def _is_same(box: Box, other: Box) -> bool:
    return max(abs(a - b) for a, b in zip(box, other, strict=True)) <= TOLERANCE


def _check(decision: Decision, boxes: Instances, dataset: Dataset, path: Path) -> None:
    """`UserError` where the decision is not about a box of these, or gives it a class or place that it cannot have."""
    where = f"box {decision.row} of {decision.image_id} in {path}"
    if decision.row >= len(boxes):
        raise UserError(f"wanted decisions on the {len(boxes)} boxes of {decision.image_id}, found {where}: {_OTHERS}")
    row = decision.row
    moved = (boxes.boxes[row] - torch.tensor(decision.box)).abs().max()
    if moved > TOLERANCE or dataset.classes[int(boxes.labels[row])] != decision.label:
        raise UserError(f"wanted decisions on this run's pseudo labels, found another box as {where}: {_OTHERS}")
    sample = dataset.by_id[decision.image_id]
    tags = [dataset.classes[label] for label in sample.tags]
    if decision.verdict != "reject" and decision.to_label not in tags:
        raise UserError(
            f"wanted a tag of its photo ({listed(tags) or 'it has none'}) as the class of {where}, found "
            f"{decision.to_label!r}: mend the tags of the photo first"
        )
    height, width = sample.size
    x1, y1, x2, y2 = decision.to_box
    if decision.verdict == "redraw" and (min(x1, y1) < 0 or x2 > width or y2 > height or x2 - x1 < 1 or y2 - y1 < 1):
        raise UserError(
            f"wanted a redrawn box of at least a pixel inside its photo of {width} x {height}, found "
            f"{list(decision.to_box)} as {where}: draw it again"
        )
