"""CSV and JSON lines of several blocks: whole records, one type a column, rows counted through."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rove.errors import DataError
from rove.tables import Columns, FileTable, read_blocks, read_tables

COLUMNS = Columns(
    section="data.catalogue",
    fields=("item_id", "title", "tags"),
    required=("item_id",),
    names={},
)
BLOCK_BYTES = 10_000
FILLER = "x" * 100
NUM_ROWS = 2 * BLOCK_BYTES // len(FILLER)  # some more than two blocks


def blocks(path: Path) -> list[FileTable]:
    return list(read_blocks(path, None, COLUMNS, block_bytes=BLOCK_BYTES))


def rows(parts: list[FileTable]) -> list[dict[str, Any]]:
    return [row for part in parts for row in part.table.to_pylist()]


def csv_file(path: Path, row: Callable[[int], str], end: str = "\n") -> Path:
    lines = ["item_id,title", *(row(i) for i in range(NUM_ROWS))]
    path.write_bytes((end.join(lines) + end).encode())
    return path


def json_file(path: Path, row: Callable[[int], dict[str, Any]], end: str = "\n") -> Path:
    path.write_bytes("".join(json.dumps(row(i)) + end for i in range(NUM_ROWS)).encode())
    return path


def assert_same_whole(path: Path, parts: list[FileTable]) -> None:
    """Read whole, in a block of 16 MB, the file has the same rows."""
    (whole,) = read_tables(path, None, COLUMNS)
    assert whole.table.to_pylist() == rows(parts)


def test_a_csv_file_comes_in_blocks_whose_quoted_cells_keep_their_newlines(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "i.csv", lambda i: f'{i:05},"{FILLER}\r\n""{i}"",\n"', end="\r\n")
    parts = blocks(path)
    assert len(parts) > 2 and max(part.table.nbytes for part in parts) < 1.2 * BLOCK_BYTES
    assert rows(parts) == [
        {"item_id": f"{i:05}", "title": f'{FILLER}\r\n"{i}",\n'} for i in range(NUM_ROWS)
    ]
    assert_same_whole(path, parts)


def test_json_lines_come_in_blocks(tmp_path: Path) -> None:
    path = json_file(tmp_path / "i.jsonl", lambda i: {"item_id": i, "title": FILLER}, end="\r\n\n")
    parts = blocks(path)
    assert len(parts) > 2 and max(part.table.nbytes for part in parts) < 1.2 * BLOCK_BYTES
    assert [row["item_id"] for row in rows(parts)] == list(range(NUM_ROWS))
    assert_same_whole(path, parts)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_record_longer_than_a_block_is_read_once_and_so_are_its_neighbours(
    tmp_path: Path, suffix: str
) -> None:
    long = "word \n" * (BLOCK_BYTES // 4)
    titles = [FILLER] * (NUM_ROWS - 2) + [long, "last"]
    if suffix == "csv":
        path = csv_file(tmp_path / "i.csv", lambda i: f'{i},"{titles[i]}"')
    else:
        path = json_file(tmp_path / "i.jsonl", lambda i: {"item_id": str(i), "title": titles[i]})
    parts = blocks(path)
    assert [row["item_id"] for row in rows(parts)] == list(map(str, range(NUM_ROWS)))
    assert [row["title"] for row in rows(parts)] == titles


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("i.csv", b"\xef\xbb\xbfitem_id,title\r\n1,lamp\r\n"),
        ("i.jsonl", b'\xef\xbb\xbf{"item_id": "1", "title": "lamp"}\r\n'),
        ("i.jsonl", b'{"item_id": "1", "title": "lamp"}'),
    ],
)
def test_a_byte_order_mark_and_a_last_line_without_an_end(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert rows(blocks(path)) == [{"item_id": "1", "title": "lamp"}]
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(content))
    assert rows(blocks(packed)) == [{"item_id": "1", "title": "lamp"}]
    zst = tmp_path / f"{name}.zst"
    zst.write_bytes(pa.Codec("zstd").compress(content).to_pybytes())
    assert rows(blocks(zst)) == [{"item_id": "1", "title": "lamp"}]


def test_malformed_csv_lines_of_all_blocks_are_counted_once(tmp_path: Path) -> None:
    """Also where the file is opened again, for a record longer than a block."""
    long = '"' + "y" * (2 * BLOCK_BYTES) + '"'
    bad = {5: "5,a,b", NUM_ROWS - 3: "6", NUM_ROWS - 2: f"7,{long}"}
    path = csv_file(tmp_path / "i.csv", lambda i: bad.get(i, f"{i},{FILLER}"))
    parts = blocks(path)
    assert sum(part.table.num_rows for part in parts) == NUM_ROWS - 2
    assert [line for part in parts for line in part.malformed] == [
        "3 of 2 cells: '5,a,b'",
        "1 of 2 cells: '6'",
    ]
    (whole,) = read_tables(path, None, COLUMNS)
    assert len(whole.malformed) == 2


def test_a_quote_that_is_not_closed_is_refused_with_the_row_before(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "i.csv", lambda i: f"{i},{FILLER}")
    with path.open("ab") as file:
        file.write(b'last,"' + b"x" * (40 * BLOCK_BYTES))
    message = f"after row {NUM_ROWS} there is a record of more than 160,000 bytes; look for a quote"
    with pytest.raises(DataError, match=re.escape(message)):
        blocks(path)


def test_types_of_json_columns_hold_for_all_blocks(tmp_path: Path) -> None:
    """Nulls, dates and whole numbers in one block, texts and fractions in another."""

    def row(i: int) -> dict[str, Any]:
        first = i < NUM_ROWS // 2
        mixed = {"title": "2011-12-09" if first else "lamp", "tags": [] if first else ["red"]}
        return {"item_id": i if first else i + 0.5, "filler": FILLER, **mixed}

    path = json_file(tmp_path / "i.jsonl", row)
    (whole,) = read_tables(path, None, COLUMNS)
    assert whole.table.schema.types == [pa.float64(), pa.string(), pa.list_(pa.string())]
    assert whole.table["title"].to_pylist()[:: NUM_ROWS - 1] == ["2011-12-09", "lamp"]
    assert_same_whole(path, blocks(path))


def test_a_json_column_may_be_absent_from_a_block(tmp_path: Path) -> None:
    path = json_file(
        tmp_path / "i.jsonl",
        lambda i: {"item_id": "a", "filler": FILLER} | ({"title": "b"} if i in (0, 9) else {}),
    )
    (whole,) = read_tables(path, None, COLUMNS)
    assert whole.table.num_rows == NUM_ROWS and whole.table["title"].null_count == NUM_ROWS - 2
    assert {tuple(part.table.column_names) for part in blocks(path)} == {("item_id", "title")}


def test_a_json_column_of_two_types_is_refused_with_block_or_row(tmp_path: Path) -> None:
    """Another type from a block's start on, and within a block."""

    def changed_at(place: int) -> Path:
        return json_file(
            tmp_path / "i.jsonl",
            lambda i: {"item_id": i if i < place else "a", "title": FILLER},
        )

    first = blocks(changed_at(NUM_ROWS))[0].table.num_rows
    message = f"block 2, after row {first}: column item_id has incompatible types: int64 vs string"
    with pytest.raises(DataError, match=re.escape(message)):
        blocks(changed_at(first))
    message = f"(/item_id) changed from number to string in row {first + 1}"
    with pytest.raises(DataError, match=re.escape(message)):
        blocks(changed_at(first + 1))


def test_a_damaged_json_line_is_named_by_its_row_in_the_file(tmp_path: Path) -> None:
    path = json_file(tmp_path / "i.jsonl", lambda i: {"item_id": i, "title": FILLER})
    with path.open("ab") as file:
        file.write(b'{"item_id": \n')
    with pytest.raises(DataError, match=re.escape(f"Invalid value. in row {NUM_ROWS}")):
        blocks(path)
