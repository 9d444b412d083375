"""A learned model as a ranking of integer codes: what the engine does, without a ledger."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rove.baselines.base import Floats, Ints, Log
from rove.behaviour import Behaviour
from rove.item_means import ItemMeans
from rove.learning import Learned
from rove.users import Observation, User, taste_of


class LearnedRanking:
    """Scores are the expected number of times that the item is taken in the visit."""

    def __init__(self, learned: Learned, past: Behaviour) -> None:
        self._learned = learned
        self._posterior = learned.model.posterior()
        self._features = learned.items.features_JD
        self._means: ItemMeans = learned.item_means()
        self._users: dict[int, User] = {}
        order = np.argsort(past.users, kind="stable")
        users, starts = np.unique(past.users[order], return_index=True)
        for user, rows in zip(users.tolist(), np.split(order, starts[1:]), strict=False):
            columns = (past.items[rows], past.rewards[rows], past.timestamps[rows])
            self._learn(user, *columns)

    def fit(self, log: Log) -> None:
        """Learn nothing: the model is learned."""

    def scores(self, user: int, now: float) -> Floats:
        """Return the mean reward of every item, (N,)."""
        block = self.score_block(np.array([user]), np.array([now]))
        return np.asarray(block[0], np.float64)

    def score_block(self, users: Ints, times: Floats) -> npt.NDArray[np.floating]:
        """Return the mean reward of every item for each user (B,) at each time (B,), (B, N)."""
        model = self._learned.model
        each = zip(users.tolist(), times.tolist(), strict=True)
        tastes_BD = np.stack([self._taste(user, now) for user, now in each]).astype(np.float32)
        shares_J, _ = self._means.share()
        taste_BJ = tastes_BD @ self._features.T
        return model.item_gain * shares_J + model.taste_gain * taste_BJ

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Take in that `user` took the distinct `items` at unix time `now`."""
        rewards, times = np.ones(len(items)), np.full(len(items), now)
        self._means.add(items, self._means.decayed(rewards, times), now)
        self._learn(user, items, rewards, times)

    def _taste(self, user: int, now: float) -> Floats:
        model = self._learned.model
        return taste_of(
            self._users.get(user, User(self._features.shape[1])),
            now,
            self._posterior,
            self._features.__getitem__,
            model.taste_half_life_s,
            model.noise_variance,
        ).mean_D

    def _learn(self, user: int, items: Ints, rewards: Floats, times: Floats) -> None:
        observations = [
            Observation(row=row, reward=reward, timestamp=time_s)
            for row, reward, time_s in zip(
                items.tolist(), rewards.tolist(), times.tolist(), strict=True
            )
        ]
        known = self._users.setdefault(user, User(self._features.shape[1]))
        known.learn(observations, self._features.__getitem__, self._learned.model.taste_half_life_s)
