"""What regulating the strength of exploration is worth, written to benchmarks/regulation.md.

    python -m benchmarks.regulation [--data FOLDER] [--seeds 4] [--output benchmarks/regulation.md]

1. Two worlds with known rewards, in which the best strength is known too: `pays` (items are
   replaced, and what they are worth has to be found out) and `does not pay` (the model knows
   everything and only believes that it does not).
2. With `--data`: the environments of `benchmarks.decisions`, on its development seeds.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.decisions.data import MissingData, Sources
from benchmarks.decisions.interface import Batch, Choice, Feedback, World
from benchmarks.decisions.peers.rove import Rove
from benchmarks.decisions.playing import FIRST_DEV_SEED, environment_of, share
from rove.regulation import STRENGTHS, Regulator
from rove.slates import fill
from rove.thompson import Thompson

ENVIRONMENTS = ("jester", "movielens", "shop", "routing", "news", "mushroom")
COLUMNS: tuple[float | None, ...] = (0.0, 0.25, 1.0, None)
"""Strengths that are compared in the environments; None is the regulator."""
NUM_BLOCKS = 100
NUM_ITEMS, NUM_VISITORS, TURNS = 12, 8, 10
PRIOR_MEAN, PRIOR_DEVIATION, NOISE = 0.3, 0.15, 0.2
WORLDS = {"pays": True, "does not pay": False}
SIZES = (300, 2_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a strength, or the regulator, came to."""

    name: str
    values: Sequence[float]
    leaders: Sequence[float] = ()

    def row(self) -> str:
        """Return a line of the table; the error is that of the mean."""
        error = float(np.std(self.values, ddof=1) / np.sqrt(len(self.values)))
        leaders = ", ".join(f"{one:g}" for one in self.leaders)
        return f"| {self.name} | {np.mean(self.values):.4f} | {error:.4f} | {leaders} |"


def live(
    teaches: bool, seed: int, num_blocks: int, regulator: Regulator | None, strength: float
) -> float:
    """Return the mean expected reward of one of the worlds; a block has `TURNS` turns."""
    # The same items come and go for every strength.
    world, rng = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    value_J = _items(world, NUM_ITEMS)
    total_J, num_J, earned = np.zeros(NUM_ITEMS), np.zeros(NUM_ITEMS), 0.0
    for turn in range(num_blocks * TURNS):
        if turn % TURNS == 0:
            item = world.integers(NUM_ITEMS)
            value_J[item], total_J[item], num_J[item] = _items(world, 1)[0], 0.0, 0.0
        precision_J = PRIOR_DEVIATION**-2 + num_J / NOISE
        mean_J = (PRIOR_MEAN * PRIOR_DEVIATION**-2 + total_J / NOISE) / precision_J
        deviation_J = precision_J**-0.5
        if not teaches:
            mean_J, deviation_J = value_J, np.full(NUM_ITEMS, PRIOR_DEVIATION)
        index, probability = 0, 1.0
        if regulator is not None:
            index, strength, probability = regulator.choose("all", rng, turn)
        chosen = fill(
            Thompson(strength, 16),
            np.tile(mean_J, (NUM_VISITORS, 1)),
            np.tile(deviation_J, (NUM_VISITORS, 1)),
            None,
            1,
            rng,
            max_explore_slots=1,
        ).chosen_BK[:, 0]
        rewards = (rng.random(NUM_VISITORS) < value_J[chosen]).astype(float)
        if regulator is not None:
            for reward in rewards.tolist():
                regulator.learn("all", index, probability, reward, turn)
        np.add.at(total_J, chosen, rewards)
        np.add.at(num_J, chosen, 1.0)
        earned += float(value_J[chosen].mean())
    return earned / (num_blocks * TURNS)


