"""Rove's mixed model as it is served: through `rove.engine.Engine`, a ledger and releases.

What `rove` plays in memory goes through requests, interactions, SQLite and refits here. Slower, so
it is no part of a run unless it is asked for; it shows that what is measured is what is served.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.decisions.interface import Agent, Batch, Choice, Feedback, World
from rove.behaviour import Behaviour
from rove.catalogue import Item
from rove.config import Config
from rove.engine import Engine
from rove.errors import RoveError
from rove.events import Candidates, Context, Interaction, InteractionType, RankRequest
from rove.learning import learn
from rove.release import promote, write

FIRST_FIT = 10
GROWTH = 1.3
WAIT_S = 60.0


class _Clock:
    now = 1.7e9

    def __call__(self) -> float:
        return self.now


class RoveEngine:
    """An engine over a release of nothing but the items' texts."""

    def __init__(self, world: World, rng: np.random.Generator, strength: float) -> None:
        folder = Path(tempfile.mkdtemp())
        (folder / "encoder").mkdir()
        self._world = world
        self._clock = _Clock()
        self._config = Config.parse(
            {
                "name": "bench",
                "feedback": "shown",
                "rewards": {"preset": "news", "reward_wait_time_s": WAIT_S},
                "policy": {
                    "strength": strength,
                    "max_explore_slots": world.num_slots,
                    "shortlist": 4096,
                },
                "store": {"url": f"sqlite:///{folder / 'ledger'}", "durability": "process"},
                "releases": {"path": str(folder / "releases")},
                "training": {"text_factors": 8, "learned_factors": 0},
                "serving": {"shards": 1},
            }
        )
        text_JE = world.text_JE if world.text_JE is not None else np.zeros((world.num_items, 2))
        nothing = Behaviour.from_batches((), {})
        written = write(
            self._config.releases.path,
            learn(nothing, text_JE, self._config.training),
            [Item(item_id=str(row), title=str(row)) for row in range(world.num_items)],
            text_JE.astype(np.float32),
            encoder="none",
            encoder_folder=folder / "encoder",
            metrics={},
        )
        promote(self._config.releases.path, written.name)
        self._engine = Engine.open(self._config, 0, 1, clock=self._clock)
        weakref.finalize(self, _remove, self._engine, folder)
        self._num_requests = self._num_trials = 0
        self._next_fit = FIRST_FIT

    def choose(self, batch: Batch) -> Choice:
        """Rank for every request of the batch."""
        requests, vectors = [], {}
        for row, user in enumerate(batch.users_B.tolist()):
            self._num_requests += 1
            number = self._num_requests
            items = batch.candidates_BS[row]
            items = items[batch.open_BS[row]]
            context: Context | None = None
            if batch.context_BQ is not None and self._world.context_is_text:
                context = f"text {number}"
                vectors[context] = batch.context_BQ[row]
            elif batch.context_BQ is not None:
                context = {f"c{n}": float(c) for n, c in enumerate(batch.context_BQ[row])}
            requests.append(
                RankRequest(
                    user_id=f"u{user}" if user >= 0 else f"visitor-{number}",
                    event_id=f"e{number}",
                    k=min(self._world.num_slots, len(items)),
                    candidates=Candidates(item_ids=[str(item) for item in items.tolist()]),
                    context=context,
                    # What a replay does not observe was not shown: only answers are trials.
                    defer_activation=True,
                )
            )
        self._decisions = self._engine.rank(requests, vectors)
        positions = np.zeros((len(requests), self._world.num_slots), np.int64)
        propensities = np.ones(positions.shape)
        for row, decision in enumerate(self._decisions):
            if isinstance(decision, RoveError):
                raise decision
            place = {item: n for n, item in enumerate(batch.candidates_BS[row].tolist())}
            for slot in decision.slots:
                positions[row, slot.slot] = place[int(slot.item_id)]
                propensities[row, slot.slot] = slot.propensity
        return Choice(positions_BK=positions, propensity_BK=propensities)

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Answer every observed slot, and refit when it is time."""
        answers = []
        for row, decision in enumerate(self._decisions):
            assert not isinstance(decision, RoveError)
            for slot in decision.slots:
                reward = float(feedback.reward_BK[row, slot.slot])
                if np.isfinite(reward):
                    answers.append(
                        Interaction(
                            interaction_id=f"{decision.event_id}-{slot.slot}",
                            user_id=decision.user_id,
                            item_id=slot.item_id,
                            type=InteractionType.REWARD,
                            value=reward,
                            event_id=decision.event_id,
                            slot=slot.slot,
                        )
                    )
        outcomes = self._engine.observe(answers)
        assert all(outcome.status == "accepted" for outcome in outcomes)
        self._num_trials += len(answers)
        if self._num_trials >= self._next_fit:
            self._clock.now += 2 * WAIT_S
            self._engine.sync()
            self._engine.refit()
            self._next_fit = max(self._num_trials + 1, int(GROWTH * self._num_trials))


def _remove(engine: Engine, folder: Path) -> None:
    engine.close()
    shutil.rmtree(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePeer:
    """The same default as `rove`."""

    name: str = "rove-engine"
    grid: tuple[dict[str, object], ...] = ({},)

    def fits(self, world: World) -> bool:
        """Say whether an engine has all that the world gives: it knows no groups of items."""
        return world.groups_J is None

    def start(self, world: World, rng: np.random.Generator, **settings: object) -> Agent:
        """Return an agent for one run."""
        strength = settings.get("strength", 0.25)
        assert isinstance(strength, float)
        return RoveEngine(world, rng, strength)


PEERS = (EnginePeer(),)
