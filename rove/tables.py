"""Files of rows: Parquet, CSV and JSON lines, as Arrow tables whose columns have Rove's names.

- `read_tables` gives a file whole, `read_blocks` a file that need not fit into memory.
- Only the columns that are asked for are read; CSV cells are read as text, so `007` stays `007`.
- CSV and JSON lines are read by blocks of whole records; a column has one type in all of them.
- A `.gz`, `.bz2` or `.zst` behind the suffix of a CSV or JSON lines file is decompressed.
- What makes a file unusable as a whole raises `DataError`; a CSV line with too few or too many
  cells is left out and counted.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from rove.blocks import (
    BLOCK_BYTES,
    csv_tables,
    parse_json_lines,
    text_types,
    unified,
    whole_lines,
)
from rove.config import Format
from rove.errors import ConfigError, DataError, shown

_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_COMPRESSED = (".gz", ".bz2", ".zst")
_DELIMITERS = ",;\t|"
_RECORD_BLOCKS = 16  # a longer record is a quote that is not closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which of Rove's fields to look for, under which of the file's names."""

    section: str
    """The configuration section, for error messages: `data.catalogue`."""
    fields: tuple[str, ...]
    required: tuple[str, ...]
    names: Mapping[str, str]
    """Field -> column, where the names differ."""

    def __post_init__(self) -> None:
        for field in self.names:
            if field not in self.fields:
                raise ConfigError(
                    f"{self.section}.columns: {shown(field)} is no field"
                    f"{_did_you_mean(field, self.fields)}; fields: {', '.join(self.fields)}"
                )

    def choose(self, path: Path, available: Sequence[str]) -> dict[str, str]:
        """Return field -> column for the fields that the file at `path` has.

        A column that the map gives to one field is not also read as the field of its own name.
        """
        mapped = set(self.names.values())
        chosen = {}
        for field in self.fields:
            column = self.names.get(field, field)
            if column in available and (field in self.names or column not in mapped):
                chosen[field] = column
            elif field in self.names or field in self.required:
                raise DataError(
                    f"{path}: no column {shown(column)} for {field}"
                    f"{_did_you_mean(column, available)}; set {self.section}.columns.{field} to "
                    f"one of: {', '.join(map(shown, available))}"
                )
        return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTable:
    """The rows of a file, or some of them; the columns are the fields that were found."""

    path: Path
    table: pa.Table
    malformed: tuple[str, ...] = ()
    """Lines that have too few or too many cells."""


def read_tables(path: Path, format: Format | None, columns: Columns) -> Iterator[FileTable]:
    """Yield the rows of the file `path`, or of each file in the folder `path` in order of name."""
    for file in list_files(path, format):
        parts = list(_read(file, format or _format_of(file), columns, BLOCK_BYTES))
        tables = [part.table for part in parts]
        yield FileTable(
            path=file,
            table=pa.concat_tables(tables, promote_options="permissive"),
            malformed=tuple(line for part in parts for line in part.malformed),
        )


def read_blocks(
    path: Path, format: Format | None, columns: Columns, *, block_bytes: int = BLOCK_BYTES
) -> Iterator[FileTable]:
    """Yield the same rows some at a time; only a Parquet file comes whole."""
    for file in list_files(path, format):
        yield from _read(file, format or _format_of(file), columns, block_bytes)


