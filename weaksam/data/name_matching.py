"""Find the photos that the names in a file mean: surely, or by a guess at what another machine made of a name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.image_names import ImageNames, file_part, last_part, may_be_respelt

_KIND_FOLDERS = frozenset({"images", "labels", "annotations", "jpegimages", "imgs", "xml", "xmls", "obj_train_data"})
"""Folders that say what the files are and not of which photos, in small letters."""
_BLOCK = 4096
"""Names that are looked at together."""


@dataclass
class MatchedNames:
    """The image id by name, of the names that have a photo; the names without one; and those that may mean several."""

    photo_of: dict[str, str] = field(default_factory=dict)
    without_photo: list[str] = field(default_factory=list)
    ambiguous: set[str] = field(default_factory=set)


def match_names(
    names: Iterable[str], photo_names: ImageNames, source: Path, findings: Findings, *, strict: bool = False
) -> MatchedNames:
    """The image id that each of ``names``, stated in ``source``, means; a name that fits two photos is a fault.

    A name that fits none is compared without folders such as ``images``. At last what another machine may have put
    before it is taken off, see `ImageNames.find_name`: that is a guess, which ``findings`` say. A guess that fits two
    photos or the photo of another name, or is made of a file name that comes twice, means nothing; with ``strict`` it
    is a fault, or two names of one photo.
    """
    matched = MatchedNames()
    bare, of_bare, lost = _BareNames(photo_names.names), dict[str, str](), list[str]()
    waiting = iter(names)
    while block := list(islice(waiting, _BLOCK)):
        for name, may_be_known in zip(block, photo_names.may_be_known(block), strict=True):
            if not may_be_known:
                matched.without_photo.append(name)
                continue
            try:
                image_id = photo_names.find_name(name, str(source))
            except UserError as error:
                findings.fault(str(error))
                matched.ambiguous.add(name)
                continue
            if image_id is not None:
                matched.photo_of[name] = image_id
            elif (image_id := bare.find(name)) is not None:
                of_bare[name] = image_id
            else:
                matched.without_photo.append(name)
                lost.append(name)
    matched.photo_of |= of_bare
    _match_respelt(matched, lost, photo_names, source, findings, strict)
    return matched


def _match_respelt(
    matched: MatchedNames, lost: Iterable[str], photo_names: ImageNames, source: Path, findings: Findings, strict: bool
) -> None:
    """Move those of the names ``lost`` to the photo of their last part, where that is unique on both sides."""
    fits: list[tuple[str, str, Findings]] = []
    for name in filter(may_be_respelt, lost):
        guessed = Findings()
        try:
            image_id = photo_names.find_name(name, str(source), guessed)
        except UserError as error:  # several photos of this name
            if strict:
                findings.fault(str(error))
                matched.ambiguous.add(name)
            continue
        if image_id is not None:
            fits.append((name, image_id, guessed))
    if not fits and not matched.ambiguous:
        return
    num_names = Counter(last_part(file_part(name)) for name in (*matched.photo_of, *matched.without_photo))
    taken = set(matched.photo_of.values())
    for name, image_id, guessed in fits:
        if strict or (image_id not in taken and num_names[last_part(file_part(name))] == 1):
            taken.add(image_id)
            matched.photo_of[name] = image_id
            for text, places in guessed.guesses.items():
                findings.guesses[text] += places
    done = matched.photo_of.keys() | matched.ambiguous
    matched.without_photo = [name for name in matched.without_photo if name not in done]


class _BareNames:
    """Photos by their names without ending and without folders such as ``images``, see `photo_name`."""

    def __init__(self, image_ids: Sequence[str]) -> None:
        self._image_ids = image_ids

    @cached_property
    def _ids(self) -> dict[str, list[str]]:
        ids: dict[str, list[str]] = defaultdict(list)
        for image_id in self._image_ids:
            ids[photo_name(image_id)].append(image_id)
        return ids

    @cached_property
    def _stems(self) -> set[str]:
        return {last_part(name) for name in self._ids}

    def find(self, name: str) -> str | None:
        """The only photo of that name, with its folders; None without one."""
        part = last_part(name)
        if part not in self._stems and part.rpartition(".")[0] not in self._stems:
            return None  # nearly all names of a long list end here
        image_ids = self._ids.get(name, []) or self._ids.get(photo_name(name), [])
        return image_ids[0] if len(image_ids) == 1 else None


def photo_name(inside: str) -> str:
    """The path of a file without its ending and without folders that say what it is."""
    path = PurePosixPath(inside)
    return PurePosixPath(*telling_folders(path.parts[:-1]), path.stem).as_posix()


def telling_folders(folders: Sequence[str]) -> list[str]:
    """``folders`` without those that say what the files in them are, such as ``labels``."""
    return [folder for folder in folders if folder.lower() not in _KIND_FOLDERS]
