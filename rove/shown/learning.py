"""Learn the model of what was shown: from trials, or before there are any.

Before there are trials every item promises what the prior says, with a large variance; from then on
what its text does (`rove.mixed.effects`).

Shapes: as in `rove.shown.model`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from rove.ledger.shown import Shown
from rove.mixed.fitting import Catalogue, Prior, default_prior, fit
from rove.mixed.links import Kind, link_of, predictor
from rove.mixed.past import ITEM_STRENGTH, NUM_PAST, Past
from rove.mixed.trials import Trials
from rove.mixed.variances import ItemVariances
from rove.rewards import RewardMap
from rove.shown.contexts import MAX_COLUMNS, ContextReader, values_of
from rove.shown.model import ShownModel
from rove.shown.trials import Trial, trials_of, vector_of

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

NUM_MAP = 64
NUM_TASTE = 16
NUM_FACTORS = 4
MAX_TRIALS = 1_000_000
"""The latest are learnt from: bounds time and memory of a refit."""
_SWEEPS = 8
_MAX_FLOATS = 5e7
"""Of the covariances of all items: the more items, the fewer columns of a context."""
_GUESS = 0.1
"""The overall mean reward before there are trials."""
_GUESSED_DEVIATION = 0.5
_UNKNOWN = 1.0
"""Variance of an item's mean before there are trials: nearly uniform exploring until a first refit
has seen what rewards are like."""


def learn_shown(
    decided: Iterable[Sequence[Shown]],
    rewards: RewardMap,
    row_of: dict[str, int],
    embeddings_JE: npt.NDArray[np.floating],
    *,
    settled_s: float,
    base: ShownModel | None = None,
    half_life_s: float | None = None,
    seed: int = 0,
) -> tuple[ShownModel, int]:
    """Learn from all decisions that expired by `settled_s`; return also how many trials.

    `base`: what a service of the same kind has learnt of its variances and its mean reward, to
    begin with. It counts as a few observations.
    """
    trials: list[Trial] = []
    for part in decided:
        trials += [trial for trial in trials_of(part, rewards) if trial.item_id in row_of]
        if len(trials) >= 2 * MAX_TRIALS:
            trials = _latest(trials)
    trials = _latest(trials)
    with threadpool_limits(1, user_api="blas"):
        model = _learn(trials, rewards, row_of, embeddings_JE, settled_s, base, half_life_s, seed)
    return model, len(trials)


def _latest(trials: list[Trial]) -> list[Trial]:
    """Return the latest trials in order of time, at most `MAX_TRIALS`."""
    trials.sort(key=lambda trial: trial.shown.created_at)
    return trials[-MAX_TRIALS:]


def unlearnt(
    rewards: RewardMap,
    embeddings_JE: npt.NDArray[np.floating],
    base: ShownModel | None = None,
) -> ShownModel:
    """Return the model before anything was shown."""
    never = -sys.float_info.max
    return learn_shown((), rewards, {}, embeddings_JE, settled_s=never, base=base)[0]


def _learn(
    trials: Sequence[Trial],
    rewards: RewardMap,
    row_of: dict[str, int],
    embeddings_JE: npt.NDArray[np.floating],
    settled_s: float,
    base: ShownModel | None,
    half_life_s: float | None,
    seed: int,
) -> ShownModel:
    mean_E, components_EG = _text_map(embeddings_JE)
    text_JG = np.hstack(
        [np.ones((len(embeddings_JE), 1)), (embeddings_JE - mean_E) @ components_EG]
    )
    num_taste = min(NUM_TASTE, text_JG.shape[1] - 1)
    values_n = [values_of(trial.shown.context, trial.slot) for trial in trials]
    vectors_n = [vector_of(trial.shown) for trial in trials]
    sizes = [len(vector) for vector in vectors_n if vector is not None]
    # Few texts are not worth an encoder's time for every request.
    reads = len(sizes) >= 0.01 * len(trials) and bool(sizes)
    most = min(MAX_COLUMNS, int(np.sqrt(_MAX_FLOATS / len(text_JG))))
    reader = ContextReader.fit(values_n, sizes[-1] if reads else 0, most)
    row_nR = reader(values_n, vectors_n)
    scale = reader.scale(row_nR)
    text: dict[str, Any] = {"text_mean_E": mean_E, "text_components_EG": components_EG}
    contexts: dict[str, Any] = {
        "columns": reader.columns,
        "column_mean_N": reader.mean_N,
        "column_deviation_N": reader.deviation_N,
        "context_mean_R": scale.mean_R,
        "context_project_RQ": scale.project_RQ,
        "context_scale": scale.scale,
    }
    reward_n = np.array([trial.reward for trial in trials])
    if not trials:
        return _unlearnt(rewards, base, num_taste, text_JG, settled_s, text, contexts)
    kind = link_of(reward_n)
    deviation = max(float(reward_n.std()), 1e-6)
    prior = _inherited(base, kind, num_taste) or default_prior(
        kind, deviation, num_taste, NUM_FACTORS, context_is_text=reader.text_size > 0
    )
    users = {trial.shown.user_id: n for n, trial in enumerate(trials)}
    code_of = {user_id: code for code, user_id in enumerate(users)}
    record = Trials(reader.size, half_life_s)
    users_n = np.array([code_of[trial.shown.user_id] for trial in trials], np.int64)
    items_n = np.array([row_of[trial.item_id] for trial in trials], np.int64)
    past_nX = Past(len(text_JG)).observe(users_n, items_n, reward_n)
    record.add(users_n, items_n, reward_n, row_nR, settled_s, past_nX)
    record.columns.times[:] = [trial.shown.created_at for trial in trials]
    fitted = fit(
        record.weighted(settled_s),
        Catalogue(map_JG=text_JG, taste_JF=text_JG[:, 1 : 1 + num_taste], groups_J=None),
        kind,
        prior,
        scale,
        len(code_of),
        None,
        np.random.default_rng(seed),
        num_sweeps=_SWEEPS,
    )
    return ShownModel(
        kind=kind,
        settled_s=settled_s,
        mean_JP=fitted.items.mean_JP.astype(np.float32),
        covariance_JPP=fitted.items.covariance_JPP.astype(np.float32),
        dispersion_J=fitted.dispersion_J,
        shared_M=fitted.items.shared_M,
        shared_covariance_MM=fitted.items.shared_covariance_MM,
        variance_P=fitted.variances.of_effects(scale.size),
        spreads_S=_spreads(fitted.variances),
        population_DD=fitted.users.population_DD,
        past_X=fitted.past_X,
        past_mean_J=_mean_rewards(items_n, reward_n, len(text_JG)),
        others_PP=fitted.others_PP,
        dispersion=fitted.dispersion,
        centre=fitted.centre,
        half_life_s=half_life_s or np.inf,
        **text,
        **contexts,
    )


def _mean_rewards(items_n: npt.NDArray[np.int64], reward_n: Array, num_items: int) -> Array:
    """Return the items' mean rewards shrunk to that of all, which comes last."""
    num_J = np.bincount(items_n, minlength=num_items + 1)
    sum_J = np.bincount(items_n, reward_n, minlength=num_items + 1)
    return np.asarray((sum_J + ITEM_STRENGTH * reward_n.mean()) / (num_J + ITEM_STRENGTH))


