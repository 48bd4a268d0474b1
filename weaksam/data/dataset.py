"""Load a split of photos with their tags and, for the evaluation only, their true objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import field_validator

from weaksam.config import Settings, UserError, did_you_mean, listed
from weaksam.data.annotations import tag_labels
from weaksam.data.class_names import ClassLabels
from weaksam.data.file_errors import reads
from weaksam.data.findings import Findings
from weaksam.data.formats.tag_rows import TagRows, refuse_similar
from weaksam.data.formats.tags import is_class_folders, read_class_folders, read_tags
from weaksam.data.image_names import ImageNames
from weaksam.data.images import LIMITS
from weaksam.data.known_photos import known_photos_file, verify_unknown_photos
from weaksam.data.photo_limits import PhotoLimits
from weaksam.data.photos import Photo, scan_photos, verify_photos
from weaksam.data.tag_matching import match_rows
from weaksam.data.text_files import printable
from weaksam.data.truth import SplitTruth, read_split_truth, truth_classes
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.set_aside import SetAside, names_file
from weaksam.terminal import all_printable


class SplitSettings(Settings):
    """Where one split lies: paths, relative to the current directory."""

    images: Path | None = None
    """Folder of photos, searched with its sub-folders."""
    tags: Path | None = None
    """Tag file (.csv, .json, .jsonl), folder of class folders, or VOC ``ImageSets/Main`` (the folder or one list)."""
    truth: Path | None = None
    """True objects, read by the evaluation only: COCO .json, folder of VOC .xml, or folder of YOLO .txt."""
    labels: tuple[Path, ...] = ()
    """Boxes, masks, points, scribbles and counts on some training photos, which are believed; a file, or a list."""

    _as_before: ClassVar[Mapping[str, Any]] = {"labels": ()}

    @field_validator("labels", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value


class DataSettings(Settings):
    """The data of one run."""

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"limits"})

    train: SplitSettings = SplitSettings()
    test: SplitSettings | None = None
    """Split to test on; without it nothing is evaluated."""
    classes: tuple[str, ...] | None = None
    """Class names in order; by default those of the truth file, else those of the tags, sorted."""
    without_tags: bool = False
    """Photos alone: no tags or truth are looked for, folders are only folders, and proposals are all that is made."""
    limits: PhotoLimits = PhotoLimits()
    """The largest photo that is read; larger ones are set aside."""


class EventLog(Protocol):
    """Anything that takes events as names with fields, such as the run's log."""

    def write(self, event: str, **fields: Any) -> None:
        """Take one event."""

    def keep_names(self, file: str, names: Mapping[str, Sequence[str]]) -> Path | None:
        """Write ``names``, by what is said of them, to a ``file`` beside the log, whose path is returned."""


@reads("a folder of photos")
def gives_tags(split: SplitSettings) -> bool:
    """Whether a split comes with tags: a tag file, a truth to take them from, or folders that name classes."""
    folders = split.images is not None and split.images.is_dir() and is_class_folders(split.images)
    return split.tags is not None or split.truth is not None or folders


@dataclass(frozen=True)
class KnownPhotos:
    """The folder that remembers which photos were read before, and whether those that are read now are added."""

    folder: Path
    keep: bool


def load_splits(
    data: DataSettings, log: EventLog | None = None, known: KnownPhotos | None = None
) -> tuple[Dataset, Dataset | None]:
    """Train and test split with one list of classes: the settings', else the truth's, else the tags'.

    Taking the classes from a truth file, even the test split's, finds a misspelt class in the tags. With
    ``without_tags`` neither is looked for, see `load_photos`. Photos that ``known`` remembers are not read again.
    Raises `UserError`.
    """
    if data.without_tags:
        train = load_photos(data.train, name="train", log=log, limits=data.limits, known=known)
        if data.test is None or data.test.images is None:
            return train, None
        return train, load_photos(data.test, name="test", log=log, limits=data.limits, known=known)
    classes = data.classes
    if classes is None and data.train.truth is None and data.test is not None and data.test.truth is not None:
        classes = truth_classes(data.test.truth)
    train = load_dataset(data.train, name="train", classes=classes, log=log, limits=data.limits, known=known)
    if data.test is None or data.test == SplitSettings():
        return train, None
    names = train.classes
    return train, load_dataset(data.test, name="test", classes=names, log=log, limits=data.limits, known=known)


def load_photos(
    split: SplitSettings,
    *,
    name: str,
    log: EventLog | None = None,
    limits: PhotoLimits = LIMITS,
    known: KnownPhotos | None = None,
) -> Dataset:
    """Every photo of a split that can be read, without tags, classes or truth; the others are in ``bad``.

    Raises `UserError` for a missing folder and where no photo is left.
    """
    folder = images_folder(split, name)
    scan = scan_photos(folder)
    bad = dict(scan.bad)
    photos = _verified(scan.photos, bad, limits, known, name)
    samples = _samples(photos, {image_id: () for image_id in photos}, None)
    dataset = Dataset(name, (), (), samples, _set_aside(bad, {}), scan.notes(folder))
    return _checked(dataset, folder, log)


