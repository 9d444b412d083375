"""Catalogues and interactions from files, with a report of what was read, left out and why.

`rove.tables` opens the files, `rove.columns` turns their cells into ids, numbers and times, and
this module decides which rows can be used.

- A row that cannot be used is left out and counted under its first reason; it is never repaired.
- A file that cannot be used raises `DataError`; so does a source without a single usable row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rove.catalogue import Item
from rove.columns import (
    Mask,
    as_ids,
    as_mask,
    as_numbers,
    as_seconds,
    as_text,
    is_bad_id,
    is_missing,
    is_not_finite,
)
from rove.config import CatalogueSource, InteractionSource
from rove.errors import DataError, shown
from rove.events import MAX_ID_LENGTH, MAX_TEXT_LENGTH, InteractionType
from rove.tables import Columns, FileTable, list_files, read_tables

ITEM_FIELDS = ("item_id", "title", "description", "category", "tags")

INTERACTION_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("type", pa.string()),
        ("timestamp", pa.float64()),  # unix seconds
        ("value", pa.float64()),
        ("duration_s", pa.float64()),
        ("watch_ratio", pa.float64()),
        ("text", pa.string()),
        ("session", pa.string()),
        ("interaction_id", pa.string()),
        ("event_id", pa.string()),
        ("slot", pa.int64()),
    ]
)
"""What `read_interactions` returns; the first four columns have no nulls."""

# 2100-01-01; larger numbers are milliseconds or nanoseconds, and those have to be converted.
_LAST_SECOND = 4_102_444_800.0
_NUM_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReport:
    """What was read, kept and left out."""

    paths: tuple[str, ...]
    num_read: int
    num_kept: int
    skipped: dict[str, int]
    """Reason -> number of rows."""
    examples: dict[str, tuple[str, ...]]
    """Reason -> the first rows it applied to."""

    def lines(self) -> list[str]:
        """Return the report for a terminal."""
        where = self.paths[0] if len(self.paths) == 1 else f"{len(self.paths)} files"
        lines = [f"{where}: {self.num_read:,} rows read, {self.num_kept:,} kept"]
        for reason, count in self.skipped.items():
            lines.append(f"  left out {count:,}: {reason} ({'; '.join(self.examples[reason])})")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "paths": list(self.paths),
            "num_read": self.num_read,
            "num_kept": self.num_kept,
            "skipped": self.skipped,
            "examples": {reason: list(rows) for reason, rows in self.examples.items()},
        }


def read_catalogue(source: CatalogueSource) -> tuple[list[Item], ReadReport]:
    """Read the items of `source`, in the order of the files; of a repeated id the first counts."""
    columns = Columns(
        section="data.catalogue",
        fields=ITEM_FIELDS,
        required=("item_id",),
        names=source.columns,
    )
    tally = _Tally()
    items: dict[str, Item] = {}
    for part in read_tables(source.path, source.format, columns):
        if part.table.num_columns == 1:
            raise DataError(
                f"{part.path}: no column with text; set data.catalogue.columns.title or "
                ".description to the column that says what an item is"
            )
        _add_items(items, part, tally)
    return list(items.values()), _report(tally, len(items), source, "item")


def read_interactions(source: InteractionSource) -> tuple[pa.Table, ReadReport]:
    """Read the interactions of `source` as a table of `INTERACTION_SCHEMA`, in the files' order."""
    columns = Columns(
        section="data.interactions",
        fields=tuple(INTERACTION_SCHEMA.names),
        required=("user_id", "item_id", "timestamp") + (() if source.type else ("type",)),
        names=source.columns,
    )
    tally = _Tally()
    parts = [
        _usable_interactions(part, source.type, tally)
        for part in read_tables(source.path, source.format, columns)
    ]
    table = pa.concat_tables(parts)
    return table, _report(tally, table.num_rows, source, "interaction")


@dataclass(slots=True)
class _Tally:
    """Counts what is left out, over all files."""

    num_read: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, count: int, examples: list[str]) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + count
        known = self.examples.setdefault(reason, [])
        known.extend(examples[: _NUM_EXAMPLES - len(known)])

    def start(self, part: FileTable) -> None:
        self.num_read += part.table.num_rows + len(part.malformed)
        if part.malformed:
            examples = [f"{part.path.name} {line}" for line in part.malformed[:_NUM_EXAMPLES]]
            self.add("not as many cells as the header", len(part.malformed), examples)


class _Sieve:
    """Leaves out rows of one file, each under the first reason that applies."""

    def __init__(self, part: FileTable, tally: _Tally) -> None:
        self._part = part
        self._tally = tally
        self.kept: Mask = np.ones(part.table.num_rows, dtype=bool)

    def leave_out(self, reason: str, bad: Mask, shown_field: str) -> None:
        hit = np.flatnonzero(self.kept & bad)
        if hit.size:
            examples = [_row(self._part, index, shown_field) for index in hit[:3].tolist()]
            self._tally.add(reason, hit.size, examples)
            self.kept &= ~bad


def _row(part: FileTable, index: int, name: str) -> str:
    return f"{part.path.name} row {index + 1}: {name} {shown(part.table[name][index].as_py())}"


def _add_items(items: dict[str, Item], part: FileTable, tally: _Tally) -> None:
    tally.start(part)
    for index, item in enumerate(_read_items(part)):
        reason = _unusable(item, items)
        if reason is None:
            items[item.item_id] = item
        else:
            tally.add(reason, 1, [_row(part, index, "item_id")])


