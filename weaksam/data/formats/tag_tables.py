"""Read tags from a table: find the column of photos and those of classes, and say what was taken for what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from weaksam.config import UserError, listed
from weaksam.data.findings import Findings
from weaksam.data.formats import tag_columns as columns
from weaksam.data.formats.class_columns import read_class_columns
from weaksam.data.formats.tables import TableRow, TableRows, TagTable, read_cells
from weaksam.data.formats.tag_cells import names_in_cells
from weaksam.data.formats.tag_rows import FLAGS, RowJoiner, TagRows, join_rows
from weaksam.data.image_names import ImageNames, file_part
from weaksam.data.photos import is_photo_name
from weaksam.data.text_files import printable

_BLOCK = 4096
"""Rows or cells that are looked at together."""
_MATCHED_ROWS = 200
"""Rows at the beginning of a table whose photos are looked for, to tell which column names them."""


@dataclass(frozen=True)
class _Layout:
    """Which columns hold the photos' files, names of classes, and a number per class (one of the two is empty)."""

    file: int
    tags: Sequence[int]
    classes: Sequence[int] = ()


def read_table(path: Path, findings: Findings, photo_names: ImageNames | None = None) -> TagRows:
    """Tags of a table: one column of numbers per class, or names of classes beside the file name.

    The columns are found by their names, else by what is in them; where ``photo_names`` is given, the column in which
    most photos are found is theirs. What was taken for what is counted in ``findings``. Raises `UserError` for a table
    without a column of tags, or with numbers of which nobody says what they mean.
    """
    rows = read_cells(path)
    if not rows:
        return TagRows({})
    photo_columns = _photo_columns(rows[1:] or rows)
    has_header = _is_header(rows, photo_columns)
    table = TagTable(path, rows[0] if has_header else None, rows[1:] if has_header else rows)
    if not table.rows:
        return TagRows({})
    file = _file_column(table, photo_columns, photo_names)
    layout = _headed_layout(table, file) if table.header else _headless_layout(table, file)
    about = _about(table, layout)
    _check_length(table, layout, findings)
    if len(table.cells(layout.file)) < len(table.rows):
        named = [index for index, row in enumerate(table.rows) if _has_file(row, layout, table, findings)]
        table = TagTable(path, table.header, table.rows.chosen(named))
    if layout.classes:
        classes, tag_rows = read_class_columns(table, file, layout.classes, findings)
        return join_rows(tag_rows, path, findings, about, classes)
    joiner = RowJoiner(path, findings)
    _join_tags(joiner, table, layout, findings)
    return joiner.tag_rows(about)


def _photo_columns(rows: TableRows) -> list[int]:
    """The columns of which more than half of the cells are names of photos."""
    return [column for column in range(rows.width) if _are_photos(rows.column(column))]


def _are_photos(cells: Sequence[str]) -> bool:
    """Whether more than half of ``cells`` are names of photos; no cells are none. Ends once that is sure."""
    num_photos, num_left = 0, len(cells)
    for start in range(0, len(cells), _BLOCK):
        block = cells[start : start + _BLOCK]
        num_photos += sum(num for cell, num in Counter(block).items() if is_photo_name(file_part(cell)))
        num_left -= len(block)
        if 2 * num_photos > len(cells) or 2 * (num_photos + num_left) <= len(cells):
            break
    return 2 * num_photos > len(cells)


def _is_header(rows: TableRows, photo_columns: Sequence[int]) -> bool:
    """A first row that names columns: by the words in it, or as plain words above nothing but photos' names.

    A first row with a digit in its name, or with a tag that comes again, is taken for a photo without its ending.
    """
    first, body = rows[0].cells, rows[1:]
    named = [cell for cell in first if columns.file_name_rank(cell) < 2 or columns.names_tags(cell)]
    if columns.file_name_rank(first[0]) < 2 or (len(named) > 1 and any(map(columns.names_file, named))):
        return not any(column < len(first) and is_photo_name(first[column]) for column in photo_columns)
    if not photo_columns or photo_columns[0] >= len(first) or not body:
        return False
    file = photo_columns[0]
    flags = all(cell.lower() in FLAGS for row in body for column, cell in enumerate(row.cells) if column != file)
    if not first[file] and (flags or named):
        return True  # pandas leaves the name of its index out
    if not re.fullmatch(r"[^\W\d]+([ _-][^\W\d]+)*", first[file]):
        return False
    files = body.column(file)
    names_photos = len(files) == len(body) and all(is_photo_name(file_part(cell)) for cell in files)
    others = {cell for column, cell in enumerate(first) if cell and column != file}
    return names_photos and not any(others.intersection(row.cells) for row in body)


