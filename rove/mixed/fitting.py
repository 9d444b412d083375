"""Fit the mixed model to trials: sweeps over items and users, each solved exactly.

A sweep expands the likelihood around the predictor (`rove.mixed.links`), solves the items given
the users, then the users given the items (variational Bayes with two blocks: what one block does
not know of itself counts in the other's moments), and brings the variances along.

Shapes: n rows of trials; others as in `rove.mixed.effects`. A user's effects are D = 1 + F + K:
mean, taste over the F text factors, learned factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rove.mixed.contexts import ContextScale
from rove.mixed.dispersion import dispersions, is_binary
from rove.mixed.effects import (
    Array,
    Codes,
    ItemEffects,
    ItemVariances,
    UserEffects,
    gather,
    products,
    solve_items,
    solve_users,
)
from rove.mixed.links import Kind, expectation, predictor, within_reach
from rove.mixed.past import NUM_PAST, past_weights
from rove.mixed.shared import times
from rove.mixed.trials import Columns

DEFAULT_SPREAD: dict[Kind, float] = {"identity": 0.3, "logit": 0.5, "log": 0.3}
"""Standard deviation of an item's mean, of a user's and so on, before there are data; in units of
the rewards' deviation for `identity`."""

CONTEXT_VARIANCE = 16.0
"""Of an item's context effects, in units of the prior variance of its mean, where contexts are
numbers: those were chosen by somebody because they matter; the directions of a text were not."""
CONVERGED = 0.02
"""Deviations of the posterior; sweeps converge quadratically, so what is left is far less."""
PAST_VARIANCE = 16.0
"""Of a weight of the past, in units of the prior variance of an item's mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What is known of the items beforehand."""

    map_JG: Array
    """Text features of the item mean's prior; the first is 1."""
    taste_JF: Array
    """Text features that users have a taste over."""
    groups_J: Codes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The posterior after a fit, and the variances it was made with."""

    kind: Kind
    items: ItemEffects
    users: UserEffects
    variances: ItemVariances
    dispersion: float
    """phi over all items."""
    dispersion_J: Array
    """phi of each item's rewards, shrunk to that of all."""
    context: ContextScale
    centre: float
    """The predictor of the overall mean."""
    past_X: Array
    """Weights of what a user had with the very item before (`rove.mixed.past`)."""
    others_PP: Array
    """M of `rove.mixed.teaching`: the mean of z z' over the trials, z = [1, c, u]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is believed before there are trials; `Fitted` of other data can give it."""

    variances: ItemVariances
    population_DD: Array
    dispersion: float


def default_prior(
    kind: Kind,
    deviation: float,
    num_taste: int,
    num_factors: int,
    *,
    context_is_text: bool = False,
) -> Prior:
    """Return a weak prior: every term may matter, none has to."""
    scale = DEFAULT_SPREAD[kind] * (deviation if kind == "identity" else 1.0)
    square = scale**2
    population = np.eye(1 + num_taste + num_factors)
    population[0, 0] = square
    taste = slice(1, 1 + num_taste)
    population[taste, taste] *= square
    return Prior(
        variances=ItemVariances(
            mean=square,
            context=square if context_is_text else CONTEXT_VARIANCE * square,
            factors_K=np.full(num_factors, square / max(1, num_factors)),
            text=square,
            shared_context=square,
            group=square,
            intercept=100.0 * square,
        ),
        population_DD=population,
        dispersion=deviation**2 if kind == "identity" else 1.0,
    )


def fit(
    rows: Columns,
    catalogue: Catalogue,
    kind: Kind,
    prior: Prior,
    context: ContextScale,
    num_users: int,
    start: Fitted | None,
    rng: np.random.Generator,
    *,
    num_sweeps: int = 4,
) -> Fitted:
    """Return the posterior given the rows; `start` is an earlier fit to go on from.

    At most `num_sweeps`; the last is the one that moves no effect by more than `CONVERGED`.
    """
    work = _Work(rows, catalogue, kind, prior, context, num_users, start, rng)
    for _ in range(num_sweeps):
        if work.sweep() < CONVERGED:
            break
    return work.fitted()


