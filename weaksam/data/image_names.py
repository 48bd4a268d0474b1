"""Find the image that a foreign file means: by its name, with or without ending and folders, or by its number."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from weaksam.config import UserError, listed
from weaksam.data.images import PHOTO_SUFFIXES
from weaksam.data.photos import list_photos
from weaksam.data.text_files import read_json

Key = str | int
"""How a file names an image: by a name or by a number."""


class ImageNames:
    """The images a file may speak of, found by name or number.

    ``numbers`` are those that a COCO file gives them; without them an image's number is read from its name, as old
    tools do: all its digits if it has nothing else but ``_`` (2008_000001 is 2008000001), else the last run of digits
    (COCO_train2014_000000000009 is 9).
    """

    def __init__(self, names: Sequence[str], numbers: Mapping[str, int] | None = None) -> None:
        self.names, self.numbers = tuple(names), numbers
        self._matcher = NameMatcher(self.names)
        self._by_number: dict[int, list[str]] = defaultdict(list)
        for name in self.names:
            number = number_in(name) if numbers is None else numbers.get(name)
            if number is not None:
                self._by_number[number].append(name)

    def find(self, key: Key, source: str) -> str | None:
        """The name of the image that ``key`` means, or None. `UserError`, naming ``source``, where two images fit."""
        if isinstance(key, str):
            found = self._matcher.find(key, source)
            path = PurePosixPath(key.replace("\\", "/"))
            if found is None and path.suffix.lower() in PHOTO_SUFFIXES:
                found = self._matcher.find(path.with_suffix("").as_posix(), source)
            if found is not None or not key.isdecimal():
                return found
        fits = self._by_number.get(int(key), [])
        if len(fits) > 1:
            raise UserError(f"wanted one image of the number {key} of {source}, found {listed(fits)}: give their list")
        return fits[0] if fits else None

    def find_all(self, keys: Sequence[Key], source: str) -> dict[str, Key]:
        """``key`` by name for all that belong to one of the images; `UserError` where two mean the same image."""
        found: dict[str, Key] = {}
        for key in keys:
            name = self.find(key, source)
            if name is not None and name in found:
                raise UserError(
                    f"wanted every image once in {source}, found {found[name]!r} and {key!r}, which both mean {name}: "
                    "keep one of them"
                )
            if name is not None:
                found[name] = key
        return found


def number_in(name: str) -> int | None:
    """The number that an image's name holds, see `ImageNames`; None without digits."""
    stem = (
        PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in PHOTO_SUFFIXES else PurePosixPath(name).name
    )
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


def read_image_list(path: Path) -> ImageNames:
    """The images that a list names, in its order.

    A COCO file gives its ``images`` with their numbers; a text file one name per line, of which the first word counts
    (VOC's ``ImageSets/Main``); a folder its photos, sorted. Raises `UserError` for an empty list or a repeated name.
    """
    numbers = None
    if path.is_dir():
        names = list(list_photos(path))
    elif path.suffix.lower() == ".json":
        numbers = _coco_numbers(path)
        names = list(numbers)
    else:
        names = _lines(path)
    repeated = first_repeat(names)
    if not names or repeated:
        found = f"{repeated!r} twice" if repeated else "none"
        raise UserError(f"wanted a list of images, each once, in {path}, found {found}: mend the list")
    return ImageNames(names, numbers)


def _coco_numbers(path: Path) -> dict[str, int]:
    content = read_json(path, "a list of images")
    images = content.get("images") if isinstance(content, dict) else content
    if not isinstance(images, list) or not all(
        isinstance(one, dict) and {"id", "file_name"} <= set(one) for one in images
    ):
        raise UserError(f"wanted images with id and file_name in {path}, found other JSON: name a COCO truth file")
    found = {str(one["file_name"]): int(one["id"]) for one in images}
    if len(found) < len(images):
        raise UserError(f"wanted every file_name once in {path}, found one twice: mend the list")
    return found


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"wanted a list of images (one name a line) at {path}, found none ({error})") from None
    stripped = [line.strip() for line in lines if line.strip()]
    # A name of several words has an ending; in VOC's lists a class's flag follows the name
    return [line if PurePosixPath(line).suffix.lower() in PHOTO_SUFFIXES else line.split()[0] for line in stripped]


class NameMatcher:
    """Finds the photo that a name in a list means: with or without its ending, with or without leading folders."""

    def __init__(self, image_ids: Sequence[str]):
        self._exact = frozenset(image_ids)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for image_id in image_ids:
            path = PurePosixPath(image_id)
            for key in {path.name.lower(), path.stem.lower()}:
                self._by_name[key].append(image_id)

    def find(self, name: str, source: str) -> str | None:
        """The image id meant by ``name``, or None where no photo fits.

        Folders must agree as far as both sides give them. Raises `UserError`, naming ``source``, where two photos fit.
        """
        name = name.strip().replace("\\", "/").removeprefix("./")
        if name in self._exact:
            return name
        wanted = PurePosixPath(name)
        fits = [
            image_id
            for image_id in self._by_name.get(wanted.name.lower(), [])
            if _folders_agree(wanted.parts[:-1], PurePosixPath(image_id).parts[:-1])
        ]
        # The literal name wins over one in other case, and over one that only begins with it
        literal = [image_id for image_id in fits if PurePosixPath(image_id).name == wanted.name]
        fits = literal if len(literal) == 1 else fits
        if len(fits) > 1:
            raise UserError(
                f"wanted one photo for {name!r} of {source}, found {listed(fits)}: write the folder and the ending too"
            )
        return fits[0] if fits else None


def _folders_agree(folders1: Sequence[str], folders2: Sequence[str]) -> bool:
    count = min(len(folders1), len(folders2))
    return count == 0 or tuple(folders1[-count:]) == tuple(folders2[-count:])
