"""Off-policy estimators and intervals against known truth, written to benchmarks/ope.md.

    python -m benchmarks.ope --data FOLDER [--seed 2026] [--output benchmarks/ope.md]

FOLDER holds jester_a/ratings_wide.parquet and upworthy_a/packages.parquet. Logs are drawn from
users with all ratings (Jester) and from headline tests with known click rates (Upworthy) by one
policy, with its propensities, and another policy is evaluated on them whose value is known.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rove.ope import (
    Estimate,
    Log,
    Logged,
    SlateLog,
    cascade_doubly_robust,
    categories_of,
    confidence_sequence,
    cross_fitted,
    direct,
    doubly_robust,
    empirical_bernstein,
    independent_ips,
    ips,
    mips,
    predicted_ahead,
    replay,
    reward_interaction_ips,
    self_normalised_doubly_robust,
    snips,
    standard_ips,
    tuned_ips,
    tuned_shrinkage,
    tuned_switch,
)
from rove.ope.intervals import Kind, from_draws, resample

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SIZES = (300, 1000, 3000, 10_000)
COVERAGE_SIZES = {"Jester": 1000, "Upworthy": 3000}
NUM_COVERAGE, NUM_ERRORS, NUM_SLATES = 1000, 150, 500
NUM_DRAWS = 400
KINDS: tuple[Kind, ...] = ("percentile", "bca", "studentised", "normal")
_GAUGE = (5, 7, 8, 13, 15, 16, 17, 18, 19, 20)
_JOKES = (50, 36, 27, 35, 32, 29, 62, 53, 49, 69)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """U contexts with known mean rewards, a logging policy and one to evaluate."""

    name: str
    reward_US: Floats
    binary: bool
    features_UF: Floats
    logging_US: Floats
    evaluation_US: Floats
    category_S: Ints | None

    @property
    def truth(self) -> float:
        """The evaluation policy's value: contexts are drawn uniformly."""
        return float((self.evaluation_US * self.reward_US).sum(1).mean())

    @property
    def max_weight(self) -> float:
        """The largest weight there can be."""
        return float((self.evaluation_US / self.logging_US).max())

    def draw(self, n: int, rng: np.random.Generator) -> Log:
        """Return a log of n decisions with cross-fitted predictions."""
        context_N = rng.integers(len(self.reward_US), size=n)
        logging_NS = self.logging_US[context_N]
        action_N = drawn(logging_NS, rng)
        reward_N = self.reward_US[context_N, action_N]
        if self.binary:
            reward_N = (rng.random(n) < reward_N).astype(np.float64)
        logged = Logged(
            action_N=action_N,
            reward_N=reward_N,
            propensity_N=logging_NS[np.arange(n), action_N],
            num_actions=self.reward_US.shape[1],
            logging_NS=logging_NS,
            features_NF=self.features_UF[context_N],
        )
        return logged.under(
            self.evaluation_US[context_N],
            q_NS=cross_fitted(logged, rng, folds=3),
            category_S=self.category_S,
            max_weight=self.max_weight,
        )


def drawn(probability_NS: Floats, rng: np.random.Generator) -> Ints:
    """Return one action of every row, (N,)."""
    above_NS = rng.random(len(probability_NS))[:, None] > np.cumsum(probability_NS, axis=1)
    action_N: Ints = np.minimum(above_NS.sum(1), probability_NS.shape[1] - 1).astype(np.int64)
    return action_N


def softmax(logits_NS: Floats) -> Floats:
    """Return exp(logits) normalised over actions."""
    e_NS = np.exp(logits_NS - logits_NS.max(1, keepdims=True))
    return np.asarray(e_NS / e_NS.sum(1, keepdims=True))


def jester(folder: Path) -> World:
    """Return ten jokes as actions, ratings scaled to [0, 1]; the context is ten other ratings."""
    table = pq.read_table(folder / "jester_a" / "ratings_wide.parquet")
    table = table.filter(pc.equal(table["n_rated"], 100))
    gauge_UF = np.stack([table[f"j{joke}"].to_numpy() for joke in _GAUGE], axis=1).astype(float)
    rating_US = np.stack([table[f"j{joke}"].to_numpy() for joke in _JOKES], axis=1).astype(float)
    reward_US = np.clip((rating_US + 10) / 20, 0, 1)
    features_UF = (gauge_UF - gauge_UF.mean(0)) / gauge_UF.std(0)
    x_UF = np.c_[features_UF, np.ones(len(features_UF))]
    rng = np.random.default_rng(7)
    coefficients_FS: Floats = np.linalg.lstsq(x_UF, reward_US, rcond=None)[0].astype(np.float64)
    random_FS = rng.normal(scale=0.15, size=(len(_GAUGE), len(_JOKES)))
    return World(
        name="Jester",
        reward_US=reward_US,
        binary=False,
        features_UF=features_UF,
        logging_US=0.8 * softmax(features_UF @ random_FS) + 0.2 / len(_JOKES),
        evaluation_US=0.9 * softmax(20 * x_UF @ coefficients_FS) + 0.1 / len(_JOKES),
        category_S=categories_of(coefficients_FS.T, 4, rng),
    )


