"""A learner of the mixed model that lives in memory: score, observe, refit, export what it knows.

    rove.mixed.trials    what happened
    rove.mixed.past      what a user had with the very item
    rove.mixed.fitting   from the trials to the posterior, from time to time
    rove.mixed.contexts  the scale of contexts

- Between refits rewards move their items and users by exact Gaussian updates of the expanded
  likelihood, given the other's mean (`rove.mixed.updating`).
- Refits happen at geometric times (x `GROWTH`), so their work stays in proportion to the trials.
- `deviations` are of what one user's exploring teaches all others of the items' effects
  (`rove.mixed.teaching`). What is not known of the user alone does not count, since few users stay
  to be repaid (measured).
- With a half-life, in units of `time`, trials weigh 2^(-age / half_life): in a fit, which is also
  due when that share of all is forgotten that `GROWTH` would add, and between fits by widening what
  is known of an item or a user before it moves, up to what is known of a new one.
- Means and covariances are kept in float32, solved in float64.

Shapes: B requests, S candidates, J items, E embedding, Q context; others as in `fitting`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rove.errors import InvalidInput
from rove.mixed.contexts import ContextScale
from rove.mixed.effects import Array, Codes
from rove.mixed.fitting import Catalogue, Fitted, Prior, default_prior, fit
from rove.mixed.forgetting import Fading
from rove.mixed.links import CODE, REACH, Kind, expectation, link_of
from rove.mixed.past import Past
from rove.mixed.teaching import effects_of, teaching_deviation
from rove.mixed.trials import Trials
from rove.mixed.updating import learn

Vectors = npt.NDArray[np.float32]

GROWTH = 1.3
FIRST_FIT = 10
FIRST_SWEEPS = 8


class MixedLearner:
    """The mixed model over one catalogue."""

    def __init__(
        self,
        text_JE: Vectors | None,
        num_items: int,
        *,
        groups_J: Codes | None = None,
        context_size: int = 0,
        context_is_text: bool = False,
        num_taste: int = 16,
        num_map: int = 64,
        num_factors: int = 4,
        kind: Kind | None = None,
        prior: Prior | None = None,
        half_life: float | None = None,
        rng: np.random.Generator,
    ) -> None:
        self._catalogue = _catalogue(text_JE, num_items, groups_J, num_map, num_taste)
        self._context_is_text = context_is_text
        self._num_factors = num_factors
        self._kind = kind
        self._prior = prior
        self._rng = rng
        self._fitted: Fitted | None = None
        self._next_fit = FIRST_FIT
        self._num_users = 1
        if half_life is not None and not half_life > 0.0:
            raise InvalidInput(f"half_life must be above 0, got {half_life}; None forgets nothing")
        self.trials = Trials(context_size, half_life)
        self._now = self._fitted_at = -math.inf
        self._fading_items, self._fading_users = Fading(half_life), Fading(half_life)
        self._past = Past(num_items, half_life)

    @property
    def fitted(self) -> Fitted | None:
        """The last fit; None before the first."""
        return self._fitted

    def score(
        self, users_B: Codes, items_BS: Codes, context_BQ: Vectors | None
    ) -> tuple[Array, Array]:
        """Return mean of the predictor and deviation of what is taught, (B, S)."""
        if self._fitted is None:
            return np.zeros(items_BS.shape), np.ones(items_BS.shape)
        theta_BD = self._thetas(users_B) if _largest(users_B) >= 0 else None
        z_BP = self._entries(context_BQ, len(users_B), theta_BD)
        items_BS = np.ascontiguousarray(items_BS, np.int64)
        mean_BS = effects_of(self._beta_JP, items_BS, z_BP)
        num_taste = self._catalogue.taste_JF.shape[1]
        if num_taste and theta_BD is not None:
            own_BF = np.ascontiguousarray(theta_BD[:, 1 : 1 + num_taste])
            mean_BS += effects_of(self._catalogue.taste_JF, items_BS, own_BF)
        past_BSX = self._past.read(users_B, items_BS)
        if past_BSX is not None:
            mean_BS += past_BSX @ self._fitted.past_X
        others_PP = self._fitted.others_PP
        return mean_BS, teaching_deviation(self._covariance_JPP, items_BS, z_BP, others_PP)

    def expected(self, predictor: Array) -> Array:
        """Return the rewards that predictors stand for."""
        return predictor if self._fitted is None else expectation(self._fitted.kind, predictor)[0]

    def observe(
        self,
        users_n: Codes,
        items_n: Codes,
        rewards_n: Array,
        context_nQ: Vectors | None,
        time: float = 0.0,
    ) -> None:
        """Record n trials, learn from them, and refit when it is time."""
        is_one = len(rewards_n) == 1
        if not (math.isfinite(rewards_n[0]) if is_one else np.isfinite(rewards_n).all()):
            bad = rewards_n[~np.isfinite(rewards_n)][0]
            raise InvalidInput(f"a reward must be a finite number, got {bad}")
        past_nX = self._past.observe(users_n, items_n, rewards_n, time)
        self.trials.add(users_n, items_n, rewards_n, context_nQ, time, past_nX)
        self._num_users = max(self._num_users, _largest(users_n) + 1)
        self._now = max(self._now, time)
        if len(self.trials) >= self._next_fit or self._has_faded():
            self.refit()
        elif self._fitted is not None:
            known_n = past_nX @ self._fitted.past_X
            self._update(users_n, items_n, rewards_n, context_nQ, known_n)

    def refit(self) -> None:
        """Fit to all trials, starting from the last fit."""
        rows = self.trials.weighted(self._now)
        if len(rows) == 0:
            return
        kind = self._kind or link_of(rows.means)
        start = self._now_fitted() if self._fitted and self._fitted.kind == kind else None
        deviation = max(float(rows.means.std()), 1e-6)
        num_taste = self._catalogue.taste_JF.shape[1]
        prior = self._prior or default_prior(
            kind,
            deviation,
            num_taste,
            self._num_factors,
            context_is_text=self._context_is_text,
        )
        self._fitted = fit(
            rows,
            self._catalogue,
            kind,
            prior,
            ContextScale.fit(rows.contexts, is_text=self._context_is_text),
            self._num_users,
            start,
            self._rng,
            num_sweeps=4 if start else FIRST_SWEEPS,
        )
        self._beta_JP = self._fitted.items.mean_JP.copy()
        self._covariance_JPP = self._fitted.items.covariance_JPP.astype(np.float32)
        self._theta_ID = self._fitted.users.mean_ID.astype(np.float32)
        self._theta_covariance = self._fitted.users.covariance_IDD.astype(np.float32)
        self._width = 1 + self._fitted.context.size
        self._fitted_at = self._now
        self._fading_items.restart(self._now)
        self._fading_users.restart(self._now)
        self._next_fit = max(len(self.trials) + 1, int(GROWTH * len(self.trials)))

    def _now_fitted(self) -> Fitted:
        """Return the last fit with the means of now."""
        assert self._fitted is not None
        items = replace(self._fitted.items, mean_JP=self._beta_JP)
        users = replace(self._fitted.users, mean_ID=self._theta_ID.astype(np.float64))
        return replace(self._fitted, items=items, users=users)

    def _has_faded(self) -> bool:
        if self._fitted is None or self.trials.half_life is None:
            return False
        return self._now - self._fitted_at > self.trials.half_life * math.log2(GROWTH)

    def export_prior(self) -> Prior:
        """Return what was learnt of the variances, for a learner of other data of the same kind."""
        if self._fitted is None:
            raise InvalidInput("nothing was learnt yet; observe trials before exporting a prior")
        return Prior(
            variances=self._fitted.variances.copy(),
            population_DD=self._fitted.users.population_DD.copy(),
            dispersion=self._fitted.dispersion,
        )

    def _entries(self, context_BQ: Vectors | None, num: int, theta_BD: Array | None) -> Array:
        """Return z = [1, c, u], (B, P)."""
        assert self._fitted is not None
        z_BP = np.zeros((num, self._beta_JP.shape[1]))
        z_BP[:, 0] = 1.0
        width = self._width
        if width > 1 and context_BQ is not None:
            z_BP[:, 1:width] = self._fitted.context(context_BQ)
        if theta_BD is not None:
            z_BP[:, width:] = theta_BD[:, 1 + self._catalogue.taste_JF.shape[1] :]
        return z_BP

    def _thetas(self, users_B: Codes) -> Array:
        known = (users_B >= 0) & (users_B < len(self._theta_ID))
        theta_BD = self._theta_ID[np.where(known, users_B, 0)].astype(np.float64)
        theta_BD[~known] = 0.0
        return theta_BD

    def _grow(self) -> None:
        assert self._fitted is not None
        more = self._num_users - len(self._theta_ID)
        if more > 0:
            more = max(more, len(self._theta_ID))
            size = self._theta_ID.shape[1]
            population = self._fitted.users.population_DD.astype(np.float32)
            self._theta_ID = np.vstack([self._theta_ID, np.zeros((more, size), np.float32)])
            fresh = np.broadcast_to(population, (more, size, size))
            self._theta_covariance = np.concatenate([self._theta_covariance, fresh])

    def _update(
        self,
        users_n: Codes,
        items_n: Codes,
        rewards_n: Array,
        context_nQ: Vectors | None,
        known_n: Array,
    ) -> None:
        """Move items and users, given the other's mean."""
        fitted = self._fitted
        assert fitted is not None
        self._grow()
        if self.trials.half_life is not None:
            self._fade(users_n, items_n)
        z_nP = self._entries(context_nQ, len(users_n), None)
        learn(
            self._beta_JP,
            self._covariance_JPP,
            self._theta_ID,
            self._theta_covariance,
            np.ascontiguousarray(users_n, np.int64),
            np.ascontiguousarray(items_n, np.int64),
            np.ascontiguousarray(rewards_n, np.float64),
            np.ascontiguousarray(z_nP[:, : self._width]),
            self._catalogue.taste_JF,
            known_n,
            fitted.dispersion_J,
            CODE[fitted.kind],
            fitted.centre - REACH[fitted.kind],
            fitted.centre + REACH[fitted.kind],
        )

    def _fade(self, users_n: Codes, items_n: Codes) -> None:
        fitted = self._fitted
        assert fitted is not None
        most = float(fitted.variances.of_effects(fitted.context.size).sum())
        self._fading_items.widen(self._covariance_JPP, items_n, self._now, most)
        most = float(np.trace(fitted.users.population_DD))
        self._fading_users.widen(self._theta_covariance, users_n, self._now, most)


def _largest(users_n: Codes) -> int:
    """Return the largest user, -1 if none is known."""
    return int(users_n[0]) if len(users_n) == 1 else int(users_n.max(initial=-1))


def _catalogue(
    text_JE: Vectors | None,
    num_items: int,
    groups_J: Codes | None,
    num_map: int,
    num_taste: int,
) -> Catalogue:
    """Return the leading components of the texts, scaled to mean square length 1."""
    ones = np.ones((num_items, 1))
    if text_JE is None:
        return Catalogue(map_JG=ones, taste_JF=np.zeros((num_items, 0)), groups_J=groups_J)
    centred = text_JE.astype(np.float64) - text_JE.mean(0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    components = centred @ vectors[:, ::-1][:, : min(num_map, num_items - 1)]
    components /= np.sqrt(np.square(components).sum(1).mean())
    return Catalogue(
        map_JG=np.hstack([ones, components]),
        taste_JF=np.ascontiguousarray(components[:, :num_taste]),
        groups_J=groups_J,
    )