def _file_column(table: TagTable, photo_columns: Sequence[int], photo_names: ImageNames | None) -> int:
    """The column of photos' files: that in which most photos are found, then by its content, then by its name."""
    candidates = set(photo_columns) | {0}
    candidates |= {column for column in range(table.width) if columns.file_name_rank(table.name(column)) < 2}

    def rank(column: int) -> tuple[bool, int, bool, int, int]:
        name, shows_photos = table.name(column), column in photo_columns
        certain = shows_photos and columns.names_file(name) and not columns.names_address(name)
        matched = 0 if photo_names is None else _num_matched(table, column, photo_names)
        return not certain, -matched, not shows_photos, columns.file_name_rank(name), column

    return min((column for column in candidates if column < table.width), key=rank)


def _num_matched(table: TagTable, column: int, photo_names: ImageNames) -> int:
    """How many of the first cells of a column name a photo that is there."""
    return sum(photo_names.may_mean(cell) for cell in table.cells(column)[:_MATCHED_ROWS])


# Columns of tags


def _headed_layout(table: TagTable, file: int) -> _Layout:
    """The columns by their names in the header; those that the names say nothing of by what is in them."""
    others = [column for column in range(table.width) if column != file]
    tagged = [column for column in others if columns.names_tags(table.name(column))]
    texts = [column for column in tagged if not _is_numeric(table.cells(column))]
    _refuse_denied(table, others)
    if len(tagged) > 1 and not texts and any(map(table.cells, tagged)) and all(_is_flags(table, c) for c in tagged):
        return _Layout(file, (), tagged)
    if tagged:
        return _Layout(file, texts if texts and any(map(table.cells, texts)) else tagged)
    others = [column for column in others if not _is_aside(table, column)]
    numeric = [column for column in others if _is_numeric(table.cells(column)) or _is_flags(table, column)]
    if all(_is_flags(table, column) for column in numeric):
        classes = numeric
    else:
        classes = [column for column in numeric if not columns.names_size(table.name(column))]
    texts = sorted(set(others) - set(numeric))
    if texts and (not classes or not any(map(table.cells, classes))):
        return _Layout(file, texts)
    if classes and not texts:
        return _Layout(file, (), classes)
    raise UserError(_no_tag_column(table, file, texts, classes))


def _no_tag_column(table: TagTable, file: int, texts: Sequence[int], classes: Sequence[int]) -> str:
    """Why no column of tags can be told from the others."""
    state = "none"
    if texts and classes:
        state = f"text in {listed(map(table.label, texts), 3)} and numbers in {listed(map(table.label, classes), 3)}"
    elif table.width > 1:
        state = f"only {listed((table.label(column) for column in range(table.width) if column != file), 4)}"
    return (
        f"wanted a column of tags beside {table.label(file)} in {table.path}, found {state}: call the column of "
        "class names 'label', or keep only columns of 0 and 1"
    )


def _headless_layout(table: TagTable, file: int) -> _Layout:
    """All columns of text beside the photos are tags; numbers that nobody explains are refused."""
    others = [column for column in range(table.width) if column != file and table.cells(column)]
    others = [column for column in others if not _are_splits(table, column)]
    if len(others) > 1 and others[0] < file and _is_index(table, others[0]):
        others = others[1:]
    numeric = [column for column in others if _is_numeric(table.cells(column))]
    if numeric:
        shown = listed((f"{table.cells(column)[0]} in column {column + 1}" for column in numeric), 3)
        raise UserError(
            f"wanted names of classes beside the photos in {table.path}, found numbers ({shown}, line "
            f"{table.rows[0].line}): add a first line that names the columns, such as 'file,label'"
        )
    return _Layout(file, others)


def _refuse_denied(table: TagTable, others: Sequence[int]) -> None:
    """`UserError` where a column says of a tag that it does not hold: a confidence of 0 is a class that is absent."""
    if not any(columns.names_tags(table.name(column)) for column in others):
        return
    for column in others:
        if columns.names_score(table.name(column)):
            for row in table.rows:
                if column < len(row.cells) and row.cells[column] in ("0", "0.0"):
                    raise UserError(
                        f"wanted tags that hold in {table.path}, found {row.cells[column]} as {table.label(column)} in "
                        f"line {row.line}: remove the rows of classes that are not in the photo"
                    )


