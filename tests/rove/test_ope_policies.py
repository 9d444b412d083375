"""A log that one policy wrote evaluates another: by the ledger, against what it earns itself.

20,000 decisions of a frozen model are written to SQLite and read back. Rewards are known, so what
the other policy earns is measured by playing it. `within` allows for both errors, that of the log
and that of the measurement, so widely that a hundred tests hardly ever fail by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from rove.choosing import Policy
from rove.config import PolicySection, StoreSection
from rove.events import Decision, Interaction, InteractionType, Slot
from rove.ledger.ledger import Ledger, StoredInteraction
from rove.ope import (
    Estimate,
    Interval,
    LoggedSlates,
    Target,
    bootstrap,
    cascade_doubly_robust,
    cross_fitted,
    diagnose,
    doubly_robust,
    independent_ips,
    marginals,
    read_ledger,
    reward_interaction_ips,
    self_normalised_doubly_robust,
    snips,
    under_policy,
)
from rove.policies import policy_of
from rove.rewards import PRESETS
from rove.slates import fill

NUM_LOGGED = 20_000
NUM_PLAYED = 100_000
NUM_USERS, NUM_ITEMS = 20, 8
IDS = [f"item-{item}" for item in range(NUM_ITEMS)]
LOGGING = policy_of(PolicySection(kind="thompson", strength=1.0, num_draws=32, floor=0.2))
OTHERS: dict[str, Policy] = {
    "ucb": policy_of(PolicySection(kind="ucb", strength=0.5, floor=0.1)),
    "softmax": policy_of(PolicySection(kind="softmax", temperature=0.5)),
    "igw": policy_of(PolicySection(kind="igw", gamma=20.0)),
    "epsilon_greedy": policy_of(PolicySection(kind="epsilon_greedy", epsilon=0.2)),
    "gentle_thompson": policy_of(PolicySection(kind="thompson", strength=0.25, num_draws=32)),
}
PLACE = np.array([1.0, 0.7, 0.5])
"""How many look at each slot."""
LIKE_BEFORE = 0.5
"""What is left of a reward after an item of the same half of the catalogue in the slot before."""
SINGLE, TRIPLE, APART = 100, 200, 300
"""Seeds of the logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Known rewards, and a model of them that learns no more."""

    reward_UJ: np.ndarray
    mean_UJ: np.ndarray
    deviation_UJ: np.ndarray
    predicted_UJ: np.ndarray
    """What the model takes for the rewards."""

    def expected(
        self, users_N: np.ndarray, chosen_NK: np.ndarray, like_before: float
    ) -> np.ndarray:
        """Return the expected reward of every slot: its place, item, user and the slot before."""
        num_slots = chosen_NK.shape[1]
        reward_NK: np.ndarray = self.reward_UJ[users_N[:, None], chosen_NK] * PLACE[:num_slots]
        half_NK = chosen_NK * 2 // NUM_ITEMS
        reward_NK[:, 1:] *= np.where(half_NK[:, 1:] == half_NK[:, :-1], like_before, 1.0)
        return reward_NK

    def fill(self, policy: Policy, users_N: np.ndarray, num_slots: int, seed: int):  # type: ignore[no-untyped-def]
        """Play a policy."""
        return fill(
            policy,
            self.mean_UJ[users_N],
            self.deviation_UJ[users_N],
            None,
            num_slots,
            np.random.default_rng(seed),
            max_explore_slots=num_slots,
        )


@cache
def world() -> World:
    """Return a model that is off by half a unit of log odds, and sure of itself to that degree."""
    rng = np.random.default_rng(11)
    text_JE = rng.normal(size=(NUM_ITEMS, 4))
    text_JE /= np.linalg.norm(text_JE, axis=1, keepdims=True)
    taste_UJ = 2.0 * rng.normal(size=(NUM_USERS, 4)) @ text_JE.T
    mean_UJ = taste_UJ - 0.5 + 0.5 * rng.normal(size=taste_UJ.shape)
    return World(
        reward_UJ=expit(taste_UJ - 0.5),
        mean_UJ=mean_UJ,
        deviation_UJ=rng.uniform(0.4, 0.8, taste_UJ.shape),
        predicted_UJ=expit(mean_UJ),
    )


def write(folder: Path, num_slots: int, seed: int, like_before: float = 1.0) -> StoreSection:
    """Let the logging policy decide, and store what came of it as the engine does."""
    rng = np.random.default_rng(seed)
    users_N = rng.integers(NUM_USERS, size=NUM_LOGGED)
    slates = world().fill(LOGGING, users_N, num_slots, seed + 1)
    chosen_NK = slates.chosen_BK
    won_NK = rng.random(chosen_NK.shape) < world().expected(users_N, chosen_NK, like_before)
    store = StoreSection(url=f"sqlite:///{folder}", durability="process")
    ledger = Ledger.open(store, 0, 1)
    with ledger.transaction() as transaction:
        rows = zip(
            users_N.tolist(),
            chosen_NK.tolist(),
            slates.propensity_BK.tolist(),
            strict=True,
        )
        transaction.add_decisions([decided(number, *row) for number, row in enumerate(rows)])
        transaction.add_interactions(
            [
                rewarded(row, slot, users_N[row], chosen_NK[row, slot])
                for row, slot in np.argwhere(won_NK).tolist()
            ]
        )
    ledger.close()
    return store


def decided(number: int, user: int, chosen: list[int], propensities: list[float]) -> Decision:
    return Decision(
        event_id=f"e{number:06}",
        user_id=str(user),
        policy="home",
        policy_version="1",
        release="r1",
        seed=1,
        request_digest="aa",
        candidates_digest="bb",
        num_candidates=NUM_ITEMS,
        slots=[
            Slot(slot=k, item_id=IDS[item], score=0.0, propensity=propensity, reason="exploit")
            for k, (item, propensity) in enumerate(zip(chosen, propensities, strict=True))
        ],
        created_at=float(number),
        expires_at=float(number) + 1.0,
        activated_at=float(number),
    )


def rewarded(row: int, slot: int, user: int, item: int) -> StoredInteraction:
    return StoredInteraction(
        interaction=Interaction(
            interaction_id=f"i{row}-{slot}",
            user_id=str(user),
            item_id=IDS[item],
            type=InteractionType.REWARD,
            value=1.0,
            timestamp=row + 0.5,
            event_id=f"e{row:06}",
            slot=slot,
        ),
        reward=1.0,
        status="accepted",
        received_at=row + 0.5,
        session=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A log as it was read, with who was asked and what was shown."""

    slates: LoggedSlates
    users_N: np.ndarray
    chosen_NK: np.ndarray


