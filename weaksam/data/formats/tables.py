"""Split a text table (CSV and its relatives) into rows of cells, each with its line."""

from __future__ import annotations

import copy
import csv
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import overload

from weaksam.config import UserError
from weaksam.data.formats.tag_columns import names_file, names_number
from weaksam.data.image_names import file_part
from weaksam.data.photos import is_photo_name
from weaksam.data.text_files import read_lines

_DELIMITERS = "\t,;|"
_DECLARED = re.compile(r'\s*"?sep=(.)"?[^\n]*', re.IGNORECASE)
"""Excel's first line that names the delimiter."""
_SAMPLE_LINES = 50
"""Lines at the beginning of a table that show its delimiter."""
_KNOWN_CELLS = 10_000
"""Cells that are remembered while a table is read, so that one that comes again is not kept twice."""
_BLOCK_CELLS = 16_384
"""Cells that are read at once, of a table whose rows are short."""
_FIRST_ROWS = 64
"""Rows that are read at once while nobody knows how long they are."""


@dataclass(frozen=True)
class TableRow:
    """One row: the line in which it begins, from 1, and its cells without blanks around them."""

    line: int
    cells: list[str]


class TableRows(Sequence[TableRow]):
    """Rows of a table, none at first; they lie in flat lists, since a table may have millions of them.

    A cell that comes again soon, as tags do, is kept once. A slice is a view of the same lists.
    """

    def __init__(self) -> None:
        self._cells: list[str] = []
        self._starts, self._lines = array("q", [0]), array("q")
        self._known: dict[str, str] = {}
        self._even_width: int | None = None  # of all rows; 0 where they differ
        self._index: Sequence[int] = range(0)

    def add(self, line: int, cells: Sequence[str]) -> None:
        """Append the row that begins in ``line``."""
        self.add_all((line,), cells, len(cells))

    def add_all(self, lines: Sequence[int], cells: Iterable[str], width: int) -> None:
        """Append the rows that begin in ``lines``, of ``width`` cells each, all of them in ``cells``."""
        if len(self._known) > _KNOWN_CELLS:
            self._known.clear()
        known, start = self._known.setdefault, len(self._cells)
        self._cells += [known(cell, cell) for cell in cells]
        self._even_width = width if self._even_width in (None, width) else 0
        self._starts.extend(range(start + width, len(self._cells) + 1, width) if width else [start] * len(lines))
        self._lines.extend(lines)
        self._index = range(len(self._lines))

    def chosen(self, rows: Iterable[int]) -> TableRows:
        """The rows of these numbers, from 0, as a view."""
        return self._view(array("q", (self._index[row] for row in rows)))

    def column(self, column: int) -> list[str]:
        """What is in a column, without empty cells and rows that are too short."""
        return list(filter(None, self.padded_column(column)))

    def padded_column(self, column: int) -> list[str]:
        """What is in a column, a cell for each row; empty where the row is too short."""
        width, index, starts, cells = self._even_width, self._index, self._starts, self._cells
        if width and column < width and isinstance(index, range):
            return cells[index.start * width + column : index.stop * width : width]
        return [cells[starts[row] + column] if starts[row] + column < starts[row + 1] else "" for row in index]

    def line(self, row: int) -> int:
        """The line in which the row of this number, from 0, begins."""
        return self._lines[self._index[row]]

    @property
    def even_width(self) -> int:
        """Number of cells of every row; 0 without rows, or where rows differ."""
        return self._even_width or 0

    @property
    def width(self) -> int:
        """Number of cells of the longest row; 0 without rows."""
        starts = self._starts
        return self.even_width or max((starts[row + 1] - starts[row] for row in self._index), default=0)

    def _view(self, index: Sequence[int]) -> TableRows:
        view = copy.copy(self)
        view._index = index
        return view

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, row: int) -> TableRow: ...
    @overload
    def __getitem__(self, row: slice) -> TableRows: ...
    def __getitem__(self, row: int | slice) -> TableRow | TableRows:
        if isinstance(row, slice):
            return self._view(self._index[row])
        number = self._index[row]
        return TableRow(self._lines[number], self._cells[self._starts[number] : self._starts[number + 1]])


@dataclass(frozen=True)
class TagTable:
    """The rows of the file at ``path``, and the row that names their columns, None where there is none."""

    path: Path
    header: TableRow | None
    rows: TableRows

    @property
    def width(self) -> int:
        """Number of columns: the header's, or those of the longest row."""
        return len(self.header.cells) if self.header else self.rows.width

    def name(self, column: int) -> str:
        """The name that the header gives to a column; empty without one."""
        return self.header.cells[column] if self.header and column < len(self.header.cells) else ""

    def label(self, column: int) -> str:
        """What messages call a column: ``'label'``, or ``column 2`` where it has no name."""
        return repr(self.name(column)) if self.name(column) else f"column {column + 1}"

    def cells(self, column: int) -> list[str]:
        """What is in a column, without empty cells."""
        return self.rows.column(column)


