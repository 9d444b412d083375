"""The items that can be shown now: a release's items with the changes since.

- A row number means one version of one item for as long as the index lives. A changed item gets a
  new row, which keeps what behaviour has taught about the old one; so does one that comes back.
- The release's rows stay memory-mapped; only changed and added items take memory here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from rove.catalogue import Item
from rove.errors import InvalidInput, NotFound, shown
from rove.ledger.items import ItemRow
from rove.model import ItemFeatures
from rove.release import Release

Rows = npt.NDArray[np.intp]
Vectors = npt.NDArray[np.float32]

QUERY_CANDIDATES = 200
_SHOWN_IDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """The rows that a change appended, and for each the row it replaces, or -1."""

    features: ItemFeatures
    replaced: Rows


class ItemIndex:
    """Rows of items, their ids and vectors."""

    ids: list[str]
    """Of every row, also of those that are not shown any more."""
    active: npt.NDArray[np.bool_]
    num_changes: int
    """How often `active` has changed."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self.ids = release.catalogue["item_id"].to_pylist()
        self._row_of = {item_id: row for row, item_id in enumerate(self.ids)}
        self._gone: dict[str, int] = {}
        self._trained_J = np.array(release.items.trained_J)
        self.active = np.ones(len(self.ids), bool)
        self.num_changes = 0
        self._added_items: list[Item] = []
        width, size = release.items.features_JD.shape[1], release.embeddings_JE.shape[1]
        self._added_features = np.zeros((0, width), np.float32)
        self._added_embeddings = np.zeros((0, size), np.float32)
        self._by_category: dict[str, Rows] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_active(self) -> int:
        """How many items can be shown."""
        return len(self._row_of)

    @property
    def blocks(self) -> tuple[Vectors, Vectors]:
        """The features of all rows, (J, D) in two parts: the release's and the added."""
        return self._release.items.features_JD, self._added_features

    @property
    def released_sums(self) -> npt.NDArray[np.float64]:
        """The decayed sums of rewards of the release's rows, as of the release."""
        return self._release.sums_J

    @property
    def retrieval_path(self) -> Path | None:
        """Where the release's index for `rove.retrieval` is, if it has one."""
        return self._release.retrieval_path

    def features(self, rows: Rows | Sequence[int]) -> Vectors:
        """Return the features of some rows, (n, D)."""
        return self._gather(rows, *self.blocks)

    def trained(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Return whether there was behaviour to learn the features of some rows from, (n,)."""
        return self._trained_J[rows]

    def embeddings(self, rows: Rows | Sequence[int]) -> Vectors:
        """Return the embeddings of some rows, (n, E)."""
        return self._gather(rows, self._release.embeddings_JE, self._added_embeddings)

    def row(self, item_id: str) -> int | None:
        """Return the row of an item that can be shown, else None."""
        return self._row_of.get(item_id)

    def last_row(self, item_id: str) -> int:
        """Return the row that an item has or had when it was deleted, else -1."""
        return self._row_of.get(item_id, self._gone.get(item_id, -1))

    def rows_of(self, item_ids: Sequence[str]) -> Rows:
        """Return the rows of items, each once; `InvalidInput` names those that do not exist."""
        rows = [self._row_of.get(item_id) for item_id in item_ids]
        if None in rows:
            unknown = [item for item, row in zip(item_ids, rows, strict=True) if row is None]
            named = ", ".join(shown(item) for item in unknown[:_SHOWN_IDS])
            raise InvalidInput(
                f"{len(unknown)} of {len(item_ids)} items are not in the catalogue: {named}; "
                "add them with PUT /v1/items/{id} or leave them out",
                unknown_items=unknown[:100],
            )
        return np.array(list(dict.fromkeys(rows)), np.intp)

    def rows_of_category(self, category: str) -> Rows:
        """Return the rows of the items of a category."""
        if category not in self._by_category:
            released = pc.equal(self._release.catalogue["category"], category).to_numpy()
            added = np.array([item.category == category for item in self._added_items], bool)
            rows = np.flatnonzero(np.concatenate([released, added]) & self.active)
            self._by_category[category] = rows
        return self._by_category[category]

    def nearest(self, query_E: Vectors, num_rows: int = QUERY_CANDIDATES) -> Rows:
        """Return the rows whose texts are most similar to a query's vector (cosine)."""
        if query_E.shape != self._added_embeddings.shape[1:]:
            raise InvalidInput(
                f"a query vector must have {self._added_embeddings.shape[1]} numbers, "
                f"got {query_E.shape}; is it from the encoder of this release?"
            )
        query_E = query_E.astype(np.float32)
        similarity_J = np.concatenate(
            [self._release.embeddings_JE @ query_E, self._added_embeddings @ query_E]
        )
        similarity_J[~self.active] = -np.inf
        num_rows = min(num_rows, self.num_active)
        return np.argpartition(-similarity_J, num_rows - 1)[:num_rows] if num_rows else _NO_ROWS

    def item(self, item_id: str) -> Item:
        """Return an item that can be shown."""
        row = self._row_of.get(item_id)
        if row is None:
            raise NotFound(f"there is no item {shown(item_id)} in the catalogue")
        return self._item(row)

    def items(self) -> tuple[list[Item], Rows]:
        """Return all items that can be shown, with their rows."""
        rows = np.flatnonzero(self.active)
        return [self._item(row) for row in rows.tolist()], rows

    def apply(self, changes: Sequence[ItemRow]) -> Added:
        """Take in changes of the catalogue, oldest first; only those in this release's vectors."""
        latest = {change.item_id: change for change in changes}
        kept = [
            change
            for change in latest.values()
            if change.item is not None
            and change.vector is not None
            and change.encoder == self._release.encoder
            and not self._is_known(change.item)
        ]
        replaced = np.array([self.last_row(change.item_id) for change in kept], np.intp)
        for change in kept:
            self._gone.pop(change.item_id, None)
        gone = {
            i: self._row_of.pop(i)
            for i, change in latest.items()
            if change.item is None and i in self._row_of
        }
        self._gone.update(gone)
        self.active[[*gone.values(), *(row for row in replaced.tolist() if row >= 0)]] = False
        added = self._append(kept, replaced)
        self.num_changes += 1
        self._by_category.clear()
        return Added(features=added, replaced=replaced)

    def _append(self, changes: Sequence[ItemRow], replaced: Rows) -> ItemFeatures:
        size = self._added_embeddings.shape[1]
        vectors = [change.vector for change in changes if change.vector is not None]
        embeddings = np.stack(vectors) if vectors else np.zeros((0, size), np.float32)
        features = self._release.model.read(embeddings)
        self._keep_learned(features, replaced)
        for offset, change in enumerate(changes):
            assert change.item is not None
            self._row_of[change.item_id] = len(self.ids) + offset
            self._added_items.append(change.item)
        self.ids.extend(change.item_id for change in changes)
        self.active = np.concatenate([self.active, np.ones(len(changes), bool)])
        self._added_features = np.concatenate([self._added_features, features.features_JD])
        self._added_embeddings = np.concatenate([self._added_embeddings, embeddings])
        return features

    def _keep_learned(self, features: ItemFeatures, replaced: Rows) -> None:
        """Give changed items the learned factors that behaviour has taught about them."""
        known = replaced >= 0
        known[known] = self._trained_J[replaced[known]]
        num_text = self._release.model.text_components_EF.shape[1]
        features.features_JD[known, num_text:] = self.features(replaced[known])[:, num_text:]
        features.trained_J[known] = True
        self._trained_J = np.concatenate([self._trained_J, features.trained_J])

    def _is_known(self, item: Item) -> bool:
        row = self._row_of.get(item.item_id)
        return row is not None and self._item(row) == item

    def _item(self, row: int) -> Item:
        num_released = len(self._release.catalogue)
        if row < num_released:
            return self._release.item(row)
        return self._added_items[row - num_released]

    def _gather(self, rows: Rows | Sequence[int], released: Vectors, added: Vectors) -> Vectors:
        rows = np.asarray(rows, np.intp)
        if len(added) == 0:
            return released[rows]
        late = rows >= len(released)
        gathered = np.empty((len(rows), released.shape[1]), np.float32)
        gathered[~late] = released[rows[~late]]
        gathered[late] = added[rows[late] - len(released)]
        return gathered


_NO_ROWS = np.zeros(0, np.intp)
