"""List what is wrong with a dataset, one line each, and change nothing."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from weaksam.config import UserError, did_you_mean, listed
from weaksam.data.annotation_folders import match_photos
from weaksam.data.annotations import Annotations, ImageTruth, tag_labels
from weaksam.data.class_names import ClassLabels
from weaksam.data.dataset import DataSettings, SplitSettings, images_folder, read_tag_rows
from weaksam.data.findings import Findings
from weaksam.data.formats.tag_rows import TagRows, refuse_similar
from weaksam.data.image_names import ImageNames
from weaksam.data.lines import Lines
from weaksam.data.photo_labels import read_photo_labels
from weaksam.data.photo_limits import PhotoLimits
from weaksam.data.photos import Photo, scan_photos, verify_photos
from weaksam.data.sizes import truth_size_problems
from weaksam.data.tag_matching import match_rows
from weaksam.data.tag_signal import MIN_PHOTOS, is_almost_constant
from weaksam.data.truth import read_truth, refuse_other_names, truth_classes
from weaksam.data.truth_photos import num_repeats, reaching_out
from weaksam.likeness import Hints

_MOST_COMPARED = 100
"""Most rare classes that are compared with the frequent ones, which takes long."""
_MAGIC = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF", ".webp"), (b"BM", ".bmp"))
"""First bytes of each format of photos, and its usual ending."""
_ALIASES = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg"}
"""Other endings of the same format."""

Value = TypeVar("Value")


@dataclass
class _SplitCheck:
    """The photos of one split that could be read, by image id, its classes, and the lines so far."""

    name: str
    folder: Path
    photo_names: ImageNames
    photos: dict[str, Photo] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    """The classes that a run would take, once tags and truth are read."""
    lines: Lines = field(default_factory=Lines)
    counts: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add a line about this split."""
        self.lines.add(f"{self.name}: {text}")

    def say_about(self, name: str, phrase: str) -> None:
        """Add a line about a photo or a row."""
        self.lines.add_about(f"{self.name}: ", name, f": {phrase}")

    def say_about_all(self, names: Sequence[str], phrase: str) -> None:
        """Add the same line about each of many photos or rows."""
        self.lines.add_about_all(f"{self.name}: ", names, f": {phrase}")

    def take(self, findings: Findings) -> None:
        """Add a line for each problem that a reader gathered, and keep its counts."""
        for problem in findings.problems:
            self.say(problem)
        self.counts += [f"{self.name}: {line}" for line in findings.counts]

    def attempt(self, read: Callable[..., Value], *arguments: Any) -> Value | None:
        """What ``read`` returns, or None and a line that says why it cannot."""
        try:
            return read(*arguments)
        except UserError as error:
            self.say(str(error))
            return None


def check_data(data: DataSettings, counts: list[str] | None = None) -> Lines:
    """Lines ``<split>: <photo or file>: <what is wrong>`` on the splits of a run; nothing wrong gives no lines.

    Photos: unreadable or over the limits, there twice, named by another format, turned by EXIF, in both splits. Tags:
    rows without a photo, photos without a row, unknown or look-alike classes, classes in nearly all or very few photos.
    Truth: entries without a photo, sizes that differ, boxes outside or without area, tags that disagree. How much was
    read of each file is added to ``counts``. Raises `UserError` only where a folder of photos is missing or empty.
    """
    classes = data.classes
    if classes is None and data.train.truth is None and data.test is not None and data.test.truth is not None:
        # A broken truth file gets its line when the split itself is checked
        with contextlib.suppress(UserError):
            classes = truth_classes(data.test.truth)
    counts = [] if counts is None else counts
    train = _checked(data.train, "train", classes, data.limits)
    counts += train.counts
    if data.test is None or data.test == SplitSettings():
        return train.lines
    test = _checked(data.test, "test", train.classes or classes, data.limits)
    counts += test.counts
    owner = {photo.sha256: image_id for image_id, photo in train.photos.items()}
    for image_id, photo in test.photos.items():
        if photo.sha256 in owner:
            test.say_about(image_id, f"is the same file as {owner[photo.sha256]} of train")
    train.lines.extend(test.lines)
    return train.lines


