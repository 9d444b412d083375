"""Mean and deviation of the predictor of users with items, in the contexts of their requests.

    eta = beta_j . [1, c, u_i] + theta_i . [1, f_j]

and what the user had with the very item before. Deviations are of what exploring teaches all users
of the items' effects (`rove.mixed.teaching`).

Shapes: B requests, J rows, n rows asked for; others as in `rove.shown.model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rove.events import Explanation, RankRequest
from rove.explaining import Influence, explained
from rove.item_index import ItemIndex, Rows
from rove.ledger.ledger import Ledger
from rove.mixed.links import expectation
from rove.mixed.past import NUM_PAST, past_features
from rove.mixed.teaching import teaching_deviation
from rove.rewards import RewardMap
from rove.scores import Scores, TextVectors
from rove.shown.contexts import text_of, values_of
from rove.shown.likelihood import Features, UserPosterior, user_posterior
from rove.shown.model import ShownModel
from rove.shown.posterior import ItemPosterior
from rove.shown.trials import Trial, trials_of, vector_of
from rove.shown.users import Pairs, ShownUser

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTaste:
    """A user's effects in the context of one request."""

    user_id: str
    theta_D: Array
    z_P: Array
    """[1, c, u]."""
    rows_m: Rows
    """Rows of the items that the user was shown before, ascending."""
    known_m: Array
    """What their past adds to the predictor."""

    def known(self, rows: Rows) -> Array:
        """Return what the past adds to the predictor of some rows, (n,)."""
        if len(self.rows_m) == 0:
            return np.zeros(len(rows))
        place = np.minimum(np.searchsorted(self.rows_m, rows), len(self.rows_m) - 1)
        return np.where(self.rows_m[place] == rows, self.known_m[place], 0.0)