def upworthy(folder: Path) -> World:
    """Return tests of four headlines as contexts; a click is drawn with the measured rate."""
    table = pq.read_table(folder / "upworthy_a" / "packages.parquet")
    table = table.filter(pc.invert(table["randomization_risk"]))
    tests: dict[str, list[tuple[float, str]]] = defaultdict(list)
    names = ("test_id", "clicks", "impressions", "headline")
    for row in table.select(names).to_pylist():
        test_id, clicks, impressions, headline = (row[name] for name in names)
        tests[test_id].append((clicks / impressions, headline or ""))
    packages = [rows[:4] for rows in tests.values() if len(rows) >= 4]
    reward_US = np.array([[rate for rate, _ in rows] for rows in packages])
    length_US = np.array([[float(len(text)) for _, text in rows] for rows in packages])
    other_US = np.array([[float("?" in text) for _, text in rows] for rows in packages])
    features_UF = np.hstack([(length_US - length_US.mean()) / length_US.std(), other_US])
    longest_US = np.eye(4)[length_US.argmax(1)]
    return World(
        name="Upworthy",
        reward_US=reward_US,
        binary=True,
        features_UF=features_UF,
        logging_US=0.6 * longest_US + 0.4 / 4,
        evaluation_US=0.9 * softmax(300 * reward_US) + 0.1 / 4,
        category_S=None,
    )


def estimates_of(log: Log, rng: np.random.Generator) -> list[Estimate]:
    """Return every estimator that the log allows."""
    estimates = [
        ips(log),
        snips(log),
        direct(log),
        doubly_robust(log),
        self_normalised_doubly_robust(log),
        tuned_switch(log),
        tuned_shrinkage(log),
        tuned_ips(log),
        replay(log, rng),
    ]
    return estimates + ([mips(log)] if log.category_S is not None else [])


def coverage(world: World, rng: np.random.Generator) -> list[str]:
    """Return the table of how often, and how wide, intervals contain the truth."""
    n, truth = COVERAGE_SIZES[world.name], world.truth
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    widths: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(name: str, kind: str, low: float, high: float, holds: bool | None = None) -> None:
        hits[name, kind].append(low <= truth <= high if holds is None else holds)
        widths[name, kind].append(high - low)

    for _ in range(NUM_COVERAGE):
        log = world.draw(n, rng)
        estimates = estimates_of(log, rng)
        values, errors = resample(estimates, rng, NUM_DRAWS)
        for kind in KINDS:
            for one, interval in zip(
                estimates, from_draws(estimates, values, errors, kind=kind), strict=True
            ):
                add(one.name, kind, interval.low, interval.high)
        for one in estimates:
            if one.bounds is not None:
                bound = empirical_bernstein(one)
                add(one.name, bound.kind, bound.low, bound.high)
        for name, q_NS in (("running mean", None), ("ridge ahead", predicted_ahead(log))):
            sequence = confidence_sequence(log, q_NS=q_NS)
            low, high = float(sequence.low[-1]), float(sequence.high[-1])
            add(f"sequence, {name}", "at the end", low, high)
            always = sequence.always_covers(truth)
            add(f"sequence, {name}", "at every row", low, high, always)
    lines = ["| estimator | interval | coverage | mean width |", "| --- | --- | ---: | ---: |"]
    for (name, how), found in hits.items():
        width = float(np.mean(widths[name, how]))
        lines.append(f"| {name} | {how} | {np.mean(found):.1%} | {width:.4f} |")
    return lines


def errors_by_size(world: World, rng: np.random.Generator) -> list[str]:
    """Return the table of root mean squared errors by log size, in % of the true value."""
    lines = ["| estimator |" + "".join(f" {n:,} |" for n in SIZES)]
    lines.append("| --- |" + " ---: |" * len(SIZES))
    errors: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in SIZES])
    for place, n in enumerate(SIZES):
        for _ in range(NUM_ERRORS):
            log = world.draw(n, rng)
            for one in estimates_of(log, rng):
                errors[one.name][place].append(one.value - world.truth)
            for one in (tuned_switch(log, "slope"), tuned_shrinkage(log, "slope")):
                errors[f"{one.name}, SLOPE"][place].append(one.value - world.truth)
    for name, by_size in errors.items():
        cells = [float(np.sqrt(np.mean(np.square(one)))) / world.truth for one in by_size]
        lines.append(f"| {name} |" + "".join(f" {cell:.2%} |" for cell in cells))
    return lines


