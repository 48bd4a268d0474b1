"""Keep one row per photo in sealed Parquet parts, which a killed run resumes byte for byte."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from weaksam.config import Settings, UserError, fingerprint_of
from weaksam.store.claims import Claims
from weaksam.store.columns import COLUMN_TYPES, column_problem, part_bytes, part_schema, read_part, row_of
from weaksam.store.files import file_sha256
from weaksam.store.listed_files import FILES, MANIFEST
from weaksam.store.part_helpers import Rows, part_helpers
from weaksam.store.parts import PART_SIZE, PartFile, StorePart, part_names, remove_other_files, whole_files, write_part
from weaksam.store.progress import Progress
from weaksam.store.records import read_manifest, write_record

FORMAT = 1
"""Version of the store's layout on disk; part of every stage fingerprint."""
_CACHED_PARTS = 64
"""Parts of an open store that stay in memory for `Store.read`."""


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
        part_size: int = PART_SIZE,
        command: str = "weaksam run",
    ) -> None:
        assert len(set(image_ids)) == len(image_ids), "an image id is given twice"
        assert set(columns.values()) <= set(COLUMN_TYPES), (
            f"column kinds are {sorted(COLUMN_TYPES)}, found {dict(columns)}"
        )
        self.folder, self.stage, self.fingerprint, self.command = Path(folder), stage, fingerprint, command
        self.image_ids = tuple(sorted(image_ids))
        self.columns = dict(columns)
        chunks = [self.image_ids[start : start + part_size] for start in range(0, len(self.image_ids), part_size)]
        self.parts = tuple(StorePart(index, chunk) for index, chunk in enumerate(chunks))
        self._part_size = part_size
        self._metadata = {"stage": stage, "fingerprint": fingerprint, "columns": json.dumps(self.columns)}
        self._claims = Claims(self.folder / ".claims")
        self._whole: dict[int, PartFile] = {}  # parts known to be complete on disk
        self._stated: dict[str, Any] | None = None  # the manifest, once it is there
        self._table = functools.lru_cache(maxsize=_CACHED_PARTS)(self._read_sealed_part)

    # Writing

    @property
    def sealed(self) -> bool:
        """Whether every part is written and the manifest lists them; not with a damaged manifest, which is remade."""
        if self._stated is None:
            self._stated = read_manifest(self._manifest_path)
        return self._stated is not None

    def missing_parts(self) -> list[StorePart]:
        """The parts that are not on disk yet, or are damaged there, in order; none once sealed."""
        if self.sealed:
            return []
        names = part_names(self.folder)
        return [part for part in self.parts if not self._is_whole(part, names)]

    def write(self, part: StorePart, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one part atomically; ``rows`` hold ``image_id`` and every column, in any order, one per image.

        Of a store that another process has sealed meanwhile nothing is written.
        """
        by_id = {row["image_id"]: row for row in rows}
        assert set(by_id) == set(part.image_ids), f"wanted one row for each of {part.image_ids}, found {list(by_id)}"
        if self.sealed:
            return
        in_order = [by_id[image_id] for image_id in part.image_ids]
        try:
            self._whole[part.index] = write_part(self.folder, part, part_bytes(in_order, self.columns, self._metadata))
        except FileNotFoundError:
            if not self.sealed:  # by another process, which wrote the part too and removed what was half written
                raise

    def seal(self) -> None:
        """Write the manifest, which makes the store readable; asserts that no part is missing."""
        if self.sealed:
            return
        missing = self.missing_parts()
        assert not missing, f"{self.folder} cannot be sealed: {len(missing)} parts are missing"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._claims.claim("seal", wait=True):
            if not self.sealed:  # another process may have been faster
                write_record(self._manifest_path, self._make_manifest())
                for leftover in self.folder.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
        self._claims.remove()

    def fill(
        self, compute: Callable[[str], Mapping[str, Any]], progress: str | None = None, *, cheap: bool = False
    ) -> Store:
        """Compute every missing part image by image, seal, and return the store.

        ``compute(image_id)`` gives a row (``image_id`` may be left out) and must depend on nothing but the image
        and the settings. Another process filling the same store shares the work: each part is claimed by one. In a
        block of `filled_by` others do all of it, unless rows are ``cheap``: less work than asking others.
        """

        def rows(image_ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
            return ({**compute(image_id), "image_id": image_id} for image_id in image_ids)

        return self.fill_parts(rows, progress, cheap=cheap)

    def fill_parts(self, compute: Rows, progress: str | None = None, *, cheap: bool = False) -> Store:
        """Like `fill`, for work that is faster on many images: ``compute(image_ids)`` yields the rows of one part."""
        missing = self.missing_parts()
        helpers = None if cheap else part_helpers()
        with Progress(sum(len(part.image_ids) for part in missing), progress or self.stage) as shown:
            if helpers is None:
                self._fill_claimed(missing, compute, shown)
            elif missing:
                helpers.fill(self, compute, shown)
        self.seal()
        return self

    def _fill_claimed(self, missing: Sequence[StorePart], compute: Rows, shown: Progress) -> None:
        """Compute the ``missing`` parts that no other process claims, and wait for the others."""
        uncounted = set(missing)
        for wait in (False, True):  # first the unclaimed parts, then those whose worker may have died
            for part in missing:
                with self._claim(part, wait) as claimed:
                    if claimed and not self.sealed and not self._is_whole(part):
                        self.write(part, _counted(compute(part.image_ids), shown))
                        uncounted.discard(part)
                # Count what other processes wrote meanwhile
                names = part_names(self.folder)
                for other in [other for other in uncounted if other.index in names]:
                    uncounted.discard(other)
                    shown.update(len(other.image_ids))

    # Reading

    def rows(self, *names: str) -> Iterator[dict[str, Any]]:
        """Every row in image order: ``image_id`` and the columns ``names`` (all if none is named).

        Raises `UserError` if the store is not sealed, was made with other settings or is damaged.
        """
        self.check_sealed()  # a store of no image too
        for part in self.parts:
            table = self._read_sealed_part(part)
            yield from (self._row(table, row, names) for row in range(len(part.image_ids)))

    def __getitem__(self, image_id: str) -> dict[str, Any]:
        """The row of one image; raises `UserError` as `rows` does."""
        return self.read(image_id)

    def read(self, image_id: str, *names: str) -> dict[str, Any]:
        """``image_id`` and the columns ``names`` (all if none is named) of one image; raises as `rows` does."""
        place = self._place(image_id)
        if place is None:
            raise KeyError(image_id)
        part, row = divmod(place, self._part_size)
        return self._row(self._table(self.parts[part]), row, names)

    def column(self, name: str) -> Mapping[str, Any]:
        """The column ``name`` by image id, each value read when it is asked for; raises as `rows` does."""
        return _Column(self, name)

    def __contains__(self, image_id: str) -> bool:
        return self._place(image_id) is not None

    def __len__(self) -> int:
        return len(self.image_ids)

    def check_sealed(self) -> None:
        """Raise `UserError` where the store is not sealed, or was made with other settings or of other images."""
        _ = self.manifest  # reading it is the check

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """What the sealed store says of itself: stage, fingerprint, columns, and each part's file, rows, SHA-256.

        ``threads``: how many the process that sealed it gave to torch, whose sums they round differently.
        """
        if not self.sealed or self._stated is None:
            raise UserError(self._unsealed_sentence())
        manifest = self._stated
        for key, wanted in self._identity().items():
            if manifest.get(key) != wanted:
                raise UserError(
                    f"{self.folder} was made with another {key} (wanted {_brief(wanted)}, found "
                    f"{_brief(manifest.get(key))}): run '{self.command}' with another out folder or delete this one"
                )
        if len(manifest["parts"]) != len(self.parts):
            raise UserError(
                f"wanted {len(self.parts)} parts in {self._manifest_path}, found {len(manifest['parts'])}: delete "
                f"{self.folder} and run '{self.command}' to make it again"
            )
        return manifest

    # Details

    def _place(self, image_id: str) -> int | None:
        """The image's number in the sorted list, by bisection; None where it is not in it."""
        place = bisect_left(self.image_ids, image_id)
        return place if place < len(self.image_ids) and self.image_ids[place] == image_id else None

    @property
    def _manifest_path(self) -> Path:
        return self.folder / MANIFEST

    def _identity(self) -> dict[str, Any]:
        images = fingerprint_of(self.image_ids)
        return {"stage": self.stage, "fingerprint": self.fingerprint, "columns": self.columns, "images": images}

    def _make_manifest(self) -> dict[str, Any]:
        """The manifest of the parts as they lie on disk; files that it does not name are removed."""
        names = part_names(self.folder)
        for index, file in list(self._whole.items()):
            if names.get(index) != [file.name]:  # another process wrote the part too, and its file may have stayed
                del self._whole[index]
        missing = [part for part in self.parts if not self._is_whole(part, names)]
        assert not missing, f"{self.folder} cannot be sealed: {len(missing)} parts are missing"
        files = [self._whole[part.index] for part in self.parts]
        for file in files:
            if file_sha256(self.folder / file.name) != file.sha256:
                raise UserError(
                    f"{self.folder / file.name} was damaged after it was written: run '{self.command}' again, which "
                    "computes that part anew"
                )
        remove_other_files(self.folder, {i: file.name for i, file in enumerate(files)}, part_names(self.folder))
        parts = [
            {"file": file.name, "rows": len(part.image_ids), "sha256": file.sha256}
            for part, file in zip(self.parts, files, strict=True)
        ]
        manifest = {"format": FORMAT, **self._identity(), "rows": len(self), "threads": torch.get_num_threads()}
        manifest["parts"] = parts
        others = {path.name: file_sha256(path) for path in sorted(self.folder.glob("[!.]*")) if _is_beside(path)}
        return {**manifest, FILES: others} if others else manifest

    def _unsealed_sentence(self) -> str:
        name = self.folder.name.rsplit("-", 1)[0]
        others = [path for path in self.folder.parent.glob(f"{name}-*/manifest.json") if path.parent != self.folder]
        hint = f"; {len(others)} beside it made with other settings" if others else ""
        state = "damaged" if self._manifest_path.exists() else "missing"
        what = f"is not sealed (manifest.json is {state})" if self.folder.is_dir() else "does not exist yet"
        return f"the {self.stage} store {self.folder} {what}{hint}: run '{self.command}' to finish it"

    def _is_whole(self, part: StorePart, names: Mapping[int, Sequence[str]] | None = None) -> bool:
        """Whether the part lies on disk undamaged; raises `UserError` if it belongs to another store.

        ``names``: the files of every part, where the caller has listed them.
        """
        if part.index in self._whole:
            return True
        names = part_names(self.folder) if names is None else names
        for file, data in whole_files(self.folder, names.get(part.index, ())):
            try:
                table = read_part(data)
            except (OSError, pa.ArrowException):
                continue
            same_rows = table.column("image_id").to_pylist() == list(part.image_ids)
            schema = part_schema(self.columns, self._metadata)
            metadata = table.schema.metadata or {}
            if not same_rows or any(metadata.get(key) != value for key, value in schema.metadata.items()):
                raise UserError(
                    f"{self.folder / file.name} belongs to another store (other settings or images): run "
                    f"'{self.command}' with another out folder or delete this one"
                )
            if table.schema.equals(schema):
                self._whole[part.index] = file
                return True
        return False

    @contextlib.contextmanager
    def _claim(self, part: StorePart, wait: bool) -> Iterator[bool]:
        """Whether this process may compute the part, which it holds until the block ends."""
        if self.sealed or self._is_whole(part):
            yield False
            return
        try:
            with self._claims.claim(part.name, wait) as claimed:
                yield claimed
        finally:
            if self.sealed:
                self._claims.remove()

    def _read_sealed_part(self, part: StorePart) -> pa.Table:
        entry = self.manifest["parts"][part.index]
        path, again = self.folder / entry["file"], f"delete {self.folder} and run '{self.command}' to make it again"
        try:
            data = path.read_bytes()
        except OSError as error:
            state = "is missing" if not path.is_file() else f"cannot be read ({error.strerror or error})"
            raise UserError(f"{path} {state}: {again}") from None
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise UserError(f"{path} is damaged (its SHA-256 is not the manifest's): {again}")
        try:
            table = read_part(data)
        except (OSError, pa.ArrowException) as error:  # somebody made the manifest fit
            raise UserError(f"wanted a part of a store in {path}, found none ({error}): make the store again") from None
        problem = column_problem(table, self.columns)
        if problem is None and table.column("image_id").to_pylist() != list(part.image_ids):
            problem = f"the {len(part.image_ids)} images of the part", "others"
        if problem is not None:
            raise UserError(f"wanted {problem[0]} in {path}, found {problem[1]}: {again}")
        return table

    def _row(self, table: pa.Table, row: int, names: Sequence[str]) -> dict[str, Any]:
        return row_of(table, row, {name: self.columns[name] for name in names} if names else self.columns)


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


def _counted(rows: Iterable[Mapping[str, Any]], shown: Progress) -> Iterator[Mapping[str, Any]]:
    """``rows`` as they come, each counted as done."""
    for row in rows:
        yield row
        shown.update()


def _is_beside(path: Path) -> bool:
    """Whether a file of a store's folder is neither a part nor the manifest: a classifier, the photos' hashes."""
    return path.is_file() and path.name != MANIFEST and not path.name.startswith("part-")


def _brief(value: Any) -> str:
    """The value as text for an error, a long one cut short."""
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"
