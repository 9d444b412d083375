"""Reading catalogues and interactions: formats, column maps, what is left out, what is refused."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rove.config import CatalogueSource, Config, Format, InteractionSource
from rove.errors import ConfigError, DataError
from rove.events import InteractionType
from rove.readers import INTERACTION_SCHEMA, ReadReport, read_catalogue, read_interactions

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop"
ROWS = [
    {"user_id": "u1", "item_id": "007", "timestamp": "1500000000", "type": "click"},
    {"user_id": "u2", "item_id": "8", "timestamp": "2017-07-14T02:40:01Z", "type": "purchase"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the suffix names."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        lines = [list(rows[0]), *(list(map(str, row.values())) for row in rows)]
        path.write_text("".join(",".join(line) + "\n" for line in lines), "utf-8")
    return path


def interactions(path: Path, **settings: Any) -> tuple[list[dict[str, Any]], ReadReport]:
    table, report = read_interactions(InteractionSource(path=path, **settings))
    assert table.schema == INTERACTION_SCHEMA
    return table.to_pylist(), report


def from_columns(
    tmp_path: Path, columns: dict[str, Any], **settings: Any
) -> tuple[list[dict[str, Any]], ReadReport]:
    """Read a Parquet file with these columns and, where not given, plausible required ones."""
    n = len(next(iter(columns.values())))
    whole: dict[str, Any] = {
        "user_id": [f"u{i}" for i in range(n)],
        "item_id": [f"i{i}" for i in range(n)],
        "timestamp": [1.5e9] * n,
        "type": ["click"] * n,
    }
    pq.write_table(pa.table(whole | columns), tmp_path / "log.parquet")
    return interactions(tmp_path / "log.parquet", **settings)


def test_the_shop_is_read_completely() -> None:
    config = Config.load(EXAMPLE / "rove.yaml").data
    assert config is not None
    assert config.interactions is not None
    catalogue = config.catalogue.model_copy(update={"path": EXAMPLE / "items.parquet"})
    items, report = read_catalogue(catalogue)
    assert (len(items), report.num_read, report.skipped) == (3659, 3659, {})
    assert items[0].item_id == "0"
    assert items[0].text == "INFLATABLE POLITICAL GLOBE"
    history = config.interactions.model_copy(update={"path": EXAMPLE / "purchases.parquet"})
    table, report = read_interactions(history)
    assert (table.num_rows, report.num_kept, report.skipped) == (396337, 396337, {})
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["user_id"], first["item_id"], first["type"]) == ("17850", "751", "purchase")
    assert (first["timestamp"], first["session"], first["value"]) == (1291191960.0, "0", 4.25)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows, report = interactions(write(tmp_path / f"log.{suffix}", ROWS))
    assert [row["item_id"] for row in rows] == ["007", "8"]
    assert [row["timestamp"] for row in rows] == [1500000000.0, 1500000001.0]
    assert [row["type"] for row in rows] == ["click", "purchase"]
    assert [row["value"] for row in rows] == [None, None]
    assert report.num_kept == 2


def test_a_folder_is_read_in_order_of_name_and_ignores_other_files(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", [ROWS[0]])
    write(tmp_path / "a.csv", [ROWS[1]])
    (tmp_path / "README.md").write_text("not data")
    rows, report = interactions(tmp_path)
    assert [row["user_id"] for row in rows] == ["u2", "u1"]
    assert [Path(path).name for path in report.paths] == ["a.csv", "b.jsonl"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_compressed_file_is_read(tmp_path: Path, suffix: str) -> None:
    plain = write(tmp_path / f"log.{suffix}", ROWS)
    packed = tmp_path / f"log.{suffix}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert interactions(packed)[0] == interactions(plain)[0]


def test_a_suffix_that_names_no_format_needs_the_format(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ROWS).rename(tmp_path / "log.txt")
    assert len(interactions(path, format="csv")[0]) == 2
    with pytest.raises(DataError, match=re.escape("the suffix names no format; rename it to one")):
        interactions(path)


def test_semicolons_a_byte_order_mark_and_quoted_newlines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b'\xef\xbb\xbfitem_id;title\r\n1;"red; round\nlamp"\r\n2;vase\r\n')
    items, _ = read_catalogue(CatalogueSource(path=path))
    assert [(item.item_id, item.title) for item in items] == [
        ("1", "red; round\nlamp"),
        ("2", "vase"),
    ]


def test_a_column_map_renames_and_one_column_is_one_field(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", [{"sku": 5, "description": "lamp"}])
    columns = {"item_id": "sku", "title": "description"}
    items, _ = read_catalogue(CatalogueSource(path=path, columns=columns))
    assert (items[0].item_id, items[0].title, items[0].description) == ("5", "lamp", "")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([1, 2], pa.int16()), ["1", "2"]),
        (pa.array([17850.0, 1e7]), ["17850", "10000000"]),
        (pa.array([1.5, 2.0]), ["1.5", "2"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array([b"a", b"b"]), ["a", "b"]),
    ],
    ids=["int", "whole float", "float", "dictionary", "large", "binary"],
)
def test_ids_of_any_type_become_text(tmp_path: Path, ids: Any, expected: list[str]) -> None:
    rows, _ = from_columns(tmp_path, {"user_id": ids})
    assert [row["user_id"] for row in rows] == expected


def test_ids_in_json_that_look_like_dates_keep_their_characters(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "item_id": "2011-12-09"}]
    assert interactions(write(tmp_path / "log.jsonl", rows))[0][0]["item_id"] == "2011-12-09"


NOON = datetime(2011, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)  # 1293883200.5


@pytest.mark.parametrize(
    "times",
    [
        pa.array([1293883200.5]),
        pa.array(["1293883200.5"]),
        pa.array(["2011-01-01T12:00:00.5Z"]),
        pa.array([" 2011-01-01 12:00:00.500 "]),
        pa.array(["2011-01-01T14:00:00.5+02:00"]),
        pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ms")),
        pa.array([NOON], pa.timestamp("ns", "UTC")),
        pa.array([NOON], pa.timestamp("us", "America/New_York")),
    ],
    ids=str,
)
def test_times_are_read_as_unix_seconds(tmp_path: Path, times: Any) -> None:
    assert from_columns(tmp_path, {"timestamp": times})[0][0]["timestamp"] == 1293883200.5


def test_times_of_several_kinds_in_one_column(tmp_path: Path) -> None:
    times = ["2011-01-01T00:00:00", "2011-01-01T01:00:00+01:00", "1293840000", "yesterday", ""]
    rows, report = from_columns(tmp_path, {"timestamp": times})
    assert [row["timestamp"] for row in rows] == [1293840000.0] * 3
    assert report.skipped == {"timestamp is no time": 1, "no timestamp": 1}


def test_a_date_is_its_midnight(tmp_path: Path) -> None:
    times = pa.array([datetime(2011, 1, 1)], pa.timestamp("s")).cast(pa.date32())
    assert from_columns(tmp_path, {"timestamp": times})[0][0]["timestamp"] == 1293840000.0


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"user_id": [None, "u"]}, "no user_id"),
        ({"user_id": ["", "u"]}, "no user_id"),
        ({"item_id": [None, 7]}, "no item_id"),
        ({"item_id": [float("nan"), 7.0]}, "no item_id"),
        ({"item_id": ["x" * 257, "x" * 256]}, "item_id too long or not printable"),
        ({"user_id": ["a\x00", "a b"]}, "user_id too long or not printable"),
        ({"event_id": ["a\n", None]}, "event_id too long or not printable"),
        ({"type": ["poke", " Click "]}, "unknown type"),
        ({"type": [None, "click"]}, "unknown type"),
        ({"timestamp": [None, 1.5e9]}, "no timestamp"),
        ({"timestamp": [float("nan"), 1.5e9]}, "timestamp is no time"),
        ({"timestamp": [float("inf"), 1.5e9]}, "timestamp is no time"),
        ({"timestamp": [1500000000000, 1500000000]}, "timestamp is not in seconds"),
        ({"value": [float("inf"), None]}, "value is no finite number"),
        ({"value": ["cheap", "1e3"]}, "value is no finite number"),
        ({"watch_ratio": [float("nan"), 0.5]}, "watch_ratio is no finite number"),
        ({"duration_s": [-1.0, 0.0]}, "duration_s is negative"),
        ({"slot": [-1, 3]}, "slot is negative"),
        ({"text": ["x" * 100_001, "x" * 100_000]}, "text too long"),
    ],
    ids=str,
)
def test_an_unusable_interaction_is_left_out_and_counted(
    tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    """The first of two rows is bad, the second is at the edge of what is good."""
    rows, report = from_columns(tmp_path, columns)
    assert [row["user_id"] for row in rows] == [columns.get("user_id", ["u0", "u1"])[1]]
    assert (report.num_read, report.num_kept, report.skipped) == (2, 1, {reason: 1})
    assert report.examples[reason][0].startswith(f"log.parquet row 1: {next(iter(columns))} ")


def test_a_row_with_two_faults_is_counted_once(tmp_path: Path) -> None:
    columns = {"user_id": [None, "u"], "timestamp": [float("nan"), 1.5e9]}
    assert from_columns(tmp_path, columns)[1].skipped == {"no user_id": 1}


def test_the_type_of_the_source_is_the_type_of_every_row(tmp_path: Path) -> None:
    rows, _ = from_columns(tmp_path, {"type": ["poke", ""]}, type=InteractionType.PURCHASE)
    assert [row["type"] for row in rows] == ["purchase", "purchase"]


def test_every_field_of_an_interaction_is_read(tmp_path: Path) -> None:
    full = {
        **ROWS[0],
        "value": 1.5,
        "duration_s": 2.0,
        "watch_ratio": 0.5,
        "text": "good",
        "session": "s",
        "interaction_id": "n",
        "event_id": "e",
        "slot": 3,
    }
    for suffix in ("csv", "jsonl", "parquet"):
        rows, _ = interactions(write(tmp_path / f"log.{suffix}", [full]))
        assert rows == [full | {"timestamp": 1500000000.0}]


@pytest.mark.parametrize(
    ("rows", "reason", "kept"),
    [
        ([(None, "lamp"), ("2", "vase")], "no item_id", ["2"]),
        ([("x" * 257, "lamp"), ("2", "vase")], "item_id too long or not printable", ["2"]),
        ([("1", ""), ("2", "vase")], "no text", ["2"]),
        ([("1", " \t"), ("2", "vase")], "no text", ["2"]),
        ([("1", None), ("2", "vase")], "no text", ["2"]),
        ([("1", "x" * 100_001), ("2", "vase")], "text too long", ["2"]),
        ([("1", "lamp"), ("1", "vase")], "item_id was there before", ["1"]),
    ],
)
def test_an_unusable_item_is_left_out_and_counted(
    tmp_path: Path, rows: list[tuple[str | None, str | None]], reason: str, kept: list[str]
) -> None:
    table = [{"item_id": item_id, "title": title} for item_id, title in rows]
    items, report = read_catalogue(CatalogueSource(path=write(tmp_path / "i.parquet", table)))
    assert [item.item_id for item in items] == kept
    assert report.skipped == {reason: 1}


def test_of_a_repeated_item_the_first_usable_one_counts(tmp_path: Path) -> None:
    rows = [{"item_id": "1", "title": title} for title in ("", "lamp", "vase")]
    items, report = read_catalogue(CatalogueSource(path=write(tmp_path / "i.jsonl", rows)))
    assert [item.title for item in items] == ["lamp"]
    assert report.skipped == {"no text": 1, "item_id was there before": 1}


@pytest.mark.parametrize(
    ("cell", "tags"),
    [("red|round, big", ["red", "round, big"]), ("red, round", ["red", "round"]), ("", [])],
)
def test_tags_are_a_list_or_a_text_with_bars_or_commas(
    tmp_path: Path, cell: str, tags: list[str]
) -> None:
    for value in (cell, tags):
        row = {"item_id": "1", "title": "lamp", "tags": value}
        path = write(tmp_path / "i.jsonl", [row])
        assert read_catalogue(CatalogueSource(path=path))[0][0].tags == tags


def test_the_report_says_what_was_left_out_and_shows_the_first_rows(tmp_path: Path) -> None:
    rows = [{"item_id": str(i), "title": "" if i < 5 else "lamp"} for i in range(1200)]
    path = write(tmp_path / "items.csv", rows)
    _, report = read_catalogue(CatalogueSource(path=path))
    assert report.lines() == [
        f"{path}: 1,200 rows read, 1,195 kept",
        "  left out 5: no text (items.csv row 1: item_id '0'; items.csv row 2: item_id '1'; "
        "items.csv row 3: item_id '2')",
    ]
    assert json.loads(json.dumps(report.as_dict()))["skipped"] == {"no text": 5}


def test_a_csv_line_with_too_many_cells_is_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n1,lamp,red\n2,vase\n")
    items, report = read_catalogue(CatalogueSource(path=path))
    assert [item.item_id for item in items] == ["2"]
    assert (report.num_read, report.skipped) == (2, {"not as many cells as the header": 1})
    assert report.examples["not as many cells as the header"] == (
        "items.csv 3 of 2 cells: '1,lamp,red'",
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("i.csv", b"", "the first line is empty; it must name the columns"),
        ("i.csv", b"item_id,title\n", "no usable item: the file has no rows"),
        ("i.csv", b"item_id,title\n1,\n", "no usable item: left out 1: no text"),
        ("i.csv", b"item_id,title\n1,caf\xe9\n", "invalid UTF8 data; save the file as UTF-8"),
        ("i.csv", b"item_id,caf\xe9\n1,x\n", "not UTF-8: "),
        ("i.csv", b"item_id,title\n1,\xff\xfe\n", "cannot be read as csv: "),
        ("i.csv", b"item,title\n1,lamp\n", "no column 'item_id' for item_id (did you mean item?)"),
        ("i.csv", b"item_id,price\n1,2\n", "no column with text; set data.catalogue.columns.title"),
        ("i.jsonl", b'{"item_id": 1, "title": "\xff"}\n', "Invalid UTF8 sequence"),
        ("i.jsonl", b'{"item_id": 1, "title": "a"\n', "cannot be read as jsonl: JSON parse error"),
        ("i.jsonl", b"[1]\n", "cannot be read as jsonl: JSON parse error"),
        (
            "i.jsonl",
            b'{"item_id": 1}\n{"item_id": "a"}\n',
            "changed from number to string in row 1",
        ),
        ("i.jsonl", b'{"item_id": [1], "title": "a"}\n', "item_id: expected text or numbers"),
        ("i.jsonl", b"", "cannot be read as jsonl: Empty JSON file"),
        ("i.parquet", b"PAR1 but not really PAR1", "cannot be read as parquet: "),
        ("i.parquet", b"", "cannot be read as parquet: "),
        ("i.csv.gz", b"item_id,title\n1,lamp\n", "cannot be read as csv: "),
    ],
)
def test_an_unusable_catalogue_file_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_catalogue(CatalogueSource(path=path))
    assert str(path) in caught.value.detail


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "i.parquet", [{"item_id": "1", "title": "lamp"}])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=re.escape("cannot be read as parquet: ")):
        read_catalogue(CatalogueSource(path=path))


def test_a_missing_path_and_a_folder_without_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("none.csv: no such file or folder (looked from")):
        read_catalogue(CatalogueSource(path=tmp_path / "none.csv"))
    with pytest.raises(
        DataError, match=re.escape("the folder has no file that ends in .csv, .tsv")
    ):
        read_catalogue(CatalogueSource(path=tmp_path, format="csv"))


@pytest.mark.parametrize("missing", ["user_id", "item_id", "timestamp", "type"])
def test_a_missing_column_of_interactions_is_named(tmp_path: Path, missing: str) -> None:
    rows = [{name: value for name, value in row.items() if name != missing} for row in ROWS]
    path = write(tmp_path / "log.csv", rows)
    message = f"no column '{missing}' for {missing}; set data.interactions.columns.{missing} to one"
    with pytest.raises(DataError, match=re.escape(message)):
        interactions(path)


def test_a_mapped_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [{**row, "invoice": "1"} for row in ROWS])
    message = "no column 'invoce' for session (did you mean invoice?)"
    with pytest.raises(DataError, match=re.escape(message)):
        interactions(path, columns={"session": "invoce"})


def test_a_map_of_an_unknown_field_is_refused(tmp_path: Path) -> None:
    message = "data.interactions.columns: 'sesion' is no field (did you mean session?)"
    with pytest.raises(ConfigError, match=re.escape(message)):
        interactions(write(tmp_path / "log.csv", ROWS), columns={"sesion": "invoice"})


def test_interactions_of_which_none_can_be_used_are_refused(tmp_path: Path) -> None:
    message = "no usable interaction: left out 2: timestamp is not in seconds (log.parquet row 1"
    with pytest.raises(DataError, match=re.escape(message)):
        from_columns(tmp_path, {"timestamp": [1.5e12, 1.5e12]})


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_a_folder_that_is_named_like_a_file_is_no_file(tmp_path: Path, format: Format) -> None:
    (tmp_path / f"deep.{format}").mkdir()
    with pytest.raises(DataError, match=re.escape("the folder has no file that ends in")):
        read_catalogue(CatalogueSource(path=tmp_path, format=format))