def _unusable(item: Item, before: dict[str, Item]) -> str | None:
    if not item.item_id:
        return "no item_id"
    if len(item.item_id) > MAX_ID_LENGTH or not item.item_id.isprintable():
        return "item_id too long or not printable"
    if not item.text.strip():
        return "no text"
    if max(len(item.title), len(item.description)) > MAX_TEXT_LENGTH:
        return "text too long"
    if max(map(len, (item.category, *item.tags))) > MAX_ID_LENGTH:
        return "category or tag too long"
    return "item_id was there before" if item.item_id in before else None


def _read_items(part: FileTable) -> list[Item]:
    n = part.table.num_rows
    ids = as_ids(part.table["item_id"], f"{part.path}: item_id").to_pylist()
    texts: dict[str, list[str | None]] = {name: [None] * n for name in ITEM_FIELDS[1:4]}
    for name in texts:
        if name in part.table.column_names:
            texts[name] = as_text(part.table[name], f"{part.path}: {name}").to_pylist()
    cells = part.table["tags"].to_pylist() if "tags" in part.table.column_names else [None] * n
    return [
        Item(
            item_id=ids[i] or "",
            title=(texts["title"][i] or "").strip(),
            description=(texts["description"][i] or "").strip(),
            category=(texts["category"][i] or "").strip(),
            tags=_tags(cells[i]),
        )
        for i in range(n)
    ]


def _tags(cell: Any) -> list[str]:
    """Return the tags of a list, or of a text with bars or else commas between them."""
    if cell is None:
        return []
    if not isinstance(cell, list):
        text = str(cell)
        cell = text.split("|" if "|" in text else ",")
    return [tag for tag in (str(part).strip() for part in cell if part is not None) if tag]


def _usable_interactions(part: FileTable, type: InteractionType | None, tally: _Tally) -> pa.Table:
    """Return the rows that can be used, as `INTERACTION_SCHEMA`."""
    tally.start(part)
    sieve = _Sieve(part, tally)
    columns = _interaction_columns(part, type)
    for name in ("user_id", "item_id"):
        sieve.leave_out(f"no {name}", is_missing(columns[name]), name)
    for name in ("user_id", "item_id", "session", "interaction_id", "event_id"):
        reason = f"{name} too long or not printable"
        sieve.leave_out(reason, is_bad_id(columns[name]), name)
    if type is None:
        types = pa.array([kind.value for kind in InteractionType])
        known = pc.is_in(columns["type"], value_set=types)
        sieve.leave_out("unknown type", as_mask(pc.invert(known)), "type")
    seconds = columns["timestamp"]
    sieve.leave_out("no timestamp", is_missing(seconds), "timestamp")
    sieve.leave_out("timestamp is no time", is_not_finite(seconds), "timestamp")
    out_of_range = pc.greater(pc.abs(seconds), _LAST_SECOND)
    sieve.leave_out("timestamp is not in seconds", as_mask(out_of_range), "timestamp")
    for name in ("value", "duration_s", "watch_ratio", "slot"):
        sieve.leave_out(f"{name} is no finite number", is_not_finite(columns[name]), name)
    for name in ("duration_s", "watch_ratio", "slot"):
        sieve.leave_out(f"{name} is negative", as_mask(pc.less(columns[name], 0)), name)
    too_long = pc.greater(pc.utf8_length(columns["text"]), MAX_TEXT_LENGTH)
    sieve.leave_out("text too long", as_mask(too_long), "text")
    kept = pa.array(sieve.kept)
    usable = {name: pc.filter(column, kept) for name, column in columns.items()}
    usable["slot"] = pc.cast(pc.trunc(usable["slot"]), pa.int64())
    return pa.table(usable, schema=INTERACTION_SCHEMA)


def _interaction_columns(part: FileTable, type: InteractionType | None) -> dict[str, Any]:
    """Return every field of `INTERACTION_SCHEMA`, the slot still as a float; null where absent."""
    n = part.table.num_rows
    columns: dict[str, Any] = {}
    for column in INTERACTION_SCHEMA:
        name, where = column.name, f"{part.path}: {column.name}"
        kind = pa.float64() if name == "slot" else column.type
        if name == "type" and type is not None:
            columns[name] = pa.repeat(pa.scalar(type.value, pa.string()), n)
        elif name not in part.table.column_names:
            columns[name] = pa.nulls(n, kind)
        elif name == "timestamp":
            columns[name] = as_seconds(part.table[name], where)
        elif name == "type":
            columns[name] = pc.utf8_lower(pc.utf8_trim_whitespace(as_text(part.table[name], where)))
        elif name == "text":
            columns[name] = as_text(part.table[name], where)
        elif kind == pa.float64():
            columns[name] = as_numbers(part.table[name], where)
        else:
            columns[name] = as_ids(part.table[name], where)
    return columns


def _report(
    tally: _Tally, num_kept: int, source: CatalogueSource | InteractionSource, noun: str
) -> ReadReport:
    report = ReadReport(
        paths=tuple(str(Path(file)) for file in list_files(source.path, source.format)),
        num_read=tally.num_read,
        num_kept=num_kept,
        skipped=tally.skipped,
        examples={reason: tuple(rows) for reason, rows in tally.examples.items()},
    )
    if not num_kept:
        details = "; ".join(line.strip() for line in report.lines()[1:]) or "the file has no rows"
        raise DataError(f"{source.path}: no usable {noun}: {details}")
    return report
