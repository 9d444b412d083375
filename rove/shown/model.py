"""What a release knows of trials: the mixed model's posterior, and how to read what is new.

Shapes: J items, E embedding, G text features of the map (the first is 1), H = 1 + F with F features
of taste, Q context values, K factors, P = 1 + Q + K, D = H + K, M = G + Q.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from rove.mixed.contexts import ContextScale
from rove.mixed.fitting import Prior
from rove.mixed.links import Kind
from rove.mixed.variances import ItemVariances
from rove.shown.contexts import ContextReader

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

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
