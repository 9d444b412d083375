"""Replay: rank for every basket before it is observed, in the order of time.

- A user is offered only items that are new to the user; a basket counts when it has a new one.
- Every baseline answers the same requests. Live, it observes every basket afterwards; frozen, it
  stays as it was fitted, and answers many requests at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rove.baselines.base import Baseline, Basket, Floats, Ints, Log, Profiles, scores_of_each

# R requests, B of them at once, N items, K slots.
_MAX_CELLS = 4_000_000
_MOST_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """The baskets that count, and what was new to the user in each."""

    baskets: Ints  # (R,) index into the replayed baskets
    users: Ints  # (R,)
    times: Floats  # (R,) unix seconds
    relevant: list[Ints]  # R arrays of item codes
    known: list[Ints]  # R arrays of item codes: what the user had before

    def __len__(self) -> int:
        return len(self.users)


def requests_of(
    history: Log, baskets: Sequence[Basket], max_requests: int | None = None
) -> Requests:
    """Return the (first) baskets with at least one item that the user did not have before."""
    seen = Profiles(history)
    index: list[int] = []
    relevant, known = [], []
    for number, basket in enumerate(baskets):
        if len(index) == max_requests:
            break
        have = seen.of(basket.user)
        new = np.setdiff1d(basket.items, have, assume_unique=True)
        if len(new):
            index.append(number)
            relevant.append(new)
            known.append(have)
        seen.add(basket.user, basket.items)
    return Requests(
        baskets=np.array(index, np.int64),
        users=np.array([baskets[number].user for number in index], np.int64),
        times=np.array([baskets[number].timestamp for number in index], np.float64),
        relevant=relevant,
        known=known,
    )


def score_blocks(
    baseline: Baseline, baskets: Sequence[Basket], requests: Requests, *, live: bool
) -> Iterator[tuple[slice, Floats]]:
    """Yield the scores of all requests, block by block: (which, (B, N)), -inf for what is known.

    Live, `baseline` observes all baskets up to the end.
    """
    answers = _live(baseline, baskets, requests) if live else _frozen(baseline, requests)
    start = 0
    for scores_BN in answers:
        which = slice(start, start + len(scores_BN))
        start = which.stop
        for row, known in zip(scores_BN, requests.known[which], strict=True):
            row[known] = -np.inf
        yield which, scores_BN


def _live(baseline: Baseline, baskets: Sequence[Basket], requests: Requests) -> Iterator[Floats]:
    counted = set(requests.baskets.tolist())
    for number, basket in enumerate(baskets):
        if number in counted:
            yield np.array(baseline.scores(basket.user, basket.timestamp), np.float64)[None]
        baseline.observe(basket.user, basket.items, basket.timestamp)


def _frozen(baseline: Baseline, requests: Requests) -> Iterator[Floats]:
    start, size = 0, 1  # the first one tells how many items there are
    while start < len(requests):
        which = slice(start, start + size)
        scores = scores_of_each(baseline, requests.users[which], requests.times[which])
        scores_BN = np.array(scores, np.float64)
        yield scores_BN
        start += size
        size = max(1, min(_MOST_AT_ONCE, _MAX_CELLS // max(1, scores_BN.shape[1])))


def replay(
    baseline: Baseline,
    history: Log,
    baskets: Sequence[Basket],
    k: int = 10,
    *,
    live: bool = True,
) -> Ints:
    """Return the k items a baseline fitted to `history` ranks first for every counted basket.

    Returns item codes (R, K), in the order of `requests_of(history, baskets)`; -1 where the
    catalogue has no more items that are new to the user.
    """
    requests = requests_of(history, baskets)
    rows = [
        top_k(scores, _NOTHING, k)
        for _, scores_BN in score_blocks(baseline, baskets, requests, live=live)
        for scores in scores_BN
    ]
    return np.array(rows, np.int64).reshape(-1, k)


def replay_all(
    baselines: Mapping[str, Baseline], history: Log, baskets: Sequence[Basket], k: int = 10
) -> dict[str, Ints]:
    """Replay several fitted baselines: name -> item codes (R, K)."""
    return {name: replay(baseline, history, baskets, k) for name, baseline in baselines.items()}


def top_k(scores: Floats, excluded: Ints, k: int) -> Ints:
    """Return the codes of the k highest scores (k,), best first, -1 where there are no more."""
    scores = scores.astype(np.float64)
    scores[excluded] = -np.inf
    best = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
    best = best[np.lexsort((best, -scores[best]))]
    codes = np.full(k, -1, np.int64)
    usable = best[scores[best] > -np.inf]
    codes[: len(usable)] = usable
    return codes


_NOTHING: Ints = np.empty(0, np.int64)