def list_files(path: Path, format: Format | None) -> list[Path]:
    """Return the data files at `path`; in a folder, those whose suffix names a format."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder (looked from {Path.cwd()})")
    if not path.is_dir():
        return [path]
    suffixes = [suffix for suffix, name in _FORMATS.items() if format in (None, name)]
    found = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith(".") and _suffix(file) in suffixes
    )
    if not found:
        raise DataError(f"{path}: the folder has no file that ends in {', '.join(suffixes)}")
    return found


def _suffix(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    return plain.suffix.lower()


def _format_of(path: Path) -> Format:
    try:
        return _FORMATS[_suffix(path)]
    except KeyError:
        raise DataError(
            f"{path}: the suffix names no format; rename it to one of {', '.join(_FORMATS)} or set "
            "format to parquet, csv or jsonl"
        ) from None


def _read(path: Path, format: Format, columns: Columns, block_bytes: int) -> Iterator[FileTable]:
    try:
        for part in _READERS[format](path, columns, block_bytes):
            part.table.validate(full=True)  # JSON and Parquet strings are not checked while reading
            yield part
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason}; save the file as UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "; save the file as UTF-8" if "UTF8" in reason else ""
        raise DataError(f"{path}: cannot be read as {format}: {reason}{hint}") from None


def _read_parquet(path: Path, columns: Columns, block_bytes: int) -> Iterator[FileTable]:
    with pa.parquet.ParquetFile(path) as file:
        chosen = columns.choose(path, file.schema_arrow.names)
        yield FileTable(path=path, table=_rename(file.read(list(chosen.values())), chosen))


def _read_csv(path: Path, columns: Columns, block_bytes: int) -> Iterator[FileTable]:
    """Yield blocks, then an empty one with the lines that were left out.

    A record that is longer than a block is met only there: the file is opened again with larger
    blocks, and the rows before are left out.
    """
    header, delimiter = _csv_header(path)
    chosen = columns.choose(path, header)
    malformed: list[str] = []
    num_rows, most_bytes = 0, _RECORD_BLOCKS * block_bytes

    def leave_out(row: Any) -> str:
        malformed.append(f"{row.actual_columns} of {row.expected_columns} cells: {shown(row.text)}")
        return "skip"

    while True:
        num_before = num_rows
        malformed.clear()
        try:
            for table in csv_tables(path, delimiter, list(chosen.values()), block_bytes, leave_out):
                rest = table.slice(num_before)
                num_before -= table.num_rows - rest.num_rows
                num_rows += rest.num_rows
                yield FileTable(path=path, table=_rename(rest, chosen))
            break
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error):
                raise
        block_bytes *= 4
        if block_bytes > most_bytes:
            raise DataError(
                f"{path}: after row {num_rows:,} there is a record of more than "
                f"{most_bytes:,} bytes; look for a quote that is not closed"
            )
    empty = pa.schema([(field, pa.string()) for field in chosen]).empty_table()
    yield FileTable(path=path, table=empty, malformed=tuple(malformed))


def _csv_header(path: Path) -> tuple[list[str], str]:
    """Return the column names and the delimiter, which is the one most frequent in the names."""
    with pa.input_stream(path, compression="detect") as stream:
        line = bytes(stream.read(1 << 20)).split(b"\n", 1)[0].rstrip(b"\r")
    text = line.decode("utf-8-sig")
    if not text.strip():
        raise DataError(f"{path}: the first line is empty; it must name the columns")
    delimiter = max(_DELIMITERS, key=text.count)
    return next(csv.reader([text], delimiter=delimiter)), delimiter


def _read_jsonl(path: Path, columns: Columns, block_bytes: int) -> Iterator[FileTable]:
    """Yield blocks; a column that a block does not have is null there."""
    as_text: dict[str, pa.DataType] = {}  # columns that look like times
    known: dict[str, None] = {}
    schema = pa.schema([])
    num_rows = 0
    for number, block in enumerate(whole_lines(path, block_bytes), 1):
        table = parse_json_lines(block, as_text, num_rows)
        known |= dict.fromkeys(table.column_names)
        chosen = columns.choose(path, list(known))
        # Arrow takes "2011-12-09" for a time; an id or a title that looks so must keep its
        # characters.
        dated = text_types(table, chosen.values())
        if dated:
            as_text |= dated
            table = parse_json_lines(block, as_text, num_rows)
        missing = [name for name in chosen.values() if name not in table.column_names]
        for name in missing:
            table = table.append_column(name, pa.nulls(table.num_rows))
        table = _rename(table, chosen)
        schema = unified(schema, table.schema, f"{path}: block {number}, after row {num_rows:,}")
        num_rows += table.num_rows
        yield FileTable(path=path, table=table)
    if not num_rows:
        raise pa.ArrowInvalid("Empty JSON file")


def _rename(table: pa.Table, chosen: Mapping[str, str]) -> pa.Table:
    return pa.table({field: table[column] for field, column in chosen.items()})


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


_READERS = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_jsonl}