def _spreads(variances: ItemVariances) -> Array:
    return np.array(
        [
            variances.context,
            variances.text,
            variances.shared_context,
            variances.group,
            variances.intercept,
        ]
    )


def _inherited(base: ShownModel | None, kind: Kind, num_taste: int) -> Prior | None:
    """Return the prior that another service gives, if it is for rewards of the same kind."""
    if base is None or base.kind != kind or base.num_taste != 1 + num_taste:
        return None
    return base.prior()


def _unlearnt(
    rewards: RewardMap,
    base: ShownModel | None,
    num_taste: int,
    text_JG: Array,
    settled_s: float,
    text: dict[str, Any],
    contexts: dict[str, Any],
) -> ShownModel:
    """Return the model of a service that has not shown anything yet."""
    num_items, num_text = text_JG.shape
    kind = _kind_of(rewards) if base is None else base.kind
    centre, mean_reward = predictor(kind, _GUESS), _GUESS
    prior = _inherited(base, kind, num_taste)
    if base is not None and prior is not None:
        centre, mean_reward = base.centre, float(base.past_mean_J[-1])
        variances = prior.variances
        variance_P = variances.of_effects(0)
    else:
        prior = default_prior(kind, _GUESSED_DEVIATION, num_taste, NUM_FACTORS)
        variances = prior.variances
        variance_P = variances.of_effects(0)
        variance_P[0] = _UNKNOWN
    shared_M = np.zeros(num_text)
    shared_M[0] = centre
    diagonal_M = np.full(num_text, variances.text / max(1, num_text - 1))
    diagonal_M[0] = 0.0
    model = ShownModel(
        kind=kind,
        settled_s=settled_s,
        mean_JP=np.zeros((0, len(variance_P)), np.float32),
        covariance_JPP=np.zeros((0, len(variance_P), len(variance_P)), np.float32),
        dispersion_J=np.full(num_items, prior.dispersion),
        shared_M=shared_M,
        shared_covariance_MM=np.diag(diagonal_M),
        variance_P=variance_P,
        spreads_S=_spreads(prior.variances),
        population_DD=prior.population_DD,
        past_X=np.zeros(NUM_PAST),
        past_mean_J=np.full(num_items + 1, mean_reward),
        others_PP=np.eye(len(variance_P)),
        dispersion=prior.dispersion,
        centre=centre,
        half_life_s=np.inf,
        **text,
        **contexts,
    )
    mean_JP, covariance_JPP = model.promised(text_JG)
    mean_32, covariance_32 = mean_JP.astype(np.float32), covariance_JPP.astype(np.float32)
    return replace(model, mean_JP=mean_32, covariance_JPP=covariance_32)


def _kind_of(rewards: RewardMap) -> Kind:
    """Return the link for what the reward map can give, before anything was given."""
    weights = [rule.weight for rule in rewards.rules.values()]
    bounded = rewards.aggregation != "sum" and 0.0 <= rewards.default <= 1.0
    return "logit" if bounded and min(weights) >= 0.0 and max(weights) <= 1.0 else "identity"


def _text_map(embeddings_JE: npt.NDArray[np.floating]) -> tuple[Array, Array]:
    """Return the mean, and the leading components scaled so that items have mean square 1."""
    given = np.asarray(embeddings_JE, np.float64)
    mean_E = given.mean(0)
    centred = given - mean_E
    values, vectors = np.linalg.eigh(centred.T @ centred)
    size = min(NUM_MAP, len(given) - 1, int((values > 1e-9 * max(values[-1], 1e-12)).sum()))
    components_EG = vectors[:, ::-1][:, : max(size, 0)]
    read = centred @ components_EG
    root = np.sqrt(np.square(read).sum(1).mean()) if size > 0 else 1.0
    return mean_E, components_EG / max(root, 1e-12)
