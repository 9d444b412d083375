"""What a decision takes against slots, candidates, draws, batch and factors.

    python -m benchmarks.engine_costs [--write benchmarks/engine_costs.md]

One setting moves at a time, the others stay at `DEFAULTS`. One core, in process, processor time;
the table has multiples of the time at the default, the plot (beside the table) microseconds.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from rove.slates import fill
from rove.thompson import Thompson

DEFAULTS = {"slots": 10, "candidates": 64, "draws": 64, "batch": 64}
VALUES = {
    "slots": (1, 2, 5, 10, 20, 50),
    "candidates": (16, 64, 256, 1024, 4096),
    "draws": (8, 16, 64, 256, 1024),
    "batch": (1, 4, 16, 64, 256),
}
FACTORS = (8, 16, 32, 64, 128)
NUM_ITEMS = 10_000
WHY = {
    "slots": "each further slot is one more pass over the draws, which are made once",
    "candidates": "every draw has a number for every candidate; out of the cache it takes more "
    "than in proportion, so the engine cuts to a shortlist of 64 first",
    "draws": "linear from a few dozen on; below, the calls themselves count",
    "batch": "calls into numpy are shared by the batch: most is won by 16",
    "factors": "one product of the users' means with all items' features",
}


def per_decision_us(call: Callable[[], object], num: int, seconds: float = 0.4) -> float:
    """Return the least processor time of a call over `num` decisions, in microseconds."""
    call()
    best, spent = np.inf, 0.0
    while spent < seconds:
        start = time.process_time()
        call()
        took = time.process_time() - start
        best, spent = min(best, took), spent + max(took, 1e-4)
    return float(best / num * 1e6)


def slate_us(slots: int, candidates: int, draws: int, batch: int) -> float:
    """Return what Thompson sampling of slates with propensities takes a decision."""
    rng = np.random.default_rng(0)
    mean_BS = rng.normal(size=(batch, candidates)).astype(np.float32)
    deviation_BS = np.full_like(mean_BS, 0.3)
    policy = Thompson(1.0, draws)

    def call() -> object:
        return fill(policy, mean_BS, deviation_BS, None, slots, rng, max_explore_slots=slots)

    repeats = max(1, 64 // batch)
    return per_decision_us(lambda: [call() for _ in range(repeats)], batch * repeats)


def scoring_us(factors: int, batch: int = 64) -> float:
    """Return what the means of 10,000 items take a decision."""
    rng = np.random.default_rng(0)
    taste_BD = rng.normal(size=(batch, factors)).astype(np.float32)
    feature_JD = rng.normal(size=(NUM_ITEMS, factors)).astype(np.float32)
    return per_decision_us(lambda: taste_BD @ feature_JD.T, batch)


def measured() -> dict[str, list[tuple[int, float]]]:
    """Return, per setting, its values and microseconds a decision."""
    found = {
        name: [(value, slate_us(**{**DEFAULTS, name: value})) for value in values]
        for name, values in VALUES.items()
    }
    found["factors"] = [(factors, scoring_us(factors)) for factors in FACTORS]
    return found


def table(found: dict[str, list[tuple[int, float]]]) -> list[str]:
    """Return the rows of the page."""
    lines = []
    for name, points in found.items():
        middle = DEFAULTS.get(name, 32)
        base = dict(points)[middle]
        lines += [
            f"## {name}",
            "",
            f"At {middle}: {base:.1f} us a decision; {WHY[name]}.",
            "",
            f"| {name} | " + " | ".join(str(value) for value, _ in points) + " |",
            "| --- |" + " ---: |" * len(points),
            "| times | " + " | ".join(f"{us / base:.2f}" for _, us in points) + " |",
            "",
        ]
    return lines


def plot(found: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Draw microseconds a decision against every setting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(3 * len(found), 3))
    for axis, (name, points) in zip(axes, found.items(), strict=True):
        axis.loglog(*zip(*points, strict=True), marker="o")
        axis.set_xlabel(name)
    axes[0].set_ylabel("us a decision")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, and write page and plot if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with threadpool_limits(1):
        found = measured()
    defaults = ", ".join(f"{value} {name}" for name, value in DEFAULTS.items())
    lines = [
        "# What a decision takes",
        "",
        f"`python -m benchmarks.engine_costs`, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, one "
        f"core ({platform.machine()}), processor time. Written by the program.",
        "",
        f"Thompson sampling of slates with propensities: {defaults}; one of them moves. Factors: "
        f"the means of {NUM_ITEMS:,} items, without choosing.",
        "",
        *table(found),
    ]
    if options.write is not None:
        image = options.write.with_suffix(".png")
        plot(found, image)
        lines += [f"![microseconds a decision]({image.name})"]
        options.write.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
