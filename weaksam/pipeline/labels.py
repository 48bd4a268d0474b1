"""Export a run's labels, or those of a file, to the formats of other tools, and import theirs for a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.annotations import tag_labels
from weaksam.data.detection_files import read_detections
from weaksam.data.formats.coco import write_instances
from weaksam.data.formats.tags import write_csv
from weaksam.data.given_boxes import read_given_boxes
from weaksam.data.image_names import ImageNames
from weaksam.data.images import BadImage, image_size
from weaksam.data.label_export import ExportOptions, export_labels, format_named
from weaksam.data.photos import Photo, list_photos
from weaksam.data.truth import read_split_truth
from weaksam.evaluation.file_inputs import truth_dataset
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.state import Run, open_run, require_finished
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances, ignored

KINDS = ("pseudo-gt", "masks", "detections")
"""What a run has for its photos: pseudo boxes, masks, or detections of the last detector."""
USES = {"truth": ".json", "boxes": ".json", "tags": ".csv"}
"""What imported labels serve as, and the ending of the file that is written."""
SPLITS = ("train", "test")


@dataclass(frozen=True)
class LabelSource:
    """Photos, their objects by image id, and how these were read."""

    dataset: Dataset
    objects: Mapping[str, Instances]
    notes: tuple[str, ...] = ()


def export(
    source: Path,
    format_name: str,
    out: Path | None = None,
    *,
    what: str = "pseudo-gt",
    split: str = "train",
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    min_score: float = 0.0,
    options: ExportOptions | None = None,
) -> str:
    """Write the labels of the run in the folder ``source``, or of a file or folder of labels, in a format.

    ``what``: of a run, one of `KINDS`; ``split``: of its training or test photos, and the name of the split elsewhere.
    ``out``: by default a place in the run's folder. ``images``, ``classes``: the photos, and the order of VOC's and
    YOLO's classes, of files. ``min_score``: objects of a lower score are left out. Returns what was written, in lines.
    Raises `UserError`, see `export_labels`, for stages that are not finished, and for what a run does not have.
    """
    form = format_named(format_name)
    for word, words, name in ((what, KINDS, "--what"), (split, SPLITS, "--split")):
        if word not in words:
            raise UserError(f"wanted {listed(words)} as {name}, found {word!r}{did_you_mean(word, words)}: name one")
    of_run = is_run(source)
    if out is None and not of_run:
        raise UserError(f"wanted the file or folder to write for the labels in {source}, found none: give --out PATH")
    labels = _of_run(source, what, split) if of_run else labels_of_file(source, images, classes, split)
    objects = {image_id: _above(of_image, min_score) for image_id, of_image in labels.objects.items()}
    target = out or source / "export" / f"{what}_{split}_{format_name}{form.suffix}"
    text = export_labels(target, format_name, labels.dataset, objects, options or ExportOptions())
    return "\n".join([*labels.notes, text])


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / "run.json").is_file() or (path / "pseudo_gt").is_dir()


def _of_run(out: Path, what: str, split: str) -> LabelSource:
    """What a run has for the photos of a split."""
    run = open_run(recorded_settings(out))
    dataset = run.splits.get(split)
    if dataset is None:
        raise UserError(
            f"wanted the {split} photos of the run in {out}, found none: set data.test.images, or take train"
        )
    stage = _stage(run, what, split)
    if stage == "pseudo_gt":
        return LabelSource(dataset, read_given_boxes(out / "pseudo_gt" / "train.json", dataset))
    if stage == "wsis" and split == "train":
        return LabelSource(dataset, read_given_boxes(out / "wsis" / "pseudo_masks_train.json", dataset))
    return LabelSource(dataset, read_detections(out / stage / f"detections_{split}.json", dataset))


def _stage(run: Run, what: str, split: str) -> str:
    """The finished stage that made what is wanted; `UserError` where it is not finished, or makes no such thing."""
    if what == "pseudo-gt" and split == "test":
        raise UserError(
            "wanted pseudo ground truth of the test photos, found it for training photos alone: take "
            "--what detections, or --split train"
        )
    wanted = {"pseudo-gt": "pseudo_gt", "masks": "wsis"}.get(what)
    if wanted is None:
        wanted = "retrain" if run.finished("retrain") else "wsod"
    require_finished(run, [wanted])
    return wanted


def _above(objects: Instances, min_score: float) -> Instances:
    """The objects of at least this score; all where none is scored."""
    return objects if objects.scores is None else objects[objects.scores >= min_score]


def labels_of_file(
    source: Path, images: Path | None = None, classes: Sequence[str] | None = None, split: str = "train"
) -> LabelSource:
    """The labels in a file or folder, see `read_truth`, for the photos in ``images``, else for those that it names.

    Photos of which it says nothing have no objects; labels of photos that are not in ``images`` are left out, which is
    said. Raises `UserError`, also where no label is of any photo.
    """
    if images is None:
        dataset, _, notes = truth_dataset(source, None, classes=classes)
        return LabelSource(replace(dataset, name=split), dataset.truths, notes)
    photos, num_bad = {}, 0
    for name, path in list_photos(images).items():
        try:
            photos[name] = Photo(path, image_size(path), 1, "", 0)
        except BadImage:
            num_bad += 1
    names = ImageNames(list(photos))
    truth = read_split_truth(source, photos, names, None if classes is None else tuple(classes), None, images)
    if not truth.objects:
        raise UserError(
            f"wanted labels of the {len(photos)} photos in {images}, found those of {len(truth.without_photo)} others "
            f"in {source} ({listed(truth.without_photo, 3)}): give the photos that they were made for"
        )
    notes = (*truth.notes, *([f"{num_bad} photos in {images} cannot be read: left out"] if num_bad else []))
    taken = set(truth.numbers.values())
    free = iter(number for number in range(1, len(photos) + len(taken) + 1) if number not in taken)
    samples = tuple(
        Sample(name, photo.path, photo.size, (), None, truth.numbers[name] if name in truth.numbers else next(free))
        for name, photo in photos.items()
    )
    return LabelSource(Dataset(split, truth.classes, truth.category_ids, samples), truth.objects, notes)


def import_labels(
    source: Path, use: str, out: Path, images: Path | None = None, classes: Sequence[str] | None = None
) -> str:
    """Write labels of any format, see `read_truth`, as a run takes them; returns what was read and written, in lines.

    ``use``: ``truth`` (COCO JSON without scores, for ``data.train.truth``), ``boxes`` (COCO JSON with scores, for
    ``pseudo_gt=given``) or ``tags`` (CSV, of what is not to be ignored). All photos of ``images`` are in it. Raises
    `UserError`.
    """
    if use not in USES:
        raise UserError(f"wanted {listed(tuple(USES))} as --as, found {use!r}{did_you_mean(use, USES)}: name one")
    if out.suffix.lower() != USES[use]:
        raise UserError(f"wanted a file that ends in {USES[use]} for --as {use}, found {out}: rename it")
    labels = labels_of_file(source, images, classes)
    dataset, objects = labels.dataset, labels.objects
    if any(0 in sample.size for sample in dataset) and use != "tags":
        raise UserError(f"wanted the sizes of all {len(dataset)} photos of {source}, found some without: give --images")
    num_empty = sum(len(objects.get(image_id, ())) == 0 for image_id in dataset.image_ids)
    if use == "tags":
        tags = {name: _tags(objects.get(name, Instances.empty()), dataset.classes) for name in dataset.image_ids}
        write_csv(out, tags)
        text = f"{out}: tags of {len(dataset)} photos, {num_empty} of them without any"
    else:
        if use == "truth":
            objects = {image_id: of_image.replace(scores=None) for image_id, of_image in objects.items()}
        write_instances(out, dataset, objects)
        num = sum(map(len, objects.values()))
        text = f"{out}: {num} objects on {len(dataset)} photos, {num_empty} of them without any"
    return "\n".join([*labels.notes, text])


def _tags(objects: Instances, classes: Sequence[str]) -> list[str]:
    """The classes in a photo, without those whose objects are all to be ignored."""
    known = objects[~ignored(objects)]
    return [classes[label] for label in tag_labels(known)]