def load_dataset(
    split: SplitSettings,
    *,
    name: str,
    classes: tuple[str, ...] | None = None,
    log: EventLog | None = None,
    limits: PhotoLimits = LIMITS,
    known: KnownPhotos | None = None,
) -> Dataset:
    """Read one split; ``name`` is train, test, ... and picks the list of a VOC ``ImageSets/Main`` folder.

    Without a tag file the tags are those of the truth, without either those of class folders. A photo that cannot be
    read or is over ``limits``, a listed name without a photo and a photo without a row are set aside in ``bad`` with
    the reason. Classes are ``classes``, else those of the truth, else those of the tags. Raises `UserError` for a
    missing folder, an empty or broken list, an unknown class (the nearest is named), and where no photo is left.
    """
    folder = images_folder(split, name)
    scan = scan_photos(folder)
    paths, bad = scan.photos, dict(scan.bad)
    without: dict[str, Sequence[str]] = {}
    photo_names = ImageNames(list(paths))
    findings = Findings()
    source = split.tags or split.truth or folder
    tags = read_tag_rows(split, folder, name, findings, photo_names)
    tagged = None if tags is None else _match_tags(tags, photo_names, source, folder, without, findings)
    if tags is not None and tagged is not None and not tags.complete:
        paths = {image_id: path for image_id, path in paths.items() if image_id in tagged}
    photos = _verified(paths, bad, limits, known, name)
    truth = None
    if split.truth is not None:
        truth = read_split_truth(split.truth, photos, photo_names, classes, tags.classes if tags else None, folder)
    if tagged is None:
        assert truth is not None  # read_tag_rows refuses a split with neither
        tagged = _tags_of_truth(truth, split, folder, without)
    names = _class_names(classes, truth, tags)
    if classes is None and truth is None:
        refuse_similar(names, source, findings)
    labels = _labels(tagged, names, source)
    without[f"has no row in {source}"] = [image_id for image_id in photos if image_id not in labels]
    category_ids = truth.category_ids if truth is not None else tuple(range(1, len(names) + 1))
    notes = (*scan.notes(folder), *map(printable, findings.notes), *(() if truth is None else truth.notes))
    dataset = Dataset(name, names, category_ids, _samples(photos, labels, truth), _set_aside(bad, without), notes)
    return _checked(dataset, folder, log)


def _verified(
    paths: Mapping[str, Path], bad: dict[str, str], limits: PhotoLimits, known: KnownPhotos | None, name: str
) -> dict[str, Photo]:
    if known is None:
        return verify_photos(paths, bad, limits)
    return verify_unknown_photos(paths, bad, limits, known.folder / known_photos_file(name), known.keep)


@reads("a folder of photos")
def images_folder(split: SplitSettings, name: str) -> Path:
    """The folder of photos of a split; raises `UserError` where it is not given or not there.

    Not given, it is the folder of class folders in ``tags``, or ``JPEGImages`` beside VOC's ``ImageSets``.
    """
    folder = split.images
    if folder is None and split.tags is not None:
        lists = split.tags if split.tags.name == "Main" else split.tags.parent
        folder = lists.parent.parent / "JPEGImages" if lists.name == "Main" else split.tags
    if folder is None:
        raise UserError(f"wanted a folder of photos for the {name} split, found none: set data.{name}.images")
    if not folder.is_dir():
        state = "a file" if folder.exists() else "nothing there"
        raise UserError(f"wanted a folder of photos at {folder}, found {state}: set data.{name}.images to the folder")
    return folder


def read_tag_rows(
    split: SplitSettings, folder: Path, name: str, findings: Findings, photo_names: ImageNames
) -> TagRows | None:
    """The split's tags, or None where they come from its truth; see `read_tags`."""
    if split.tags is not None:
        return read_tags(split.tags, split=name, findings=findings, photo_names=photo_names)
    if split.truth is not None:
        return None
    if is_class_folders(folder):
        return read_class_folders(folder, findings)
    raise UserError(
        f"wanted tags for the photos in {folder}, found neither a tag file nor class folders: "
        f"set data.{name}.tags (or data.{name}.truth)"
    )


