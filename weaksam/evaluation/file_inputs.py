"""Read what detection files are measured against: the true objects as a dataset, tags, and proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.annotations import ImageTruth, tag_labels
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
        counted = _listed_images(counted, image_list, truth)
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


def _listed_images(counted: Sequence[str], image_list: Path, truth: Path) -> tuple[str, ...]:
    """Those of the images ``counted`` that a list names; `UserError` where it names others."""
    names = read_image_list(image_list)
    known = ImageNames(counted)
    image_ids = {name: known.find(name, str(image_list)) for name in names.names}
    lost = [name for name, image_id in image_ids.items() if image_id is None]
    if lost:
        raise UserError(
            f"wanted all {len(image_ids)} images of {image_list} in {truth}, found none for {len(lost)} of them "
            f"({listed(lost, 3)}): give the truth that holds them"
        )
    return tuple(image_id for image_id in image_ids.values() if image_id is not None)


def tags_of_images(path: Path, dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """Labels by image id of a tag file, see `read_tags`; rows of other images take no part. Raises `UserError`."""
    label_of = {name: label for label, name in enumerate(dataset.classes)}
    known = ImageNames(dataset.image_ids)
    tags: dict[str, tuple[int, ...]] = {}
    rows = read_tags(path, split="trainval", photo_names=known)
    matched = match_rows(rows, known, path, Findings())
    for row, names in rows.rows.items():
        unknown = next((name for name in names if name not in label_of), None)
        image_id = matched.photo_of.get(row) or known.find(row, str(path))
        if image_id is not None and unknown is not None:
            raise UserError(
                f"wanted one of the classes {listed(dataset.classes)} for {row} in {path}, found {unknown!r}"
                f"{did_you_mean(unknown, dataset.classes)}: use the names of the truth"
            )
        if image_id is not None:
            tags[image_id] = tuple(sorted({*tags.get(image_id, ()), *(label_of[name] for name in names)}))
    if not tags:
        raise UserError(f"wanted tags of the {len(dataset)} images of {dataset.name} in {path}, found none of them")
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
