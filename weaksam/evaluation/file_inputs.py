"""Read what detection files are measured against: the true objects as a dataset, tags, and proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.annotations import ImageTruth, tag_labels
from weaksam.data.class_names import ClassLabels
from weaksam.data.findings import Findings
from weaksam.data.formats.tags import read_tags
from weaksam.data.image_names import ImageNames, number_in, read_image_list
from weaksam.data.proposals.exchange import named_proposals
from weaksam.data.tag_matching import match_rows
from weaksam.data.truth import read_measured_truth
from weaksam.structures.dataset import Dataset, Sample


def truth_dataset(
    truth: Path, images: Path | None = None, image_list: Path | None = None, classes: Sequence[str] | None = None
) -> tuple[Dataset, tuple[str, ...], tuple[str, ...]]:
    """All images and objects of a truth as a dataset, the ids of those that count, and notes on the others.

    Photos need not be there, but for YOLO labels. An image that the truth does not number has the number in its name.
    Raises `UserError`.
    """
    annotations, counted, notes = read_measured_truth(truth, images, classes)
    if not annotations.images:
        raise UserError(f"wanted images in {truth}, found none: name the file that lists them")
    numbers = _image_numbers(annotations.images)
    samples = [
        Sample(
            name,
            Path(name),
            image.size or (0, 0),
            tag_labels(image.instances),
            image.instances,
            numbers[name],
            text_id=image.text_id,
        )
        for name, image in sorted(annotations.images.items())
    ]
    if image_list is not None:
        findings = Findings()
        counted = _listed_images(counted, image_list, truth, findings)
        notes = (*notes, *findings.notes)
    dataset = Dataset(truth.stem, annotations.classes, annotations.category_ids, tuple(samples))
    return dataset, tuple(sorted(counted)), notes


def _image_numbers(images: Mapping[str, ImageTruth]) -> dict[str, int]:
    """The number of each image: the stated one, else the one in its name.

    Where these are not one for each image, those not stated are negative ones, which no file of results has.
    """
    stated = {name: number_in(name) if image.number is None else image.number for name, image in images.items()}
    numbers = {name: number for name, number in stated.items() if number is not None}
    if len(set(numbers.values())) == len(images):
        return numbers
    return {name: -index if (number := images[name].number) is None else number for index, name in enumerate(images, 1)}


def _listed_images(counted: Sequence[str], image_list: Path, truth: Path, findings: Findings) -> tuple[str, ...]:
    """Those of the images ``counted`` that a list names; `UserError` where it names others."""
    names = read_image_list(image_list, findings)
    known = ImageNames(counted)
    image_ids = {name: known.find(name, str(image_list), findings) for name in names.names}
    lost = [name for name, image_id in image_ids.items() if image_id is None]
    if lost:
        raise UserError(
            f"wanted all {len(image_ids)} images of {image_list} in {truth}, found none for {len(lost)} of them "
            f"({listed(lost, 3)}): give the truth that holds them"
        )
    return tuple(image_id for image_id in image_ids.values() if image_id is not None)


def tags_of_images(path: Path, dataset: Dataset, findings: Findings | None = None) -> dict[str, tuple[int, ...]]:
    """Labels by image id of a tag file, see `read_tags`; rows of other images take no part, and are counted.

    ``findings`` take how much was read, and what was taken for what. Raises `UserError`.
    """
    findings = findings or Findings()
    labels = ClassLabels(dataset.classes)
    known = ImageNames(dataset.image_ids)
    tags: dict[str, tuple[int, ...]] = {}
    rows = read_tags(path, split="trainval", findings=findings, photo_names=known)
    matched = match_rows(rows, known, path, findings)
    num_others = 0
    for row, names in rows.rows.items():
        image_id = matched.photo_of.get(row) or known.find(row, str(path))
        if image_id is None:
            num_others += 1
            continue
        of_row = {name: labels.find(name) for name in names}
        unknown = next((name for name, label in of_row.items() if label is None), None)
        if unknown is not None:
            raise UserError(
                f"wanted one of the classes {listed(dataset.classes)} for {row} in {path}, found {unknown!r}"
                f"{did_you_mean(unknown, dataset.classes)}: use the names of the truth"
            )
        known_labels = (label for label in of_row.values() if label is not None)
        tags[image_id] = tuple(sorted({*tags.get(image_id, ()), *known_labels}))
    if not tags:
        raise UserError(f"wanted tags of the {len(dataset)} images of {dataset.name} in {path}, found none of them")
    num_bare = sum(image_id not in tags for image_id in dataset.image_ids)
    others = [f"{num_others} rows of other images"] if num_others else []
    others += [f"{num_bare} of {len(dataset)} images without a row"] if num_bare else []
    if others:
        findings.count(f"{path}: left out {' and '.join(others)}")
    return tags


def proposal_boxes(path: Path, dataset: Dataset, findings: Findings | None = None) -> dict[str, Tensor]:
    """Proposals ``(P, 4)`` by image id, of a store, COCO results or a flat table; none where it has none.

    ``findings`` take what was taken for what. Raises `UserError`.
    """
    unsized = [sample.image_id for sample in dataset if 0 in sample.size]
    if unsized:
        raise UserError(
            f"wanted the sizes of all images for CorLoc's baselines, found none for {listed(unsized, 3)}: give "
            "--images DIR"
        )
    named = named_proposals(path, ImageNames.of(dataset), findings)[0]
    return {image_id: proposals.boxes for image_id, proposals in named.items()}
