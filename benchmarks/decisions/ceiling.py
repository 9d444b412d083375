"""How much of the oracle's gap any learner can reach: agents in hindsight, by environment.

python -m benchmarks.decisions.ceiling --data FOLDER

Every mark is played with each of its settings on the reported seeds and the best is kept, which
flatters the mark: it is a ceiling, not a rival. Finished runs are kept with those of the benchmark
and not played again; Rove's share beside them is that of its runs in --out. The marks are those of
`hindsight.py`:

- item rates: each item's mean reward of other users, from the first request on; no user is learnt.
- population: also the items' factors, fitted to all rewards of other users; each user is learnt
  from what was shown, with the exact posterior, and the highest mean is shown.
- linear, hindsight: a ridge regression of each item on the context, fitted to all rewards of four
  fifths of the requests, played on the other fifth.
- linear, told all: the same, fitted to the rewards of all items at the requests before: what is
  lost to it is lost to the number of requests, not to exploration.
- smooth, hindsight: the same on random waves of the context, so a smooth function of it.
- prior: each test's mean rate and the spread within tests; Thompson sampling from that prior.
- prior, text: also a regression of the rates on the text, fitted to the other tests.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decisions.data import Sources
from benchmarks.decisions.hindsight import Linear, Population, Prior
from benchmarks.decisions.interface import Agent, World
from benchmarks.decisions.playing import Job, Played, Results, play_all, play_with, playable
from benchmarks.decisions.tables import OURS, with_interval

RIDGES = (10.0, 100.0, 1000.0, 1e4, 1e5)
SCALES = (0.003, 0.01, 0.03, 0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A kind of hindsight, with the settings of which the best counts."""

    name: str
    agent: Callable[..., Agent]
    grid: tuple[dict[str, Any], ...]

    def fits(self, world: World) -> bool:
        """Say yes; `MARKS` says which environments it is for."""
        return True

    def start(self, world: World, rng: np.random.Generator, **settings: object) -> Agent:
        """Return an agent for one run."""
        return self.agent(world, rng, **settings)


def _linear(name: str, hindsight: bool) -> Mark:
    grid = tuple({"ridge": ridge} for ridge in RIDGES)
    return Mark(name=name, agent=partial(Linear, hindsight=hindsight), grid=grid)


def _prior(name: str, with_text: bool) -> Mark:
    grid = tuple({"scale": scale} for scale in SCALES)
    return Mark(name=name, agent=partial(Prior, with_text=with_text), grid=grid)


ITEM_RATES = Mark(name="item rates", agent=Population, grid=({"rank": 0},))
POPULATION = Mark(
    name="population", agent=Population, grid=tuple({"rank": rank} for rank in (2, 4, 8))
)
RETURNING = Mark(
    name="population",
    agent=Population,
    grid=tuple({"rank": rank, "pair": pair} for rank in (0, 4) for pair in (0.1, 0.3, 1.0)),
)
LINEAR = (_linear("linear, hindsight", True), _linear("linear, told all", False))
SMOOTH = Mark(
    name="smooth, hindsight",
    agent=partial(Linear, hindsight=True),
    grid=tuple(
        {"ridge": ridge, "width": width} for ridge in (1.0, 3.0, 10.0) for width in (1.0, 2.0)
    ),
)
MARKS: dict[str, tuple[Mark, ...]] = {
    "jester": (ITEM_RATES, POPULATION),
    "movielens": (ITEM_RATES, POPULATION),
    "shop": (ITEM_RATES, RETURNING),
    "routing": (*LINEAR, SMOOTH),
    "news": LINEAR,
    "mushroom": LINEAR,
    "headlines": (_prior("prior", False), _prior("prior, text", True)),
}


def play_mark(job: Job, sources: Sources) -> Played:
    """Play one run of a mark."""
    mark = next(mark for mark in MARKS[job.environment] if mark.name == job.peer)
    return play_with(mark, job, sources)


def reachable(wanted: Sequence[str], results: Results, num_seeds: int) -> str:
    """Return the table of the marks that were played."""
    lines = [
        "| environment | known beforehand | settings | reachable, 95 % | rove | rove of it |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for name in wanted:
        ours = _ours(name, results, num_seeds)
        for mark in MARKS[name]:
            shares = np.array(
                [
                    [results.of(job).share for job in jobs_of(name, mark, settings, num_seeds)]
                    for settings in mark.grid
                ]
            )
            best = int(shares.mean(1).argmax())
            settings = ", ".join(f"{key} {value}" for key, value in mark.grid[best].items())
            part = "" if np.isnan(ours) else f"{ours / shares[best].mean():.0%}"
            our_share = "" if np.isnan(ours) else f"{ours:.3f}"
            lines.append(
                f"| {name} | {mark.name} | {settings} | {with_interval(shares[best])} "
                f"| {our_share} | {part} |"
            )
    return "\n".join(lines)


def jobs_of(environment: str, mark: Mark, settings: dict[str, Any], num_seeds: int) -> list[Job]:
    """Return the runs of a mark with settings."""
    return [
        Job(environment=environment, peer=mark.name, settings=settings, seed=seed)
        for seed in range(num_seeds)
    ]


def _ours(environment: str, results: Results, num_seeds: int) -> float:
    """Return Rove's mean share of the same seeds, NaN where it has not played them all."""
    jobs = [
        Job(environment=environment, peer=OURS, settings={}, seed=seed) for seed in range(num_seeds)
    ]
    if any(job.key not in results.played for job in jobs):
        return float("nan")
    return float(np.mean([results.of(job).share for job in jobs]))


def main() -> None:
    """Write the table of what is reachable to `ceiling.md` beside the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decisions.ceiling")
    parser.add_argument("--data", type=Path, help="folder with one folder a data set")
    parser.add_argument("--environments", default=",".join(MARKS), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/decisions"))
    given = parser.parse_args()
    sources = Sources(data=given.data, cache=Path("outputs/bench-cache"))
    results = Results(given.out)
    # Every environment has its own marks; any of them says which have their data.
    asked = given.environments.split(",")
    wanted = [name for name, _ in playable(asked, {ITEM_RATES.name: ITEM_RATES}, sources)]
    jobs = [
        job
        for name in wanted
        for mark in MARKS[name]
        for settings in mark.grid
        for job in jobs_of(name, mark, settings, given.seeds)
    ]
    play_all(jobs, sources, results, given.jobs, play_mark)
    table = reachable(wanted, results, given.seeds)
    print(table)
    (given.out / "ceiling.md").write_text(table + "\n", "utf-8")


if __name__ == "__main__":
    main()
