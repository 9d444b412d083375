"""Where a pretraining run's figures go, and what its storage and corpus refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rove.config import Config, TrackingSection
from rove.errors import ConfigError, DataError
from rove.pretraining.tokenizer import train_tokenizer
from training import corpus, tracking
from training.pretrain_report import write_report
from training.progress import clock
from training.sources import read_texts, sources
from training.storage import Storage

STEP = {"loss": 2.0, "num_tokens": 90.0, "padding": 0.1, "seconds": 0.5}


def test_tensorboard_files_hold_the_figures(tmp_path: Path) -> None:
    (tracker,) = tracking.open_trackers(TrackingSection(), tmp_path, "run", {"seed": 0})
    tracker.log({"train/loss": 1.5}, 1)
    tracker.close(failed=False)
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in path.read_bytes()


def test_the_report_says_what_happened(tmp_path: Path) -> None:
    """Two steps of 90 tokens and 10 places of padding in half a second each: 180 tokens/s."""
    curve = [{**STEP, "step": 1.0}, {**STEP, "step": 2.0, "loss": 1.0}]
    held_out = [{"step": 0.0, "loss": 2.5}, {"step": 2.0, "loss": 1.25}]
    facts = {"dtype": "float32", "device": "cpu", "memory_mb": 12.0, "command_memory_mb": 34.0}
    state = {"curve": curve, "held_out": held_out}
    text = write_report(tmp_path, Config(name="tiny"), state, facts).read_text("utf-8")
    for line in (
        "| tokens/s | 180 |",
        "| padding | 10.0% |",
        "| loss of the first step | 2.0000 |",
        "| held-out loss, before -> after | 2.5000 -> 1.2500 |",
        "| peak memory of a worker | 12 MB |",
        "| peak memory of the command | 34 MB |",
        "| `seed` | `0` |",
    ):
        assert line in text
    assert (tmp_path / "loss.svg").exists() == ("![loss by step](loss.svg)" in text)


def test_times_are_written_as_clocks_show_them() -> None:
    assert [clock(seconds) for seconds in (5, 65, 3723)] == ["0:05", "1:05", "1:02:03"]


def config_with(tmp_path: Path, **pretrain: object) -> Config:
    return Config.parse({"name": "tiny", "pretrain": {"path": str(tmp_path / "run"), **pretrain}})


def test_a_corpus_that_is_not_named_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("there is nothing to learn from; set ")):
        sources(config_with(tmp_path))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match=re.escape("the files have no rows")):
        sources(config_with(tmp_path, texts=[{"path": str(path)}]))


def test_a_damaged_file_and_a_missing_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    path.write_bytes(b"PAR1 no parquet")
    with pytest.raises(DataError, match=re.escape("cannot be read as parquet: ")):
        sources(config_with(tmp_path, texts=[{"path": str(path)}]))
    pq.write_table(pa.table({"body": ["a"]}), path)
    with pytest.raises(DataError, match=re.escape("no column 'text' for text")):
        sources(config_with(tmp_path, texts=[{"path": str(path)}]))


def test_every_format_gives_its_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n", "utf-8")
    (tmp_path / "b.csv").write_text("id,review\n1,three\n2,four\n", "utf-8")
    (tmp_path / "c.jsonl").write_text('{"review": "five"}\n', "utf-8")
    pq.write_table(pa.table({"review": ["six", None]}), tmp_path / "d.parquet", row_group_size=1)
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    config = config_with(tmp_path, texts=[{"path": path, "column": "review"} for path in paths])
    found = sources(config)
    texts = [text for source in found for some in read_texts(source) for text in some]
    assert texts == ["one", "two", "three", "four", "five", "six", ""]
    assert len(found) == 5  # a row group is a source of its own


def test_an_items_fields_are_one_text(tmp_path: Path) -> None:
    table = pa.table({"item_id": ["1"], "name": ["Lamp"], "tags": [["red", "small"]]})
    pq.write_table(table, tmp_path / "items.parquet")
    source = {"path": str(tmp_path / "items.parquet"), "columns": {"title": "name"}}
    config = Config.parse({"name": "tiny", "data": {"catalogue": source}})
    (one,) = sources(config)
    assert list(read_texts(one)) == [["Lamp\nred, small"]]


def test_the_key_of_a_corpus_changes_with_what_decides_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one", "utf-8")
    found = sources(config_with(tmp_path, texts=[{"path": str(path)}]))
    keys = {
        corpus.key_of(found, "{}", 128, 0.1),
        corpus.key_of(found, "{}", 64, 0.1),
        corpus.key_of(found, "{ }", 128, 0.1),
        corpus.key_of(found, "{}", 128, 0.2),
    }
    assert len(keys) == 4


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigError, match=re.escape("cannot be written: ")):
        Storage.open(tmp_path / "file" / "folder")


def test_a_storage_keeps_small_trees(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    assert storage.read_json("run.json") is None
    storage.write_json("run.json", {"a": 1})
    assert storage.read_json("run.json") == {"a": 1}
    assert storage.checkpoints("train") == []


def test_a_very_long_text_becomes_several_rows_and_none_is_lost(tmp_path: Path) -> None:
    """10,000 words of one token: rows of 16 hold 14 of them, so 715 rows."""
    (tmp_path / "a.txt").write_text(" ".join(["lamp"] * 10_000) + "\n\n", "utf-8")
    found = sources(config_with(tmp_path, texts=[{"path": str(tmp_path / "a.txt")}]))
    letters = [f"lamp {one} {two}" for one in "abcdefghijk" for two in "lmnopqrst"]
    tokenizer = train_tokenizer(lambda: letters, 100, 16).backend_tokenizer
    counts = dict.fromkeys(("num_texts", "num_cut", "num_empty"), 0)
    (rows,) = corpus.token_rows(found[0], tokenizer, 16, 0.0, False, counts)
    assert [len(row) for row in rows] == [16] * 714 + [4 + 2]
    assert counts == {"num_texts": 1, "num_cut": 1, "num_empty": 1}
