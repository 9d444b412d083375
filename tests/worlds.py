"""Small worlds for tests: a catalogue, what its users bought, and engines over it.

The catalogue has 60 items of random unit embeddings in four categories. Users have a random taste
over the embeddings and buy what is popular and to their taste, for 60 days from `START_S`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rove.behaviour import Behaviour
from rove.catalogue import Item
from rove.config import Config, StoreSection, TrainingSection
from rove.engine import Engine
from rove.errors import RoveError
from rove.events import Candidates, Decision, Interaction, InteractionType, Outcome, RankRequest
from rove.learning import Learned, learn
from rove.ledger.items import ItemStore
from rove.release import promote, write
from rove.view import View

DAY_S = 86_400.0
START_S = 1.7e9
END_S = START_S + 60 * DAY_S
ENCODER = "tests-16"
SIZE = 16
NUM_ITEMS = 60
TRAINING: dict[str, Any] = {"text_factors": 6, "learned_factors": 4, "max_sweeps": 8}

Vectors = npt.NDArray[np.float32]


def unit_vectors(num: int, rng: np.random.Generator, size: int = SIZE) -> Vectors:
    """Return random directions, (num, size)."""
    vectors = rng.normal(size=(num, size))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def item(number: int, **fields: str) -> Item:
    """Return the item `item-<number>`."""
    named = {"title": f"Title {number}", "category": f"c{number % 4}", **fields}
    return Item(item_id=f"item-{number}", title=named["title"], category=named["category"])


def behaviour_of(
    users: npt.ArrayLike,
    items: npt.ArrayLike,
    timestamps: npt.ArrayLike,
    num_items: int,
    rewards: npt.ArrayLike | None = None,
) -> Behaviour:
    """Return interactions as visits of their own, in order of time."""
    order = np.argsort(timestamps, kind="stable")
    user_codes = np.asarray(users, np.int64)[order]
    return Behaviour(
        users=user_codes,
        items=np.asarray(items, np.int64)[order],
        rewards=np.ones(len(order)) if rewards is None else np.asarray(rewards, float)[order],
        timestamps=np.asarray(timestamps, np.float64)[order],
        visits=np.arange(len(order)),
        num_users=int(user_codes.max()) + 1,
        num_items=num_items,
    )


@cache
def embeddings() -> Vectors:
    """Return the catalogue's embeddings, (NUM_ITEMS, SIZE)."""
    return unit_vectors(NUM_ITEMS, np.random.default_rng(1))


@cache
def purchases() -> Behaviour:
    """Return 1500 purchases of 80 users."""
    rng = np.random.default_rng(2)
    popular_J = rng.normal(size=NUM_ITEMS)
    taste_IE = rng.normal(size=(80, SIZE))
    users = rng.integers(0, 80, 1500)
    logit_nJ = popular_J + 2.0 * (taste_IE @ embeddings().T)[users]
    items = (logit_nJ + rng.gumbel(size=logit_nJ.shape)).argmax(1)
    return behaviour_of(users, items, rng.uniform(START_S, END_S, 1500), NUM_ITEMS)


