"""Remember between runs which photo files were read whole, so that those that did not change are not read again.

``OUT/photos_train.parquet`` has a row for each: path, bytes, times of its last change, and what reading it gave. A file
counts as unchanged where size and both times are what they were. The second time (ctime) is set by the system alone,
whenever a file is written to or replaced: another photo under the old name, with the old size and date, is seen. What
a stage reads is compared with its hash all the same, see `weaksam.data.sample_photos.read_photo`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weaksam import __version__
from weaksam.data.photo_limits import PhotoLimits
from weaksam.data.photos import Photo, verify_photos
from weaksam.store.files import atomic_file

RECENT_NS = 2_000_000_000
"""A file that changed less than this before it was read may change again within the same tick of its disk's clock."""
_NO_FILE = (-1, -1, -1)
_CHUNK = 1024
_NUMBERS = ("num_bytes", "mtime_ns", "ctime_ns", "height", "width", "orientation")
_SCHEMA = pa.schema([("path", pa.binary()), ("sha256", pa.binary(32)), *((name, pa.int64()) for name in _NUMBERS)])
_HEADER = b"read_by"


def known_photos_file(split: str) -> str:
    """The file in a run's folder that remembers the photos of a split."""
    return f"photos_{split}.parquet"


def verify_unknown_photos(
    paths: Mapping[str, Path], bad: dict[str, str], limits: PhotoLimits, file: Path, keep: bool
) -> dict[str, Photo]:
    """As `verify_photos`, but photos that ``file`` remembers are not read; those that are, it remembers with ``keep``.

    A ``file`` that is missing, damaged, or of another version of weaksam or Pillow or other ``limits`` remembers none.
    Photos that cannot be read are read each time. Raises `UserError` if the disk refuses ``file``.
    """
    now = time.time_ns()
    names = [os.fsencode(path) for path in paths.values()]
    states = _file_states(names)  # (N, 3), before anything is read: a file that changes meanwhile is seen the next time
    known = _known(file, limits, paths, names, states)
    photos = verify_photos({image_id: path for image_id, path in paths.items() if image_id not in known}, bad, limits)
    settled = states[:, 2] <= now - RECENT_NS
    if keep and any(row_settled and image_id in photos for image_id, row_settled in zip(paths, settled, strict=True)):
        rows = [number for number, image_id in enumerate(paths) if settled[number] and image_id not in bad]
        ids, both = list(paths), known | photos
        _write(file, limits, [names[row] for row in rows], states[rows], [both[ids[row]] for row in rows])
    return {image_id: known.get(image_id) or photos[image_id] for image_id in paths if image_id not in bad}


def _file_states(names: Sequence[bytes]) -> np.ndarray:
    """Bytes, mtime and ctime (ns) of each file, behind links, int64 ``(N, 3)``; -1 where there is none."""

    def states(start: int) -> list[tuple[int, int, int]]:
        return [_file_state(name) for name in names[start : start + _CHUNK]]

    with ThreadPoolExecutor(8) as pool:  # a network disk lets each of them wait
        chunks = list(pool.map(states, range(0, len(names), _CHUNK)))
    return np.array([state for chunk in chunks for state in chunk], dtype=np.int64).reshape(-1, 3)


def _file_state(name: bytes) -> tuple[int, int, int]:
    try:
        stat = os.stat(name)
    except OSError:
        return _NO_FILE
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _known(
    file: Path, limits: PhotoLimits, paths: Mapping[str, Path], names: Sequence[bytes], states: np.ndarray
) -> dict[str, Photo]:
    """The photos among ``paths`` whose files are as ``file`` remembers them."""
    try:
        table = pq.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return {}
    if (table.schema.metadata or {}).get(_HEADER) != _header(limits) or not table.schema.equals(_SCHEMA):
        return {}
    if len(table) == 0:
        return {}
    rows = pc.index_in(pa.array(names, pa.binary()), value_set=table["path"].combine_chunks())
    rows = rows.fill_null(-1).to_numpy(zero_copy_only=False)
    numbers = np.stack([table[name].to_numpy() for name in _NUMBERS], axis=1)[rows]  # (N, 6); any row where it is -1
    same = ((rows >= 0) & (numbers[:, :3] == states).all(axis=1)).tolist()
    hashes = table["sha256"].take(pa.array(np.maximum(rows, 0))).to_pylist()
    return {
        image_id: Photo(path, (height, width), orientation, sha256.hex(), num_bytes)
        for (image_id, path), is_same, sha256, (num_bytes, _, _, height, width, orientation) in zip(
            paths.items(), same, hashes, numbers.tolist(), strict=True
        )
        if is_same
    }


def _write(
    file: Path, limits: PhotoLimits, names: Sequence[bytes], states: np.ndarray, photos: Sequence[Photo]
) -> None:
    read = np.array([(*photo.size, photo.orientation) for photo in photos], dtype=np.int64).reshape(-1, 3)
    numbers = np.concatenate([states, read], axis=1)  # (N, 6), as _NUMBERS
    hashes = [bytes.fromhex(photo.sha256) for photo in photos]
    columns = [pa.array(names, pa.binary()), pa.array(hashes, pa.binary(32)), *map(pa.array, numbers.T)]
    table = pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata({_HEADER: _header(limits)}))
    with atomic_file(file) as temporary:
        pq.write_table(table, temporary, use_dictionary=False, write_statistics=False, write_page_checksum=True)


def _header(limits: PhotoLimits) -> bytes:
    """What decides, beside its bytes, whether a photo can be read and what is known of it."""
    return json.dumps({"weaksam": __version__, "pillow": PIL.__version__, **limits.model_dump()}).encode()
