"""The items that can be shown: the release's with the catalogue's changes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rove.catalogue import Item
from rove.errors import InvalidInput, NotFound
from rove.item_index import ItemIndex
from rove.ledger.items import ItemRow
from rove.release import latest
from tests.worlds import ENCODER, NUM_ITEMS, Shop, Vectors, embeddings, item, unit_vectors

NEW = unit_vectors(3, np.random.default_rng(9))


@pytest.fixture
def index(tmp_path: Path) -> ItemIndex:
    shop = Shop(tmp_path)
    shop.release()
    return ItemIndex(latest(tmp_path / "releases"))


def put(new: Item, vector: Vectors, encoder: str = ENCODER) -> ItemRow:
    return ItemRow(item_id=new.item_id, item=new, vector=vector, encoder=encoder, sequence=1)


def deleted(item_id: str) -> ItemRow:
    return ItemRow(item_id=item_id, item=None, vector=None, encoder=None, sequence=1)


def learned_factors(index: ItemIndex, item_id: str) -> list[float]:
    features: list[float] = index.features([index.last_row(item_id)])[0, 6:].tolist()
    return features


def test_it_starts_with_the_release_s_items(index: ItemIndex) -> None:
    assert len(index) == index.num_active == NUM_ITEMS
    assert index.item("item-5") == item(5)
    assert index.embeddings([5, 3]) == pytest.approx(embeddings()[[5, 3]])
    assert index.row("unknown") is None and index.last_row("unknown") == -1


def test_an_added_item_is_read_from_its_text(index: ItemIndex) -> None:
    added = index.apply([put(item(100), NEW[0])])
    assert added.replaced.tolist() == [-1] and added.features.trained_J.tolist() == [False]
    assert index.row("item-100") == NUM_ITEMS and index.num_active == NUM_ITEMS + 1
    assert index.item("item-100") == item(100)
    expected = latest_features(index, NEW[:1])
    assert index.features([NUM_ITEMS, 2])[0] == pytest.approx(expected[0])
    assert index.embeddings([NUM_ITEMS])[0] == pytest.approx(NEW[0])


def latest_features(index: ItemIndex, embeddings_nE: Vectors) -> Vectors:
    return index._release.model.read(embeddings_nE).features_JD


def test_a_deleted_item_is_gone(index: ItemIndex) -> None:
    index.apply([deleted("item-5"), deleted("unknown")])
    assert index.row("item-5") is None and index.last_row("item-5") == 5
    assert index.num_active == NUM_ITEMS - 1 and not index.active[5]
    assert 5 not in index.rows_of_category("c1")
    with pytest.raises(NotFound, match=re.escape("there is no item 'item-5' in the catalogue")):
        index.item("item-5")


def test_a_changed_item_gets_a_new_row_with_the_old_learned_factors(index: ItemIndex) -> None:
    before = learned_factors(index, "item-5")
    for number, row in enumerate((5, NUM_ITEMS)):
        changed = item(5, title=f"Changed {number}")
        added = index.apply([put(changed, NEW[number])])
        assert added.replaced.tolist() == [row]
        assert added.features.trained_J.tolist() == [True]
        assert learned_factors(index, "item-5") == before
        text = latest_features(index, NEW[number : number + 1])[0, :6]
        assert index.features([index.last_row("item-5")])[0, :6] == pytest.approx(text)
        assert index.item("item-5") == changed and index.num_active == NUM_ITEMS


def test_an_item_that_comes_back_keeps_what_was_learnt(index: ItemIndex) -> None:
    before = learned_factors(index, "item-5")
    index.apply([deleted("item-5")])
    added = index.apply([put(item(5), embeddings()[5])])
    assert added.replaced.tolist() == [5] and learned_factors(index, "item-5") == before
    assert index.num_active == NUM_ITEMS and index.row("item-5") == NUM_ITEMS


def test_an_item_that_is_put_as_it_was_stays_where_it_was(index: ItemIndex) -> None:
    assert len(index.apply([put(item(5), NEW[0])]).replaced) == 0
    assert index.row("item-5") == 5 and len(index) == NUM_ITEMS


def test_the_last_of_several_changes_counts(index: ItemIndex) -> None:
    last = item(5, title="Last")
    changes = [put(item(5, title="First"), NEW[0]), deleted("item-5"), put(last, NEW[1])]
    index.apply([*changes, put(item(6, title="x"), NEW[2]), deleted("item-6")])
    assert index.item("item-5") == last and index.row("item-6") is None
    assert index.num_active == NUM_ITEMS - 1


def test_vectors_of_another_encoder_are_left_out(index: ItemIndex) -> None:
    index.apply([put(item(100), NEW[0], "another")])
    assert index.row("item-100") is None and len(index) == NUM_ITEMS


def test_categories_follow_the_changes(index: ItemIndex) -> None:
    assert index.rows_of_category("c1").tolist() == list(range(1, NUM_ITEMS, 4))
    index.apply([put(item(100, category="c1"), NEW[0]), put(item(1, category="new"), NEW[1])])
    assert index.rows_of_category("c1").tolist() == [*range(5, NUM_ITEMS, 4), NUM_ITEMS]
    assert index.rows_of_category("new").tolist() == [NUM_ITEMS + 1]
    assert index.rows_of_category("unknown").tolist() == []


def test_the_nearest_texts_are_the_most_similar(index: ItemIndex) -> None:
    index.apply([put(item(100), NEW[0]), deleted("item-3")])
    both = np.vstack([embeddings(), NEW[:1]]) @ NEW[0]
    both[3] = -np.inf
    assert set(index.nearest(NEW[0], 5).tolist()) == set(np.argsort(-both)[:5].tolist())
    assert len(index.nearest(NEW[0])) == NUM_ITEMS


def test_a_query_of_another_size_is_refused(index: ItemIndex) -> None:
    with pytest.raises(InvalidInput, match=re.escape("must have 16 numbers, got (3,)")):
        index.nearest(np.ones(3, np.float32))


def test_rows_are_given_once_and_unknown_items_named(index: ItemIndex) -> None:
    assert index.rows_of(["item-4", "item-2", "item-4"]).tolist() == [4, 2]
    with pytest.raises(InvalidInput, match=re.escape("2 of 3 items are not in")) as caught:
        index.rows_of(["item-4", "one", "two"])
    assert caught.value.fields == {"unknown_items": ["one", "two"]}


def test_an_empty_catalogue_has_nothing(index: ItemIndex) -> None:
    index.apply([deleted(f"item-{number}") for number in range(NUM_ITEMS)])
    assert index.num_active == 0 and index.items()[0] == []
    assert index.nearest(NEW[0]).tolist() == [] == index.rows_of_category("c1").tolist()


def test_all_items_come_with_their_rows(index: ItemIndex) -> None:
    index.apply([deleted("item-0"), put(item(100), NEW[0])])
    items, rows = index.items()
    assert rows.tolist() == [*range(1, NUM_ITEMS), NUM_ITEMS]
    assert [one.item_id for one in items] == [index.ids[row] for row in rows]
