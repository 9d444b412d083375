"""What users did, in columns: what a release is learnt from.

- Rows are in order of time; items are row numbers of a catalogue, users and visits are codes.
- A visit is what happened together: one `session` of a file, or else one user's interactions with
  less than half an hour between one and the next.
- Only rewards above zero are kept: this is implicit feedback, the rest of the pairs are zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

VISIT_GAP_S = 1800.0
COLUMNS = ("user_id", "item_id", "reward", "timestamp", "session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """n positive interactions, oldest first."""

    users: Codes  # (n,)
    items: Codes  # (n,), rows of the catalogue
    rewards: Floats  # (n,), > 0
    timestamps: Floats  # (n,), unix seconds
    visits: Codes  # (n,)
    num_users: int
    num_items: int

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def from_batches(
        cls, batches: Iterable[pa.RecordBatch | pa.Table], rows: Mapping[str, int]
    ) -> Behaviour:
        """Take the positive interactions with items in `rows` (item_id -> row of the catalogue)."""
        tables = [_as_table(batch) for batch in batches]
        table = pa.concat_tables(tables) if tables else _EMPTY
        table = table.filter(pc.greater(table["reward"], 0.0))
        table = table.filter(pc.is_in(table["item_id"], pa.array(list(rows), pa.string())))
        table = table.sort_by([("timestamp", "ascending"), ("user_id", "ascending")])
        items = table["item_id"].combine_chunks().dictionary_encode()
        of_code = np.array([rows[item_id] for item_id in items.dictionary.to_pylist()], np.int64)
        users, num_users = _codes(table["user_id"])
        timestamps = table["timestamp"].to_numpy()
        return cls(
            users=users,
            items=of_code[items.indices.to_numpy(zero_copy_only=False)] if len(table) else users,
            rewards=table["reward"].to_numpy(),
            timestamps=timestamps,
            visits=_visits(users, timestamps, _codes(table["session"])[0]),
            num_users=num_users,
            num_items=max(rows.values(), default=-1) + 1,
        )

    def take(self, rows: npt.NDArray[Any] | slice) -> Behaviour:
        """Return some of the interactions; users, items and visits keep their codes."""
        return Behaviour(
            users=self.users[rows],
            items=self.items[rows],
            rewards=self.rewards[rows],
            timestamps=self.timestamps[rows],
            visits=self.visits[rows],
            num_users=self.num_users,
            num_items=self.num_items,
        )

    def split(self, share: float) -> tuple[Behaviour, Behaviour]:
        """Split in time: the last `share` of the visits' interactions is the second part.

        Visits stay whole: the cut is between two visits' first interactions.
        """
        starts = self.visit_starts()
        first = np.unique(starts)
        cut = first[int(len(first) * (1.0 - share))] if len(first) else 0
        late = starts >= cut
        return self.take(~late), self.take(late)

    def visit_starts(self) -> Codes:
        """Return, per interaction, the index of its visit's first interaction, (n,)."""
        _, first, inverse = np.unique(self.visits, return_index=True, return_inverse=True)
        return first[inverse]

    def rows_by_visit(self) -> Iterator[Codes]:
        """Yield the rows of each visit, in the order of the visits' first interactions."""
        starts = self.visit_starts()
        order = np.argsort(starts, kind="stable")
        bounds = np.flatnonzero(np.r_[True, np.diff(starts[order]) != 0, True])
        for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
            yield order[begin:end]

    def targets(self, now: float, half_life_s: float) -> sparse.csr_array:
        """Return the rewards as they count at `now`, (users, items).

        y_ij = max over the pair's interactions of reward * 2^(-(now - timestamp) / half_life):
        what was bought twice counts as bought when it was bought last.
        """
        decayed = self.rewards * np.exp2((self.timestamps - now) / half_life_s)
        return latest_of_pairs(self.users, self.items, decayed, (self.num_users, self.num_items))


def latest_of_pairs(
    first: Codes, second: Codes, values: Floats, shape: tuple[int, int]
) -> sparse.csr_array:
    """Return a sparse matrix with the largest of the values of each pair (first, second)."""
    order = np.lexsort((values, second, first))
    first, second, values = first[order], second[order], values[order]
    last = np.ones(len(first), bool)
    last[:-1] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return sparse.csr_array((values[last], (first[last], second[last])), shape=shape)


_EMPTY = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("reward", pa.float64()),
        ("timestamp", pa.float64()),
        ("session", pa.string()),
    ]
).empty_table()


def _as_table(batch: pa.RecordBatch | pa.Table) -> pa.Table:
    names = batch.schema.names
    columns = [
        batch.column(name) if name in names else pa.nulls(batch.num_rows, pa.string())
        for name in COLUMNS
    ]
    return pa.table(columns, schema=_EMPTY.schema)


def _codes(column: pa.ChunkedArray) -> tuple[Codes, int]:
    """Return a code per row (-1 for null), in order of first appearance, and how many there are."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, len(encoded.dictionary)


def _visits(users: Codes, timestamps: Floats, sessions: Codes) -> Codes:
    """Number the visits: a user's rows of one session, or of none with no long gap."""
    order = np.lexsort((timestamps, sessions, users))
    user, session, time = users[order], sessions[order], timestamps[order]
    starts = np.ones(len(order), bool)
    pause = np.diff(time) > VISIT_GAP_S
    starts[1:] = (np.diff(user) != 0) | (np.diff(session) != 0) | (pause & (session[1:] < 0))
    visits = np.empty(len(order), np.int64)
    visits[order] = np.cumsum(starts) - 1
    return visits
