"""Convert the columns of a store between Python values and Arrow, and write the rows of one part as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

_BOX = pa.list_(pa.float32(), 4)
_RLE = pa.struct([("size", pa.list_(pa.int64(), 2)), ("counts", pa.string())])
COLUMN_TYPES: dict[str, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "str": pa.string(),
    "ints": pa.list_(pa.int64()),
    "floats": pa.list_(pa.float32()),
    "boxes": pa.list_(_BOX),
    "rles": pa.list_(_RLE),
    "strs": pa.list_(pa.string()),
}
"""The Arrow type of each kind of column, see `Store`."""
_NUMPY_TYPES = {"ints": np.int64, "floats": np.float32, "boxes": np.float32}
"""Kinds whose values are tensors, and the numbers in them."""


def part_schema(columns: Mapping[str, str], metadata: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of a part: ``image_id``, then ``columns`` (kind by name), with ``metadata`` in its header."""
    fields = [pa.field("image_id", pa.string(), nullable=False)]
    fields += [pa.field(name, COLUMN_TYPES[kind], nullable=False) for name, kind in columns.items()]
    return pa.schema(fields, dict(metadata))


def part_bytes(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], metadata: Mapping[str, str]) -> bytes:
    """``rows`` (``image_id`` and every one of ``columns``) as the bytes of a Parquet file, equal for equal rows."""
    kinds = {"image_id": "str", **columns}
    arrays = [_to_arrow([row[name] for row in rows], kind) for name, kind in kinds.items()]
    buffer = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=part_schema(columns, metadata)),
        buffer,
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        store_schema=True,
        version="2.6",
        data_page_version="1.0",
    )
    return buffer.getvalue().to_pybytes()


def read_part(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows in the bytes of a part, of ``columns`` alone where they are given.

    Raises ``OSError`` or ``pa.ArrowException`` where the bytes are no Parquet file.
    """
    return pq.read_table(pa.BufferReader(data), columns=columns, use_threads=False)


def row_of(table: pa.Table, row: int, columns: Mapping[str, str]) -> dict[str, Any]:
    """``image_id`` and the values of ``columns`` (kind by name) in one row of a part's table."""
    values = {name: _from_arrow(table.column(name)[row], kind) for name, kind in columns.items()}
    return {"image_id": table.column("image_id")[row].as_py(), **values}


def column_problem(table: pa.Table, columns: Mapping[str, str]) -> tuple[str, str] | None:
    """What a part's table should have to be read as ``columns`` (kind by name), and what it has; None where it fits.

    Columns may be missing, come twice, be of another type or lack values.
    """
    for name, kind in {"image_id": "str", **columns}.items():
        count = table.column_names.count(name)
        if count != 1:
            return f"the column {name}", f"{count} of that name" if count else "none"
        column = table.column(name)
        if column.type != COLUMN_TYPES[kind]:
            return f"the column {name} of the type {COLUMN_TYPES[kind]}", f"the type {column.type}"
        if any(map(_num_nulls, column.chunks)):
            return f"the column {name} whole", "values missing"
    return None


def _num_nulls(array: pa.Array) -> int:
    """Number of missing values of an array, those within its lists and structs too."""
    count = int(array.null_count)
    if pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        return count + _num_nulls(array.flatten())
    return count + sum(map(_num_nulls, array.flatten())) if pa.types.is_struct(array.type) else count


def _to_arrow(values: list[Any], kind: str) -> pa.Array:
    """One column of a part; a list column takes one list or tensor per image."""
    if kind not in _NUMPY_TYPES:
        return pa.array(values, type=COLUMN_TYPES[kind])
    arrays = [_to_numpy(value, kind) for value in values]
    offsets = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int32)
    shape = (0, 4) if kind == "boxes" else (0,)
    flat = pa.array(np.concatenate([np.empty(shape, _NUMPY_TYPES[kind]), *arrays]).reshape(-1))
    if kind == "boxes":
        flat = pa.FixedSizeListArray.from_arrays(flat, type=_BOX)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=COLUMN_TYPES[kind])


def _to_numpy(value: Any, kind: str) -> np.ndarray:
    """A list, array or tensor as numpy, checked: boxes ``(N, 4)``, other kinds ``(N,)``; an empty list is N = 0."""
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if kind == "boxes":
        array = array.reshape(-1, 4) if array.size == 0 else array
        assert array.ndim == 2 and array.shape[1] == 4, f"boxes must be (N, 4), found {array.shape}"
    else:
        assert array.ndim == 1, f"{kind} must be one-dimensional, found {array.shape}"
    assert kind != "ints" or array.size == 0 or array.dtype.kind in "iub", f"ints must be whole, found {array.dtype}"
    return array.astype(_NUMPY_TYPES[kind])


def _from_arrow(scalar: pa.Scalar, kind: str) -> Any:
    """One value as Python has it: a tensor for numbers and boxes, else a text, a number or a list."""
    if kind not in _NUMPY_TYPES:
        return scalar.as_py()
    values = scalar.values.flatten() if kind == "boxes" else scalar.values
    tensor = torch.from_numpy(np.array(values.to_numpy(zero_copy_only=False), dtype=_NUMPY_TYPES[kind]))
    return tensor.reshape(-1, 4) if kind == "boxes" else tensor
