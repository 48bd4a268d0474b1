"""Read and write class-free proposals: sealed stores, COCO results lists and flat Parquet tables."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from weaksam.config import UserError, fingerprint_of, listed
from weaksam.data.file_errors import reads
from weaksam.data.findings import Findings
from weaksam.data.formats.coco import object_entries
from weaksam.data.formats.coco_entries import read_box
from weaksam.data.image_names import ImageNames, Key
from weaksam.data.json_entries import LARGEST, as_file_id, json_entries
from weaksam.data.result_lists import ScoreReader, read_result_list, score_name
from weaksam.data.stored_rows import check_row
from weaksam.data.text_files import parse_json
from weaksam.regular_files import open_regular
from weaksam.store.files import atomic_file
from weaksam.store.sealed import open_sealed
from weaksam.store.store import Store
from weaksam.structures.boxes import xyxy_from_xywh
from weaksam.structures.instances import Instances
from weaksam.structures.mask_resizing import full_masks
from weaksam.structures.masks import Rle, mask_from_rle, rle_from_mask
from weaksam.structures.proposals import IMPORTED, PROPOSAL_COLUMNS, Proposals

ProposalsByKey = dict[Key, Proposals]
"""Proposals by what a file calls each image: a name, or a number in COCO results."""

_CORNERS = ("x1", "y1", "x2", "y2")
_TABLE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        *((name, pa.float32()) for name in (*_CORNERS, "score")),
        ("source", pa.int16()),
    ]
)
"""Columns of a flat table, one line per box."""
_IMAGES_KEY = b"weaksam_images"
"""Where a flat table's metadata names all its images, as JSON."""
MOST_LINES = 20_000_000
"""Lines of a flat table that are read; its boxes are all in memory at once."""
MOST_TABLE_BYTES = 1 << 30
_ROWS_AT_ONCE = 65536
"""Lines of a flat table that are written together."""


@reads("proposals")
def read_proposals(path: Path, findings: Findings | None = None) -> ProposalsByKey:
    """The boxes of a sealed store's folder, a COCO results list (``.json``) or a flat table (``.parquet``), no masks.

    ``findings`` take how much was read, and what was taken for what. Raises `UserError` for anything else; pickles of
    other tools are imported first.
    """
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise UserError(
            f"wanted a store, a COCO results list or a Parquet table, found the pickle {path}: "
            "run 'weaksam boxes import' on it first"
        )
    findings = findings or Findings()
    if path.suffix.lower() == ".parquet" and path.is_file():
        proposals = read_flat_table(path, findings)
    elif path.suffix.lower() == ".json":
        proposals = read_coco_results(path, findings)
    else:
        proposals = dict(store_rows(open_store(path), masks=False))
    findings.count(f"{path}: {sum(map(len, proposals.values()))} proposals of {len(proposals)} images")
    return proposals


# Stores


@reads("a store of proposals")
def open_store(folder: Path) -> Store:
    """The sealed store of proposals in ``folder``; raises `UserError` where it is none."""
    store = open_sealed(folder)
    missing = [name for name, kind in PROPOSAL_COLUMNS.items() if store.columns.get(name) != kind]
    if missing:
        raise UserError(
            f"wanted a store of proposals in {folder}, found one of the stage {store.stage} without the column "
            f"{missing[0]!r}: name a store below proposals/store"
        )
    return store


def store_rows(store: Store, masks: bool = True) -> Iterator[tuple[str, Proposals]]:
    """Image id and proposals of every row, in the order of the ids, one part in memory at a time."""
    for row in store.rows(*_columns(masks)):
        yield row["image_id"], _row_proposals(row, store.folder)


def find_proposals(store: Store, image: str) -> tuple[str, Proposals]:
    """The image id that ``image`` means, with or without ending and folders, and its proposals with their masks.

    Raises `UserError` where the store has no such image.
    """
    image_id = ImageNames(store.image_ids).find(image, str(store.folder))
    if image_id is None:
        known = f"{len(store)} others ({listed(store.image_ids, 3)})"
        raise UserError(f"wanted proposals of {image!r} in {store.folder}, found {known}: name one of them")
    return image_id, stored_proposals(store, image_id)


def stored_proposals(store: Store, image_id: str) -> Proposals:
    """The proposals, with their masks, of an image that the store calls ``image_id``."""
    return _row_proposals(store.read(image_id, *_columns(masks=True)), store.folder)


def _row_proposals(row: Mapping[str, Any], folder: Path) -> Proposals:
    """The proposals in a row of the store in ``folder``; raises `UserError` for values that no proposal has."""
    check_row(row, folder, limited=False)
    return Proposals.from_row(row)


def _columns(masks: bool) -> list[str]:
    return [name for name in PROPOSAL_COLUMNS if masks or name not in ("rles", "mask_size")]


