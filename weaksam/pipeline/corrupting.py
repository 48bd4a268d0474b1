"""Render corrupted photos of a folder into another folder, each by its own seed."""

from __future__ import annotations

import io
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from PIL import Image

from weaksam.config import UserError
from weaksam.data.corruptions import Corruption, corrupted, require_corruptions
from weaksam.data.images import BadImage, read_image
from weaksam.data.photos import list_photos
from weaksam.engine.seeds import derive_seed
from weaksam.store.files import atomic_file, write_json_atomic
from weaksam.store.progress import progress
from weaksam.store.records import read_record
from weaksam.terminal import say

FACTS = "corruption.json"
"""What was done, beside the photos."""


def corrupt_folder(images: Path, out: Path, corruption: Corruption, severity: int, seed: int = 0) -> int:
    """Write every photo below ``images`` corrupted to ``out``, as PNG under its own name; returns how many there are.

    Labels hold for both: names are matched without their endings. A photo's corruption follows from (seed, its name).
    A second call with the same arguments writes what is missing. Photos that cannot be read or are too small are named
    and left out. Raises `UserError` for folders that cannot be used, two photos of one name, and another corruption's
    folder.
    """
    require_corruptions()
    if not images.is_dir():
        raise UserError(f"wanted a folder of photos at {images}, found none: name the folder")
    if out.resolve().is_relative_to(images.resolve()):
        raise UserError(f"wanted a folder outside {images} to write to, found {out}: name another one")
    photos = list_photos(images)
    names = _png_names(photos)
    _begin(out, {"corruption": corruption, "severity": severity, "seed": seed})
    left_out = []
    for image_id in progress(list(photos), len(photos), f"corrupt: {corruption}, severity {severity}"):
        target = out / names[image_id]
        if target.exists():
            continue
        try:
            image = read_image(photos[image_id])
            result = corrupted(image, corruption, severity, derive_seed(seed, "corruption", image_id))
        except (BadImage, ValueError) as error:
            left_out.append(f"{image_id} ({error})")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(result).save(buffer, format="PNG", compress_level=1)
        with atomic_file(target) as temporary:
            temporary.write_bytes(buffer.getvalue())
    for sentence in left_out:
        say(f"left out: {sentence}", error=True)
    if len(left_out) == len(photos):
        raise UserError(f"wanted photos in {images}, found {len(photos)} and none that can be corrupted: see above")
    return len(photos) - len(left_out)


def _png_names(photos: dict[str, Path]) -> dict[str, str]:
    """Names below the output folder by image id; `UserError` where two would be one."""
    names = {image_id: str(PurePosixPath(image_id).with_suffix(".png")) for image_id in photos}
    first: dict[str, str] = {}
    for image_id, name in names.items():
        if name in first:
            raise UserError(
                f"wanted photos that differ in more than their endings, found {first[name]} and {image_id}: rename one"
            )
        first[name] = image_id
    return names


def _begin(out: Path, wanted: dict[str, object]) -> None:
    """Write down in ``out`` what is done there; `UserError` where something else was."""
    facts = {**wanted, "imagecorruptions-imaug": version("imagecorruptions-imaug")}
    file = out / FACTS
    if file.is_file():
        if (kept := read_record(file)) != facts:
            kept_there = "a damaged record" if kept is None else str(kept)
            raise UserError(f"wanted a folder for {facts}, found {kept_there} in {out}: name another folder")
        return
    if out.exists() and any(out.iterdir()):
        raise UserError(f"wanted an empty folder at {out}, found files in it: name another one")
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(file, facts)
