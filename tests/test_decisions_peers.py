"""Every peer of benchmarks/decisions whose package is installed, on a planted world."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decisions.interface import (
    Agent,
    Batch,
    Choice,
    Feedback,
    Floats,
    Peer,
    Vectors,
    World,
)
from benchmarks.decisions.peers import _common
from benchmarks.decisions.peers.best_fixed import BestFixed
from benchmarks.decisions.peers.linear_disjoint import DisjointLinear

FOLDER = Path(_common.__file__).parent
OTHERS = {"rove", "random_choice", "best_fixed"}
"""Tested elsewhere, or not made to learn."""
NUM_ITEMS = 12


def peers() -> dict[str, Peer]:
    """Return the peers whose package is installed."""
    found: dict[str, Peer] = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        if path.stem in OTHERS:
            continue
        try:
            module = importlib.import_module(f"benchmarks.decisions.peers.{path.stem}")
        except ModuleNotFoundError:
            continue
        found |= {peer.name: peer for peer in module.PEERS}
    return found


PEERS = peers()


@dataclass
class Planted:
    """Item 3 is by far the best, the others are alike; every third reward may stay unobserved.

    One in ten requests comes from a visitor who is not known; two candidates of ten are closed.
    """

    num_requests: int = 400
    batch_size: int = 8
    num_slots: int = 1
    num_users: int = 20
    has_text: bool = True
    context_size: int = 0
    hidden: float = 0.0
    seed: int = 1
    world: World = field(init=False)
    shown_best: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        text_JE = self._rng.normal(size=(NUM_ITEMS, 24)).astype(np.float32)
        text_JE /= np.linalg.norm(text_JE, axis=1, keepdims=True)
        self.world = World(
            num_items=NUM_ITEMS,
            num_users=self.num_users,
            num_slots=self.num_slots,
            text_JE=text_JE if self.has_text else None,
            groups_J=np.arange(NUM_ITEMS) % 3 if self.has_text else None,
            context_size=self.context_size,
            context_is_text=False,
            num_requests=self.num_requests,
        )
        self._value_J = np.full(NUM_ITEMS, 0.2)
        self._value_J[3] = 0.9

    def batches(self) -> Iterator[Batch]:
        """Yield batches whose item 3 is always among the open candidates."""
        for _ in range(self.num_requests // self.batch_size):
            yield self.batch()

    def batch(self) -> Batch:
        """Return one batch."""
        size, rng = self.batch_size, self._rng
        users_B = rng.permutation(max(self.num_users, size))[:size]
        known_B = (rng.random(size) < 0.9) & (users_B < self.num_users)
        order_BS = np.stack([rng.permutation(NUM_ITEMS)[:10] for _ in range(size)])
        order_BS[(order_BS != 3).all(1), 0] = 3
        open_BS = rng.random(order_BS.shape) < 0.8
        open_BS[:, -3:] = True
        open_BS |= order_BS == 3
        return Batch(
            users_B=np.where(known_B, users_B, -1),
            candidates_BS=np.where(open_BS, order_BS, -1),
            open_BS=open_BS,
            context_BQ=self._contexts(),
        )

    def _contexts(self) -> Vectors | None:
        if not self.context_size:
            return None
        return (100.0 * self._rng.random((self.batch_size, self.context_size))).astype(np.float32)

    def feedback(self, batch: Batch, choice: Choice) -> Feedback:
        """Return 0 or 1 by the items' values, NaN where hidden."""
        items_BK = choice.items(batch)
        value_BK = self._value_J[items_BK]
        reward_BK = (self._rng.random(value_BK.shape) < value_BK).astype(np.float64)
        reward_BK[self._rng.random(value_BK.shape) < self.hidden] = np.nan
        self.shown_best.append(float((items_BK == 3).any(1).mean()))
        return Feedback(reward_BK=reward_BK, value_BK=value_BK)

    def totals(self) -> tuple[float, float]:
        """Return nothing of use; the tests count `shown_best`."""
        return 0.0, 1.0

    def counted_B2(self) -> Floats:
        """Return nothing of use either."""
        return np.zeros((self.batch_size, 2))

    def item_values_J(self) -> Floats:
        """Return what was planted."""
        return self._value_J


def play(peer: Peer, run: Planted, settings: dict[str, object] | None = None) -> Floats:
    """Let the peer play, check what it shows, return the share of item 3 by batch."""
    agent = peer.start(run.world, np.random.default_rng(2), **(settings or {}))
    for batch in run.batches():
        choice = agent.choose(batch)
        check(batch, choice, run.num_slots)
        agent.learn(batch, choice, run.feedback(batch, choice))
    return np.array(run.shown_best)


def check(batch: Batch, choice: Choice, num_slots: int) -> None:
    """Open, distinct positions; probabilities as propensities."""
    positions_BK = choice.positions_BK
    assert positions_BK.shape == (len(batch), num_slots)
    assert np.take_along_axis(batch.open_BS, positions_BK, 1).all()
    assert all(len(set(row)) == num_slots for row in positions_BK.tolist())
    if choice.propensity_BK is not None:
        assert choice.propensity_BK.shape == positions_BK.shape
        assert ((choice.propensity_BK > 0) & (choice.propensity_BK <= 1)).all()


def fitting(name: str, run: Planted) -> Peer:
    """Return the peer, or skip where it says that it cannot play."""
    if not PEERS[name].fits(run.world):
        pytest.skip(f"{name} does not play this world")
    return PEERS[name]