def write_store(folder: Path, proposals: Mapping[str, Proposals], made_from: Any) -> Store:
    """Write ``proposals`` by image id as a sealed store like the stage's own; ``made_from`` decides its fingerprint.

    A store made from the same is left as it is; raises `UserError` where ``folder`` holds another.
    """
    fingerprint = fingerprint_of({"stage": "proposals", "imported": made_from})
    store = Store(
        folder,
        stage="proposals",
        fingerprint=fingerprint,
        image_ids=list(proposals),
        columns=PROPOSAL_COLUMNS,
        command="weaksam boxes import",
    )
    if store.sealed:
        store.check_sealed()
    return store.fill(lambda image_id: proposals[image_id].as_row(), progress="import")


# COCO results


def write_coco_results(
    path: Path,
    rows: Iterable[tuple[str, Proposals]],
    numbers: Mapping[str, int],
    *,
    category_id: int = 1,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Write proposals as a COCO results list, one image in memory at a time.

    ``numbers``: the ``image_id`` of each image. ``category_id`` is every proposal's, since they have no class. With
    ``sizes``, the photos' (H, W), masks are written too, resized to the photo. The extra key ``source`` is kept.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        separator = "["
        for image_id, proposals in rows:
            size = None if sizes is None else sizes[image_id]
            for entry in _coco_entries(proposals, numbers[image_id], category_id, size):
                file.write(separator + json.dumps(entry))
                separator = ",\n"
        file.write("[]\n" if separator == "[" else "]\n")


def _coco_entries(
    proposals: Proposals, number: int, category_id: int, size: tuple[int, int] | None
) -> Iterator[dict[str, Any]]:
    """One entry of a results list per proposal; with masks where a photo ``size`` (H, W) is given."""
    masks = None if size is None or not proposals.rles else tuple(resized_rle(rle, size) for rle in proposals.rles)
    labels = torch.zeros(len(proposals), dtype=torch.int64)
    objects = Instances(proposals.boxes, labels, proposals.scores, masks)
    for entry, source in zip(object_entries(objects, [category_id]), proposals.sources.tolist(), strict=True):
        yield {"image_id": number, **entry, "source": source}


def resized_rle(rle: Rle, size: tuple[int, int]) -> Rle:
    """The mask of a working frame that covers a photo of ``size`` (H, W), in that photo."""
    return rle_from_mask(full_masks(mask_from_rle(rle)[None], size)[0])


def read_coco_results(path: Path, findings: Findings | None = None) -> ProposalsByKey:
    """Boxes by image number (or name, where a file has names) of a COCO results list, in the file's order.

    Where no entry has a score, a box scores 1. ``findings`` take what was taken for what. Raises `UserError` for other
    JSON, for an entry without four finite numbers as box, and where some entries have a score and others do not.
    """
    findings = findings or Findings()
    results = read_result_list(path, findings, wanted="entries with image_id and bbox")
    scores = ScoreReader.of(results.entries, path, findings)
    scored = any(isinstance(entry, dict) and scores.key in entry for entry in results.entries)
    rows: dict[Key, list[tuple[float, ...]]] = defaultdict(list)
    for entry in json_entries(results.entries, "proposal", path, findings):
        stated = entry.get("image_id")
        key = stated if isinstance(stated, str) else as_file_id(stated)
        if key is None:
            raise entry.refusal("image_id", "a number or a name")
        score = scores.read(entry) if scored else 1.0
        rows[key].append((*read_box(entry), score, IMPORTED if entry.get("source") is None else entry.number("source")))
    tables = {key: torch.tensor(values, dtype=torch.float64) for key, values in rows.items()}  # (N, 6) each
    return {key: Proposals.of(xyxy_from_xywh(table[:, :4]), table[:, 4], table[:, 5]) for key, table in tables.items()}


# Flat tables


def write_flat_table(path: Path, rows: Iterable[tuple[str, Proposals]], image_ids: Iterable[str]) -> None:
    """Write one line per box: image_id, x1, y1, x2, y2, score, source; few of them in memory at a time.

    ``image_ids`` are all images, kept in the file's metadata: one without a box has no line.
    """
    schema = _TABLE_SCHEMA.with_metadata({_IMAGES_KEY: json.dumps(list(image_ids)).encode()})
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        waiting: list[pa.RecordBatch] = []
        num_waiting = 0
        for image_id, proposals in rows:
            names = pa.array([image_id] * len(proposals), pa.string())
            sources = proposals.sources.numpy().astype(np.int16)
            columns = [names, *proposals.boxes.T.numpy(), proposals.scores.numpy(), sources]
            waiting.append(pa.record_batch(columns, schema=schema))
            num_waiting += len(proposals)
            if num_waiting >= _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_batches(waiting, schema))
                waiting, num_waiting = [], 0
        writer.write_table(pa.Table.from_batches(waiting, schema))