def _items(rng: np.random.Generator, num: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.clip(rng.normal(PRIOR_MEAN, PRIOR_DEVIATION, num), 0.02, 0.98)


def world_lines(teaches: bool, num_blocks: int, seeds: Sequence[int]) -> list[Line]:
    """Return every fixed strength and the regulator in one of the worlds."""
    lines = [
        Line(name=f"fixed {one:g}", values=[live(teaches, s, num_blocks, None, one) for s in seeds])
        for one in STRENGTHS
    ]
    values, leaders = [], []
    for seed in seeds:
        regulator = Regulator(block_s=TURNS, half_life_s=num_blocks * TURNS)
        values.append(live(teaches, seed, num_blocks, regulator, 0.0))
        leaders.append(STRENGTHS[int(regulator.weights("all", num_blocks * TURNS).argmax())])
    return [*lines, Line(name="regulated", values=values, leaders=leaders)]


class Agent(Rove):
    """The mixed model with a fixed or a regulated strength."""

    def __init__(self, world: World, rng: np.random.Generator, strength: float | None) -> None:
        super().__init__(world, rng, Thompson(strength or 0.0, 64))
        # A stream of its own: the learner's draws are those of the fixed strengths.
        self._coins = np.random.default_rng(rng.integers(2**32)) if strength is None else None
        self._length_s = world.num_requests
        block_s = max(1.0, world.num_requests / NUM_BLOCKS)
        self.regulator = Regulator(block_s=block_s, half_life_s=float(self._length_s))
        self._time_s = 0
        self._drawn = (0, 1.0)

    def choose(self, batch: Batch) -> Choice:
        """Decide with the strength of the block."""
        if self._coins is not None:
            index, strength, chance = self.regulator.choose("all", self._coins, self._time_s)
            self._policy, self._drawn = Thompson(strength, 64), (index, chance)
        return super().choose(batch)

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Learn, and tell the regulator; a uniform choice is taken off as the model expects it."""
        if self._coins is not None:
            mean_BS, _ = self._learner.score(batch.users_B, batch.candidates_BS, batch.context_BQ)
            expected_BS = np.where(batch.open_BS, self._learner.expected(mean_BS), 0.0)
            uniform_B = expected_BS.sum(1) / batch.open_BS.sum(1)
            seen_BK = np.isfinite(feedback.reward_BK)
            for row in np.flatnonzero(seen_BK.any(1)).tolist():
                reward = float(feedback.reward_BK[row][seen_BK[row]].sum())
                expected = float(uniform_B[row] * seen_BK[row].sum())
                self.regulator.learn("all", *self._drawn, reward, self._time_s, expected)
        super().learn(batch, choice, feedback)
        self._time_s += len(batch)

    def leader(self) -> float:
        """Return the strength that leads by now."""
        return STRENGTHS[int(self.regulator.weights("all", self._time_s).argmax())]


def play(name: str, sources: Sources, seed: int, strength: float | None) -> tuple[float, float]:
    """Return the share of the gap that was closed, and the strength that leads at the end."""
    run = environment_of(name, sources).open(seed)
    agent, earned = Agent(run.world, np.random.default_rng((seed, 1)), strength), 0.0
    for batch in run.batches():
        choice = agent.choose(batch)
        feedback = run.feedback(batch, choice)
        agent.learn(batch, choice, feedback)
        earned += float(feedback.value_BK[np.isfinite(feedback.reward_BK)].sum())
    return share(earned, run.totals()), agent.leader()


def environment_table(sources: Sources, num_seeds: int) -> list[str]:
    """Return the table of the environments: fixed strengths and the regulator, by environment."""
    seeds = range(FIRST_DEV_SEED, FIRST_DEV_SEED + num_seeds)
    heads = ["regulated" if one is None else f"{one:g}" for one in COLUMNS]
    lines = [
        "| environment | " + " | ".join([*heads, "leads at the end"]) + " |",
        "| --- |" + " ---: |" * (len(COLUMNS) + 1),
    ]
    mean_EG = []
    for name in ENVIRONMENTS:
        try:
            environment_of(name, sources)
        except MissingData as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        played = [[play(name, sources, seed, one) for seed in seeds] for one in COLUMNS]
        values = [np.array([share for share, _ in runs]) for runs in played]
        cells = [f"{one.mean():.3f} +- {one.std(ddof=1) / len(one) ** 0.5:.3f}" for one in values]
        cells.append(", ".join(f"{leader:g}" for _, leader in played[-1]))
        mean_EG.append([one.mean() for one in values])
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    geometric_G = np.exp(np.log(mean_EG).mean(0))
    lines.append(f"| geometric mean | {' | '.join(f'{x:.4f}' for x in geometric_G)} | |")
    return lines


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("outputs/bench-cache"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/regulation.md"))
    options = parser.parse_args()
    begun = time.perf_counter()
    lines: list[str] = []
    with threadpool_limits(1):
        for name, teaches in WORLDS.items():
            for num_blocks in SIZES:
                lines += [f"Exploring {name}, {num_blocks:,} blocks of 80 rewards:", ""]
                lines += ["| strength | reward | error | leads at the end |"]
                lines += ["| --- | ---: | ---: | --- |"]
                lines += [one.row() for one in world_lines(teaches, num_blocks, range(3))] + [""]
                print("\n".join(lines[-9:]), flush=True)
        if options.data is not None:
            sources = Sources(data=options.data, cache=options.cache)
            lines += ["## Environments", ""]
            lines += [f"Share of the gap closed, {options.seeds} development seeds.", ""]
            lines += environment_table(sources, options.seeds)
    seconds = time.perf_counter() - begun
    head = [
        "# Regulated exploration",
        "",
        f"`python -m benchmarks.regulation --data FOLDER --seeds {options.seeds}`, "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, one core ({platform.machine()}), "
        f"{seconds:.0f} s. Written by the program.",
        "",
        "The regulator starts from strength 0.25, keeps nine blocks in ten for the one that leads, "
        "and lets another one lead only once its worth is surely higher. A difference of a "
        "hundredth of the reward takes thousands of blocks to see, so on runs of "
        f"{NUM_BLOCKS} blocks it is the fixed 0.25 with one block in ten tried at other strengths: "
        "read the difference to 0.25 as what trying costs, not as a gain.",
        "",
        "## Worlds with known rewards",
        "",
    ]
    options.output.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
