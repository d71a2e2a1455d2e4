"""Columns as docker's: at least ten wide, three spaces between, nothing after the last.

A cell ends at a tab; the last cell of a line is not padded (Go's text/tabwriter with minwidth 10, padding 3).
Columns are blocks: a column's width counts only over consecutive lines that have it.
"""

from __future__ import annotations

from collections.abc import Sequence


def align(lines: Sequence[str], *, least: int = 10, padding: int = 3) -> list[str]:
    """Tab-separated lines to aligned ones."""
    rows = [line.split("\t") for line in lines]
    widths: list[list[int]] = [[0] * (len(row) - 1) for row in rows]
    for column in range(max((len(row) for row in rows), default=1) - 1):
        start = 0
        while start < len(rows):
            if len(rows[start]) - 1 <= column:
                start += 1
                continue
            stop = start
            while stop < len(rows) and len(rows[stop]) - 1 > column:
                stop += 1
            width = max(least, max(len(row[column]) for row in rows[start:stop]) + padding)
            for index in range(start, stop):
                widths[index][column] = width
            start = stop
    return [
        "".join(cell.ljust(width) for cell, width in zip(row, wide, strict=False)) + row[-1]
        for row, wide in zip(rows, widths, strict=True)
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(align(["\t".join(row) for row in (header, *rows)]))