def read(store: StoreSection, seed: int) -> Read:
    slates, report = read_ledger(store, PRESETS["shop"], now=1e9)
    assert report.num_kept == NUM_LOGGED and not report.skipped
    number = {item_id: place for place, item_id in enumerate(IDS)}
    chosen_NK = np.array([[number[one] for one in row] for row in slates.item_ids_NK])
    users_N = np.random.default_rng(seed).integers(NUM_USERS, size=NUM_LOGGED)
    return Read(slates=slates, users_N=users_N, chosen_NK=chosen_NK)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Read:
    return read(write(tmp_path_factory.mktemp("single"), 1, SINGLE), SINGLE)


@pytest.fixture(scope="module")
def triple(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Slates of three slots whose rewards depend on the slot before."""
    return read(write(tmp_path_factory.mktemp("triple"), 3, TRIPLE, LIKE_BEFORE), TRIPLE)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Slates of three slots whose rewards do not."""
    return read(write(tmp_path_factory.mktemp("apart"), 3, APART), APART)


def target_of(log: Read, policy: Policy, seed: int = 7) -> Target:
    return under_policy(
        policy,
        world().mean_UJ[log.users_N],
        world().deviation_UJ[log.users_N],
        None,
        log.chosen_NK,
        np.random.default_rng(seed),
        max_explore_slots=log.chosen_NK.shape[1],
    )


def played(policy: Policy, log: Read, like_before: float = 1.0) -> tuple[float, float]:
    """Return the value of a policy with the log's users and its standard error, by playing it."""
    users_N = np.tile(log.users_N, NUM_PLAYED // NUM_LOGGED)
    chosen = world().fill(policy, users_N, log.chosen_NK.shape[1], 6).chosen_BK
    total = world().expected(users_N, chosen, like_before).sum(1)
    return float(total.mean()), float(total.std() / np.sqrt(NUM_PLAYED))


def within(value: float, error: float, interval: Interval) -> bool:
    """Say whether both errors allow for the distance: in 999 of 1,000 tests of a true estimator."""
    deviation = 0.5 * (interval.high - interval.low) / 1.96
    middle = 0.5 * (interval.high + interval.low)
    return bool(abs(value - middle) <= 3.29 * np.hypot(deviation, error))


def singles(log: Read, target: Target, scale: np.ndarray | float = 1.0) -> list[Estimate]:
    """Return SNIPS, DR and self-normalised DR of a log of one slot, propensities times a scale."""
    one = log.slates.slot(0, IDS)
    one = replace(
        one,
        features_NF=np.eye(NUM_USERS)[log.users_N],
        propensity_N=np.minimum(one.propensity_N * scale, 1.0),
    )
    q_NS = cross_fitted(one, np.random.default_rng(8))
    beside = one.under(target.distribution_NKS[:, 0], q_NS=q_NS)
    return [snips(beside), doubly_robust(beside), self_normalised_doubly_robust(beside)]


def cascades(log: Read, target: Target, scale: np.ndarray | float = 1.0) -> list[Estimate]:
    """Return RIPS and cascade-DR of a log of slates; the model predicts no slot from the last."""
    q_NS = world().predicted_UJ[log.users_N]
    later_K = np.append(np.cumsum(PLACE[::-1])[::-1][1:], 0.0)
    q_NKS = q_NS[:, None, :] * PLACE[:, None] + q_NS.mean(1)[:, None, None] * later_K[:, None]
    q_NK = np.take_along_axis(q_NKS, log.chosen_NK[:, :, None], 2)[:, :, 0]
    slates = log.slates.under(target.probability_NK, q_NK, target.mean(q_NKS))
    slates = replace(slates, propensity_NK=np.minimum(slates.propensity_NK * scale, 1.0))
    return [reward_interaction_ips(slates), cascade_doubly_robust(slates)]


def misses(estimates: list[Estimate], value: float, error: float) -> list[str]:
    """Return the estimators whose interval is too far from what was measured."""
    intervals = bootstrap(estimates, np.random.default_rng(9), draws=500)
    return [
        one.name
        for one, interval in zip(estimates, intervals, strict=True)
        if not within(value, error, interval)
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_a_log_of_single_slots_values_other_policies(name: str, single: Read) -> None:
    target = target_of(single, OTHERS[name])
    assert misses(singles(single, target), *played(OTHERS[name], single)) == []


@pytest.mark.parametrize("name", OTHERS)
def test_a_log_of_slates_values_other_policies(name: str, triple: Read) -> None:
    target = target_of(triple, OTHERS[name])
    value, error = played(OTHERS[name], triple, LIKE_BEFORE)
    assert misses(cascades(triple, target), value, error) == []


def marginal_of(log: Read, policy: Policy, seed: int) -> np.ndarray:
    marginal_NKS = marginals(
        policy,
        world().mean_UJ[log.users_N],
        world().deviation_UJ[log.users_N],
        3,
        np.random.default_rng(seed),
        max_explore_slots=3,
    )
    return np.take_along_axis(marginal_NKS, log.chosen_NK[:, :, None], 2)[:, :, 0]


@pytest.fixture(scope="module")
def apart_marginal_NK(apart: Read) -> np.ndarray:
    return marginal_of(apart, LOGGING, APART + 1)


@pytest.mark.parametrize("name", ["ucb", "softmax", "igw"])
def test_slots_that_do_not_interact_are_valued_one_by_one(
    name: str, apart: Read, apart_marginal_NK: np.ndarray
) -> None:
    """By independent IPS, whose weights are ratios of marginal probabilities."""
    slates = apart.slates.under(marginal_of(apart, OTHERS[name], 7))
    estimate = independent_ips(replace(slates, propensity_NK=apart_marginal_NK))
    assert misses([estimate], *played(OTHERS[name], apart)) == []


@pytest.mark.parametrize("name", ["ucb", "softmax"])
def test_wrong_propensities_are_found_out(name: str, single: Read, triple: Read) -> None:
    """Each is off by a factor of its item, between 1/2 and 3/2: estimates by weights miss.

    Doubly robust ones need not: the predictions are good. The mean weight tells in any case.
    """
    policy = OTHERS[name]
    scale_J = np.linspace(0.5, 1.5, NUM_ITEMS)
    target, scale_N = target_of(single, policy), scale_J[single.chosen_NK[:, 0]]
    assert "SNIPS" in misses(singles(single, target, scale_N), *played(policy, single))
    one = single.slates.slot(0, IDS)
    wrong = replace(one, propensity_N=np.minimum(one.propensity_N * scale_N, 1.0))
    advice = diagnose(wrong.under(target.probability_NK[:, 0])).advice()
    assert any("propensities are wrong" in line for line in advice)
    target, scale_NK = target_of(triple, policy), scale_J[triple.chosen_NK]
    value, error = played(policy, triple, LIKE_BEFORE)
    assert "RIPS" in misses(cascades(triple, target, scale_NK), value, error)
