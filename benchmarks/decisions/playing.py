"""Play peers in environments: tune on development seeds, then report on others.

Every finished run is one line of `results.jsonl` and is not played again. The development seeds
start at `FIRST_DEV_SEED`, the reported ones at 0. Runs are spread over processes with one BLAS
thread each.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import benchmarks.decisions.environments as environments
import benchmarks.decisions.peers as peers
from benchmarks.decisions.data import MissingData, Sources
from benchmarks.decisions.effort import effort
from benchmarks.decisions.interface import Environment, Informed, Peer, World

FIRST_DEV_SEED = 1000
NUM_POINTS = 20
RUNS_A_PROCESS = 20
"""Vowpal Wabbit does not give back the memory of parsed items: up to 150 MB a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: a peer with settings in an environment with a seed."""

    environment: str
    peer: str
    settings: dict[str, Any]
    seed: int
    part: float = 1.0
    """Of the requests, the first ones; development runs only."""

    @property
    def key(self) -> str:
        """Names the run."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What a run earned: the share of the way from random to oracle, at the end and on the way."""

    share: float
    curve: list[float]
    seconds: float


def names_of(package: Any) -> list[str]:
    """Return the modules of a package whose names do not start with an underscore."""
    found = pkgutil.iter_modules(package.__path__)
    return [module.name for module in found if not module.name.startswith("_")]


def known_peers() -> tuple[dict[str, Peer], dict[str, str]]:
    """Return the peers that can be imported, and why the other modules cannot."""
    found: dict[str, Peer] = {}
    lacking: dict[str, str] = {}
    for name in names_of(peers):
        try:
            module = importlib.import_module(f"{peers.__name__}.{name}")
        except ImportError as error:
            lacking[name] = str(error)
        else:
            found.update({peer.name: peer for peer in module.PEERS})
    return found, lacking


@cache
def environment_of(name: str, sources: Sources) -> Environment:
    """Load an environment once a process."""
    loaded: Environment = importlib.import_module(f"{environments.__name__}.{name}").load(sources)
    return loaded


@cache
def world_of(name: str, sources: Sources) -> World:
    """Return what agents know of an environment: of its first development run."""
    return environment_of(name, sources).open(FIRST_DEV_SEED).world


def play(job: Job, sources: Sources) -> Played:
    """Play one run of a peer that is known by its name."""
    return play_with(known_peers()[0][job.peer], job, sources)


def play_with(peer: Peer, job: Job, sources: Sources) -> Played:
    """Play one run."""
    run = environment_of(job.environment, sources).open(job.seed)
    num_requests = job.part * run.world.num_requests
    begun = time.perf_counter()
    earned, asked = 0.0, 0
    points = iter(np.linspace(0, num_requests, NUM_POINTS + 1)[1:].tolist())
    point, curve = next(points), []
    with threadpool_limits(1):
        # Not the environment's stream: its luck and the agent's draws would go together.
        agent = peer.start(run.world, np.random.default_rng((job.seed, 1)), **job.settings)
        if isinstance(agent, Informed):
            agent.inform(run)
        for batch in run.batches():
            choice = agent.choose(batch)
            feedback = run.feedback(batch, choice)
            agent.learn(batch, choice, feedback)
            earned += float(feedback.value_BK[np.isfinite(feedback.reward_BK)].sum())
            asked += len(batch)
            while asked >= point:
                curve.append(share(earned, run.totals()))
                point = next(points, np.inf)
            if asked >= num_requests:
                break
    seconds = time.perf_counter() - begun
    return Played(share=share(earned, run.totals()), curve=curve, seconds=seconds)


def share(earned: float, totals: tuple[float, float]) -> float:
    """Return (earned - random) / (oracle - random), 0 while both are the same."""
    random, oracle = totals
    return (earned - random) / (oracle - random) if oracle > random else 0.0