def _is_aside(table: TagTable, column: int) -> bool:
    """Whether a column is about the row and not about what is in the photo: an index, its split, a note, its score."""
    name = table.name(column)
    if columns.names_nothing(name) or (columns.names_number(name) and _is_numeric(table.cells(column))):
        return True
    if _is_flags(table, column) and table.cells(column):
        return False  # a class may be called 'mask'
    return columns.names_other(name) or columns.names_score(name) or _are_splits(table, column)


def _are_splits(table: TagTable, column: int) -> bool:
    cells = table.cells(column)
    return bool(cells) and all(cell.lower() in columns.SPLIT_WORDS for cell in cells)


def _is_index(table: TagTable, column: int) -> bool:
    cells = table.cells(column)
    return all(cell.isdecimal() for cell in cells) and len(set(cells)) == len(cells)


def _is_flags(table: TagTable, column: int) -> bool:
    return all(cell.lower() in FLAGS for cell in table.cells(column))


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether all cells are numbers; an empty column has none."""
    return bool(cells) and all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan", cell.lower()) for cell in cells)


# Rows


def _about(table: TagTable, layout: _Layout) -> str:
    """What was taken for what, as the end of a sentence."""
    taken = {layout.file, *layout.tags, *layout.classes}
    parts = [f"file = {table.label(layout.file)}"]
    if layout.tags:
        parts.append(f"tags = {listed(map(table.label, layout.tags))}")
    if layout.classes:
        parts.append(f"a class each = {listed(map(table.label, layout.classes))}")
    unused = [table.label(column) for column in range(table.width) if column not in taken]
    return printable(f"; columns: {', '.join(parts)}" + (f"; not used: {listed(unused)}" if unused else ""))


def _has_file(row: TableRow, layout: _Layout, table: TagTable, findings: Findings) -> bool:
    """Whether a row names its photo; one that does not is a fault."""
    if layout.file < len(row.cells) and row.cells[layout.file]:
        return True
    place = "the first column" if layout.file == 0 else table.label(layout.file)
    findings.fault(f"wanted a file name in {place} of {table.path}, found none in line {row.line}: fill it in")
    return False


def _check_length(table: TagTable, layout: _Layout, findings: Findings) -> None:
    """Refuse (or gather) rows of another length than the header, where a cell may be another column's."""
    if table.header is None or table.rows.even_width == table.width:
        return
    last_is_open = bool(layout.tags) and max(layout.tags) == table.width - 1
    for row in table.rows:
        short = layout.classes and len(row.cells) < table.width
        long = not last_is_open and any(row.cells[table.width :])
        if short or long:
            findings.fault(
                f"wanted {table.width} cells as the first row in {table.path}, found {len(row.cells)} in line "
                f"{row.line}: mend it (a comma inside of a cell needs quotes around the cell)"
            )


def _join_tags(joiner: RowJoiner, table: TagTable, layout: _Layout, findings: Findings) -> None:
    """Take all rows of class names; cells beyond the header belong to a last column of tags."""
    longest = table.rows.width
    is_open = table.header is not None and bool(layout.tags) and max(layout.tags) == table.width - 1
    wanted = [*layout.tags, *(range(table.width, longest) if is_open else ())]
    if len(wanted) > len(layout.tags):
        findings.count(f"{table.path}: cells beyond the last column were read as tags too")
    if layout.tags and all(_is_numeric(table.cells(column)) for column in layout.tags):
        findings.count(f"{table.path}: whole numbers were read as names of classes")
    cells = dict.fromkeys(cell for column in wanted for cell in table.cells(column))
    names_of = names_in_cells(cells, [table.label(column) for column in layout.tags], table.path, findings)
    for start in range(0, len(table.rows), _BLOCK):
        rows = table.rows[start : start + _BLOCK]
        of_columns = [[names_of.get(cell, ()) for cell in rows.padded_column(column)] for column in wanted]
        names = (
            of_columns[0] if len(wanted) == 1 else [tuple(chain(*of_row)) for of_row in zip(*of_columns, strict=True)]
        )
        names = names or [()] * len(rows)
        joiner.add_all(rows.padded_column(layout.file), names, lambda row, rows=rows: f"line {rows.line(row)}")
