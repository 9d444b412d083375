"""Upworthy: a stream of headline tests, each a small bandit of texts.

900 tests in a row, 2,000 visitors each, who are not known; 3 to 6 different headlines a test, from
the weeks whose assignment was random. A visitor clicks with the headline's rate.

The rate that counts as true is the measured one, shrunk to the test's mean m by empirical Bayes:
`m + w (p - m)`, `w = v m^2 / (v m^2 + m (1 - m) / n)`, for p the share of clicks among n visitors
and v the variance of p / m between headlines of a test, by the method of moments over all tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from benchmarks.decisions.data import Sources, read, texts_of
from benchmarks.decisions.interface import Batch, Choice, Feedback, Floats, Ints, Vectors, World
from benchmarks.decisions.runs import Counted

NUM_TESTS = 900
NUM_VISITORS = 2_000
BATCH_SIZE = 50
NUM_HEADLINES = (3, 6)


class Stream(Counted):
    """Tests one after the other."""

    def __init__(
        self, *, items_of: list[Ints], rates_J: Floats, text_JE: Vectors, rng: np.random.Generator
    ) -> None:
        groups_J = np.zeros(len(rates_J), dtype=np.int64)
        for test, items in enumerate(items_of):
            groups_J[items] = test
        super().__init__(
            World(
                num_items=len(rates_J),
                num_users=0,
                num_slots=1,
                text_JE=text_JE,
                groups_J=groups_J,
                context_size=0,
                context_is_text=False,
                num_requests=len(items_of) * NUM_VISITORS,
            )
        )
        self._items_of = items_of
        self._rates_J = rates_J
        self._rng = rng
        self._luck_V = np.zeros(0)
        self._at = 0

    def batches(self) -> Iterator[Batch]:
        """Yield the visitors of each test; the luck of a visitor is the same for every agent."""
        users_B = np.full(BATCH_SIZE, -1)
        for items in self._items_of:
            self._luck_V = self._rng.random(NUM_VISITORS)
            batch = Batch(
                users_B=users_B,
                candidates_BS=np.tile(items, (BATCH_SIZE, 1)),
                open_BS=np.ones((BATCH_SIZE, len(items)), dtype=np.bool_),
                context_BQ=None,
            )
            for self._at in range(0, NUM_VISITORS, BATCH_SIZE):
                yield batch

    def rates(self) -> tuple[list[Ints], Floats]:
        """Return the tests' items and the items' rates, for what knows them in hindsight."""
        return self._items_of, self._rates_J

    def feedback(self, batch: Batch, choice: Choice) -> Feedback:
        """Return clicks, and the click rates as values."""
        rate_BS = self._rates_J[batch.candidates_BS]
        self.count(rate_BS.mean(1), rate_BS.max(1))
        value_BK = self._rates_J[choice.items(batch)]
        luck_B1 = self._luck_V[self._at : self._at + BATCH_SIZE, None]
        return Feedback(reward_BK=(luck_B1 < value_BK).astype(np.float64), value_BK=value_BK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Headlines:
    """All usable tests."""

    items_of: tuple[Ints, ...]
    rates_J: Floats
    text_JE: Vectors
    name: str = "headlines"

    def open(self, seed: int) -> Stream:
        """Return a run with tests and luck of the seed."""
        rng = np.random.default_rng(seed)
        tests = rng.permutation(len(self.items_of))[:NUM_TESTS]
        chosen = np.concatenate([self.items_of[test] for test in tests])
        sizes = [len(self.items_of[test]) for test in tests]
        return Stream(
            items_of=np.split(np.arange(len(chosen)), np.cumsum(sizes)[:-1]),
            rates_J=self.rates_J[chosen],
            text_JE=self.text_JE[chosen],
            rng=rng,
        )


def load(sources: Sources) -> Headlines:
    """Read the packages of tests that can be believed."""
    packages = read(sources.folder("headlines", "upworthy") / "packages.parquet")
    packages = packages.filter(pa.array(~packages["randomization_risk"].to_numpy()))
    headlines = texts_of(packages, "headline")
    rows_of_test: dict[str, list[int]] = {}
    for row, test in enumerate(packages["test_id"].to_pylist()):
        rows_of_test.setdefault(test, []).append(row)
    low, high = NUM_HEADLINES
    tests = [
        rows
        for rows in rows_of_test.values()
        if low <= len(rows) <= high and len({headlines[row] for row in rows}) == len(rows)
    ]
    kept = np.concatenate(tests)
    sizes = np.array([len(rows) for rows in tests])
    return Headlines(
        items_of=tuple(np.split(np.arange(len(kept)), np.cumsum(sizes)[:-1])),
        rates_J=shrunk_rates(
            clicks_J=packages["clicks"].to_numpy()[kept].astype(np.float64),
            visitors_J=packages["impressions"].to_numpy()[kept].astype(np.float64),
            tests_J=np.repeat(np.arange(len(tests)), sizes),
        ),
        text_JE=sources.embed([headlines[row] for row in kept]),
    )


def shrunk_rates(*, clicks_J: Floats, visitors_J: Floats, tests_J: Ints) -> Floats:
    """Return the headlines' click rates, shrunk to their tests' means as this file's top says."""
    means_J = (np.bincount(tests_J, clicks_J) / np.bincount(tests_J, visitors_J))[tests_J]
    sizes_J = np.bincount(tests_J)[tests_J]
    rates_J = clicks_J / visitors_J
    noise_J = means_J * (1.0 - means_J) / visitors_J
    # The expected squared deviation from a mean of equal visitors: (1 - 1/size) (v m^2 + noise).
    free_J = 1.0 - 1.0 / sizes_J
    excess = ((rates_J - means_J) ** 2 - free_J * noise_J).sum()
    variance = max(float(excess / (free_J * means_J**2).sum()), 0.0)
    between_J = variance * means_J**2
    shrunk: Floats = means_J + between_J / (between_J + noise_J) * (rates_J - means_J)
    return shrunk
