"""List a file of a folder in the manifest of that folder, and read it only as it is listed there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from weaksam.config import UserError
from weaksam.store.files import file_sha256
from weaksam.store.records import read_record, write_record

MANIFEST = "manifest.json"
FILES = "files"
"""Entry of a manifest: SHA-256 by name of the files beside it that are neither its parts nor its weights."""


def listed_files(folder: Path) -> dict[str, str]:
    """SHA-256 by name of the files that the manifest in ``folder`` lists; empty without one, or where it is damaged."""
    files = (read_record(folder / MANIFEST) or {}).get(FILES)
    return {str(name): str(sha256) for name, sha256 in files.items()} if isinstance(files, dict) else {}


def list_file(path: Path) -> None:
    """Add a file that was just written to the manifest of its folder, which must be there."""
    manifest = read_record(path.with_name(MANIFEST))
    assert manifest is not None, f"{path.parent} has no manifest"
    files = {**listed_files(path.parent), path.name: file_sha256(path)}
    write_record(path.with_name(MANIFEST), {**manifest, FILES: files})


def is_listed(path: Path) -> bool:
    """Whether a file is there and was listed when it was written."""
    return path.is_file() and path.name in listed_files(path.parent)


def listed_bytes(path: Path) -> bytes:
    """The bytes of a listed file; `UserError` where they are not those that were listed."""
    data, sha256 = path.read_bytes(), listed_files(path.parent).get(path.name)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(
            f"{path} is damaged (its SHA-256 is not the manifest's): delete it and rerun, which makes it again"
        )
    return data
