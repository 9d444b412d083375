"""The shop of `examples/`: slates of 10 from 200 for customers who return.

About 1,500 invoices of sampled customers in order of time. The candidates are the products of the
invoice and others that are in stock: between their first and their last sale. A shown product
earns 1 if it is on the invoice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.data import SHOP, Sources, read, texts_of
from benchmarks.decisions.interface import Batch, Choice, Feedback, Floats, Ints, Vectors, World
from benchmarks.decisions.runs import Counted, Known, batch_starts, mean_by_item

NUM_INVOICES = 1_500
NUM_CANDIDATES = 200
NUM_SLOTS = 10
BATCH_SIZE = 10
INVOICE_ITEMS = (5, 100)
"""Of an invoice that is asked for."""
STOCKED_AFTER_S = 7 * 86_400
"""From the first sale on; before, too few products are known to be in stock."""
VISITS = 3
"""At least, of a customer that is sampled."""


class Invoices(Counted):
    """Requests for slates, and what was bought."""

    def __init__(
        self, *, users_R: Ints, candidates_RS: Ints, bought_RS: Floats, text_JE: Vectors
    ) -> None:
        super().__init__(
            World(
                num_items=len(text_JE),
                num_users=int(users_R.max()) + 1,
                num_slots=NUM_SLOTS,
                text_JE=text_JE,
                groups_J=None,
                context_size=0,
                context_is_text=False,
                num_requests=len(users_R),
            )
        )
        self._users_R = users_R
        self._candidates_RS = candidates_RS
        self._bought_RS = bought_RS
        self._starts = batch_starts(users_R, BATCH_SIZE)
        self._rows = slice(0, 0)

    def batches(self) -> Iterator[Batch]:
        """Yield the requests in order of time."""
        for start, end in zip(self._starts[:-1], self._starts[1:], strict=True):
            self._rows = slice(start, end)
            yield Batch(
                users_B=self._users_R[start:end],
                candidates_BS=self._candidates_RS[start:end],
                open_BS=np.ones((end - start, NUM_CANDIDATES), dtype=np.bool_),
                context_BQ=None,
            )

    def feedback(self, batch: Batch, choice: Choice) -> Feedback:
        """Return 1 for what was bought."""
        bought_BS = self._bought_RS[self._rows]
        self.count(NUM_SLOTS * bought_BS.mean(1), np.minimum(bought_BS.sum(1), NUM_SLOTS))
        reward_BK = np.take_along_axis(bought_BS, choice.positions_BK, 1)
        return Feedback(reward_BK=reward_BK, value_BK=reward_BK)

    def known(self) -> Known:
        """Return what was bought of all candidates."""
        return Known(
            users_N=np.repeat(self._users_R, NUM_CANDIDATES),
            items_N=self._candidates_RS.ravel(),
            reward_N=self._bought_RS.ravel(),
        )

    def item_values_J(self) -> Floats:
        """Return how often each product is bought when it is a candidate."""
        return mean_by_item(self._candidates_RS, self._bought_RS, self.world.num_items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """Invoices in order of time, and the time in which each product is sold."""

    users_I: Ints
    times_I: Ints
    items_of: tuple[Ints, ...]
    first_J: Ints
    last_J: Ints
    text_JE: Vectors
    name: str = "shop"

    def open(self, seed: int) -> Invoices:
        """Return a run with customers and other candidates of the seed."""
        rng = np.random.default_rng(seed)
        visits_U = np.bincount(self.users_I)
        order = rng.permutation(np.flatnonzero(visits_U >= VISITS))
        enough = int(np.searchsorted(visits_U[order].cumsum(), NUM_INVOICES)) + 1
        # The first days know too few products that are in stock.
        stocked_I = self._num_stocked_I() >= NUM_CANDIDATES
        invoices = np.flatnonzero(np.isin(self.users_I, order[:enough]) & stocked_I)
        users_R = np.unique(self.users_I[invoices], return_inverse=True)[1]
        candidates = [self._candidates(int(invoice), rng) for invoice in invoices]
        return Invoices(
            users_R=users_R,
            candidates_RS=np.stack([items for items, _ in candidates]),
            bought_RS=np.stack([bought for _, bought in candidates]),
            text_JE=self.text_JE,
        )

    def _num_stocked_I(self) -> Ints:
        """Return how many products are in stock at the time of each invoice."""
        begun = np.searchsorted(np.sort(self.first_J), self.times_I, side="right")
        return begun - np.searchsorted(np.sort(self.last_J), self.times_I, side="left")

    def _candidates(self, invoice: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
        """Return candidates in random order, and 1 for those on the invoice."""
        bought, time = self.items_of[invoice], self.times_I[invoice]
        in_stock_J = (self.first_J <= time) & (time <= self.last_J)
        in_stock_J[bought] = False
        num_others = NUM_CANDIDATES - len(bought)
        others = rng.choice(np.flatnonzero(in_stock_J), num_others, replace=False)
        order = rng.permutation(NUM_CANDIDATES)
        is_bought = np.repeat([1.0, 0.0], [len(bought), num_others])
        return np.concatenate([bought, others])[order], is_bought[order]


def load(sources: Sources) -> Shop:
    """Read the shop's files."""
    items, lines = read(SHOP / "items.parquet"), read(SHOP / "purchases.parquet")
    ids_J = items["item_id"].to_numpy().astype(np.int64)
    order_J = np.argsort(ids_J)
    texts = texts_of(items, "description")
    items_L = np.searchsorted(ids_J[order_J], lines["item_id"].to_numpy().astype(np.int64))
    times_L = lines["timestamp"].to_numpy().astype(np.int64)
    users_L = lines["user_id"].to_numpy().astype(np.int64)
    first_J = np.full(len(ids_J), np.iinfo(np.int64).max)
    last_J = np.zeros(len(ids_J), dtype=np.int64)
    np.minimum.at(first_J, items_L, times_L)
    np.maximum.at(last_J, items_L, times_L)
    invoices_L = lines["invoice"].to_numpy().astype(np.int64)
    order_L = np.argsort(invoices_L, kind="stable")
    cuts = np.flatnonzero(np.diff(invoices_L[order_L])) + 1
    rows_of = np.split(order_L, cuts)
    rows_of.sort(key=lambda rows: (times_L[rows[0]], invoices_L[rows[0]]))
    low, high = INVOICE_ITEMS
    baskets = [(rows[0], np.unique(items_L[rows])) for rows in rows_of]
    baskets = [(row, basket) for row, basket in baskets if low <= len(basket) <= high]
    opening = times_L.min() + STOCKED_AFTER_S
    baskets = [(row, basket) for row, basket in baskets if times_L[row] >= opening]
    firsts = np.array([row for row, _ in baskets])
    return Shop(
        users_I=np.unique(users_L[firsts], return_inverse=True)[1],
        times_I=times_L[firsts],
        items_of=tuple(basket for _, basket in baskets),
        first_J=first_J,
        last_J=last_J,
        text_JE=sources.embed([texts[row] for row in order_J]),
    )
