"""The store between stages: sealed Parquet parts that a killed run resumes byte for byte."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from weaksam.config import Settings, UserError, fingerprint_of
from weaksam.store.files import atomic_file, file_sha256, write_json_atomic
from weaksam.store.progress import Progress

__all__ = ["Part", "Store", "atomic_file", "file_sha256", "stage_fingerprint", "store_folder", "write_json_atomic"]

FORMAT = 1
"""Version of the store's layout on disk; part of every stage fingerprint."""

_BOX = pa.list_(pa.float32(), 4)
_RLE = pa.struct([("size", pa.list_(pa.int64(), 2)), ("counts", pa.string())])
_TYPES: dict[str, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "str": pa.string(),
    "ints": pa.list_(pa.int64()),
    "floats": pa.list_(pa.float32()),
    "boxes": pa.list_(_BOX),
    "rles": pa.list_(_RLE),
    "strs": pa.list_(pa.string()),
}
_NUMPY_TYPES = {"ints": np.int64, "floats": np.float32, "boxes": np.float32}
_CACHED_PARTS = 64


@dataclass(frozen=True)
class Part:
    """One file of a store: its place in the store and the images it holds, in order."""

    index: int
    image_ids: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name of the part's file inside the store's folder."""
        return f"part-{self.index:05d}.parquet"


class Store:
    """One row per image, in fixed parts of the sorted image list; readable once it is sealed.

    ``columns`` maps a name to a kind: ``int``, ``float``, ``str`` (Python values), ``ints`` (int64 tensor),
    ``floats`` (float32 tensor), ``boxes`` (float32 tensor ``(N, 4)``, xyxy), ``rles`` (list of COCO RLE
    dictionaries) or ``strs`` (list). ``command`` is what an error tells the user to run. A store of no image
    has no part and can be sealed. Any number of processes may fill one store at the same time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stage: str,
        fingerprint: str,
        image_ids: Sequence[str],
        columns: Mapping[str, str],
        part_size: int = 32,
        command: str = "weaksam run",
    ) -> None:
        assert len(set(image_ids)) == len(image_ids), "an image id is given twice"
        assert set(columns.values()) <= set(_TYPES), f"column kinds are {sorted(_TYPES)}, found {dict(columns)}"
        self.folder, self.stage, self.fingerprint, self.command = Path(folder), stage, fingerprint, command
        self.image_ids = tuple(sorted(image_ids))
        self.columns = dict(columns)
        chunks = [self.image_ids[start : start + part_size] for start in range(0, len(self.image_ids), part_size)]
        self.parts = tuple(Part(index, chunk) for index, chunk in enumerate(chunks))
        self._place = {image_id: (part, row) for part in self.parts for row, image_id in enumerate(part.image_ids)}
        self._schema = self._make_schema()
        self._whole: set[int] = set()  # parts known to be complete on disk
        self._table = functools.lru_cache(maxsize=_CACHED_PARTS)(self._read_sealed_part)

    # Writing

    @property
    def sealed(self) -> bool:
        """Whether every part is written and the manifest lists them."""
        return self._manifest_path.is_file()

    def missing_parts(self) -> list[Part]:
        """The parts that are not on disk yet, or are damaged there, in order; none once sealed."""
        return [] if self.sealed else [part for part in self.parts if not self._is_whole(part)]

    def write(self, part: Part, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one part atomically; ``rows`` hold ``image_id`` and every column, in any order, one per image."""
        by_id = {row["image_id"]: row for row in rows}
        assert set(by_id) == set(part.image_ids), f"wanted one row for each of {part.image_ids}, found {list(by_id)}"
        arrays = [_to_arrow([by_id[image_id]["image_id"] for image_id in part.image_ids], "str")]
        for name, kind in self.columns.items():
            arrays.append(_to_arrow([by_id[image_id][name] for image_id in part.image_ids], kind))
        with atomic_file(self.folder / part.file_name) as temporary:
            pq.write_table(
                pa.Table.from_arrays(arrays, schema=self._schema),
                temporary,
                compression="zstd",
                compression_level=3,
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
                store_schema=True,
                version="2.6",
                data_page_version="1.0",
            )
        self._whole.add(part.index)

    def seal(self) -> None:
        """Write the manifest, which makes the store readable; asserts that no part is missing."""
        if self.sealed:
            return
        missing = self.missing_parts()
        assert not missing, f"{self.folder} cannot be sealed: {len(missing)} parts are missing"
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder, wait=True):
            if not self.sealed:  # another process may have been faster
                for leftover in self.folder.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
                write_json_atomic(self._manifest_path, self._make_manifest(), indent=1)
        shutil.rmtree(self._claims, ignore_errors=True)

    def fill(self, compute: Callable[[str], Mapping[str, Any]], progress: str | None = None) -> Store:
        """Compute every missing part image by image, seal, and return the store.

        ``compute(image_id)`` gives a row (``image_id`` may be left out) and must depend on nothing but the image
        and the settings. Another process filling the same store shares the work: each part is claimed by one.
        """
        return self.fill_parts(lambda image_ids: ({**compute(one), "image_id": one} for one in image_ids), progress)

    def fill_parts(
        self, compute: Callable[[Sequence[str]], Iterable[Mapping[str, Any]]], progress: str | None = None
    ) -> Store:
        """Like `fill`, for work that is faster on many images: ``compute(image_ids)`` yields the rows of one part."""
        missing = self.missing_parts()
        uncounted = set(missing)
        with Progress(sum(len(part.image_ids) for part in missing), progress or self.stage) as shown:
            for wait in (False, True):  # first the unclaimed parts, then those whose worker may have died
                for part in missing:
                    with self._claim(part, wait) as claimed:
                        if claimed and not self.sealed and not self._is_whole(part):
                            self.write(part, _counted(compute(part.image_ids), shown))
                            uncounted.discard(part)
                    for other in [one for one in uncounted if (self.folder / one.file_name).is_file()]:
                        uncounted.discard(other)  # another process did it meanwhile
                        shown.update(len(other.image_ids))
        self.seal()
        return self

    # Reading

    def rows(self, *names: str) -> Iterator[dict[str, Any]]:
        """Every row in image order: ``image_id`` and the columns ``names`` (all if none is named).

        Raises `UserError` if the store is not sealed, was made with other settings or is damaged.
        """
        self.manifest  # noqa: B018  (a store of no image must be sealed too)
        for part in self.parts:
            table = self._read_sealed_part(part)
            yield from (self._row(table, row, names) for row in range(len(part.image_ids)))

    def __getitem__(self, image_id: str) -> dict[str, Any]:
        """The row of one image; raises `UserError` as `rows` does."""
        return self.read(image_id)

    def read(self, image_id: str, *names: str) -> dict[str, Any]:
        """``image_id`` and the columns ``names`` (all if none is named) of one image; raises as `rows` does."""
        part, row = self._place[image_id]
        return self._row(self._table(part), row, names)

    def column(self, name: str) -> Mapping[str, Any]:
        """The column ``name`` by image id, each value read when it is asked for; raises as `rows` does."""
        return _Column(self, name)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._place

    def __len__(self) -> int:
        return len(self.image_ids)

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """What the sealed store says of itself: stage, fingerprint, columns, and each part's file, rows, SHA-256."""
        if not self.sealed:
            raise UserError(self._unsealed_sentence())
        found = json.loads(self._manifest_path.read_text(encoding="utf-8"))
        for key, wanted in self._identity().items():
            if found.get(key) != wanted:
                raise UserError(
                    f"{self.folder} was made with another {key} (wanted {_brief(wanted)}, found "
                    f"{_brief(found.get(key))}): run '{self.command}' with another out folder or delete this one"
                )
        return found

    # Details

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def _claims(self) -> Path:
        return self.folder / ".claims"

    def _make_schema(self) -> pa.Schema:
        fields = [pa.field("image_id", pa.string(), nullable=False)]
        fields += [pa.field(name, _TYPES[kind], nullable=False) for name, kind in self.columns.items()]
        columns = json.dumps(self.columns)
        return pa.schema(fields, {"stage": self.stage, "fingerprint": self.fingerprint, "columns": columns})

    def _identity(self) -> dict[str, Any]:
        images = fingerprint_of(self.image_ids)
        return {"stage": self.stage, "fingerprint": self.fingerprint, "columns": self.columns, "images": images}

    def _make_manifest(self) -> dict[str, Any]:
        parts = [
            {"file": part.file_name, "rows": len(part.image_ids), "sha256": file_sha256(self.folder / part.file_name)}
            for part in self.parts
        ]
        return {"format": FORMAT, **self._identity(), "rows": len(self), "parts": parts}

    def _unsealed_sentence(self) -> str:
        name = self.folder.name.rsplit("-", 1)[0]
        others = [path for path in self.folder.parent.glob(f"{name}-*/manifest.json") if path.parent != self.folder]
        hint = f"; {len(others)} beside it made with other settings" if others else ""
        what = "is not sealed (manifest.json is missing)" if self.folder.is_dir() else "does not exist yet"
        return f"the {self.stage} store {self.folder} {what}{hint}: run '{self.command}' to finish it"

    def _is_whole(self, part: Part) -> bool:
        """Whether the part lies on disk undamaged; raises `UserError` if it belongs to another store."""
        path = self.folder / part.file_name
        if part.index in self._whole or not path.is_file():
            return part.index in self._whole
        try:
            table = pq.read_table(path, page_checksum_verification=True, use_threads=False)
        except (OSError, pa.ArrowException):
            return False
        same_rows = table.column("image_id").to_pylist() == list(part.image_ids)
        found = table.schema.metadata or {}
        if not same_rows or any(found.get(key) != value for key, value in self._schema.metadata.items()):
            raise UserError(
                f"{path} belongs to another store (other settings or images): run '{self.command}' with another "
                "out folder or delete this one"
            )
        self._whole.add(part.index)
        return True

    @contextlib.contextmanager
    def _claim(self, part: Part, wait: bool) -> Iterator[bool]:
        """Whether this process may compute the part; the system lets go of the claim of a process that dies."""
        if self.sealed or self._is_whole(part):
            yield False
            return
        try:
            self._claims.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process sealed the store this moment
                (self._claims / part.file_name).touch()
            with _locked(self._claims / part.file_name, wait) as claimed:
                yield claimed
        finally:
            if self.sealed:
                shutil.rmtree(self._claims, ignore_errors=True)

    def _read_sealed_part(self, part: Part) -> pa.Table:
        entry, path = self.manifest["parts"][part.index], self.folder / part.file_name
        if not path.is_file() or file_sha256(path) != entry["sha256"]:
            state = "is damaged (its SHA-256 is not the manifest's)" if path.is_file() else "is missing"
            raise UserError(f"{path} {state}: delete {self.folder} and run '{self.command}' to make it again")
        return pq.read_table(path, use_threads=False)

    def _row(self, table: pa.Table, row: int, names: Sequence[str]) -> dict[str, Any]:
        values = {name: _from_arrow(table.column(name)[row], self.columns[name]) for name in names or self.columns}
        return {"image_id": table.column("image_id")[row].as_py(), **values}


class _Column(Mapping[str, Any]):
    """One column of a store, which stays on disk."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def __getitem__(self, image_id: str) -> Any:
        return self._store.read(image_id, self._name)[self._name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.image_ids)

    def __len__(self) -> int:
        return len(self._store)


def store_folder(out: Path, stage: str, name: str, fingerprint: str) -> Path:
    """Where the store (or the trained weights) ``name`` of a stage lies: other settings, another folder."""
    return out / stage / "store" / f"{name}-{fingerprint[:12]}"


def stage_fingerprint(stage: str, settings: Settings, inputs: Mapping[str, str]) -> str:
    """SHA-256 of all that affects a stage's result: its name, its settings, the fingerprints of its inputs."""
    return fingerprint_of({"format": FORMAT, "stage": stage, "settings": settings, "inputs": dict(inputs)})


@contextlib.contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the system's lock on a file or folder; False at once if another process has it and ``wait`` is off."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # the claims went as another process sealed the store
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _counted(rows: Iterable[Mapping[str, Any]], shown: Progress) -> Iterator[Mapping[str, Any]]:
    """``rows`` as they come, each counted as done."""
    for row in rows:
        yield row
        shown.update()


def _to_arrow(values: list[Any], kind: str) -> pa.Array:
    """One column of a part; a list column takes one list or tensor per image."""
    if kind not in _NUMPY_TYPES:
        return pa.array(values, type=_TYPES[kind])
    arrays = [_to_numpy(value, kind) for value in values]
    offsets = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int32)
    shape = (0, 4) if kind == "boxes" else (0,)
    flat = pa.array(np.concatenate([np.empty(shape, _NUMPY_TYPES[kind]), *arrays]).reshape(-1))
    if kind == "boxes":
        flat = pa.FixedSizeListArray.from_arrays(flat, type=_BOX)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=_TYPES[kind])


def _to_numpy(value: Any, kind: str) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if kind == "boxes":
        array = array.reshape(-1, 4) if array.size == 0 else array
        assert array.ndim == 2 and array.shape[1] == 4, f"boxes must be (N, 4), found {array.shape}"
    else:
        assert array.ndim == 1, f"{kind} must be one-dimensional, found {array.shape}"
    assert kind != "ints" or array.size == 0 or array.dtype.kind in "iub", f"ints must be whole, found {array.dtype}"
    return array.astype(_NUMPY_TYPES[kind])


def _from_arrow(scalar: pa.Scalar, kind: str) -> Any:
    if kind not in _NUMPY_TYPES:
        return scalar.as_py()
    values = scalar.values.flatten() if kind == "boxes" else scalar.values
    tensor = torch.from_numpy(np.array(values.to_numpy(zero_copy_only=False), dtype=_NUMPY_TYPES[kind]))
    return tensor.reshape(-1, 4) if kind == "boxes" else tensor


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"
