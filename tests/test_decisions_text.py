"""Playing with and without text: what is left out, what is counted, and the tables."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import benchmarks.decisions.environments as environments
from benchmarks.decisions.ceiling import MARKS
from benchmarks.decisions.data import Sources
from benchmarks.decisions.interface import Agent, Batch, Choice, Feedback, Vectors, World
from benchmarks.decisions.playing import names_of
from benchmarks.decisions.runs import Arrivals, Sessions, Table
from benchmarks.decisions.text import PARTS, has_text, shares, table, with_texts, without_text

TEXT_JE = np.eye(4, dtype=np.float32)


def sessions() -> Sessions:
    """Two users have 4 items each, worth 0, .1, .2 and 1, and ask four times each in turn."""
    return Sessions(
        items_UN=np.tile(np.arange(4), (2, 1)),
        rewards_UN=np.tile([0.0, 0.1, 0.2, 1.0], (2, 1)),
        num_items=4,
        text_JE=TEXT_JE,
        arrivals=Arrivals(users_R=np.tile([0, 1], 4), starts=np.arange(9)),
    )


class InOrder:
    """Shows the first open item; keeps what it was told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.contexts: list[Vectors | None] = []

    def choose(self, batch: Batch) -> Choice:
        self.contexts.append(batch.context_BQ)
        return Choice(positions_BK=batch.open_BS.argmax(1)[:, None])

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class InOrderPeer:
    name: str = "in-order"
    grid: tuple[dict[str, object], ...] = ({},)
    agents: list[InOrder] = dataclasses.field(default_factory=list)

    def fits(self, world: World) -> bool:
        return True

    def start(self, world: World, rng: np.random.Generator, **settings: object) -> Agent:
        self.agents.append(InOrder(world))
        return self.agents[-1]


def test_parts_are_counted_by_request() -> None:
    """All 4 items are shown to both: random = oracle at the end, 1.3 each, so all is left out.

    Cold users, the first three requests of each: earned 0 + .1 + .2 = .3, random 3 * .325 = .975,
    oracle 1 + .2 + .1 = 1.3: (.3 - .975) / (1.3 - .975) = -2.0769.
    Cold items, no trial before: the first user's requests, since the second shows the same: earned
    1.3 of random 1.3 and oracle 1.3.
    """
    every, cold_users, cold_items = shares(
        InOrderPeer(), sessions(), 0, with_text=True, cold_trials=1
    )
    assert np.isnan(every) or every == pytest.approx(0.0)
    assert cold_users == pytest.approx(-0.675 / 0.325)
    assert np.isnan(cold_items) or cold_items == pytest.approx(0.0)


def test_without_text_an_agent_gets_no_embeddings() -> None:
    peer = InOrderPeer()
    shares(peer, sessions(), 0, with_text=False, cold_trials=1)
    assert peer.agents[0].world.text_JE is None
    assert peer.agents[0].world.num_items == 4


def test_a_context_that_is_text_is_left_out_and_its_items_have_no_text_to_be_cold() -> None:
    values_RA = np.random.default_rng(0).random((6, 2))
    run = Table(
        values_RA=values_RA,
        rewards_RA=values_RA,
        context_RQ=np.ones((6, 3)),
        context_is_text=True,
        batch_size=2,
    )
    assert has_text(run.world)
    assert without_text(run.world).context_size == 0
    peer = InOrderPeer()
    every, cold_users, cold_items = shares(peer, run, 0, with_text=False, cold_trials=5)
    assert peer.agents[0].contexts == [None] * 3
    assert np.isfinite(every)
    assert np.isnan([cold_users, cold_items]).all()


def test_the_table_pairs_the_seeds_and_leaves_out_parts_that_are_not_there() -> None:
    """Differences .1, .3: mean .2, half width t(.975, 1) * .1 = 1.271."""
    shares_S2P = np.full((2, 2, len(PARTS)), np.nan)
    shares_S2P[:, :, 0] = [[0.4, 0.3], [0.5, 0.2]]
    text = table({"jester": shares_S2P})
    assert "| jester | all | 0.450 | 0.250 | +0.200 +- 1.271 |" in text
    assert "cold" not in text


def test_environments_without_their_data_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_texts(["jester"], Sources(data=tmp_path, cache=tmp_path)) == []
    assert "jester is left out: jester: no folder jester*" in capsys.readouterr().out


def test_every_environment_has_a_ceiling() -> None:
    assert set(MARKS) == set(names_of(environments))
