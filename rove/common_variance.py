"""The variance of taste that all users without explicit trials share.

    phi' S phi + sum_k s_jk S_kk     S: the users' covariance, s_j: variance of item j's factors

for the two covariances that such users have: the population's (no past) and the common one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rove.model import ItemFeatures, RewardModel, UserPosterior


def common_variances(
    model: RewardModel, posterior: UserPosterior, items: ItemFeatures
) -> dict[bool, npt.NDArray[np.float32]]:
    """Return the variances (J,) for users without (False) and with (True) a past."""
    features_JD = items.features_JD
    num_text = model.text_components_EF.shape[1]
    variances = {}
    for has_past, covariance_DD in (
        (False, posterior.prior_covariance_DD),
        (True, posterior.covariance_DD),
    ):
        projected_JD = features_JD @ covariance_DD.astype(np.float32)
        variance_J = np.einsum("jd,jd->j", projected_JD, features_JD)
        diagonal_K = np.diag(covariance_DD)[num_text:]
        variance_J += np.where(
            items.trained_J,
            np.float32(diagonal_K @ model.factor_variance_K),
            np.float32(diagonal_K @ model.prior_variance_K),
        )
        variances[has_past] = np.maximum(variance_J, 0.0)
    return variances
