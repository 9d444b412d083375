"""Estimators of a slate's total reward; weights of slot k are given the slots before it.

In every formula w_ik = evaluation / propensity of slot k given slots 1..k-1, and w_i,1:k the
product of the first k of them.
"""

from __future__ import annotations

import numpy as np

from rove.errors import DataError
from rove.ope.estimators import Estimate
from rove.ope.log import SlateLog


def standard_ips(log: SlateLog) -> Estimate:
    """Return IPS of whole slates, mean_i w_i,1:K sum_k r_ik.

    Unbiased whatever users do; its variance grows exponentially with K.
    """
    return Estimate(name="slate IPS", term_N=log.weight_NK.prod(1) * log.reward_NK.sum(1))


def independent_ips(log: SlateLog) -> Estimate:
    """Return independent IPS, mean_i sum_k w_ik r_ik.

    Li et al. 2018 (item-position model). The least variance; unbiased only if a slot's reward does
    not depend on the other slots and w_ik is the ratio of the probabilities of the item in the
    slot whatever the slots before: the same as given the slots before only if they are drawn
    independently of each other, else `rove.ope.marginals`.
    """
    return Estimate(name="IIPS", term_N=(log.weight_NK * log.reward_NK).sum(1))


def reward_interaction_ips(log: SlateLog) -> Estimate:
    """Return reward-interaction IPS, mean_i sum_k w_i,1:k r_ik.

    McInerney et al. 2020. Unbiased if users look from the top (a slot's reward depends on the
    slots up to it); weights of late slots are products of K factors, so it varies more than IIPS.
    """
    cumulated_NK = np.cumprod(log.weight_NK, axis=1)
    return Estimate(name="RIPS", term_N=(cumulated_NK * log.reward_NK).sum(1))


def cascade_doubly_robust(log: SlateLog) -> Estimate:
    """Return cascade-DR, mean_i sum_k [w_i,1:k (r_ik - q_ik) + w_i,1:k-1 v_ik].

    Kiyohara et al. 2022; q_ik predicts the reward of slots k..K and v_ik is its mean over the
    evaluation policy's item k. Unbiased where RIPS is, with any predictions; good ones take most
    of the late slots' variance away.
    """
    if log.q_NK is None or log.v_NK is None:
        raise DataError(
            "cascade-DR needs q_NK and v_NK, got a log without; predict the rewards, "
            "or use reward_interaction_ips"
        )
    cumulated_NK = np.cumprod(log.weight_NK, axis=1)
    before_NK = np.hstack([np.ones((len(cumulated_NK), 1)), cumulated_NK[:, :-1]])
    term_NK = cumulated_NK * (log.reward_NK - log.q_NK) + before_NK * log.v_NK
    return Estimate(name="cascade-DR", term_N=term_NK.sum(1))