class Slates:
    """Slates of three jokes; a user who liked a joke may stop looking (a cascade)."""

    num_slots = 3

    def __init__(self, world: World) -> None:
        self._world = world
        x_UF = np.c_[world.features_UF, np.ones(len(world.features_UF))]
        self._q_US = x_UF @ np.linalg.lstsq(x_UF, world.reward_US, rcond=None)[0]

    def draw(self, n: int, policy_US: Floats, rng: np.random.Generator) -> SlateLog:
        """Return n slates drawn from `policy_US` without replacement, beside the evaluation."""
        world, k = self._world, self.num_slots
        user_N = rng.integers(len(policy_US), size=n)
        free_NS = np.ones((n, policy_US.shape[1]))
        look_N = np.ones(n)
        columns = np.zeros((5, n, k))
        rows = np.arange(n)
        for slot in range(k):
            left_NS = [p[user_N] * free_NS for p in (policy_US, world.evaluation_US)]
            p_NS, e_NS = (one / one.sum(1, keepdims=True) for one in left_NS)
            action_N = drawn(p_NS, rng)
            rating_N = world.reward_US[user_N, action_N]
            seen = 0.7**slot * (1 + 0.7 * (k - slot - 1)) / k  # a rough reward to go
            q_NS = self._q_US[user_N] * seen
            columns[:, :, slot] = (
                look_N * rating_N / k,
                p_NS[rows, action_N],
                e_NS[rows, action_N],
                q_NS[rows, action_N],
                (e_NS * q_NS).sum(1),
            )
            look_N = look_N * (rng.random(n) > 0.5 * rating_N)
            free_NS[rows, action_N] = 0.0
        reward, propensity, evaluation, q, v = columns
        return SlateLog(
            reward_NK=reward, propensity_NK=propensity, evaluation_NK=evaluation, q_NK=q, v_NK=v
        )


def slate_errors(world: World, rng: np.random.Generator) -> list[str]:
    """Return bias and root mean squared error of the slate estimators, and DR-like coverage."""
    slates, n = Slates(world), 3000
    on_policy = slates.draw(400_000, world.evaluation_US, rng)
    truth = float(on_policy.reward_NK.sum(1).mean())
    estimators = (standard_ips, independent_ips, reward_interaction_ips, cascade_doubly_robust)
    errors: dict[str, list[float]] = defaultdict(list)
    hits: dict[str, list[bool]] = defaultdict(list)
    for _ in range(NUM_SLATES):
        log = slates.draw(n, world.logging_US, rng)
        for estimator in estimators:
            one = estimator(log)
            errors[one.name].append(one.value / truth - 1)
            hits[one.name].append(abs(one.value - truth) <= 1.96 * one.standard_error)
    lines = ["| estimator | bias | RMSE | coverage (normal) |", "| --- | ---: | ---: | ---: |"]
    for name, found in errors.items():
        error = float(np.sqrt(np.mean(np.square(found))))
        lines.append(
            f"| {name} | {np.mean(found):+.2%} | {error:.2%} | {np.mean(hits[name]):.1%} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser("python -m benchmarks.ope", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/ope.md"))
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args(arguments)
    start, rng = time.perf_counter(), np.random.default_rng(options.seed)
    worlds = [jester(options.data), upworthy(options.data)]
    parts: list[str] = []
    for world in worlds:
        num_contexts, num_actions = world.reward_US.shape
        parts += [
            "",
            f"## {world.name}",
            "",
            f"{num_contexts:,} contexts, {num_actions} actions, true value {world.truth:.4f}, "
            f"largest possible weight {world.max_weight:.1f}.",
            "",
            f"Coverage of 95 % intervals, {NUM_COVERAGE} logs of "
            f"{COVERAGE_SIZES[world.name]:,} rows, {NUM_DRAWS} bootstrap draws:",
            "",
            *coverage(world, rng),
            "",
            f"RMSE in % of the true value by rows of the log, {NUM_ERRORS} logs each:",
            "",
            *errors_by_size(world, rng),
        ]
    parts += [
        "",
        "## Slates",
        "",
        f"Three jokes a slate, users stop looking after jokes they like, {NUM_SLATES} logs of "
        "3,000 slates:",
        "",
        *slate_errors(worlds[0], rng),
    ]
    head = [
        "# Off-policy estimators against known truth",
        "",
        f"`python -m benchmarks.ope --data FOLDER --seed {options.seed}`, "
        f"{datetime.date.today()}, one core "
        f"({platform.machine()}), {time.perf_counter() - start:.0f} s.",
        "",
        "A measured coverage of 95 % has a standard error of "
        f"{np.sqrt(0.0475 / NUM_COVERAGE):.1%}. Intervals of DM, DRos, SWITCH-DR, "
        "clipped IPS and MIPS do not know of the bias these "
        "estimators accept. A sequence has to hold after every row, and bets for the log's end.",
    ]
    options.output.write_text("\n".join([*head, *parts]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