def _checked(split: SplitSettings, name: str, classes: tuple[str, ...] | None, limits: PhotoLimits) -> _SplitCheck:
    """The lines of one split and the photos that they are about."""
    folder = images_folder(split, name)
    scan = scan_photos(folder)
    paths = scan.photos
    state = _SplitCheck(name, folder, ImageNames(list(paths)))
    bad = dict(scan.bad)
    state.photos = verify_photos(paths, bad, limits)
    state.counts += [f"{name}: {note}" for note in scan.notes(folder)]
    for image_id, reason in bad.items():
        state.say(f"{image_id}: {reason}")
    _check_photos(state)
    sizes = {image_id: photo.size for image_id, photo in state.photos.items()}
    tags = None
    if split.tags is not None or split.truth is None:
        findings = Findings(gather=True)
        tags = state.attempt(read_tag_rows, split, state.folder, name, findings, state.photo_names)
        state.take(findings)
        tags = None if findings.faults and tags is not None and not tags.rows else tags
    truth = None
    if split.truth is not None:
        findings = Findings(gather=True)
        names = classes or (tags.classes if tags is not None else None)
        truth = state.attempt(read_truth, split.truth, sizes, names, findings, state.folder)
        state.take(findings)
    if truth is not None and split.truth is not None and classes is not None:
        state.attempt(refuse_other_names, truth, classes, split.truth)
    known = classes or (truth.classes if truth is not None else None)
    if split.labels:
        _check_labels(state, split.labels, sizes, known or (tags.class_names if tags is not None else ()))
    tagged = {} if tags is None else _check_tags(state, tags, set(paths), split.tags or state.folder, known)
    state.classes = known or (tags.class_names if tags is not None else None)
    if truth is not None and split.truth is not None:
        _check_truth(state, truth, split.truth, tagged, listed_only=tags is not None)
    return state


def _check_labels(
    state: _SplitCheck, paths: Sequence[Path], sizes: Mapping[str, tuple[int, int]], classes: Sequence[str]
) -> None:
    """Say what is wrong with the labels beside the tags."""
    findings = Findings(gather=True)
    state.attempt(read_photo_labels, paths, sizes, classes, state.photo_names, findings)
    state.take(findings)


def _check_photos(state: _SplitCheck) -> None:
    """Say which photos are there twice, stored turned, or named by another format."""
    by_hash: dict[str, str] = {}
    for image_id, photo in state.photos.items():
        first = by_hash.setdefault(photo.sha256, image_id)
        if first != image_id:
            state.say(f"{image_id}: is the same file as {first}")
        if photo.orientation != 1:
            height, width = photo.size
            state.say(
                f"{image_id}: is stored turned (EXIF orientation {photo.orientation}), read as {width} x {height}"
            )
        held, named = _held_suffix(photo.path), photo.path.suffix.lower()
        if held != _ALIASES.get(named, named):
            state.say(f"{image_id}: holds a {held[1:].upper()} under the name {named}, read by its content")


def _held_suffix(path: Path) -> str:
    """The usual ending of the format that a photo's first bytes show."""
    with path.open("rb") as stream:
        head = stream.read(4)
    return next(suffix for magic, suffix in _MAGIC if head.startswith(magic))


def _check_tags(
    state: _SplitCheck,
    tags: TagRows,
    on_disk: set[str],
    source: Path,
    known: tuple[str, ...] | None,
) -> dict[str, set[str]]:
    """Say what is wrong with the tags; class names by image id."""
    tagged: dict[str, set[str]] = defaultdict(set)
    findings = Findings(gather=True)
    if known is None:
        refuse_similar(tags.class_names, source, findings)
    matched = match_rows(tags, state.photo_names, source, findings)
    state.take(findings)
    unknown = {} if known is None else _unknown_classes(tags.class_names, known)
    missing, without_photo = f"is named in {source} but not in {state.folder}", list[str]()
    for row, names in tags.rows.items():
        image_id = matched.photo_of.get(row)
        if image_id is not None:
            tagged[image_id] |= set(names)
        elif row not in matched.ambiguous:
            without_photo.append(row)
        for name in names if unknown else ():
            if name in unknown:
                state.say_about_all(without_photo, missing)
                without_photo = []
                state.say_about(row, unknown[name])
    state.say_about_all(without_photo, missing)
    if tags.complete:
        for image_id in sorted(on_disk - set(tagged)):
            state.say_about(image_id, f"has no row in {source}")
    for image_id in sorted(image_id for image_id, names in tagged.items() if not names):
        state.say_about(image_id, f"has a row without any class in {source}")
    if known is not None:
        tagged = defaultdict(set, {image_id: _in_forms_of(names, known) for image_id, names in tagged.items()})
    _check_balance(state, tagged, known or tags.class_names)
    return dict(tagged)


