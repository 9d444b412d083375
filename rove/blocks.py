"""CSV and JSON lines by blocks of whole records, for `rove.tables`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from rove.errors import DataError

BLOCK_BYTES = 16 << 20


def csv_tables(
    path: Path,
    delimiter: str,
    names: list[str],
    block_bytes: int,
    leave_out: Callable[[Any], str],
) -> Iterator[pa.Table]:
    """Yield columns as text; lines with too few or too many cells go to `leave_out`."""
    with pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=block_bytes),
        parse_options=pa.csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=leave_out
        ),
        convert_options=pa.csv.ConvertOptions(
            include_columns=names, column_types=dict.fromkeys(names, pa.string())
        ),
    ) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def whole_lines(path: Path, block_bytes: int) -> Iterator[bytes]:
    """Yield blocks that end with a line; a line that is longer than a block is one."""
    parts: list[bytes] = []
    with pa.input_stream(path, compression="detect") as stream:
        while chunk := stream.read(block_bytes):
            end = chunk.rfind(b"\n") + 1
            if end:
                block = b"".join([*parts, chunk[:end]])
                parts = []
                if block.strip():
                    yield block
            parts.append(chunk[end:])
    block = b"".join(parts)
    if block.strip():
        yield block


def parse_json_lines(block: bytes, types: Mapping[str, pa.DataType], num_before: int) -> pa.Table:
    """Return the block as a table; errors number the rows from the file's first, which is 0."""
    try:
        return pa.json.read_json(
            pa.BufferReader(block),
            read_options=pa.json.ReadOptions(block_size=len(block) + 1),
            parse_options=pa.json.ParseOptions(explicit_schema=pa.schema(list(types.items()))),
        )
    except pa.ArrowInvalid as error:
        rows = re.compile(r"\bin row (\d+)")
        text = rows.sub(lambda found: f"in row {int(found[1]) + num_before}", str(error))
        raise pa.ArrowInvalid(text) from None


def text_types(table: pa.Table, names: Iterable[str]) -> dict[str, pa.DataType]:
    """Return the type as text of the columns that were taken for times or lists of times."""
    found = {}
    for name in set(names) & set(table.column_names):
        kind = table[name].type
        if pa.types.is_timestamp(kind):
            found[name] = pa.string()
        elif pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
            found[name] = pa.list_(pa.string())
    return found


def unified(before: pa.Schema, now: pa.Schema, where: str) -> pa.Schema:
    """Return the types that hold the columns of both; raise `DataError` where none does."""
    try:
        return pa.unify_schemas([before, now], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = str(error).replace("Unable to merge: Field", "column")
        raise DataError(f"{where}: {reason}; give the column one type in all rows") from None
