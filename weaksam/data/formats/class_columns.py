"""Read a table that has one column of numbers for each class: flags, counts, or scores, which are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weaksam.config import UserError
from weaksam.data.findings import Findings
from weaksam.data.formats.tables import TableRow, TagTable
from weaksam.data.formats.tag_rows import FLAGS, TagRow, class_problem
from weaksam.data.image_names import composed, first_repeat

_EMPTY = frozenset({"", "nan"})


def read_class_columns(
    table: TagTable, file: int, columns: Sequence[int], findings: Findings
) -> tuple[tuple[str, ...], Iterator[TagRow]]:
    """The classes of the given columns, in their order, and the rows with those of which the cell is 1 or more.

    Raises `UserError` for a column twice and a name that is no class, and, as the rows are taken, for numbers that are
    neither flags nor counts.
    """
    names = [table.name(column) for column in columns]
    repeated = first_repeat(composed(name) for name in names)
    problem = next((f"{name!r} ({class_problem(name)})" for name in names if class_problem(name)), None)
    if repeated is not None or problem is not None:
        state = f"{repeated!r} twice" if repeated is not None else problem
        raise UserError(f"wanted each class once in the first row of {table.path}, found {state}: rename the column")
    pairs = list(zip(names, columns, strict=True))
    rows = (_present_classes(row, table, file, pairs, findings) for row in table.rows)
    return tuple(names), rows


def _present_classes(
    row: TableRow, table: TagTable, file: int, columns: Sequence[tuple[str, int]], findings: Findings
) -> TagRow:
    """The classes, given with their columns, of which the cell of ``row`` is 1 or more."""
    cells = [(name, row.cells[column]) for name, column in columns if column < len(row.cells)]
    place = f"line {row.line}"
    return TagRow(
        place, row.cells[file], [name for name, cell in cells if _is_present(cell, name, table, place, findings)]
    )


def _is_present(cell: str, name: str, table: TagTable, place: str, findings: Findings) -> bool:
    """Whether the cell of a class says that it is in the photo; a count does where it is above 0."""
    flag = FLAGS.get(cell.lower())
    if flag is not None or cell.lower() in _EMPTY:
        if cell in ("-1", "-1.0"):
            _note_once("-1 under a class was read as absent", table, findings)
        return bool(flag)
    number = float(cell)
    if number < 0 or not number.is_integer():
        raise UserError(
            f"wanted 0 or 1, or a count, under each class in {table.path}, found {cell} under {name!r} in {place}: "
            "make scores flags first, such as 1 where the score is 0.5 or more and else 0"
        )
    _note_once("numbers above 1 under a class were read as counts: the class is there", table, findings)
    return number > 0


def _note_once(text: str, table: TagTable, findings: Findings) -> None:
    line = f"{table.path}: {text}"
    if line not in findings.counts:
        findings.count(line)
