"""List the annotation files below a folder, one for each photo, and tell which of two files of one name is meant."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weaksam.config import listed
from weaksam.data.findings import Findings
from weaksam.data.image_names import ImageNames
from weaksam.data.name_matching import match_names, photo_name, telling_folders
from weaksam.data.photos import files_below
from weaksam.data.text_files import is_utf8, printable

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Folders that name a split, in small letters, and the split."""


def annotation_files(folder: Path, suffix: str, findings: Findings | None = None) -> dict[str, Path]:
    """The files below ``folder`` that end in ``suffix``, in capitals or not, by the name of their photo; none: none.

    That name is the path below ``folder`` without the ending and without folders such as ``labels``. Linked folders are
    followed, hidden files and those of the system (``._a.xml``) are left out. Two files of one name are a fault.
    """
    findings = findings or Findings(gather=True)
    files: dict[str, Path] = {}
    for inside, path in sorted(files_below(folder, Counter())):
        if PurePosixPath(inside).suffix.lower() != suffix:
            continue
        if not is_utf8(inside):
            findings.fault(
                f"wanted names of files in UTF-8 in {folder}, found {printable(inside)}: rename it as its photo"
            )
            continue
        name = photo_name(inside)
        if name in files:
            findings.fault(
                f"wanted one file for the photo {name} in {folder}, found {files[name].relative_to(folder)} and "
                f"{inside}: keep one of them"
            )
            continue
        files[name] = path
    return files


@dataclass(frozen=True)
class MatchedPhotos:
    """The image id by name, of the names that mean a photo, and the names that mean none."""

    photo_of: dict[str, str]
    strays: Sequence[str]


def match_photos(
    names: Iterable[str], photo_names: ImageNames, source: Path, findings: Findings, images: Path | None = None
) -> MatchedPhotos:
    """The image id that each of ``names``, stated in ``source``, means.

    ``images`` is the photos' folder. Of several names for one photo the one whose folders fit best counts, see
    `nearest_names`, and the others are left out, with a count; where the folders do not tell, that is a fault. A name
    that fits two photos is a fault as well.
    """
    matched = match_names(names, photo_names, source, findings, strict=True)
    photo_of = dict(matched.photo_of)
    names_of: dict[str, list[str]] = defaultdict(list)
    for name, image_id in matched.photo_of.items():
        names_of[image_id].append(name)
    others = []
    for image_id, of_photo in names_of.items():
        nearest = nearest_names(of_photo, image_id, images)
        if len(nearest) > 1:
            findings.fault(
                f"wanted every photo once in {source}, found {image_id} twice, as {nearest[0]!r} and {nearest[1]!r}: "
                "give the folder that belongs to the photos, or remove one"
            )
            nearest = []
        else:
            others += [name for name in of_photo if name not in nearest]
        for name in set(of_photo) - set(nearest):
            del photo_of[name]
    if others:
        findings.count(f"{source}: left out {len(others)} of photos of the same name elsewhere ({listed(others, 3)})")
    return MatchedPhotos(photo_of, matched.without_photo)


def nearest_names(names: Sequence[str], image_id: str, images: Path | None) -> list[str]:
    """Those of several ``names`` for one photo whose folders fit the photo's best, none where all are of other splits.

    Folders are compared from the innermost: ``val/0001`` fits the photo ``0001.jpg`` of the folder ``images/val``,
    ``train/0001`` is of another split. More than one name: the folders do not tell.
    """
    if len(names) == 1 and "/" not in names[0]:
        return list(names)
    photo = PurePosixPath(image_id).parts[:-1]
    above = () if images is None else images.absolute().parts
    near = (*above[-2:], *photo)
    kept = [name for name in names if not _other_split(PurePosixPath(name).parts[:-1], near)]
    if len(kept) < 2 or not all(telling_folders(PurePosixPath(name).parts[:-1]) for name in kept):
        return kept  # a name without a folder fits photos of any
    agreeing = {name: _num_agreeing(PurePosixPath(name).parts[:-1], (*above, *photo)) for name in kept}
    most = max(agreeing.values())
    return [name for name in kept if agreeing[name] == most]


def _other_split(folders: Sequence[str], photo_folders: Sequence[str]) -> bool:
    """Whether the innermost splits that both name differ."""
    splits = [
        next((_SPLITS[folder.lower()] for folder in reversed(side) if folder.lower() in _SPLITS), None)
        for side in (folders, photo_folders)
    ]
    return None not in splits and splits[0] != splits[1]


def _num_agreeing(folders1: Sequence[str], folders2: Sequence[str]) -> int:
    """How many folders are the same, counted from the innermost."""
    count = 0
    for folder1, folder2 in zip(reversed(telling_folders(folders1)), reversed(telling_folders(folders2)), strict=False):
        word1, word2 = (_SPLITS.get(folder.lower(), folder) for folder in (folder1, folder2))
        if word1 != word2:
            break
        count += 1
    return count
