"""List the photos below a folder, and decode each once to find those that are broken."""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Lock

from weaksam.config import UserError, listed
from weaksam.data.file_errors import reads
from weaksam.data.images import LIMITS, PHOTO_SUFFIXES, BadImage, num_pixels, photo_bytes, verify_image
from weaksam.data.photo_limits import PhotoLimits
from weaksam.data.text_files import is_utf8, printable

_FOREIGN_SUFFIXES = frozenset({".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2"})
"""Endings of files meant as photos that cannot be read: they get a reason, other files are passed over."""
_SUFFIXES = PHOTO_SUFFIXES | _FOREIGN_SUFFIXES
_SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "icon\r"})
"""What operating systems leave in folders, in small letters; like hidden files it is passed over without a word."""
_LARGE_PIXELS = 32_000_000
"""Photos of more pixels are decoded one at a time, so that many threads do not need many times the memory."""


@dataclass(frozen=True)
class Photo:
    """A readable photo: upright ``size`` (H, W), EXIF ``orientation`` 1-8, hash and number of its bytes."""

    path: Path
    size: tuple[int, int]
    orientation: int
    sha256: str
    num_bytes: int


@dataclass
class PhotoFolder:
    """The files below a folder: photos by image id, photos whose names cannot be used, and a count of the others."""

    photos: dict[str, Path] = field(default_factory=dict)
    """Path by image id (name relative to the folder), sorted."""
    bad: dict[str, str] = field(default_factory=dict)
    """The reason, a verb phrase, by a printable form of the name."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of other files and linked folders, by what they are; hidden ones and those of the system do not count."""

    def others(self) -> list[str]:
        """``left_out`` in words, most frequent kinds first."""
        return [
            f"{count} {kind}" for kind, count in sorted(self.left_out.items(), key=lambda pair: (-pair[1], pair[0]))
        ]

    def notes(self, folder: Path) -> tuple[str, ...]:
        """One phrase that says how many files of ``folder`` are photos and what the others are; none without others."""
        if not self.left_out:
            return ()
        others = listed(self.others())
        return (f"photos in {printable(str(folder))}: {len(self.photos) + len(self.bad)}; left out: {others}",)


def is_photo_name(name: str) -> bool:
    """Whether a file's name, with folders or without, ends as a photo's does, even a kind that cannot be read."""
    ending = name[name.rfind(".") :].lower()
    if ending in _SUFFIXES:
        return name[-len(ending) - 1 : -len(ending)] not in ("", "/")  # a file called '.jpg' has no ending
    # What pathlib takes off the end of a path may hide an ending
    return name.endswith(("/", "/.")) and PurePosixPath(name).suffix.lower() in _SUFFIXES


@reads("photos")
def scan_photos(folder: Path) -> PhotoFolder:
    """What is below ``folder``: linked folders are followed, each folder once, and hidden files are left out.

    Raises `UserError` where there is no photo, and for a folder that cannot be opened.
    """
    scan = PhotoFolder()
    for name, path in files_below(folder, scan.left_out):
        if not is_photo_name(name):
            suffix = printable(PurePosixPath(name).suffix.lower())
            scan.left_out[suffix or "without an ending"] += 1
        elif not is_utf8(name):
            scan.bad[printable(name)] = "has a name that is not UTF-8: rename it"
        else:
            scan.photos[name] = path
    if not scan.photos:
        others = scan.others()
        others += [f"{image_id}, which {reason}" for image_id, reason in scan.bad.items()]
        state = f"only {listed(others, 3)}" if others else "none"
        raise UserError(
            f"wanted photos (.jpg, .png, .webp, .bmp) in {folder}, found {state}: name the folder of the photos"
        )
    scan.photos = dict(sorted(scan.photos.items()))
    return scan


def list_photos(folder: Path) -> dict[str, Path]:
    """Path by image id (name relative to ``folder``) of every photo below ``folder``, sorted; see `scan_photos`."""
    return scan_photos(folder).photos


def files_below(folder: Path, left_out: Counter[str]) -> Iterator[tuple[str, Path]]:
    """Name relative to ``folder``, and path, of every file; first of real folders, then of linked ones.

    A linked folder that leads to one that was read already, or around to ``folder``, is counted in ``left_out``.
    """
    seen: set[str] = set()
    above = {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    waiting = deque([""])
    while waiting:
        start = waiting.popleft()
        target = os.path.realpath(folder / start)
        if target in seen or target in above:
            left_out["linked folder that leads to another one here"] += 1
            continue
        seen.add(target)
        links: list[str] = []
        yield from _real_files(folder, start, seen, links)
        waiting += sorted(links)


def _real_files(folder: Path, start: str, seen: set[str], links: list[str]) -> Iterator[tuple[str, Path]]:
    """The files below ``folder / start``; real folders on the way are added to ``seen``, linked ones to ``links``."""
    for root, folders, files in os.walk(folder / start, onerror=_refuse_closed):
        inside = os.path.relpath(root, folder)
        prefix = "" if inside == "." else f"{inside}/".replace(os.sep, "/")
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in folders:
            if os.path.islink(os.path.join(root, name)):
                links.append(prefix + name)
            else:
                seen.add(os.path.realpath(os.path.join(root, name)))
        yield from ((prefix + name, Path(os.path.join(root, name))) for name in files if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _refuse_closed(error: OSError) -> None:
    folder = printable(str(error.filename))
    raise UserError(f"wanted files below {folder}, found a folder that cannot be opened ({error.strerror}): open it")


def verify_photos(paths: Mapping[str, Path], bad: dict[str, str], limits: PhotoLimits = LIMITS) -> dict[str, Photo]:
    """The readable ones of ``paths`` (by image id); the others go to ``bad`` with the reason, a verb phrase."""
    one_at_a_time = Lock()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # decoding leaves Python's lock
        results = list(pool.map(lambda path: _verify(path, limits, one_at_a_time), paths.values()))
    photos = {}
    for image_id, result in zip(paths, results, strict=True):
        if isinstance(result, Photo):
            photos[image_id] = result
        else:
            bad[image_id] = result
    return photos


def _verify(path: Path, limits: PhotoLimits, one_at_a_time: Lock) -> Photo | str:
    """The photo at ``path``, or the reason why it cannot be read; large ones wait for each other."""
    try:
        data = photo_bytes(path, limits)
        with one_at_a_time if num_pixels(data) > _LARGE_PIXELS else nullcontext():
            size, orientation = verify_image(data, path, limits)
    except BadImage as error:
        return error.reason
    return Photo(path, size, orientation, hashlib.sha256(data).hexdigest(), len(data))