class Results:
    """The runs played so far, in a file of JSON lines."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "results.jsonl"
        self.played: dict[str, Played] = {}
        if self._path.exists():
            for line in self._path.read_text("utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue  # cut off when the process was killed; it is played again
                self.played[Job(**row["job"]).key] = Played(**row["played"])

    def add(self, job: Job, played: Played) -> None:
        """Keep a run."""
        self.played[job.key] = played
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"job": asdict(job), "played": asdict(played)}) + "\n")

    def of(self, job: Job) -> Played:
        """Return a run that was played."""
        return self.played[job.key]


def play_all(
    jobs: Iterable[Job],
    sources: Sources,
    results: Results,
    num_processes: int,
    player: Callable[[Job, Sources], Played] = play,
) -> None:
    """Play the runs that are not in the results yet."""
    waiting = [job for job in jobs if job.key not in results.played]
    if not waiting:
        return
    failed: list[str] = []
    size = RUNS_A_PROCESS * num_processes
    for start in range(0, len(waiting), size):
        # A pool for each part of the runs: `max_tasks_per_child` can hang (CPython issue 115634).
        with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(player, job, sources): job for job in waiting[start:][:size]}
            for number, future in enumerate(as_completed(futures), start + 1):
                job, error = futures[future], future.exception()
                if error is not None:
                    failed.append(f"{job.key}: {error!r}")
                    continue
                played = future.result()
                results.add(job, played)
                print(
                    f"[{number}/{len(waiting)}] {job.environment} {job.peer} {job.settings} "
                    f"seed {job.seed}: {played.share:.3f} in {played.seconds:.1f} s",
                    flush=True,
                )
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed, the others are kept: {failed[0]}")


def playable(
    wanted: Sequence[str], chosen: dict[str, Peer], sources: Sources
) -> Iterator[tuple[str, Peer]]:
    """Yield environments with the peers that can play them; say what is left out."""
    for name in wanted:
        try:
            world = world_of(name, sources)
        except MissingData as error:
            print(f"{name} is left out: {error}")
            continue
        for peer in chosen.values():
            if peer.fits(world):
                yield name, peer
            else:
                print(f"{name}: {peer.name} cannot play it")


def trials_of(name: str, peer: Peer, sources: Sources, num_dev_seeds: int) -> list[list[Job]]:
    """Return the development runs of each of a peer's settings; none where there is no choice."""
    if len(peer.grid) < 2:
        return []
    part = effort(peer.name, world_of(name, sources)).tuning_part
    seeds = range(FIRST_DEV_SEED, FIRST_DEV_SEED + num_dev_seeds)
    return [
        [
            Job(environment=name, peer=peer.name, settings=settings, seed=seed, part=part)
            for seed in seeds
        ]
        for settings in peer.grid
    ]


def best_settings(peer: Peer, trials: list[list[Job]], results: Results) -> dict[str, Any]:
    """Return the settings of the highest mean share on the development seeds."""
    means = [np.mean([results.of(job).share for job in jobs]) for jobs in trials]
    return peer.grid[int(np.argmax(means))] if means else peer.grid[0]


def reported(
    pair: tuple[str, str], settings: dict[str, Any], sources: Sources, seeds: int
) -> list[Job]:
    """Return the runs that are reported of an environment's peer."""
    return [
        Job(environment=pair[0], peer=pair[1], settings=settings, seed=seed)
        for seed in range(num_seeds(pair, sources, seeds))
    ]


def is_finished(
    name: str, peer: Peer, sources: Sources, results: Results, num_dev_seeds: int, seeds: int
) -> bool:
    """Say whether all of a peer's runs in an environment were played."""
    trials = trials_of(name, peer, sources, num_dev_seeds)
    if any(job.key not in results.played for jobs in trials for job in jobs):
        return False
    settings = best_settings(peer, trials, results)
    jobs = reported((name, peer.name), settings, sources, seeds)
    return all(job.key in results.played for job in jobs)


def tuned(
    pairs: Sequence[tuple[str, Peer]],
    sources: Sources,
    results: Results,
    *,
    num_dev_seeds: int,
    num_processes: int,
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return each pair's best settings on the development seeds."""
    trials = {
        (name, peer.name): trials_of(name, peer, sources, num_dev_seeds) for name, peer in pairs
    }
    jobs = [job for some in trials.values() for of_settings in some for job in of_settings]
    play_all(jobs, sources, results, num_processes)
    return {
        (name, peer.name): best_settings(peer, trials[name, peer.name], results)
        for name, peer in pairs
    }


def num_seeds(pair: tuple[str, str], sources: Sources, wanted: int) -> int:
    """Return on how many seeds an environment's peer is reported."""
    most = effort(pair[1], world_of(pair[0], sources)).max_seeds
    return wanted if most is None else min(wanted, most)