@cache
def learned() -> Learned:
    """Return the model of the purchases."""
    return learn(purchases(), embeddings(), TrainingSection(**TRAINING))


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: float = END_S + 10.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shop:
    """A release in a folder, with a ledger, that engines can be opened on."""

    folder: Path
    shards: int = 1
    clock: Clock = field(default_factory=Clock)
    feedback: str = "implicit"
    preset: str = "shop"
    training: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, Any] = field(default_factory=dict)
    privacy: dict[str, Any] = field(default_factory=dict)
    store: StoreSection | None = None
    """SQLite in the folder, if none is given."""

    def __post_init__(self) -> None:
        (self.folder / "encoder").mkdir(parents=True, exist_ok=True)
        (self.folder / "encoder" / "weights").write_bytes(b"weights")

    def config(self, user_cache_mb: float = 256.0, **policy: object) -> Config:
        """Return the configuration; `policy` are settings of the policy."""
        tree = {
            "name": "shop",
            "feedback": self.feedback,
            "rewards": {"preset": self.preset, **self.rewards},
            "policy": {"strength": 1.0, "num_draws": 16, **policy},
            "store": (
                {"url": f"sqlite:///{self.folder / 'ledger'}", "durability": "process"}
                if self.store is None
                else self.store.model_dump()
            ),
            "releases": {"path": str(self.folder / "releases")},
            "training": {**TRAINING, **self.training},
            "privacy": self.privacy,
            "serving": {"shards": self.shards, "user_cache_mb": user_cache_mb},
        }
        return Config.parse(tree)

    def release(self, model: Learned | None = None) -> str:
        """Write a release of the catalogue, put it into service and return its id."""
        releases = self.folder / "releases"
        written = write(
            releases,
            model or learned(),
            [item(number) for number in range(NUM_ITEMS)],
            embeddings(),
            encoder=ENCODER,
            encoder_folder=self.folder / "encoder",
            metrics={"planted": 1.0},
        )
        promote(releases, written.name)
        return written.name

    def engine(self, shard: int = 0, user_cache_mb: float = 256.0, **policy: object) -> Engine:
        """Open an engine; the first one writes the release."""
        if not (self.folder / "releases" / "current").exists():
            self.release()
        config = self.config(user_cache_mb, **policy)
        return Engine.open(config, shard, self.shards, clock=self.clock)

    def catalogue(self) -> ItemStore:
        """Open the catalogue's store."""
        return ItemStore.open(self.config().store)


def request(
    user_id: str = "ann",
    event_id: str | None = None,
    *,
    k: int = 3,
    item_ids: list[str] | None = None,
    category: str | None = None,
    query: str | None = None,
    **fields: Any,
) -> RankRequest:
    """Return a request; candidates are the whole catalogue unless given."""
    candidates = None
    if item_ids is not None or category is not None or query is not None:
        candidates = Candidates(item_ids=item_ids, category=category, query=query)
    return RankRequest(user_id=user_id, event_id=event_id, k=k, candidates=candidates, **fields)


def rank(engine: Engine, wanted: RankRequest, **vectors: Vectors) -> Decision:
    """Return the decision of one request that must succeed."""
    (result,) = engine.rank([wanted], vectors)
    if isinstance(result, RoveError):
        raise result
    return result


def refusal(engine: Engine, wanted: RankRequest) -> RoveError:
    """Return the error of one request that must fail."""
    (result,) = engine.rank([wanted])
    assert isinstance(result, RoveError), result
    return result


def did(
    interaction_id: str,
    user_id: str = "ann",
    item_id: str = "item-7",
    kind: InteractionType = InteractionType.PURCHASE,
    timestamp: float | None = None,
    **fields: Any,
) -> Interaction:
    """Return an interaction, a purchase unless told otherwise."""
    return Interaction(
        interaction_id=interaction_id,
        user_id=user_id,
        item_id=item_id,
        type=kind,
        timestamp=timestamp,
        **fields,
    )


def observe(engine: Engine, *interactions: Interaction) -> list[str]:
    """Observe interactions and return their statuses."""
    return [outcome.status for outcome in engine.observe(interactions)]


def outcome_of(engine: Engine, interaction: Interaction) -> Outcome:
    """Observe one interaction and return what became of it."""
    (outcome,) = engine.observe([interaction])
    return outcome


def taste(engine: Engine, user_id: str = "ann") -> npt.NDArray[np.float64]:
    """Return the posterior mean of a user's taste, (D,)."""
    return np.array(engine.user(user_id).taste_mean)


def view_of(engine: Engine) -> View:
    """Return the view of an engine that learns from implicit feedback."""
    assert isinstance(engine.view, View)
    return engine.view


def shares(engine: Engine, num_items: int = NUM_ITEMS) -> npt.NDArray[np.float64]:
    """Return the item means of the catalogue's first items, (num_items,)."""
    rows = [engine.view.index.row(f"item-{number}") for number in range(num_items)]
    return view_of(engine).means.share([row for row in rows if row is not None])[0]
