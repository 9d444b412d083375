"""How a linear predictor becomes an expected reward, by the kind of the rewards.

    identity   any reward        E[r] = eta                  Var[r] = phi
    logit      rewards in [0, 1] E[r] = 1 / (1 + exp(-eta))  Var[r] = phi m (1 - m)
    log        counts            E[r] = exp(eta)             Var[r] = phi m

The likelihood is the quasi-likelihood of these two moments (Wedderburn 1974): its expansion around
eta gives a Gaussian trial with response `eta + (r - m) / m'` and precision `m' / phi`, where m' is
the slope dm/deta (for these links also the variance function). The dispersion phi is learnt, but
for rewards that are only ever 0 or 1 it is 1.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from rove.compiled import inlined

Array = npt.NDArray[np.float64]
Kind = Literal["identity", "logit", "log"]
CODE: Final[dict[Kind, int]] = {"identity": 0, "logit": 1, "log": 2}
"""Of a kind, for what is compiled."""

REACH = {"identity": np.inf, "logit": 4.0, "log": 4.0}
"""How far from the overall mean's predictor the likelihood is expanded: further out its slope
vanishes, and one trial would throw the expansion anywhere."""


def link_of(rewards_n: Array) -> Kind:
    """Return the link that fits rewards of this kind."""
    if rewards_n.size == 0 or (rewards_n.min() >= 0.0 and rewards_n.max() <= 1.0):
        return "logit"
    if rewards_n.min() >= 0.0 and np.array_equal(rewards_n, np.rint(rewards_n)):
        return "log"
    return "identity"


def expectation(kind: Kind, eta: Array) -> tuple[Array, Array]:
    """Return the expected reward and its slope at the predictor."""
    if kind == "identity":
        return eta, np.ones_like(eta)
    if kind == "logit":
        mean = 1.0 / (1.0 + np.exp(-eta))
        return mean, mean * (1.0 - mean)
    mean = np.exp(eta)
    return mean, mean


@inlined
def expansion(code: int, eta: float, low: float, high: float) -> tuple[float, float, float]:
    """Return, of one predictor, where it is expanded, the expected reward and the slope there."""
    if code == 0:
        return eta, eta, 1.0
    expanded = min(max(eta, low), high)
    if code == 1:
        mean = 1.0 / (1.0 + math.exp(-expanded))
        return expanded, mean, mean * (1.0 - mean)
    mean = math.exp(expanded)
    return expanded, mean, mean


def within_reach(kind: Kind, eta: Array, centre: float) -> Array:
    """Return the predictors, cut at `REACH` from the overall one."""
    return np.clip(eta, centre - REACH[kind], centre + REACH[kind])


def predictor(kind: Kind, mean: float) -> float:
    """Return the predictor whose expected reward is `mean`, away from the ends of its range."""
    if kind == "identity":
        return mean
    if kind == "logit":
        inside = min(max(mean, 1e-3), 1.0 - 1e-3)
        return float(np.log(inside / (1.0 - inside)))
    return float(np.log(max(mean, 1e-3)))