def _in_forms_of(names: Iterable[str], known: tuple[str, ...]) -> set[str]:
    """``names`` in the Unicode forms of the classes ``known``; others as they are."""
    labels = ClassLabels(known)
    return {name if (label := labels.find(name)) is None else known[label] for name in names}


def _unknown_classes(names: Iterable[str], known: tuple[str, ...]) -> dict[str, str]:
    """What to say of each of ``names`` that is none of the classes ``known``, in any Unicode form."""
    labels, hint = ClassLabels(known), Hints(known)
    unknown = [name for name in names if labels.find(name) is None]
    return {name: f"has the unknown class {name!r}{hint(name)}" for name in unknown}


def _check_balance(state: _SplitCheck, tagged: Mapping[str, set[str]], classes: tuple[str, ...]) -> None:
    """Say which classes are on nearly all photos, on very few, or look like a misspelling of a frequent one."""
    counts = Counter(name for names in tagged.values() for name in names)
    most, num_compared = max(counts.values(), default=0), 0
    for name in classes:
        if is_almost_constant(counts[name], len(tagged)):
            state.say(f"class {name!r}: is tagged in {counts[name]} of {len(tagged)} photos, almost constant")
        elif counts[name] < MIN_PHOTOS:
            state.say(f"class {name!r}: is tagged in only {counts[name]} of {len(tagged)} photos")
        num_compared += 0 < counts[name] < most / 10
        if not 0 < counts[name] < most / 10 or num_compared > _MOST_COMPARED:
            continue
        hint = did_you_mean(name, [other for other in classes if counts[other] > 10 * counts[name]])
        if hint:
            state.say(f"class {name!r}: is in {counts[name]} photos and looks like another{hint}")


def _check_truth(
    state: _SplitCheck, truth: Annotations, source: Path, tagged: Mapping[str, set[str]], listed_only: bool
) -> None:
    """Say what is wrong with the truth; with ``listed_only`` only photos with a row of tags need an entry."""
    seen = set()
    findings = Findings(gather=True)
    matched = match_photos(truth.images, state.photo_names, source, findings, state.folder)
    state.take(findings)
    missing = f"is in {source} but not in {state.folder}"
    state.say_about_all(() if listed_only else matched.strays, missing)
    for entry, image_id in matched.photo_of.items():
        image = truth.images[entry]
        seen.add(image_id)
        if image_id in state.photos:
            for problem in _truth_problems(image, state.photos[image_id], truth.classes):
                state.say(f"{image_id}: {problem}")
        if image_id in tagged:
            _check_agreement(state, image_id, tagged[image_id], image, truth.classes)
    for image_id in sorted(set(tagged if listed_only else state.photos) - seen):
        state.say_about(image_id, f"has no entry in {source}")


def _truth_problems(image: ImageTruth, photo: Photo, classes: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with the true objects of one photo, a verb phrase each: another size, boxes outside or empty."""
    yield from truth_size_problems(image, photo.size)
    objects = image.instances
    outside = reaching_out(objects.boxes, photo.size)
    # VOC's inclusive corners make a box of no extent one pixel wide
    degenerate = ((objects.boxes[:, 2:] - objects.boxes[:, :2]) <= 1).any(1)
    repeats = num_repeats(image)
    if repeats:
        yield f"has {repeats} of {len(objects)} objects with the box and the class of another"
    for rows, problem in ((outside, "outside the photo"), (degenerate, "no more than one pixel wide or high")):
        for row in rows.nonzero()[:, 0].tolist():
            corners = ", ".join(f"{value:g}" for value in objects.boxes[row].tolist())
            yield f"has a box of {classes[int(objects.labels[row])]!r} {problem} ({corners})"


def _check_agreement(
    state: _SplitCheck, image_id: str, names: set[str], image: ImageTruth, classes: tuple[str, ...]
) -> None:
    """Say where the tags ``names`` and the true objects disagree; a difficult object may be tagged or not.

    Objects of classes that the run does not have take no part.
    """
    known = set(state.classes or classes)
    wanted = _in_forms_of((classes[label] for label in tag_labels(image.instances)), state.classes or classes)
    allowed = _in_forms_of((classes[label] for label in image.instances.labels.tolist()), state.classes or classes)
    if names - allowed:
        state.say(f"{image_id}: is tagged {listed(sorted(names - allowed))} but has no such true object")
    if (wanted & known) - names:
        state.say(f"{image_id}: has true objects of {listed(sorted((wanted & known) - names))} but no such tag")
