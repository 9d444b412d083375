"""Rates of the decision engine beside Vowpal Wabbit and a matrix-vector product.

    python -m benchmarks.engine [--events 64000] [--write benchmarks/engine.md]

One core, in process, by the processor's time of this process (what else runs disturbs it less than
the clock). What is compared is measured in the same run: read the ratios. Without the extra `bench`
Vowpal Wabbit is left out.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from rove.mixed.learner import MixedLearner
from rove.slates import fill
from rove.thompson import Thompson
from rove.user_rows import Observation
from rove.users import User, UserCache

try:
    from vowpalwabbit import Workspace
except ImportError:  # the extra `bench` is not installed
    Workspace = None

Array = npt.NDArray[np.float64]

NUM_ACTIONS, NUM_FEATURES, BATCH, NUM_DRAWS = 4, 5, 64, 64
POLICY = Thompson(0.25, NUM_DRAWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """N events: contexts, the chance that each action is rewarded, and coins."""

    context_NQ: npt.NDArray[np.float32]
    chance_NS: Array
    coin_N: Array
    reward_coin_N: Array

    def first(self, num: int) -> Stream:
        """Return the first events."""
        parts = {field.name: getattr(self, field.name)[:num] for field in fields(self)}
        return Stream(**parts)

    @classmethod
    def draw(cls, num: int, rng: np.random.Generator) -> Stream:
        """Draw logistic rewards with fixed slopes."""
        context_NQ = rng.normal(size=(num, NUM_FEATURES)).astype(np.float32)
        logit_NS = context_NQ @ rng.normal(size=(NUM_FEATURES, NUM_ACTIONS))
        return cls(
            context_NQ=context_NQ,
            chance_NS=1.0 / (1.0 + np.exp(-logit_NS)),
            coin_N=rng.random(num),
            reward_coin_N=rng.random(num),
        )


def rove_us(stream: Stream, batch: int) -> tuple[float, float, float]:
    """Return microseconds an event: to decide, to learn between refits, and refitting."""
    rng = np.random.default_rng(1)
    learner = MixedLearner(None, NUM_ACTIONS, context_size=NUM_FEATURES, rng=rng)
    items_BS = np.tile(np.arange(NUM_ACTIONS), (batch, 1))
    users_B = np.full(batch, -1)
    decided_s = learnt_s = refitted_s = 0.0
    for first in range(0, len(stream.coin_N), batch):
        rows = np.arange(first, first + batch)
        context_BQ = stream.context_NQ[rows]
        begun = time.process_time()
        mean_BS, deviation_BS = learner.score(users_B, items_BS, context_BQ)
        slates = fill(POLICY, mean_BS, deviation_BS, None, 1, rng, max_explore_slots=1)
        chosen_B = slates.chosen_BK[:, 0]
        decided = time.process_time()
        reward_B = (stream.reward_coin_N[rows] < stream.chance_NS[rows, chosen_B]).astype(float)
        before, start = learner.fitted, time.process_time()
        learner.observe(users_B, chosen_B, reward_B, context_BQ)
        taken_s = time.process_time() - start
        decided_s += decided - begun
        if learner.fitted is before:
            learnt_s += taken_s
        else:
            refitted_s += taken_s
    scale = 1e6 / len(stream.coin_N)
    return decided_s * scale, learnt_s * scale, refitted_s * scale


def vowpal_us(stream: Stream, flags: str, *, reuse: bool) -> float:
    """Return microseconds an event, to decide and to learn.

    `reuse`: the actions are parsed once, and an event's context once for both calls.
    """
    workspace = Workspace(f"--cb_explore_adf --quiet -q ca {flags}")
    actions = [f"|a {action}" for action in range(NUM_ACTIONS)]
    tail = "\n".join(actions)
    parsed = workspace.parse("shared |c x\n" + tail)[1:]
    begun = time.process_time()
    for context, chances, coin, reward_coin in zip(
        stream.context_NQ.tolist(),
        stream.chance_NS.tolist(),
        stream.coin_N.tolist(),
        stream.reward_coin_N.tolist(),
        strict=True,
    ):
        shared = "shared |c a:{:.5g} b:{:.5g} c:{:.5g} d:{:.5g} e:{:.5g}".format(*context)
        if reuse:
            head = workspace.parse(f"{shared}\n|a 0")[0]
            probabilities = workspace.predict([head, *parsed])
        else:
            head = None
            probabilities = workspace.predict(f"{shared}\n{tail}")
        action, passed = 0, probabilities[0]
        while passed < coin and action < NUM_ACTIONS - 1:
            action += 1
            passed += probabilities[action]
        loss = 0 if reward_coin < chances[action] else 1
        label = f"0:{loss}:{probabilities[action]:.5g} {actions[action]}"
        if reuse:
            labelled = workspace.parse(label)
            examples = list(parsed)
            examples[action] = labelled[0]
            workspace.learn([head, *examples])
            workspace.finish_example(labelled)
        else:
            lines = list(actions)
            lines[action] = label
            workspace.learn("\n".join([shared, *lines]))
    return (time.process_time() - begun) * 1e6 / len(stream.coin_N)


def classic_lines(stream: Stream) -> list[str]:
    """Return the table of 4 actions and 5 features."""
    explorers = ("--squarecb", "--epsilon 0.05") if Workspace is not None else ()
    vowpal = {
        f"Vowpal Wabbit {flags}, {'examples parsed once' if reuse else 'text'}": vowpal_us(
            stream, flags, reuse=reuse
        )
        for flags in explorers
        for reuse in (False, True)
    }
    fastest_us = min(vowpal.values(), default=float("nan"))
    lines = [
        "| engine | decide us | learn us | refits us | all us | rate / fastest VW |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [f"| {n} | | | | {us:.1f} | {fastest_us / us:.2f} |" for n, us in vowpal.items()]
    num_events = len(stream.coin_N)
    for num in (num_events, num_events // 10):
        for batch in (1, BATCH):
            parts = rove_us(stream.first(num), batch)
            cells = " | ".join(f"{part:.1f}" for part in (*parts, sum(parts)))
            name = f"Rove, batches of {batch}, {'' if num == num_events else 'first '}{num:,}"
            lines.append(f"| {name} | {cells} | {fastest_us / sum(parts):.2f} |")
    return lines


def update_us(batch: int, num_items: int = 500, num_users: int = 2000) -> float:
    """Return microseconds an event between refits: known users, taste of 16, four factors."""
    rng = np.random.default_rng(5)
    text_JE = rng.normal(size=(num_items, 64)).astype(np.float32)
    learner = MixedLearner(text_JE, num_items, rng=rng)
    num, first = 4096, 6000

    def events(size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
        users_n = rng.integers(num_users, size=size)
        return users_n, rng.integers(num_items, size=size), (rng.random(size) < 0.3).astype(float)

    learner.observe(*events(first), None)
    learner.refit()
    taken_s, num_seen = 0.0, 0
    while num_seen < min(num, first // 5):
        users_n, items_n, reward_n = events(batch)
        begun = time.process_time()
        learner.observe(users_n, items_n, reward_n, None)
        taken_s += time.process_time() - begun
        num_seen += batch
    return taken_s * 1e6 / num_seen


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of a call."""
    taken = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        taken.append(time.process_time() - begun)
    return float(np.median(taken))


