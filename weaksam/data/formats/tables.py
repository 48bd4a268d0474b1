"""Split a text table (CSV and its relatives) into rows of cells, each with its line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weaksam.config import UserError
from weaksam.data.formats.tag_columns import names_file, names_number
from weaksam.data.image_names import file_part
from weaksam.data.photos import is_photo_name
from weaksam.data.text_files import read_text

_DELIMITERS = "\t,;|"
_DECLARED = re.compile(r'\s*"?sep=(.)"?[^\n]*', re.IGNORECASE)
"""Excel's first line that names the delimiter."""
_SAMPLE_LINES = 50
"""Lines at the beginning of a table that show its delimiter."""


@dataclass(frozen=True)
class TableRow:
    """One row: the line in which it begins, from 1, and its cells without blanks around them."""

    line: int
    cells: list[str]


@dataclass(frozen=True)
class TagTable:
    """The rows of the file at ``path``, and the row that names their columns, None where there is none."""

    path: Path
    header: TableRow | None
    rows: list[TableRow]

    @property
    def width(self) -> int:
        """Number of columns: the header's, or those of the longest row."""
        return len(self.header.cells) if self.header else max((len(row.cells) for row in self.rows), default=0)

    def name(self, column: int) -> str:
        """The name that the header gives to a column; empty without one."""
        return self.header.cells[column] if self.header and column < len(self.header.cells) else ""

    def label(self, column: int) -> str:
        """What messages call a column: ``'label'``, or ``column 2`` where it has no name."""
        return repr(self.name(column)) if self.name(column) else f"column {column + 1}"

    def cells(self, column: int) -> list[str]:
        """What is in a column, without empty cells."""
        return [row.cells[column] for row in self.rows if column < len(row.cells) and row.cells[column]]


def read_cells(path: Path) -> list[TableRow]:
    """All rows of the file that are not blank; none of an empty file.

    Raises `UserError` where the text cannot be read, a quote is not closed or text follows it.
    """
    lines = read_text(path, "image tags as UTF-8 text").split("\n")
    declared = _DECLARED.fullmatch(lines[0])
    if declared:
        lines[0] = ""
    delimiter = declared.group(1) if declared else _delimiter(lines)
    if delimiter is None:
        return [TableRow(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    reader = csv.reader(
        io.StringIO("\n".join(lines), newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    rows, line = [], 1
    try:
        for cells in reader:
            rows.append(TableRow(line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error:
        raise UserError(
            f"wanted each quote closed before the next column in {path}, found another one in the row of line {line}: "
            'mend it, and write a quote inside of quotes twice ("")'
        ) from None
    return [row for row in rows if any(row.cells) and not (len(row.cells) == 1 and _is_remark(row.cells[0]))]


def _is_remark(line: str) -> bool:
    """Whether a line is a remark (``# by me``) and neither a row nor names of columns."""
    return line.startswith("# ") and not any(mark in line for mark in _DELIMITERS)


def _delimiter(lines: Sequence[str]) -> str | None:
    """The mark that parts the columns: one by which a file column is found comes first; None stands for blanks."""
    sample = [line for line in lines if line.strip() and not _is_remark(line)][:_SAMPLE_LINES]
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