def test_there_are_peers_without_any_extra() -> None:
    assert {"popularity-thompson", "linucb-shared", "linucb-disjoint"} <= set(PEERS)


@pytest.mark.parametrize("name", PEERS)
def test_a_grid_has_at_most_six_settings_and_each_plays(name: str) -> None:
    assert 1 <= len(PEERS[name].grid) <= 6
    for settings in PEERS[name].grid:
        play(fitting(name, Planted()), Planted(num_requests=24), settings)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_finds_the_best_item(name: str) -> None:
    """Uniform choice shows item 3 in about 1 of 8 requests, so .35 at the end is learnt."""
    shown_best = play(fitting(name, Planted()), Planted(num_requests=1600))
    assert shown_best[-80:].mean() > 0.35


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize(
    "run",
    [
        Planted(num_requests=240, num_slots=3),
        Planted(num_requests=240, num_users=0),
        Planted(num_requests=240, has_text=False),
        Planted(num_requests=240, has_text=False, num_users=0),
        Planted(num_requests=240, context_size=5),
        Planted(num_requests=240, context_size=200, has_text=False, num_users=0),
        Planted(num_requests=240, hidden=0.5),
    ],
    ids=["slate", "no-users", "no-text", "items-only", "context", "wide-context", "hidden"],
)
def test_a_peer_plays_every_kind_of_world(name: str, run: Planted) -> None:
    play(fitting(name, run), dataclasses.replace(run))


@pytest.mark.parametrize("name", PEERS)
def test_a_reward_that_was_not_observed_is_not_learnt(name: str) -> None:
    """Two agents alike, one of which is told a batch of NaN more, go on alike."""
    run = Planted()
    first, second = (fitting(name, run).start(run.world, np.random.default_rng(5)) for _ in "ab")
    batches = [run.batch() for _ in range(20)]
    for batch in batches[:-1]:
        choice, twin = first.choose(batch), second.choose(batch)
        np.testing.assert_array_equal(choice.positions_BK, twin.positions_BK)
        feedback = run.feedback(batch, choice)
        learn_both(first, second, batch, choice, feedback)
    choice, twin = first.choose(batches[-1]), second.choose(batches[-1])
    np.testing.assert_array_equal(choice.positions_BK, twin.positions_BK)


def learn_both(
    first: Agent, second: Agent, batch: Batch, choice: Choice, feedback: Feedback
) -> None:
    """Tell both the rewards, and the second also that the rewards were not observed."""
    nothing = np.full(feedback.reward_BK.shape, np.nan)
    first.learn(batch, choice, feedback)
    second.learn(batch, choice, feedback)
    second.learn(batch, choice, Feedback(reward_BK=nothing, value_BK=feedback.value_BK))


def test_the_components_of_text_are_uncorrelated_and_the_first_has_unit_variance() -> None:
    text_JP = _common.components(Planted().world, 4)
    covariance_PP = text_JP.T @ text_JP / NUM_ITEMS
    assert covariance_PP[0, 0] == pytest.approx(1.0)
    np.testing.assert_allclose(covariance_PP, np.diag(np.diag(covariance_PP)), atol=1e-5)
    assert (np.diff(np.diag(covariance_PP)) < 0).all()


def test_the_best_fixed_items_are_told_and_shown_in_order() -> None:
    """Item 3 is worth .9; the other slots of the slate go to items worth .2 each."""
    run = Planted(num_slots=3)
    agent = BestFixed().start(run.world, np.random.default_rng(0))
    agent.inform(run)
    batch = run.batch()
    choice = agent.choose(batch)
    check(batch, choice, 3)
    assert (choice.items(batch)[:, 0] == 3).all()


def test_disjoint_regressions_learn_a_batch_like_one_request_at_a_time() -> None:
    """A request with x = 1 shown twice with 1, 0: A = 1 + 2, b = (1 - m) + (0 - m) for m = 0."""
    world = dataclasses.replace(Planted(num_users=0, has_text=False).world)
    agent = DisjointLinear(world, np.random.default_rng(0), explore="ts", alpha=0.1, ridge=1.0)
    batch = Batch(
        users_B=np.array([-1, -1]),
        candidates_BS=np.array([[5], [5]]),
        open_BS=np.ones((2, 1), dtype=np.bool_),
        context_BQ=None,
    )
    choice = agent.choose(batch)
    reward_BK = np.array([[1.0], [0.0]])
    agent.learn(batch, choice, Feedback(reward_BK=reward_BK, value_BK=reward_BK))
    assert agent._inverse_JDD[5, 0, 0] == pytest.approx(1 / 3)
    assert agent._beta_JD[5, 0] == pytest.approx(1 / 3)


def test_vowpal_predicts_alike_from_parsed_examples_and_from_text() -> None:
    vowpal = pytest.importorskip("benchmarks.decisions.peers.vowpal")
    explorer = next(peer for peer in vowpal.PEERS if peer.name == "vw-softmax")
    shown = []
    for parsed in (True, False):
        run = Planted(num_requests=160, num_slots=2)
        agent = explorer.start(run.world, np.random.default_rng(3))
        if not parsed:
            agent._parsed_items = []
        for batch in run.batches():
            choice = agent.choose(batch)
            agent.learn(batch, choice, run.feedback(batch, choice))
            shown.append((choice.positions_BK, choice.propensity_BK))
    for (first, its_propensity), (second, other) in zip(shown[:20], shown[20:], strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(its_propensity, other)
