"""Does text earn its place: Rove with text beside Rove without, on the same requests and luck.

python -m benchmarks.decisions.text --data FOLDER

Without text there are no embeddings of the items; where the text is the context (routing), there is
no context. Everything else is the same, so differences are paired by seed. Shares are those of the
benchmark, over all requests and over parts of them:

- cold users: requests of users with fewer than 3 requests before; the same for both.
- cold items: slots whose item was shown to fewer than 5 requests before (headlines: 50, one batch);
  each plays its own, so the share says how good the items are that are tried before they are known.

A part's share is `(earned - random) / (oracle - random)` with the random and the oracle's reward of
its slots' requests, which are spread evenly over the slots of a slate.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import benchmarks.decisions.environments as environments
from benchmarks.decisions.data import MissingData, Sources
from benchmarks.decisions.interface import Floats, Peer, Run, World
from benchmarks.decisions.playing import environment_of, names_of, share, world_of
from benchmarks.decisions.tables import with_interval

COLD_REQUESTS = 3
COLD_TRIALS = {"headlines": 50}
COLD_TRIALS_ELSEWHERE = 5
PARTS = ("all", "cold users", "cold items")


def without_text(world: World) -> World:
    """Return what is left of a world when its texts are gone."""
    if world.context_is_text:
        return dataclasses.replace(world, context_size=0, context_is_text=False)
    return dataclasses.replace(world, text_JE=None)


def has_text(world: World) -> bool:
    """Say whether there is a text to leave out."""
    return world.text_JE is not None or world.context_is_text


def shares(peer: Peer, run: Run, seed: int, *, with_text: bool, cold_trials: int) -> list[float]:
    """Play a run and return the share of each of `PARTS`, NaN for a part without slots."""
    world = run.world if with_text else without_text(run.world)
    agent = peer.start(world, np.random.default_rng((seed, 1)))
    if run.world.text_JE is None:
        cold_trials = 0  # the items have no text
    trials_J = np.zeros(world.num_items, dtype=np.int64)
    requests_U = np.zeros(world.num_users + 1, dtype=np.int64)  # the last: not known, never cold
    requests_U[-1] = COLD_REQUESTS
    sums_P3 = np.zeros((len(PARTS), 3))  # earned, random, oracle
    for batch in run.batches():
        told = batch if world.context_size else dataclasses.replace(batch, context_BQ=None)
        choice = agent.choose(told)
        feedback = run.feedback(batch, choice)
        agent.learn(told, choice, feedback)
        items_BK = choice.items(batch)
        num_slots = items_BK.shape[1]
        cold_user_BK = np.repeat((requests_U[batch.users_B] < COLD_REQUESTS)[:, None], num_slots, 1)
        flags_PBK = np.stack(
            [np.ones_like(cold_user_BK), cold_user_BK, trials_J[items_BK] < cold_trials]
        )
        seen_BK = np.isfinite(feedback.reward_BK)
        random_BK, oracle_BK = np.repeat(run.counted_B2().T[:, :, None], num_slots, 2) / num_slots
        amounts_3BK = np.stack([feedback.value_BK, random_BK, oracle_BK])
        sums_P3 += flags_PBK[:, seen_BK].astype(np.float64) @ amounts_3BK[:, seen_BK].T
        known_N = batch.users_B[batch.users_B >= 0]
        np.add.at(requests_U, known_N, 1)
        np.add.at(trials_J, items_BK.ravel(), 1)
    return [
        share(earned, (random, oracle)) if oracle > random else float("nan")
        for earned, random, oracle in sums_P3.tolist()
    ]


def job(environment: str, seed: int, with_text: bool, sources: Sources) -> list[float]:
    """Play one run of Rove."""
    # Here, not above: the parent only counts.
    from benchmarks.decisions.peers.rove import PEERS

    with threadpool_limits(1):
        return shares(
            PEERS[0],
            environment_of(environment, sources).open(seed),
            seed,
            with_text=with_text,
            cold_trials=COLD_TRIALS.get(environment, COLD_TRIALS_ELSEWHERE),
        )


def measure(
    names: Iterable[str], sources: Sources, num_seeds: int, num_processes: int
) -> dict[str, Floats]:
    """Return the shares of each environment, (seeds, with and without, parts)."""
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        futures = {
            name: [
                [pool.submit(job, name, seed, with_text, sources) for with_text in (True, False)]
                for seed in range(num_seeds)
            ]
            for name in names
        }
        measured: dict[str, Floats] = {}
        for name, of_seed in futures.items():
            measured[name] = np.array([[one.result() for one in both] for both in of_seed])
            print(table({name: measured[name]}), flush=True)
    return measured


def table(measured: dict[str, Floats]) -> str:
    """Return the shares and their paired differences."""
    lines = [
        "| environment | part | with text | without | text earns, 95 % |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name, shares_S2P in measured.items():
        for number, part in enumerate(PARTS):
            with_S, without_S = shares_S2P[:, :, number].T
            if np.isnan(with_S).any() or np.isnan(without_S).any():
                continue
            lines.append(
                f"| {name} | {part} | {with_S.mean():.3f} | {without_S.mean():.3f} "
                f"| {with_interval(with_S - without_S, '+')} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Write the table to `text.md` beside the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decisions.text")
    parser.add_argument("--data", type=Path, help="folder with one folder a data set")
    parser.add_argument("--environments", help="comma-separated; all that have text if absent")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/decisions"))
    given = parser.parse_args()
    sources = Sources(data=given.data, cache=Path("outputs/bench-cache"))
    wanted = given.environments.split(",") if given.environments else names_of(environments)
    names = with_texts(wanted, sources)
    given.out.mkdir(parents=True, exist_ok=True)
    text = table(measure(names, sources, given.seeds, given.jobs))
    (given.out / "text.md").write_text(text + "\n", "utf-8")


def with_texts(wanted: Sequence[str], sources: Sources) -> list[str]:
    """Return the environments whose data is there and that have a text."""
    found = []
    for name in wanted:
        try:
            world = world_of(name, sources)
        except MissingData as error:
            print(f"{name} is left out: {error}")
            continue
        if has_text(world):
            found.append(name)
    return found


if __name__ == "__main__":
    main()
