"""Open a sealed store by what its manifest says, without knowing which run made it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa

from weaksam.config import UserError
from weaksam.store.columns import read_part
from weaksam.store.records import read_manifest
from weaksam.store.store import FORMAT, Store


def open_sealed(folder: Path) -> Store:
    """The sealed store in ``folder``, to be read by somebody who did not make it.

    Raises `UserError` where there is none, naming sealed ones below, or where it is damaged or of another version.
    """
    manifest = _sound_manifest(folder)
    chunks = [_image_ids(folder, folder / part["file"], part["sha256"]) for part in manifest["parts"]]
    image_ids, part_size = [image_id for chunk in chunks for image_id in chunk], max([1, *map(len, chunks)])
    if sorted(set(image_ids)) != image_ids or any(len(chunk) != part_size for chunk in chunks[:-1]):
        raise UserError(
            f"the store {folder} is damaged (its parts do not hold sorted images, as many in each): make it again"
        )
    store = Store(
        folder,
        stage=manifest["stage"],
        fingerprint=manifest["fingerprint"],
        image_ids=image_ids,
        columns=manifest["columns"],
        part_size=part_size,
        command=f"weaksam {manifest['stage'].replace('_', '-')}",
    )
    store.check_sealed()  # from here on its parts must be those of this manifest
    return store


def _image_ids(folder: Path, path: Path, sha256: str) -> list[str]:
    """The images of one part, in order; `UserError` where it cannot be read or is not what the manifest says."""
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(
                f"the store {folder} is damaged (the SHA-256 of {path.name} is not the manifest's): make it again"
            )
        image_ids = read_part(data, ["image_id"]).column("image_id").to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"the store {folder} is damaged ({error}): make it again") from None
    if not all(isinstance(image_id, str) for image_id in image_ids):
        raise UserError(f"the store {folder} is damaged (images without a name in {path.name}): make it again")
    return image_ids


def _sound_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed store; `UserError` where there is none or it is of another version."""
    path = folder / "manifest.json"
    if not path.is_file():
        below = sorted(str(other.parent) for other in folder.rglob("manifest.json")) if folder.is_dir() else []
        hint = f"name one of the stores below it ({', '.join(below[:4])})" if below else "finish the run that makes it"
        raise UserError(f"wanted a sealed store (a folder with manifest.json) at {folder}, found none: {hint}")
    manifest = read_manifest(path)
    if manifest is None:
        raise UserError(f"wanted the manifest of a store in {path}, found another file: name a store's folder")
    if (version := manifest["format"]) != FORMAT:
        raise UserError(f"wanted a store of format {FORMAT} in {folder}, found format {version}: make it again")
    return manifest
