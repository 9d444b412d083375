"""How well a model ranks what came later, beside popularity and ALS on the same requests.

Every visit of the held-out part is a request: ten items that are new to the user. All rivals see
each visit after they have ranked for it, and are tuned on the end of the same past.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rove import ranking
from rove.baselines.base import Baseline, Floats, Ints, Log
from rove.baselines.popularity import LivePopularity, RecentPopularity
from rove.baselines.replay import replay, requests_of
from rove.baselines.tuning import tune_als
from rove.behaviour import Behaviour
from rove.config import Config
from rove.errors import InvalidInput
from rove.item_means import ItemMeans
from rove.learning import Learned, learn
from rove.model import Vectors
from rove.users import Observation, User, taste_of

K = 10
MAX_VISITS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Measures by name of the ranking, each with its 95 % interval."""

    num_requests: int
    measures: Mapping[str, Mapping[str, ranking.Interval]]
    missing: Mapping[str, str]
    """Rivals that did not run, and why."""

    def metrics(self) -> dict[str, Any]:
        """Return plain numbers for `release.yaml`."""
        return {
            "num_requests": self.num_requests,
            **{
                name: {measure: round(one.mean, 5) for measure, one in measures.items()}
                for name, measures in self.measures.items()
            },
        }

    def table(self) -> str:
        """Return the measures as lines of text."""
        names = list(next(iter(self.measures.values())))
        lines = [f"{self.num_requests:,} visits" + "".join(f"{name:>24}" for name in names)]
        for name, measures in self.measures.items():
            cells = [f"{one.mean:.4f} [{one.low:.4f}, {one.high:.4f}]" for one in measures.values()]
            lines.append(f"{name:22}" + "".join(f"{cell:>24}" for cell in cells))
        lines += [f"{name}: {why}" for name, why in self.missing.items()]
        return "\n".join(lines)


def measure(past: Behaviour, future: Behaviour, embeddings_JE: Vectors, config: Config) -> Quality:
    """Learn from `past` and rank for at most the first 2,000 useful visits of `future`."""
    history = log_of(past)
    baskets = log_of(future).baskets()[:MAX_VISITS]
    requests = requests_of(history, baskets)
    rivals: dict[str, Baseline] = {
        "popularity, 28 days": RecentPopularity(28.0),
        "live popularity": LivePopularity(7.0),
    }
    for rival in rivals.values():
        rival.fit(history)
    missing: dict[str, str] = {}
    try:
        rivals["implicit ALS"] = tune_als(history, K, seed=config.training.seed).baseline
    except InvalidInput as error:
        missing["implicit ALS"] = error.detail
    rivals["Rove"] = LearnedRanking(learn(past, embeddings_JE, config.training), past)
    num_relevant = np.array([len(items) for items in requests.relevant])
    measures = {}
    for name, rival in rivals.items():
        hits_RK = ranking.hits(replay(rival, history, baskets, K), requests.relevant)
        values = {
            "precision@10": ranking.precision(hits_RK, K),
            "recall@10": ranking.recall(hits_RK, num_relevant, K),
            "NDCG@10": ranking.ndcg(hits_RK, num_relevant, K),
        }
        measures[name] = {
            key: ranking.interval(
                value, np.random.default_rng(config.training.seed), groups=requests.users
            )
            for key, value in values.items()
        }
    return Quality(num_requests=len(requests.users), measures=measures, missing=missing)


class LearnedRanking:
    """A learned model as a ranking of integer codes: what the engine does, without a ledger."""

    def __init__(self, learned: Learned, past: Behaviour) -> None:
        self._learned = learned
        self._posterior = learned.model.posterior()
        self._features = learned.items.features_JD
        self._means: ItemMeans = learned.item_means()
        self._users: dict[int, User] = {}
        order = np.argsort(past.users, kind="stable")
        users, starts = np.unique(past.users[order], return_index=True)
        for user, rows in zip(users.tolist(), np.split(order, starts[1:]), strict=True):
            columns = (past.items[rows], past.rewards[rows], past.timestamps[rows])
            self._learn(user, *columns)

    def fit(self, log: Log) -> None:
        """Learn nothing: the model is learned."""

    def scores(self, user: int, now: float) -> Floats:
        """Return the mean reward of every item, (N,)."""
        model, known = self._learned.model, self._users.get(user, User(self._features.shape[1]))
        taste = taste_of(
            known,
            now,
            self._posterior,
            self._features.__getitem__,
            model.taste_half_life_s,
            model.noise_variance,
        )
        shares_J, _ = self._means.share()
        taste_J = self._features @ taste.mean_D.astype(np.float32)
        return model.item_gain * shares_J + model.taste_gain * taste_J

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Take in that `user` took the distinct `items` at unix time `now`."""
        rewards, times = np.ones(len(items)), np.full(len(items), now)
        self._means.add(items, self._means.decayed(rewards, times), now)
        self._learn(user, items, rewards, times)

    def _learn(self, user: int, items: Ints, rewards: Floats, times: Floats) -> None:
        observations = [
            Observation(row=row, reward=reward, timestamp=time_s)
            for row, reward, time_s in zip(
                items.tolist(), rewards.tolist(), times.tolist(), strict=True
            )
        ]
        known = self._users.setdefault(user, User(self._features.shape[1]))
        known.learn(observations, self._features.__getitem__, self._learned.model.taste_half_life_s)


def log_of(behaviour: Behaviour) -> Log:
    """Return the interactions as the baselines take them; a visit is a session."""
    return Log(
        users=behaviour.users,
        items=behaviour.items,
        timestamps=behaviour.timestamps,
        sessions=behaviour.visits,
        num_users=behaviour.num_users,
        num_items=behaviour.num_items,
    )
