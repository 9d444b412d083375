"""The catalogue that all processes share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import rove
from rove.catalogue import Item
from rove.config import StoreSection
from rove.errors import StoreUnavailable
from rove.ledger.database import CATALOGUE
from rove.ledger.items import ItemRow, ItemStore
from rove.ledger.schema import SCHEMA_VERSION, catalogue_meta
from rove.ledger.store import open_store


def item(item_id: str, title: str = "A pear") -> Item:
    return Item(item_id=item_id, title=title, tags=["fruit", "\N{PEAR}"])


def vectors(*rows: list[float]) -> npt.NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


def same(row: ItemRow | None, item: Item, vector: list[float], sequence: int) -> bool:
    assert row is not None and row.vector is not None
    assert row.vector.dtype == np.float32
    fields = (row.item_id, row.item, row.vector.tolist(), row.encoder, row.sequence)
    return fields == (item.item_id, item, vector, "enc", sequence)


def test_an_item_comes_back_as_it_went_in(store: StoreSection) -> None:
    items = ItemStore.open(store)
    assert items.put([item("a"), item("b")], vectors([0.5, 1.5], [2.0, -0.25]), "enc") == 1
    assert same(items.get("b"), item("b"), [2.0, -0.25], 1)
    assert items.get("c") is None


def test_a_later_put_replaces(store: StoreSection) -> None:
    items = ItemStore.open(store)
    items.put([item("a")], vectors([1.0]), "enc")
    assert items.put([item("a", "A ripe pear")], vectors([2.0]), "enc") == 2
    assert same(items.get("a"), item("a", "A ripe pear"), [2.0], 2)
    rows, _ = items.changes_since(0)
    assert len(rows) == 1


def test_the_last_of_equal_ids_in_one_batch_is_kept(store: StoreSection) -> None:
    items = ItemStore.open(store)
    items.put([item("a", "old"), item("a", "new")], vectors([1.0], [2.0]), "enc")
    assert same(items.get("a"), item("a", "new"), [2.0], 1)


def test_changes_are_seen_by_others_in_order(store: StoreSection) -> None:
    writer, reader = ItemStore.open(store), ItemStore.open(store)
    assert reader.changes_since(0) == ([], 0)
    writer.put([item("a")], vectors([1.0]), "enc")
    writer.put([item("b"), item("c")], vectors([2.0], [3.0]), "enc")
    rows, sequence = reader.changes_since(0)
    assert ([row.item_id for row in rows], sequence) == (["a", "b", "c"], 2)
    rows, sequence = reader.changes_since(1)
    assert ([row.item_id for row in rows], sequence) == (["b", "c"], 2)
    assert reader.changes_since(2) == ([], 2)


def test_a_deleted_item_leaves_a_tombstone(store: StoreSection) -> None:
    items = ItemStore.open(store)
    items.put([item("a"), item("b")], vectors([1.0], [2.0]), "enc")
    assert items.delete(["a", "only in the release", "a"]) == 2
    rows, sequence = items.changes_since(1)
    gone = [(row.item_id, row.item, row.vector, row.encoder) for row in rows]
    assert sorted(gone) == [("a", None, None, None), ("only in the release", None, None, None)]
    assert sequence == 2
    assert items.delete(["a"]) == 0
    assert items.changes_since(2) == ([], 2)


def test_a_deleted_item_can_come_back(store: StoreSection) -> None:
    items = ItemStore.open(store)
    items.put([item("a")], vectors([1.0]), "enc")
    items.delete(["a"])
    items.put([item("a")], vectors([3.0]), "enc")
    assert same(items.get("a"), item("a"), [3.0], 3)


def test_nothing_to_write_changes_nothing(store: StoreSection) -> None:
    items = ItemStore.open(store)
    assert items.put([], np.empty((0, 4), np.float32), "enc") == 0
    assert items.delete([]) == 0
    assert items.changes_since(0) == ([], 0)


def test_items_are_there_after_reopening(store: StoreSection) -> None:
    items = ItemStore.open(store)
    items.put([item("a")], vectors([1.0]), "enc")
    items.close()
    assert same(ItemStore.open(store).get("a"), item("a"), [1.0], 1)


WRITER = """
import sys
import numpy as np
from rove.catalogue import Item
from rove.config import StoreSection
from rove.ledger.items import ItemStore

_, section, name = sys.argv
items = ItemStore.open(StoreSection.model_validate_json(section))
vector = np.ones((1, 1), np.float32)
for n in range(20):
    print(items.put([Item(item_id=f"{name}-{n}", title="A pear")], vector, "enc"))
"""


def test_several_processes_write_at_once(store: StoreSection) -> None:
    """Each of 60 batches gets a sequence of its own, and a reader that follows misses none."""
    environment = os.environ | {"PYTHONPATH": str(Path(rove.__file__).parents[1])}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, store.model_dump_json(), name],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in "abc"
    ]
    outputs = [writer.communicate()[0] for writer in writers]
    assert sorted(int(line) for output in outputs for line in output.split()) == list(range(1, 61))
    rows, last = ItemStore.open(store).changes_since(0)
    assert [row.sequence for row in rows] == list(range(1, 61))
    assert last == 60


def test_another_schema_version_is_refused(store: StoreSection) -> None:
    ItemStore.open(store).close()
    database = open_store(store).open(CATALOGUE, "write")
    with database.transaction() as connection:
        connection.execute(catalogue_meta.update().values(value="99"))
    message = f"has schema version 99, this Rove reads {SCHEMA_VERSION}; use the Rove that wrote it"
    with pytest.raises(StoreUnavailable, match=re.escape(message)):
        ItemStore.open(store)
