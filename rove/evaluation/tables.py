"""The figures of a measurement: tables for people, and plain numbers for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rove import ranking
from rove.evaluation.measuring import CALIBRATION, COVERAGE, MEASURES, Result
from rove.evaluation.reliability import BOUNDS
from rove.evaluation.slices import Slice

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Names of the columns, rows."""

DIFFERENCE = "NDCG@10"
COLUMNS = (*MEASURES, COVERAGE, CALIBRATION)
_NOT_APPLICABLE = "n/a"


def heading(of: Slice) -> str:
    """Say how much a slice holds."""
    return (
        f"{of.name[0].upper()}{of.name[1:]}: {len(of.rows):,} visits of {of.num_users:,} users, "
        f"{of.num_candidates:,} items in order"
    )


def slice_table(result: Result, of: Slice, reference: str) -> Table:
    """Return every rival's measures, and by how much `reference` is ahead of it on NDCG@10."""
    rows = []
    for rival in result.answers:
        found = result.intervals(rival, of)
        ahead = result.difference(reference, rival, of, DIFFERENCE)
        cells = [words(found[name]) if name in found else _NOT_APPLICABLE for name in COLUMNS]
        rows.append((rival, *cells, "" if rival == reference else words(ahead, "+.4f")))
    return ("", *COLUMNS, f"{reference} ahead on {DIFFERENCE} by"), rows


def reliability_table(result: Result) -> Table:
    """Return what was promised and what came, by the size of the promise."""
    rows = []
    for rival, bins in result.reliability.items():
        for low, high, count, predicted, taken in zip(
            BOUNDS[:-1], BOUNDS[1:], bins.counts, bins.predicted, bins.taken, strict=True
        ):
            if count:
                within = f"{low:.2g} to {high:.2g}"
                rows.append(
                    (
                        rival,
                        within,
                        f"{count:,}",
                        f"{predicted / count:.2e}",
                        f"{taken / count:.2e}",
                    )
                )
    return ("", "predicted rate", "pairs", "mean predicted", "share taken"), rows


def numbers(result: Result) -> dict[str, Any]:
    """Return all figures as plain numbers; what has no value is null."""
    return {
        "num_requests": len(result.split.requests),
        "num_items": result.split.num_items,
        "num_cold_items": int(result.split.cold_J.sum()),
        "slices": {
            of.name: {
                "num_requests": len(of.rows),
                "num_users": of.num_users,
                "num_items": of.num_candidates,
                "rivals": {
                    rival: {name: _plain(one) for name, one in result.intervals(rival, of).items()}
                    for rival in result.answers
                },
            }
            for of in result.slices
        },
        "reliability": {
            rival: {
                "from": [_number(bound) for bound in BOUNDS[:-1]],
                "pairs": bins.counts.tolist(),
                "predicted": bins.predicted.tolist(),
                "taken": bins.taken.tolist(),
                "error": _number(bins.error),
            }
            for rival, bins in result.reliability.items()
        },
        "seconds": dict(result.seconds),
    }


def words(one: ranking.Interval, form: str = ".4f") -> str:
    """Return a figure with its interval, where there is one."""
    if np.isnan(one.mean):
        return _NOT_APPLICABLE
    if np.isnan(one.low):
        return f"{one.mean:{form}}"
    return f"{one.mean:{form}} [{one.low:{form}}, {one.high:{form}}]"


def _plain(one: ranking.Interval) -> dict[str, float | None]:
    return {"mean": _number(one.mean), "low": _number(one.low), "high": _number(one.high)}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