def read_cells(path: Path) -> TableRows:
    """All rows of the file that are not blank; none of an empty file.

    Raises `UserError` where the text cannot be read, a quote is not closed or text follows it.
    """
    lines = read_lines(path, "image tags as UTF-8 text")
    head = [next(lines, "")]
    declared = _DECLARED.fullmatch(head[0].removesuffix("\n"))
    if declared:
        head, delimiter = ["\n"], declared.group(1)
    else:
        head += _up_to_sample(head[0], lines)
        delimiter = _delimiter([line.removesuffix("\n") for line in head if _is_sample(line)])
    rows = TableRows()
    for numbers, block in _row_blocks(chain(head, lines), delimiter, path):
        _add_block(rows, numbers, block)
    return rows


def _add_block(rows: TableRows, lines: Sequence[int], block: Sequence[Sequence[str]]) -> None:
    """Append rows that begin in ``lines``, without those that are blank or a remark and blanks around cells."""
    width = len(block[0])
    if width > 1 and set(map(len, block)) == {width}:
        cells = list(map(str.strip, chain.from_iterable(block)))
        if all(cells[::width]):  # no row is blank, and none of several cells is a remark
            rows.add_all(lines, cells, width)
            return
    for line, of_row in zip(lines, block, strict=True):
        cells = [cell.strip() for cell in of_row]
        if any(cells) and not (len(cells) == 1 and _is_remark(cells[0])):
            rows.add(line, cells)


def _up_to_sample(first: str, lines: Iterator[str]) -> Iterator[str]:
    """As many of ``lines`` as it takes, with ``first``, to show the delimiter."""
    num_rows = int(_is_sample(first))
    while num_rows < _SAMPLE_LINES and (line := next(lines, "")):
        num_rows += _is_sample(line)
        yield line


def _is_sample(line: str) -> bool:
    """Whether a line is a row of a table, or names its columns."""
    return bool(line.strip()) and not _is_remark(line)


def _row_blocks(
    lines: Iterator[str], delimiter: str | None, path: Path
) -> Iterator[tuple[Sequence[int], list[list[str]]]]:
    """The lines in which rows begin, and the cells of these rows, many rows at a time, in order.

    Without a ``delimiter`` a line's words are its cells.
    """
    reader: Iterator[list[str]] = (line.split() for line in lines)
    if delimiter is not None:
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    line, num_rows = 1, _FIRST_ROWS
    while True:
        block: list[list[str]] = []
        try:
            block.extend(islice(reader, num_rows))
        except csv.Error as error:
            raise UserError(_table_fault(error, line + sum(map(_num_lines, block)), path)) from None
        if not block:
            return
        ends = list(accumulate(map(_num_lines, block), initial=line))
        yield ends[:-1], block
        line, num_rows = ends[-1], max(1, _BLOCK_CELLS // max(1, *map(len, block[-2:])))


def _num_lines(cells: Sequence[str]) -> int:
    """How many lines a row takes: a cell in quotes may hold ends of lines."""
    return 1 + "".join(cells).count("\n")


def _table_fault(error: csv.Error, line: int, path: Path) -> str:
    """What is wrong with the row that begins in ``line``."""
    if "field limit" in str(error):
        return (
            f"wanted each quote closed and cells of at most {csv.field_size_limit():,} characters in {path}, "
            f"found a longer one in the row of line {line}: mend it (an open quote makes one cell of the rest)"
        )
    return (
        f"wanted each quote closed before the next column in {path}, found another one in the row of line {line}: "
        'mend it, and write a quote inside of quotes twice ("")'
    )


def _is_remark(line: str) -> bool:
    """Whether a line is a remark (``# by me``) and neither a row nor names of columns."""
    return line.startswith("# ") and not any(mark in line for mark in _DELIMITERS)


def _delimiter(sample: Sequence[str]) -> str | None:
    """The mark that parts the columns: one by which a file column is found comes first; None stands for blanks."""
    first = sample[0] if sample else ""
    marks = [mark for mark in _DELIMITERS if mark in first]
    if not marks:
        words = [line.split() for line in sample]
        blanks = words and all(len(parts) > 1 and is_photo_name(parts[0]) for parts in words)
        return None if blanks else ","
    return next((mark for mark in marks if _shows_files(sample, mark)), marks[0])


def _shows_files(sample: Sequence[str], mark: str) -> bool:
    """Whether a table parted by ``mark`` has a column of photos, by its header or by all of its first rows."""
    try:
        table = [[cell.strip() for cell in row] for row in csv.reader(sample, delimiter=mark, skipinitialspace=True)]
    except csv.Error:  # the reader of the whole table says where
        return False
    if any(names_file(cell) for cell in table[0]) or names_number(table[0][0]):
        return len(table[0]) > 1
    width = min(len(row) for row in table)
    return width > 1 and any(all(is_photo_name(file_part(row[c])) for row in table) for c in range(width))
