"""Open a sealed store by what its manifest says, without knowing which run made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from weaksam.config import UserError
from weaksam.store.store import FORMAT, Store


def open_sealed(folder: Path) -> Store:
    """The sealed store in ``folder``, to be read by somebody who did not make it.

    Raises `UserError` where there is none, naming sealed ones below, or where it is damaged or of another version.
    """
    manifest = _read_manifest(folder)
    names = [folder / part["file"] for part in manifest["parts"]]
    try:
        columns = [pq.read_table(path, columns=["image_id"], use_threads=False).column(0) for path in names]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"the store {folder} is damaged ({error}): make it again") from None
    chunks = [column.to_pylist() for column in columns]
    return Store(
        folder,
        stage=manifest["stage"],
        fingerprint=manifest["fingerprint"],
        image_ids=[image_id for chunk in chunks for image_id in chunk],
        columns=manifest["columns"],
        part_size=max([1, *map(len, chunks)]),
        command=f"weaksam {manifest['stage'].replace('_', '-')}",
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed store; `UserError` where there is none or it is of another version."""
    path = folder / "manifest.json"
    if not path.is_file():
        below = sorted(str(other.parent) for other in folder.rglob("manifest.json")) if folder.is_dir() else []
        hint = f"name one of the stores below it ({', '.join(below[:4])})" if below else "finish the run that makes it"
        raise UserError(f"wanted a sealed store (a folder with manifest.json) at {folder}, found none: {hint}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"wanted the manifest of a store in {path}, found another file: name a store's folder"
        ) from None
    if version != FORMAT:
        raise UserError(f"wanted a store of format {FORMAT} in {folder}, found format {version}: make it again")
    return dict(manifest)
