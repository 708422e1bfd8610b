"""Rows of a set's text tables, with errors that name the file, the line and the fault. It knows no set."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.datasets.embryo import DatasetError


def rows_of(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of a CSV without header; semicolons are read as well. DatasetError for other rows."""
    text = _text_of(path)
    delimiter = ";" if text.partition("\n")[0].count(";") >= columns - 1 else ","
    for number, row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), start=1):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != columns:
            raise DatasetError(path, f"line {number} has {len(row)} columns, not {columns}")
        yield number, [cell.strip() for cell in row]


def records_of(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, cells by name) of a CSV whose first line names its columns. DatasetError where one is missing."""
    lines = _text_of(path).splitlines()
    reader = csv.DictReader(lines, restval="")
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise DatasetError(path, f"has no column {', '.join(missing)}; its first line is {lines[:1]}")
    for record in reader:
        yield reader.line_num, {name: record[name].strip() for name in needed}


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise DatasetError(path, f"cannot be read: {fault}") from fault