def read_flat_table(path: Path, findings: Findings | None = None) -> ProposalsByKey:
    """Boxes by image of a flat table, in its order; ``score`` and ``source`` may be missing.

    Scores under another name, see `score_name`, are taken, and ``findings`` say so. Raises `UserError` for a file that
    is no such table, and for values that are missing or no finite numbers.
    """
    try:
        with open_regular(path) as file:
            parquet = pq.ParquetFile(file)
            _refuse_large_table(parquet.metadata, path)
            table = parquet.read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"wanted a Parquet table of boxes at {path}, found none ({reason}): name another file"
        ) from None
    missing = [name for name in ("image_id", *_CORNERS) if name not in table.column_names]
    if missing:
        raise UserError(f"wanted the column {missing[0]!r} in {path}, found {', '.join(table.column_names[:8])}")
    score = score_name(table.column_names, path, findings or Findings())
    wanted = ("image_id", *_CORNERS, score, "source")
    repeated = [name for name in wanted if table.column_names.count(name) > 1]
    if repeated:
        raise UserError(f"wanted the column {repeated[0]!r} once in {path}, found it twice: remove one")
    numbers = {name: _numbers_in(table, name, path) for name in wanted[1:] if name in table.column_names}
    if score in numbers:
        numbers["score"] = numbers.pop(score)
    _refuse_inverted(numbers, path)
    proposals: ProposalsByKey = {name: Proposals.none() for name in _listed_images(table.schema.metadata or {}, path)}
    for name, lines in _lines_by_image(_image_ids(table, path)).items():
        proposals[name] = _flat_rows(numbers, lines)
    return proposals


def _refuse_large_table(metadata: pq.FileMetaData, path: Path) -> None:
    """`UserError` for a flat table that says to have more lines, columns or bytes than are read."""
    num_bytes = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    sizes = ((metadata.num_rows, MOST_LINES, "lines"), (metadata.num_columns, 1000, "columns"))
    for number, most, noun in (*sizes, (num_bytes, MOST_TABLE_BYTES, "bytes once unpacked")):
        if number > most or number < 0:
            raise UserError(
                f"wanted a table of at most {most:,} {noun} at {path}, found {number:,}: split it, or give a store"
            )


def _numbers_in(table: pa.Table, name: str, path: Path) -> np.ndarray:
    """A column of a flat table as float64; `UserError` where a line holds no finite number of sensible size."""
    kind = table.schema.field(name).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise UserError(f"wanted numbers in the column {name!r} of {path}, found the type {kind}: write numbers")
    column = table.column(name).cast(pa.float64()).to_numpy()
    wrong = np.flatnonzero(~(np.abs(column) <= LARGEST))
    if len(wrong):
        raise UserError(
            f"wanted finite numbers in the column {name!r} of {path}, found {column[wrong[0]]:g} in line "
            f"{wrong[0] + 1}: mend the table"
        )
    return column


def _refuse_inverted(numbers: Mapping[str, np.ndarray], path: Path) -> None:
    """`UserError` where a box of a flat table ends before it begins."""
    wrong = np.flatnonzero((numbers["x2"] < numbers["x1"]) | (numbers["y2"] < numbers["y1"]))
    if len(wrong):
        corners = ", ".join(f"{numbers[name][wrong[0]]:g}" for name in _CORNERS)
        raise UserError(
            f"wanted corners x1, y1, x2, y2 in {path}, found {len(wrong)} boxes that end before they begin (first: "
            f"{corners} in line {wrong[0] + 1}): write corners, not width and height"
        )


def _listed_images(metadata: Mapping[bytes, bytes], path: Path) -> list[str]:
    """All images of a flat table as its metadata names them; none where it does not."""
    if _IMAGES_KEY not in metadata:
        return []
    images = parse_json(metadata[_IMAGES_KEY], path, "a list of images")
    if not isinstance(images, list) or not all(isinstance(name, str) for name in images):
        raise UserError(f"wanted a list of names in the metadata of {path}, found other JSON: export the table again")
    return images


def _image_ids(table: pa.Table, path: Path) -> list[Any]:
    """The image of each line of a flat table, a text or a whole number; `UserError` where a line has none."""
    stated = table.column("image_id").to_pylist()
    image_ids = [value if isinstance(value, str) else as_file_id(value) for value in stated]
    if None in image_ids:
        raise UserError(
            f"wanted an image_id in every line of {path}, found none in line {image_ids.index(None) + 1}: mend it"
        )
    return image_ids


def _lines_by_image(image_ids: list[Any]) -> dict[str, np.ndarray]:
    """The numbers of each image's lines in a flat table, ascending, by image id in alphabetical order."""
    if not image_ids:
        return {}
    names, group = np.unique(np.array(image_ids, dtype=object).astype(str), return_inverse=True)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))
    return {str(name): lines for name, lines in zip(names, np.split(order, ends[:-1]), strict=True)}


def _flat_rows(numbers: Mapping[str, np.ndarray], lines: np.ndarray) -> Proposals:
    """The proposals in some lines of a flat table, given as its columns of numbers."""
    boxes = np.stack([numbers[name][lines] for name in _CORNERS], axis=1)
    scores = torch.from_numpy(numbers["score"][lines]) if "score" in numbers else None
    sources = torch.from_numpy(numbers["source"][lines]) if "source" in numbers else None
    return Proposals.of(torch.from_numpy(boxes.astype(np.float32)), scores, sources)
