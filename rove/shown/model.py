"""What a release knows of trials: the mixed model's posterior, and how to read what is new.

Before there are trials every item promises what the prior says; from then on what its text does
(`rove.mixed.effects`).

Shapes: J items, E embedding, G text features of the map (the first is 1), H = 1 + F with F features
of taste, Q context values, K factors, P = 1 + Q + K, D = H + K, M = G + Q.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from rove.ledger.shown import Shown
from rove.mixed.contexts import ContextScale
from rove.mixed.fitting import Catalogue, Prior, default_prior, fit
from rove.mixed.links import Kind, link_of, predictor
from rove.mixed.past import ITEM_STRENGTH, NUM_PAST, Past
from rove.mixed.trials import Trials
from rove.mixed.variances import ItemVariances
from rove.rewards import RewardMap
from rove.shown.contexts import MAX_COLUMNS, ContextReader, values_of
from rove.shown.trials import Trial, trials_of, vector_of

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

NUM_MAP = 64
NUM_TASTE = 16
NUM_FACTORS = 4
_SWEEPS = 8
_MAX_FLOATS = 5e7
"""Of the covariances of all items: the more items, the fewer columns of a context."""
_GUESS = 0.1
"""The overall mean reward before there are trials."""
_GUESSED_DEVIATION = 0.5
_UNKNOWN = 1.0
"""Variance of an item's mean before there are trials: nearly uniform exploring until a first refit
has seen what rewards are like."""
_PREFIX = "shown."


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownModel:
    """The posterior at a release, and what turns texts and contexts into its features."""

    kind: Kind
    settled_s: float
    """The decisions that had expired by then were learnt from."""
    columns: tuple[str, ...]
    column_mean_N: Array
    column_deviation_N: Array
    context_mean_R: Array
    context_project_RQ: Array
    context_scale: Array
    text_mean_E: Array
    text_components_EG: Array
    mean_JP: Vectors
    covariance_JPP: Vectors
    dispersion_J: Array
    shared_M: Array
    shared_covariance_MM: Array
    variance_P: Array
    """Of an item's effects around their promise."""
    spreads_S: Array
    """Variances of contexts around the shared ones, of the text map, the shared contexts, groups,
    and of the overall mean."""
    population_DD: Array
    past_X: Array
    """Weights of what a user had with the very item before (`rove.mixed.past`)."""
    past_mean_J: Array
    """Each item's mean reward, shrunk to that of all, which comes last."""
    others_PP: Array
    """E z z' over requests (`rove.mixed.teaching`)."""
    dispersion: float
    centre: float
    half_life_s: float
    """Trials weigh 2^(-age / half_life) at `settled_s`; infinite: none is forgotten."""

    def shares(self, time_n: Array) -> Array:
        """Return what trials of some times weigh, (n,)."""
        return np.exp2(np.minimum((time_n - self.settled_s) / self.half_life_s, 0.0))

    @property
    def num_factors(self) -> int:
        """K."""
        return len(self.variance_P) - 1 - int(self.context_project_RQ.shape[1])

    @property
    def num_taste(self) -> int:
        """H, with the user's own mean."""
        return len(self.population_DD) - self.num_factors

    @property
    def reader(self) -> ContextReader:
        """What reads contexts."""
        return ContextReader(
            columns=self.columns,
            mean_N=self.column_mean_N,
            deviation_N=self.column_deviation_N,
            text_size=len(self.context_mean_R) - len(self.columns),
        )

    @property
    def scale(self) -> ContextScale:
        """What scales contexts."""
        return ContextScale(
            mean_R=self.context_mean_R,
            project_RQ=self.context_project_RQ,
            scale=self.context_scale,
        )

    def prior(self) -> Prior:
        """Return what was learnt of the variances, for a service with other items and users."""
        width = 1 + self.context_project_RQ.shape[1]
        context, text, shared_context, group, intercept = self.spreads_S.tolist()
        return Prior(
            variances=ItemVariances(
                mean=float(self.variance_P[0]),
                context=context,
                factors_K=self.variance_P[width:].copy(),
                text=text,
                shared_context=shared_context,
                group=group,
                intercept=intercept,
            ),
            population_DD=self.population_DD,
            dispersion=self.dispersion,
        )

    def text(self, embeddings_nE: npt.NDArray[np.floating]) -> Array:
        """Return the text features of items, (n, G); the first H are those of taste."""
        read_nG = (embeddings_nE - self.text_mean_E) @ self.text_components_EG
        return np.hstack([np.ones((len(read_nG), 1)), read_nG])

    def promised(self, text_nG: Array) -> tuple[Array, Array]:
        """Return mean (n, P) and covariance (n, P, P) of the effects of items without trials."""
        num_items, num_text = text_nG.shape
        num_context = len(self.shared_M) - num_text
        width = 1 + num_context
        mean_nP = np.zeros((num_items, len(self.variance_P)))
        mean_nP[:, 0] = text_nG @ self.shared_M[:num_text]
        mean_nP[:, 1:width] = self.shared_M[num_text:]
        covariance_nPP = np.tile(np.diag(self.variance_P), (num_items, 1, 1))
        shared = self.shared_covariance_MM
        text = shared[:num_text, :num_text]
        covariance_nPP[:, 0, 0] += np.einsum("ng,gh,nh->n", text_nG, text, text_nG, optimize=True)
        cross_nQ = text_nG @ shared[:num_text, num_text:]
        covariance_nPP[:, 0, 1:width] += cross_nQ
        covariance_nPP[:, 1:width, 0] += cross_nQ
        covariance_nPP[:, 1:width, 1:width] += shared[num_text:, num_text:]
        return mean_nP, covariance_nPP

    def described(self) -> dict[str, Any]:
        """Return what is no tensor, for `release.yaml`."""
        return {"kind": self.kind, "columns": list(self.columns)}

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the rest as arrays, by name."""
        return {
            _PREFIX + field.name: np.asarray(getattr(self, field.name))
            for field in fields(self)
            if field.name not in ("kind", "columns")
        }

    @classmethod
    def from_tensors(
        cls, described: dict[str, Any], tensors: dict[str, npt.NDArray[Any]]
    ) -> ShownModel:
        """Undo `described` and `tensors`."""
        values: dict[str, Any] = {
            name.removeprefix(_PREFIX): value
            for name, value in tensors.items()
            if name.startswith(_PREFIX)
        }
        for name in ("settled_s", "dispersion", "centre", "half_life_s"):
            values[name] = float(values[name])
        return cls(kind=described["kind"], columns=tuple(described["columns"]), **values)


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
    trials = [
        trial for part in decided for trial in trials_of(part, rewards) if trial.item_id in row_of
    ]
    trials.sort(key=lambda trial: trial.shown.created_at)
    with threadpool_limits(1, user_api="blas"):
        model = _learn(trials, rewards, row_of, embeddings_JE, settled_s, base, half_life_s, seed)
    return model, len(trials)


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
    return _with_items(model, mean_JP.astype(np.float32), covariance_JPP.astype(np.float32))


def _with_items(model: ShownModel, mean_JP: Vectors, covariance_JPP: Vectors) -> ShownModel:
    values = {field.name: getattr(model, field.name) for field in fields(model)}
    return ShownModel(**{**values, "mean_JP": mean_JP, "covariance_JPP": covariance_JPP})


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