class _Work:
    """One fit in progress."""

    def __init__(
        self,
        rows: Columns,
        catalogue: Catalogue,
        kind: Kind,
        prior: Prior,
        context: ContextScale,
        num_users: int,
        start: Fitted | None,
        rng: np.random.Generator,
    ) -> None:
        self.rows, self.catalogue, self.kind, self.prior = rows, catalogue, kind, prior
        self.context_scale = context
        self.num_factors = len(prior.variances.factors_K)
        self.num_context = context.size
        self.width = 1 + self.num_context
        self.users = _returning(rows.users, num_users)
        self.known = self.users >= 0
        self.items = rows.items
        self.fixed_nC = np.hstack([np.ones((len(rows), 1)), context(rows.contexts)])
        self.taste_nH = np.hstack([np.ones((len(rows), 1)), catalogue.taste_JF[self.items]])
        self.num_users = num_users
        self.past_nX = np.asarray(rows.past, np.float64)
        self.again = np.flatnonzero(self.past_nX[:, 0] > 0.0)
        self.has_known = bool(self.known.any())
        self.is_binary = kind == "logit" and is_binary(rows)
        self._begin(start, rng)

    def _begin(self, start: Fitted | None, rng: np.random.Generator) -> None:
        prior, num_items = self.prior, len(self.catalogue.map_JG)
        num_effects, size = self.width + self.num_factors, len(prior.population_DD)
        self.variances = prior.variances.copy() if start is None else start.variances.copy()
        self.population = prior.population_DD if start is None else start.users.population_DD
        self.dispersion = prior.dispersion if start is None else start.dispersion
        self.dispersion_J = np.full(num_items, self.dispersion)
        if start is not None:
            self.dispersion_J[: len(start.dispersion_J)] = start.dispersion_J
        self.beta_JP = np.zeros((num_items, num_effects))
        self.beta_covariance = np.zeros((num_items, num_effects, num_effects))
        self.theta_ID = np.zeros((self.num_users, size))
        self.theta_covariance = np.zeros((self.num_users, size, size))
        overall = float(np.average(self.rows.means, weights=self.rows.counts))
        self.centre = predictor(self.kind, overall)
        self.beta_JP[:, 0] = self.centre
        factors = rng.normal(size=(num_items, self.num_factors))
        self.beta_JP[:, self.width :] = factors * np.sqrt(prior.variances.factors_K)
        self.past_X = np.zeros(NUM_PAST) if start is None else start.past_X
        if start is None:
            return
        old = start.items.mean_JP
        if start.context.size == self.num_context:
            self.beta_JP[: len(old), : self.width] = old[:, : self.width]
        else:
            self.beta_JP[: len(old), 0] = old[:, 0]
        self.beta_JP[: len(old), self.width :] = old[:, old.shape[1] - self.num_factors :]
        known = min(len(start.users.mean_ID), self.num_users)
        self.theta_ID[:known] = start.users.mean_ID[:known]

    def sweep(self) -> float:
        """Expand, solve the items, the users and the past, and learn the dispersion.

        Return the largest move of an effect, in deviations of its posterior.
        """
        beta_JP, theta_ID = self.beta_JP, self.theta_ID
        theta_nD, taste_n, eta_n = self._predicted()
        own = theta_nD.shape[1] - self.num_factors
        mean_n, slope_n = expectation(self.kind, eta_n)
        weight_n = self.rows.counts * slope_n / self.dispersion_J[self.items]
        response_n = eta_n + (self.rows.means - mean_n) / slope_n
        z_nP = np.hstack([self.fixed_nC, theta_nD[:, own:]])
        num_items = len(self.beta_JP)
        moments, pulls = gather(self.items, num_items, z_nP, weight_n, response_n - taste_n)
        if self.num_factors and self.has_known:
            self._add_user_spread(moments, pulls, weight_n, own)
        solved = solve_items(
            moments,
            pulls,
            self.catalogue.map_JG,
            self.catalogue.groups_J,
            self.num_context,
            self.variances,
            self.prior.variances,
            num_rounds=3,
        )
        self.solved = solved
        self.beta_JP, self.beta_covariance = solved.mean_JP, solved.covariance_JPP
        if self.has_known:
            self._solve_users(weight_n, response_n)
        else:
            self.user_effects = UserEffects(
                mean_ID=self.theta_ID,
                covariance_IDD=np.broadcast_to(self.population, self.theta_covariance.shape),
                population_DD=self.population,
            )
        if len(self.again):
            self._solve_past()
        self._learn_dispersion()
        return max(
            _moved(self.beta_JP - beta_JP, self.beta_covariance),
            _moved(self.theta_ID - theta_ID, self.theta_covariance) if self.has_known else 0.0,
        )

    def _predicted(self) -> tuple[Array, Array, Array]:
        """Return the users' effects (n, D), the part without the item's, and the predictor (n,)."""
        taste_n = self.past_nX @ self.past_X
        if self.has_known:
            theta_nD = np.where(self.known[:, None], self.theta_ID[self.users], 0.0)
            own = theta_nD.shape[1] - self.num_factors
            taste_n += np.einsum("nh,nh->n", self.taste_nH, theta_nD[:, :own])
        else:
            theta_nD = np.zeros((len(self.users), self.theta_ID.shape[1]))
        eta_n = within_reach(self.kind, taste_n + self._item_part(theta_nD), self.centre)
        return theta_nD, taste_n, eta_n

    def _item_part(self, theta_nD: Array) -> Array:
        part_n = products(self.fixed_nC, self.beta_JP, self.items)
        if self.num_factors and self.has_known:
            own = theta_nD.shape[1] - self.num_factors
            factors_JK = self.beta_JP[self.items, self.width :]
            part_n += np.einsum("nk,nk->n", theta_nD[:, own:], factors_JK)
        return part_n

    def _add_user_spread(self, moments: Array, pulls: Array, weight_n: Array, own: int) -> None:
        """Count what is not known of u_i, and how it goes with the rest of theta_i."""
        rows = np.flatnonzero(self.known)
        items, weights = self.items[rows], weight_n[rows]
        spread = self.theta_covariance[self.users[rows]]
        factors = slice(self.width, None)
        square = spread[:, own:, own:] * weights[:, None, None]
        added = np.zeros((len(moments), self.num_factors, self.num_factors))
        np.add.at(added, items, square)
        moments[:, factors, factors] += added
        cross = np.einsum("nkh,nh->nk", spread[:, own:, :own], self.taste_nH[rows])
        added_pull = np.zeros((len(moments), self.num_factors))
        np.add.at(added_pull, items, cross * weights[:, None])
        pulls[:, factors] -= added_pull

    def _solve_users(self, weight_n: Array, response_n: Array) -> None:
        beta_nP = self.beta_JP[self.items]
        fixed_n = np.einsum("nc,nc->n", self.fixed_nC, beta_nP[:, : self.width])
        fixed_n += self.past_nX @ self.past_X
        h_nD = np.hstack([self.taste_nH, beta_nP[:, self.width :]])
        users, rest = self.users, response_n - fixed_n
        moments, pulls = gather(users, self.num_users, h_nD, weight_n, rest)
        if self.num_factors:
            rows = np.flatnonzero(self.known)
            spread = self.beta_covariance[self.items[rows]] * weight_n[rows, None, None]
            own = h_nD.shape[1] - self.num_factors
            added = np.zeros((self.num_users, self.num_factors, self.num_factors))
            np.add.at(added, users[rows], spread[:, self.width :, self.width :])
            moments[:, own:, own:] += added
            cross = np.einsum(
                "nkc,nc->nk", spread[:, self.width :, : self.width], self.fixed_nC[rows]
            )
            added_pull = np.zeros((self.num_users, self.num_factors))
            np.add.at(added_pull, users[rows], cross)
            pulls[:, own:] -= added_pull
        active = np.flatnonzero(moments[:, 0, 0] > 0.0)
        solved = solve_users(
            moments[active],
            pulls[active],
            self.population,
            self.prior.population_DD,
            self.num_factors,
            num_rounds=2,
        )
        self.population = solved.population_DD
        self.theta_ID = np.zeros_like(self.theta_ID)
        self.theta_covariance = np.broadcast_to(self.population, self.theta_covariance.shape).copy()
        self.theta_ID[active] = solved.mean_ID
        self.theta_covariance[active] = solved.covariance_IDD
        self.user_effects = UserEffects(
            mean_ID=self.theta_ID,
            covariance_IDD=self.theta_covariance,
            population_DD=self.population,
        )

    def _solve_past(self) -> None:
        rows = self.again
        _, _, eta_n = self._predicted()
        mean_n, slope_n = expectation(self.kind, eta_n[rows])
        weight_n = self.rows.counts[rows] * slope_n / self.dispersion_J[self.items[rows]]
        past_nX = self.past_nX[rows]
        rest_n = (self.rows.means[rows] - mean_n) / slope_n + past_nX @ self.past_X
        variance = PAST_VARIANCE * self.prior.variances.mean
        self.past_X = past_weights(past_nX, weight_n, rest_n, variance)

    def _learn_dispersion(self) -> None:
        """Learn phi from the squares that are left, with those that the posterior expects."""
        if self.is_binary:
            return
        theta_nD, _, eta_n = self._predicted()
        own = theta_nD.shape[1] - self.num_factors
        mean_n, slope_n = expectation(self.kind, eta_n)
        z_nP = np.hstack([self.fixed_nC, theta_nD[:, own:]])
        spread_n = _squares(self.beta_covariance[self.items], z_nP)
        if self.has_known:
            rows = np.flatnonzero(self.known)
            h_nD = np.hstack([self.taste_nH, self.beta_JP[self.items][:, self.width :]])
            spread_n[rows] += _squares(self.theta_covariance[self.users[rows]], h_nD[rows])
        square_n = np.square(self.rows.means - mean_n) * self.rows.counts + self.rows.spreads
        left_n = square_n / slope_n + self.rows.counts * slope_n * spread_n
        self.dispersion, self.dispersion_J = dispersions(
            self.rows,
            left_n,
            len(self.dispersion_J),
            self.prior.dispersion,
            may_be_binary=self.kind == "logit",
        )

    def _others(self) -> Array:
        theta_nD, _, _ = self._predicted()
        own = theta_nD.shape[1] - self.num_factors
        z_nP = np.hstack([self.fixed_nC, theta_nD[:, own:]])
        share_n = self.rows.counts / self.rows.counts.sum()
        return np.asarray((z_nP * share_n[:, None]).T @ z_nP)

    def fitted(self) -> Fitted:
        """Return the result."""
        return Fitted(
            kind=self.kind,
            items=self.solved,
            users=self.user_effects,
            variances=self.variances,
            dispersion=self.dispersion,
            dispersion_J=self.dispersion_J,
            context=self.context_scale,
            centre=self.centre,
            past_X=self.past_X,
            others_PP=self._others(),
        )


def _moved(change_XP: Array, covariance_XPP: Array) -> float:
    variance_XP = np.maximum(np.einsum("xpp->xp", covariance_XPP), 1e-12)
    return float(np.sqrt((np.square(change_XP) / variance_XP).max(initial=0.0)))


def _squares(matrix_nPP: Array, vector_nP: Array) -> Array:
    """Return v' M v of each row, (n,)."""
    return np.asarray(np.add.reduce(times(matrix_nPP, vector_nP) * vector_nP, axis=1))


def _returning(users: Codes, num_users: int) -> Codes:
    """Return the users, -1 for those of one trial only: nothing can be learnt for their return."""
    if num_users == 0:
        return users
    known = users >= 0
    num_I = np.bincount(users[known], minlength=num_users)
    return np.where(known & (num_I[users] > 1), users, -1)
