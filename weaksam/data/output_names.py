"""Choose the names under which photos, labels and lists of classes are written: safe on any disk, and each once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from weaksam.config import UserError
from weaksam.structures.dataset import Dataset

_DRIVE = re.compile(r"^[A-Za-z]:")
_UNSAFE = re.compile(r"[^\w.-]+")
"""What the name of a file may not have on some system, or needs quoting in most."""


def photo_paths(dataset: Dataset, suffix: str | None = None) -> dict[str, PurePosixPath]:
    """A relative path for each photo of ``dataset`` by its image id, which it equals but for what would leave a folder.

    Drives, leading slashes and ``..``, as in files of other machines, are left out. With a ``suffix`` that replaces the
    ending. Raises `UserError` where two photos get one path, on a disk that ignores capitals too.
    """
    paths = {}
    for image_id in dataset.image_ids:
        parts = _DRIVE.sub("", image_id.replace("\\", "/")).split("/")
        path = PurePosixPath(*[part for part in parts if part not in ("", ".", "..")])
        paths[image_id] = path if suffix is None else path.with_suffix(suffix)
    _refuse_twice(paths, "photo")
    return paths


def class_file_names(classes: Iterable[str]) -> dict[str, str]:
    """A file's name for each class: letters of any script, digits, ``_``, ``.`` and ``-``; others become ``_``.

    Raises `UserError` where two classes get one name.
    """
    names = {name: _UNSAFE.sub("_", name).strip(".") or "_" for name in classes}
    _refuse_twice({name: PurePosixPath(cleaned) for name, cleaned in names.items()}, "class")
    return names


def _refuse_twice(paths: Mapping[str, PurePosixPath], kind: str) -> None:
    """`UserError` where two names lead to one path in small letters."""
    first: dict[str, str] = {}
    for name, path in paths.items():
        other = first.setdefault(path.as_posix().casefold(), name)
        if other != name:
            raise UserError(
                f"wanted a file name of its own for each {kind}, found that {other!r} and {name!r} both become "
                f"{path}: rename one of them, or choose a format of one file (coco, csv, labelstudio, cvat)"
            )
