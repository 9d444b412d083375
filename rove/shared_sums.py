"""Item statistics since the release, of this shard and of the others, on top of the item means.

Each shard writes the absolute value of its own sums; whoever reads replaces what it had from that
shard. So nothing is applied twice, the order of reading is irrelevant, and a value that was missed
comes with the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rove.item_index import ItemIndex
from rove.item_means import ItemMeans
from rove.ledger.records import Statistics

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


class SharedSums:
    """The shards' sums behind `means`; row numbers are those of `index`."""

    revisions: dict[int, int]
    """Per other shard, the latest revision that was read."""

    def __init__(self, means: ItemMeans, index: ItemIndex, own: Statistics) -> None:
        self._means = means
        self._index = index
        self._sums: dict[int | None, tuple[dict[str, float], float]] = {None: ({}, 0.0)}
        self.revisions = {}
        self._replace(None, own)

    @property
    def has_own(self) -> bool:
        """Whether this shard has counted anything since the release."""
        return bool(self._sums[None][0])

    def merge(self, news: Mapping[int, Statistics]) -> None:
        """Take in what other shards wrote."""
        for shard, statistics in news.items():
            self._replace(shard, statistics)
            self.revisions[shard] = statistics.revision

    def prepare(self, item_ids: Sequence[str], amounts: Floats, latest_s: float) -> Statistics:
        """Return this shard's sums after adding `amounts` (as of the reference time)."""
        sums = self._at_reference(None)
        changed: dict[str, float] = {}
        for item_id, amount in zip(item_ids, amounts.tolist(), strict=True):
            changed[item_id] = changed.get(item_id, sums.get(item_id, 0.0)) + amount
        totals = np.array(list(changed.values()), np.float64)
        # Written as of the latest event, so that the numbers stay near what they count.
        as_of_s = max(latest_s, self._means.latest_s)
        totals = totals / self._means.scale_at(as_of_s)
        return Statistics(
            item_ids=list(changed),
            weight=totals,
            total=totals,
            as_of=np.full(len(totals), as_of_s),
        )

    def commit(self, item_ids: Sequence[str], amounts: Floats, latest_s: float) -> None:
        """Apply what `prepare` was asked about, once it is in the ledger."""
        sums = self._at_reference(None)
        for item_id, amount in zip(item_ids, amounts.tolist(), strict=True):
            sums[item_id] = sums.get(item_id, 0.0) + amount
        self._means.add(self._rows(item_ids), amounts, latest_s)

    def place(self, item_ids: Sequence[str], rows: Rows) -> None:
        """Give items that have got their first row what was counted for them before."""
        every = [self._at_reference(shard) for shard in list(self._sums)]
        amounts = [sum(sums.get(item_id, 0.0) for sums in every) for item_id in item_ids]
        self._means.place(rows, np.array(amounts, np.float64))

    def _replace(self, shard: int | None, statistics: Statistics) -> None:
        if len(statistics) == 0:
            return
        latest_s = float(statistics.as_of.max())
        values = self._means.decayed(statistics.total, statistics.as_of)
        sums = self._at_reference(shard)
        before = np.array([sums.get(item_id, 0.0) for item_id in statistics.item_ids])
        sums.update(zip(statistics.item_ids, values.tolist(), strict=True))
        self._means.add(self._rows(statistics.item_ids), values - before, latest_s)

    def _rows(self, item_ids: Sequence[str]) -> Rows:
        return np.array([self._index.last_row(item_id) for item_id in item_ids], np.intp)

    def _at_reference(self, shard: int | None) -> dict[str, float]:
        """Return a shard's sums by item, expressed at the means' reference time."""
        reference_s = self._means.reference_s
        sums, then_s = self._sums.get(shard, ({}, reference_s))
        if sums and then_s != reference_s:
            scale = self._means.scale_at(then_s)
            sums = {item_id: value * scale for item_id, value in sums.items()}
        self._sums[shard] = (sums, reference_s)
        return sums
