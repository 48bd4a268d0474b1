"""Find the image that a foreign file means: by its name, with or without ending and folders, or by its number."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from weaksam.config import UserError, listed
from weaksam.data.file_errors import reads
from weaksam.data.findings import Findings
from weaksam.data.image_entries import ImageEntries, composed, plain_name, read_image_entries
from weaksam.data.images import PHOTO_SUFFIXES
from weaksam.data.json_entries import as_file_id
from weaksam.data.name_lists import listed_names, note_flags
from weaksam.data.photos import list_photos
from weaksam.data.plain_names import plain_text
from weaksam.data.text_files import read_json
from weaksam.structures.dataset import Dataset

Key = str | int
"""How a file names an image: by a name or by a number."""
_FOREIGN_START = re.compile(r"/|[A-Za-z]:/|[A-Za-z][A-Za-z0-9+.-]*:/")
"""An absolute path, one on a drive, or an address."""
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
_UPLOADED = re.compile(r"^(?:.*/)?[^/\n]{8}-", re.MULTILINE)
"""A name with what may be the prefix of an upload."""


class ImageNames:
    """The images that a file may speak of; `find_name` finds one by its name alone, `find` by name or number.

    ``names``: their ids, file names relative to a folder; none is allowed, and then nothing is found. ``numbers``:
    those that a COCO file gives them; without them an image's number is read from its name, see `number_in`.
    ``texts``: names by the ids that a COCO file gives them, where these are texts.
    """

    def __init__(
        self, names: Sequence[str], numbers: Mapping[str, int] | None = None, texts: Mapping[str, str] | None = None
    ) -> None:
        self.names, self.numbers, self.texts = tuple(names), numbers, texts or {}
        self._exact = frozenset(self.names)
        self._by_word: dict[str, list[str]] = {}  # by file name and by its stem, in small letters
        for name in self.names:
            word = _word(last_part(name))
            for key in {word, PurePosixPath(word).stem}:
                self._by_word.setdefault(key, []).append(name)

    @classmethod
    def of(cls, dataset: Dataset) -> ImageNames:
        """The images of ``dataset``, with the ids that its truth file gives them."""
        numbers = {sample.image_id: sample.number for sample in dataset}
        return cls(
            dataset.image_ids, numbers, {sample.text_id: sample.image_id for sample in dataset if sample.text_id}
        )

    def find_name(self, name: str, source: str, findings: Findings | None = None) -> str | None:
        """The image that ``name`` means, with or without ending and leading folders, or None where no image fits.

        Case and Unicode form do not matter where one image fits, and of an address only its path counts, see
        `file_part`. Folders must agree as far as both sides give them. Where nothing fits and ``findings`` can take it,
        the name as it was before a labelling server changed it is tried, see `_server_spellings`.
        Raises `UserError`, naming ``source``, where two images fit.
        """
        if name in self._exact:
            return name
        path = file_part(name)
        if path in self._exact:
            return path
        image_id = self._fit(path, source)
        if image_id is not None or findings is None:
            return image_id
        for text, spelling in _server_spellings(path):
            image_id = self._fit(spelling, source)
            if image_id is not None:
                findings.guess(f"{text} was matched", f"{source}, {name!r}")
                return image_id
        return None

    def _fit(self, name: str, source: str) -> str | None:
        """The image that a name in plain spelling means; None where none does, `UserError` where two do."""
        of_word = self._by_word.get(_word(last_part(name)))
        if of_word is None:
            return None
        wanted = PurePosixPath(name)
        fits = [other for other in of_word if _folders_agree(wanted.parts[:-1], PurePosixPath(other).parts[:-1])]
        # The literal name wins over one in another Unicode form or case, and over one that only begins with it
        for form in (str, composed):
            literal = [other for other in fits if form(PurePosixPath(other).name) == form(wanted.name)]
            if len(literal) == 1:
                return literal[0]
        if len(fits) > 1:
            raise UserError(
                f"wanted one photo for {name!r} of {source}, found {listed(fits)}: write the folder and the ending too"
            )
        return fits[0] if fits else None

    def may_be_known(self, names: Sequence[str]) -> list[bool]:
        """Which of ``names`` may mean an image in any way, see `weaksam.data.name_matching`, found soon for many names.

        The others surely mean none: not without ending or folders, and not as a labelling server may have changed them.
        """
        words = _plain_words(names)
        if words is None:
            return [True] * len(names)
        return [word in self._by_word or word.rpartition(".")[0] in self._by_word for word in words]

    def may_mean(self, name: str) -> bool:
        """Whether there is an image of this file name, whatever its folder."""
        return _word(last_part(file_part(name))) in self._by_word

    def find(self, key: Key, source: str, findings: Findings | None = None) -> str | None:
        """The image that ``key`` means, or None; more than `find_name`, another photo ending or an id will do too.

        Raises `UserError`, naming ``source``, where two images fit.
        """
        if isinstance(key, str):
            if key.strip() in self.texts:
                return self.texts[key.strip()]
            name = self.find_name(key, source, findings)
            path = PurePosixPath(key.replace("\\", "/"))
            if name is None and path.suffix.lower() in PHOTO_SUFFIXES and path.stem:
                name = self.find_name(path.with_suffix("").as_posix(), source, findings)
            number = as_file_id(key)
            if name is not None or not isinstance(number, int):
                return name
            key = number
        fits = self._by_number.get(key, [])
        if len(fits) > 1:
            raise UserError(f"wanted one image of the number {key} of {source}, found {listed(fits)}: give their list")
        return fits[0] if fits else None

    def find_all(self, keys: Sequence[Key], source: str, findings: Findings | None = None) -> dict[str, Key]:
        """``key`` by name for all that belong to one of the images; `UserError` where two mean the same image."""
        key_of: dict[str, Key] = {}
        for key in keys:
            name = self.find(key, source, findings)
            if name is None:
                continue
            if name in key_of:
                raise UserError(
                    f"wanted every image once in {source}, found {key_of[name]!r} and {key!r}, which both mean {name}: "
                    "keep one of them"
                )
            key_of[name] = key
        return key_of

    @cached_property
    def _by_number(self) -> dict[int, list[str]]:
        by_number: dict[int, list[str]] = defaultdict(list)
        for name in self.names:
            number = number_in(name) if self.numbers is None else self.numbers.get(name)
            if number is not None:
                by_number[number].append(name)
        return by_number


def _folders_agree(folders1: Sequence[str], folders2: Sequence[str]) -> bool:
    """Whether the innermost folders are the same, as many as both have."""
    count = min(len(folders1), len(folders2))
    return count == 0 or list(map(composed, folders1[-count:])) == list(map(composed, folders2[-count:]))


def _plain_words(names: Sequence[str]) -> list[str] | None:
    """`_word` of the last part of each of ``names``, where none of them has anything that needs a closer look.

    That is what `file_part`, `last_part` and `may_be_respelt` look for; None where any has it.
    """
    text = plain_text(names)
    if text is None or ("-" in text and _UPLOADED.search(text)):
        return None
    words = text[1:-1].lower().split("\n") if names else []
    return [word.rpartition("/")[2] for word in words] if "/" in text else words


def _word(text: str) -> str:
    return composed(text).lower()


def file_part(name: str) -> str:
    """The path in ``name`` with plain slashes, as of an image id; of an address (``https://...``) its path, decoded."""
    name = name.strip()
    if "://" in name:
        with contextlib.suppress(ValueError):  # an address that is none is a name
            name = unquote(urlsplit(name).path)
    return name.replace("\\", "/").removeprefix("./")


def last_part(path: str) -> str:
    """The last part of a path with plain slashes, as `PurePosixPath.name`, sooner."""
    part = path.rpartition("/")[2]
    return PurePosixPath(path).name if part in ("", ".") else part


def may_be_respelt(name: str) -> bool:
    """Whether a name has anything that a labelling server or another machine may have put there.

    Only such a name may mean an image to `ImageNames.find_name` with findings and none without them.
    """
    return _may_be_respelt(file_part(name))


def _may_be_respelt(path: str) -> bool:
    if "%" in path or ".." in path or ":/" in path or path.startswith("/"):
        return True
    return last_part(path)[8:9] == "-" or (not path.isascii() and last_part(plain_name(path))[8:9] == "-")


def _server_spellings(name: str) -> Iterator[tuple[str, str]]:
    """What a name may have been before a labelling server or another machine changed it, in words and in plain form.

    Escaped characters (``%20``), the address before it, the folders of another machine (an absolute path, a drive or
    ``..``) and the eight hexadecimal digits that Label Studio puts before an upload are taken off, one after the other.
    """
    if not _may_be_respelt(name):
        return
    spelling = plain_name(name)
    if "%" in spelling:
        spelling = plain_name(unquote(spelling))
        yield "an escaped name", spelling
    if _FOREIGN_START.match(spelling) or ".." in PurePosixPath(spelling).parts:
        spelling = PurePosixPath(spelling.rpartition("?d=")[2].partition("?")[0]).name
        yield "a path of another machine by its file name alone", spelling
    path = PurePosixPath(spelling)
    unprefixed = _UPLOAD_PREFIX.sub("", path.name)
    if unprefixed != path.name:
        yield "an uploaded file's name without its prefix", (path.parent / unprefixed).as_posix()


def number_in(name: str) -> int | None:
    """The number in an image's name, as old tools read it; None without digits.

    All digits of the name if it has nothing else but ``_`` (2008_000001 is 2008000001), else its last run of digits
    (COCO_train2014_000000000009 is 9).
    """
    path = PurePosixPath(name)
    stem = path.stem if path.suffix.lower() in PHOTO_SUFFIXES else path.name
    digits = stem.replace("_", "")
    if digits.isdecimal():
        return int(digits)
    runs = re.findall("[0-9]+", stem)
    return int(runs[-1]) if runs else None


def first_repeat(keys: Iterable[Key]) -> Key | None:
    """The first key that came before; None where each comes once."""
    seen: set[Key] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


# Lists of images


@reads("a list of images")
def read_image_list(path: Path, findings: Findings | None = None) -> ImageNames:
    """The images that a list names, in its order.

    A COCO file gives its ``images`` with their numbers; a text file one name per line, without the flags of VOC's
    ``ImageSets/Main``, see `listed_names`; a folder its photos, sorted. Raises `UserError` for an empty list or a
    repeated name.
    """
    findings = findings or Findings()
    numbers, texts = None, {}
    if path.is_dir():
        names = list(list_photos(path))
    elif path.suffix.lower() == ".json":
        images = _coco_images(path, findings)
        names, numbers, texts = images.names, images.numbers, images.texts
    else:
        entries = listed_names(path)
        note_flags(entries, path, findings)
        names = [entry.name for entry in entries]
    repeated = first_repeat(map(plain_name, names))
    if not names or repeated:
        state = f"{repeated!r} twice" if repeated else "none"
        raise UserError(f"wanted a list of images, each once, in {path}, found {state}: mend the list")
    return ImageNames(names, numbers, texts)


def _coco_images(path: Path, findings: Findings) -> ImageEntries:
    """The images of a COCO file, or of a list of them alone."""
    content = read_json(path, "a list of images")
    images = content.get("images") if isinstance(content, dict) else content
    if not isinstance(images, list):
        raise UserError(f"wanted images with id and file_name in {path}, found other JSON: name a COCO truth file")
    return read_image_entries([images], path, findings)