def product_lines(num_items: int, size: int, num_draws: int) -> list[str]:
    """Return Thompson with propensities beside one product for each draw."""
    rng = np.random.default_rng(2)
    items_JD = rng.normal(size=(num_items, size)).astype(np.float32)
    query_D = rng.normal(size=size).astype(np.float32)
    mean_1J = (items_JD @ query_D)[None]
    deviation_1J = np.full((1, num_items), 0.3, np.float32)
    policy = Thompson(0.25, num_draws)
    product_s = seconds(lambda: items_JD @ query_D, 101) * num_draws
    decide_s = seconds(
        lambda: fill(policy, mean_1J, deviation_1J, None, 1, rng, max_explore_slots=1), 15
    )
    return [
        f"| {num_items:,} | {size} | {num_draws} | {product_s * 1e3:.2f} | {decide_s * 1e3:.2f} "
        f"| {decide_s / product_s:.2f} |"
    ]


def built(user_id: str) -> User:
    """Return a user with thirty pairs at d = 32."""
    user, first = User(32), int(user_id) % 977
    pairs = [Observation(row=1000 + first + 7 * n, reward=n + 1.0, timestamp=n) for n in range(30)]
    user.learn(pairs, lambda rows: np.ones((len(rows), 32), np.float32), 1e7)
    return user


def user_bytes() -> float:
    """Return the bytes of a cached user, measured."""
    cache = UserCache(10**9, built)
    tracemalloc.start()
    for number in range(1000):
        cache.get(str(number))
    taken_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken_bytes / 1000


def report(num_events: int) -> list[str]:
    """Measure, and return the lines of the report."""
    stream = Stream.draw(num_events, np.random.default_rng(0))
    lines = ["## Four actions, five features", "", "Decide and learn, microseconds an event:", ""]
    lines += classic_lines(stream)
    lines += ["", "## Thompson sampling with propensities", ""]
    lines += ["Without the products that give mean and deviation; ms a request.", ""]
    lines += ["| items | d | draws | products ms | slate ms | ratio |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: |"]
    for num_items, size, num_draws in ((10_000, 32, 64), (1000, 32, 64), (10_000, 96, 64)):
        lines += product_lines(num_items, size, num_draws)
    lines += ["", "## Update of one event", ""]
    lines += ["500 items with text, 2,000 users, between refits, microseconds:", ""]
    lines += ["| batch | us |", "| ---: | ---: |"]
    lines += [f"| {batch} | {update_us(batch):.1f} |" for batch in (1, 16, BATCH, 256)]
    lines += ["", "## Memory", ""]
    lines += [f"A hot user with 30 pairs at d = 32: {user_bytes():,.0f} bytes in the cache."]
    return lines


def main() -> None:
    """Measure, print, and write the report if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1000 * BATCH, help="a multiple of 640")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with threadpool_limits(1):
        lines = report(options.events)
    head = [
        "# The decision engine's speed",
        "",
        f"`python -m benchmarks.engine --events {options.events}`, "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, one core ({platform.machine()}), "
        "processor time. Written by the program.",
        "",
    ]
    text = "\n".join([*head, *lines]) + "\n"
    print(text)
    if options.write is not None:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