class ShownScorer(Scores[ShownUser, ShownTaste, None]):
    """Scores of one release's model over one index."""

    settled_s: float
    """The unanswered slots of what expired by then count; the view moves it."""

    def __init__(
        self,
        model: ShownModel,
        items: ItemPosterior,
        index: ItemIndex,
        ledger: Ledger,
        rewards: RewardMap,
    ) -> None:
        self.model = model
        self.settled_s = model.settled_s
        self.items = items
        self._index = index
        self._ledger = ledger
        self._rewards = rewards
        self._reader, self._scale = model.reader, model.scale
        self._num_own = model.num_taste
        self._others_PP = np.array(model.others_PP)  # a release's own is read-only

    def features(self, trials: Sequence[Trial], rows: Rows, pair_n3: Array) -> Features:
        """Return what trials have of their items (rows of the index), contexts and pairs (n, 3)."""
        read_nR = self._reader(
            [values_of(trial.shown.context, trial.slot) for trial in trials],
            [vector_of(trial.shown) for trial in trials],
        )
        return Features(
            context_nC=np.hstack([np.ones((len(trials), 1)), self._scale(read_nR)]),
            text_nH=self.items.text_JG[rows, : self._num_own],
            beta_nP=self.items.mean_JP[rows].astype(np.float64),
            dispersion_n=self.items.dispersion_J[rows],
            known_n=past_features(pair_n3) @ self.model.past_X,
        )

    def mean_reward(self, row: int) -> float:
        """Return an item's mean reward as of the release; that of all for a new one."""
        means = self.model.past_mean_J
        return float(means[row if row < len(means) - 1 else -1])

    def past_of(self, user_id: str) -> tuple[Rows, UserPosterior, Pairs]:
        """Return the rows of a user's trials in the ledger, the posterior they give, and pairs."""
        self.items.refresh()
        decided = self._ledger.shown_to(user_id)
        expired = [one for one in decided if one.expires_at <= self.settled_s]
        found = [
            (row, trial)
            for trial in trials_of(decided, self._rewards, unanswered=False)
            + trials_of(expired, self._rewards, answered=False)
            if (row := self._index.row(trial.item_id)) is not None
        ]
        found.sort(key=lambda one: one[1].shown.created_at)
        rows = np.array([row for row, _ in found], np.intp)
        trials = [trial for _, trial in found]
        pairs, pair_n3 = Pairs(), np.zeros((len(trials), NUM_PAST))
        for n, (row, trial) in enumerate(found):
            pair_n3[n] = pairs.of_row.get(row, 0.0)
            pairs.add(row, trial.reward, self.mean_reward(row))
        reward_n = np.array([trial.reward for trial in trials])
        model = self.model
        features = self.features(trials, rows, pair_n3)
        share_n = model.shares(np.array([trial.shown.created_at for trial in trials]))
        posterior = user_posterior(
            features, reward_n, share_n, model.population_DD, model.kind, model.centre
        )
        return rows, posterior, pairs

    def tastes(
        self,
        users: Sequence[ShownUser],
        requests: Sequence[RankRequest],
        vectors: TextVectors,
        now_s: float,
    ) -> list[ShownTaste]:
        """Return the users' effects in their requests' contexts."""
        texts = [text_of(request.context) for request in requests]
        read_BR = self._reader(
            [values_of(request.context, None) for request in requests],
            [None if text is None else vectors.get(text) for text in texts],
        )
        c_BQ = self._scale(read_BR)
        tastes = []
        for request, user, c_Q in zip(requests, users, c_BQ, strict=True):
            theta_D = user.mean_D.astype(np.float64)
            z_P = np.concatenate([[1.0], c_Q, theta_D[self._num_own :]])
            rows_m, pair_m3 = user.pairs.table()
            order = np.argsort(rows_m)
            tastes.append(
                ShownTaste(
                    user_id=request.user_id,
                    theta_D=theta_D,
                    z_P=z_P,
                    rows_m=rows_m[order],
                    known_m=(past_features(pair_m3) @ self.model.past_X)[order],
                )
            )
        return tastes

    def item_part(self) -> None:
        """Bring the items up to date; nothing else is shared."""
        self.items.refresh()

    def read_part(self) -> None:
        """As `item_part`."""
        self.items.refresh()

    def catalogue_means(self, part: None, tastes: Sequence[ShownTaste]) -> Vectors:
        """Return the predictor of every row, (B, J)."""
        z_BP = np.stack([taste.z_P for taste in tastes]).astype(np.float32)
        theta_BH = np.stack([taste.theta_D[: self._num_own] for taste in tastes])
        mean_BJ: Vectors = z_BP @ self.items.mean_JP.T
        mean_BJ += (theta_BH @ self.items.text_JG[:, : self._num_own].T).astype(np.float32)
        for mean_J, taste in zip(mean_BJ, tastes, strict=True):
            mean_J[taste.rows_m] += taste.known_m
        return mean_BJ

    def means(self, part: None, taste: ShownTaste, rows: Rows) -> Vectors:
        """Return the predictor of some rows, (n,)."""
        mean_n = self.items.mean_JP[rows] @ taste.z_P
        mean_n += self.items.text_JG[rows, : self._num_own] @ taste.theta_D[: self._num_own]
        return np.asarray(mean_n + taste.known(rows), np.float32)

    def deviations(self, part: None, user: ShownUser, taste: ShownTaste, rows: Rows) -> Vectors:
        """Return the standard deviation of some rows' predictors, (n,)."""
        rows_1n = np.ascontiguousarray(rows, np.int64)[None]
        covariance_JPP, z_1P = self.items.covariance_JPP, taste.z_P[None]
        deviation_1n = teaching_deviation(covariance_JPP, rows_1n, z_1P, self._others_PP)
        return np.asarray(deviation_1n[0], np.float32)

    def rough_deviations(
        self, part: None, user: ShownUser, taste: ShownTaste, rows: Any
    ) -> Vectors:
        """Return the same."""
        return self.deviations(part, user, taste, rows)

    def expected(self, mean: Vectors) -> Vectors:
        """Return the rewards that predictors stand for."""
        return np.asarray(expectation(self.model.kind, mean.astype(np.float64))[0], np.float32)

    def explain(
        self, part: None, user: ShownUser, taste: ShownTaste, rows: Sequence[int]
    ) -> list[Explanation]:
        """Split predictors: the item in this context, the population, the user's past."""
        past_rows, posterior, _ = self.past_of(taste.user_id)
        influence = Influence(rows=past_rows.tolist(), terms_pD=posterior.term_nD)
        beta_nP = self.items.mean_JP[list(rows)].astype(np.float64)
        width = len(taste.z_P) - self.model.num_factors
        text_nH = self.items.text_JG[list(rows), : self._num_own]
        return explained(
            self._index.ids,
            (beta_nP[:, :width] @ taste.z_P[:width] + taste.known(np.array(rows))).tolist(),
            np.hstack([text_nH, beta_nP[:, width:]]),
            taste.theta_D,
            influence,
        )
