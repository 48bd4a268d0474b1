"""Figures as text: numbers and aligned tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned text columns under a header and a rule; no rows give the header alone."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, rule, *rows)
    ]


def number(value: float | None) -> str:
    """A share in [0, 1] with three decimals; a dash for None."""
    return "-" if value is None else f"{value:.3f}"
