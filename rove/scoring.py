"""Mean and variance of the reward of users with items, many at once.

- The item part is computed once per turn and shared by all requests; whole-catalogue scores of B
  users are one (B, D) x (D, J) product.
- Variances of taste over the whole catalogue are kept for the two covariances that users without
  explicit trials have: the population's (no past) and the common one. Where a user's own differs,
  the variance is exact on the rows that are asked for.

    Var[phi.theta] = phi' S phi + sum_k s_jk (theta_k^2 + S_kk)     s_j: variance of item factors

Shapes: B users, J rows of the index, n rows asked for, D factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rove.common_variance import common_variances
from rove.events import Explanation, RankRequest
from rove.explaining import Influence, explained
from rove.item_index import ItemIndex, Rows
from rove.item_means import ItemMeans
from rove.model import ItemFeatures, RewardModel, UserPosterior
from rove.scores import Scores, TextVectors
from rove.users import Taste, User, influence_of, taste_of

Vectors = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPart:
    """The item means of all rows, in units of the score."""

    mean_J: Vectors
    variance_J: Vectors
    deviation_J: dict[bool, Vectors]
    """Standard deviation of the whole reward, for users without and with a past."""


class Column(Protocol):
    """A number for every row, read by row numbers: an array, or computed when it is read."""

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPart:
    """As `ItemPart`, computed for the rows that are read: nothing is done for the others."""

    mean_J: Column
    variance_J: Column
    deviation_J: dict[bool, Column]


class _Computed:
    """A column whose rows are computed when they are read."""

    def __init__(self, compute: Callable[[Rows], Vectors]) -> None:
        self._compute = compute

    def __getitem__(self, rows: Any, /) -> Any:
        return self._compute(rows)


Part = ItemPart | ReadPart


class Scorer(Scores[User, Taste, Part]):
    """Scores of one release's model over one index."""

    posterior: UserPosterior
    item_means: ItemMeans

    def __init__(
        self,
        model: RewardModel,
        items: ItemFeatures,
        index: ItemIndex,
        means: ItemMeans,
    ) -> None:
        self.model = model
        self.posterior = model.posterior()
        self._index = index
        self.item_means = means
        self._num_text = model.text_components_EF.shape[1]
        self._trained_J = items.trained_J
        self._variance_J = common_variances(model, self.posterior, items)

    def grow(self, added: ItemFeatures) -> None:
        """Take in rows that the index appended."""
        self._trained_J = np.concatenate([self._trained_J, added.trained_J])
        new = common_variances(self.model, self.posterior, added)
        self._variance_J = {
            has_past: np.concatenate([old, new[has_past]])
            for has_past, old in self._variance_J.items()
        }

    def item_part(self) -> ItemPart:
        """Return the item part of all scores as of now."""
        share_J, share_variance_J = self.item_means.share()
        item_gain, taste_gain = self.model.item_gain, np.float32(self.model.taste_gain**2)
        variance_J = (item_gain**2 * share_variance_J).astype(np.float32)
        return ItemPart(
            mean_J=(item_gain * share_J).astype(np.float32),
            variance_J=variance_J,
            deviation_J={
                has_past: np.sqrt(variance_J + taste_gain * taste_J)
                for has_past, taste_J in self._variance_J.items()
            },
        )

    def read_part(self) -> ReadPart:
        """Return the item part as of now, for callers that read few rows of a large catalogue."""
        return ReadPart(
            mean_J=_Computed(self._item_mean),
            variance_J=_Computed(self._item_variance),
            deviation_J={
                has_past: _Computed(partial(self._shared_deviation, has_past))
                for has_past in (False, True)
            },
        )

    def _item_mean(self, rows: Rows) -> Vectors:
        mean_n = self.model.item_gain * self.item_means.share(rows)[0]
        return np.asarray(mean_n, np.float32)

    def _item_variance(self, rows: Rows) -> Vectors:
        variance_n = self.model.item_gain**2 * self.item_means.share(rows)[1]
        return np.asarray(variance_n, np.float32)

    def _shared_deviation(self, has_past: bool, rows: Rows) -> Vectors:
        gain = np.float32(self.model.taste_gain**2)
        variance_n = self._item_variance(rows) + gain * self._variance_J[has_past][rows]
        return np.asarray(np.sqrt(variance_n), np.float32)

    def tastes(
        self,
        users: Sequence[User],
        requests: Sequence[RankRequest],
        vectors: TextVectors,
        now_s: float,
    ) -> list[Taste]:
        """Return the users' posteriors at one time; contexts do not matter to this model."""
        return [self.taste(user, now_s) for user in users]

    def taste(self, user: User, now_s: float) -> Taste:
        """Return the user's posterior at a time."""
        return taste_of(
            user,
            now_s,
            self.posterior,
            self._index.features,
            self.model.taste_half_life_s,
            self.model.noise_variance,
        )

    def influence(self, user: User, taste: Taste) -> tuple[list[int], Array]:
        """Return the rows (p,) of a user's past and what each adds to the taste's mean (p, D)."""
        return influence_of(
            user, taste, self.posterior, self._index.features, self.model.taste_half_life_s
        )

    def catalogue_means(self, part: Part, tastes: Sequence[Taste]) -> Vectors:
        """Return the mean reward of every row, (B, J)."""
        mean_BD = np.stack([taste.mean_D for taste in tastes])
        mean_BD = (self.model.taste_gain * mean_BD).astype(np.float32)
        released, added = self._index.blocks
        mean_BJ = np.empty((len(tastes), len(self._index)), np.float32)
        np.matmul(mean_BD, released.T, out=mean_BJ[:, : len(released)])
        np.matmul(mean_BD, added.T, out=mean_BJ[:, len(released) :])
        mean_BJ += part.mean_J[:]
        return mean_BJ

    def means(self, part: Part, taste: Taste, rows: Rows) -> Vectors:
        """Return the mean reward of some rows, (n,)."""
        weights_D = (self.model.taste_gain * taste.mean_D).astype(np.float32)
        mean_n: Vectors = part.mean_J[rows] + self._index.features(rows) @ weights_D
        return mean_n

    def rough_deviations(self, part: Part, user: User, taste: Taste, rows: Any) -> Vectors:
        """Return the standard deviation with the variance of taste that most users have, (n,)."""
        deviation_n: Vectors = part.deviation_J[user.has_past][rows]
        return deviation_n

    def expected(self, mean: Vectors) -> Vectors:
        """Return the means: they are rewards."""
        return mean

    def explain(
        self, part: Part, user: User, taste: Taste, rows: Sequence[int]
    ) -> list[Explanation]:
        """Split the scores of some rows; the terms of each sum to its score."""
        every, terms = self.influence(user, taste)
        features_nD = self._index.features(rows).astype(np.float64)
        influence = Influence(rows=every, terms_pD=terms)
        gain = self.model.taste_gain
        return explained(
            self._index.ids,
            [float(part.mean_J[row]) for row in rows],
            gain * features_nD,
            taste.mean_D,
            influence,
        )

    def deviations(self, part: Part, user: User, taste: Taste, rows: Rows) -> Vectors:
        """Return the exact standard deviation of some rows' rewards, (n,)."""
        common_n = self._variance_J[user.has_past][rows]
        if user.trials:
            features_nD = self._index.features(rows).astype(np.float64)
            own_n = np.einsum("nd,nd->n", features_nD @ taste.covariance_DD, features_nD)
            common_n = own_n.astype(np.float32)
        else:
            # What is kept has the factors' variance at a mean taste of zero.
            common_n = common_n.copy()
        square_K = np.square(taste.mean_D[self._num_text :])
        if user.trials:
            square_K = square_K + np.diag(taste.covariance_DD)[self._num_text :]
        trained_n = self._trained_J[rows]
        common_n += np.where(
            trained_n,
            np.float32(square_K @ self.model.factor_variance_K),
            np.float32(square_K @ self.model.prior_variance_K),
        )
        gain = np.float32(self.model.taste_gain**2)
        deviation_n: Vectors = np.sqrt(part.variance_J[rows] + gain * common_n)
        return deviation_n