def _match_tags(
    tags: TagRows,
    photo_names: ImageNames,
    source: Path,
    folder: Path,
    without: dict[str, Sequence[str]],
    findings: Findings,
) -> dict[str, tuple[str, ...]]:
    """Class names by image id; rows whose photos are not on disk go to ``without``, by the reason."""
    tagged: dict[str, tuple[str, ...]] = {}
    matched = match_rows(tags, photo_names, source, findings)
    for row, names in tags.rows.items():
        if row in matched.photo_of:
            image_id = matched.photo_of[row]
            tagged[image_id] = tuple(dict.fromkeys(tagged.get(image_id, ()) + names))
    without[f"is named in {source} but not in {folder}"] = matched.without_photo
    if not tagged:
        raise UserError(
            f"wanted the photos of {source} in {folder}, found none of its {len(tags.rows)} "
            f"({listed(tags.rows, 3)}): set the images folder that belongs to this list"
        )
    return tagged


def _tags_of_truth(
    truth: SplitTruth, split: SplitSettings, folder: Path, without: dict[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Class names by image id from the true objects; entries whose photos are not on disk go to ``without``."""
    without[f"is in {split.truth} but not in {folder}"] = truth.without_photo
    return {
        image_id: tuple(truth.classes[label] for label in tag_labels(objects))
        for image_id, objects in truth.objects.items()
    }


def _class_names(classes: tuple[str, ...] | None, truth: SplitTruth | None, tags: TagRows | None) -> tuple[str, ...]:
    """The classes of a split: those given, else those of the truth, else those of the tags."""
    if classes:
        return tuple(classes)
    if truth is not None and truth.classes:
        return truth.classes
    return tags.class_names if tags is not None else ()


def _labels(tagged: Mapping[str, tuple[str, ...]], classes: Sequence[str], source: Path) -> dict[str, tuple[int, ...]]:
    """Sorted labels by image id; raises `UserError` for a class that is not one of ``classes``."""
    finder = ClassLabels(classes)
    label_of = {name: finder.find(name) for names in tagged.values() for name in names}
    for image_id, names in tagged.items():
        unknown = next((name for name in names if label_of[name] is None), None)
        if unknown is not None:
            raise UserError(
                f"wanted one of the classes {listed(classes)} for {image_id} in {source}, "
                f"found {unknown!r}{did_you_mean(unknown, classes)}: mend the row or set data.classes"
            )
    if not classes:
        raise UserError(f"wanted at least one class in {source}, found {len(tagged)} rows without any: add tags")
    known = {name: label for name, label in label_of.items() if label is not None}
    return {image_id: tuple(sorted({known[name] for name in names})) for image_id, names in tagged.items()}


def _set_aside(bad: Mapping[str, str], without: Mapping[str, Sequence[str]]) -> SetAside:
    """What was set aside, reasons by name and names by reason, in words that every log and page can take."""
    by_reason = {printable(reason): list(all_printable(names)) for reason, names in without.items()}
    for image_id, reason in bad.items():
        by_reason.setdefault(printable(reason), []).append(printable(image_id))
    return SetAside(by_reason)


def _samples(
    photos: Mapping[str, Photo], labels: Mapping[str, tuple[int, ...]], truth: SplitTruth | None
) -> tuple[Sample, ...]:
    """The samples that have both a photo and a row, in the order of their ids."""
    kept = sorted(image_id for image_id in photos if image_id in labels)
    objects = {} if truth is None else truth.objects
    given = {} if truth is None else truth.numbers
    texts = {} if truth is None else truth.texts
    # Photos that the truth file does not number come after those that it does
    start = max(given.values(), default=0)
    free = iter(range(start + 1, start + len(kept) + 1))
    return tuple(
        Sample(
            image_id,
            photos[image_id].path,
            photos[image_id].size,
            labels[image_id],
            objects.get(image_id),
            given[image_id] if image_id in given else next(free),
            photos[image_id].sha256,
            texts.get(image_id, ""),
            photos[image_id].num_bytes,
        )
        for image_id in kept
    )


def _checked(dataset: Dataset, folder: Path, log: EventLog | None) -> Dataset:
    """The same dataset, written to the log; raises `UserError` where no photo is left."""
    if not dataset.samples:
        image_id, reason = dataset.bad[0] if dataset.bad else ("the folder", "holds no photo")
        raise UserError(
            f"wanted photos for the {dataset.name} split in {folder}, found {len(dataset.bad)} and none usable "
            f"({image_id} {reason}): run 'weaksam data check' and mend them"
        )
    if log is not None:
        classes, num_bad = list(dataset.classes), len(dataset.bad)
        log.write("dataset", name=dataset.name, photos=len(dataset), classes=classes, bad=num_bad)
        shown, path = dataset.bad.few(), log.keep_names(names_file(dataset.name), dataset.bad.by_reason)
        for image_id, reason in shown:
            log.write("set_aside", dataset=dataset.name, image_id=image_id, reason=reason)
        if len(shown) < num_bad:
            log.write("set_aside_more", dataset=dataset.name, more=num_bad - len(shown), all_in=path)
        for note in dataset.notes:
            log.write("note", dataset=dataset.name, text=note)
    return dataset
