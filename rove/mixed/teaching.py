"""What exploring teaches: how much of what others will be shown a trial could tell.

    d^2 = z' S M S z / z' S z      S: covariance of the item's effects, z: this request's [1, c, u],
                                   M = E z z' over requests

That is the variance that is taken from the predictor of another request, on average over them, when
this one's is learnt. With one effect only it is that effect's own variance; with a hundred context
values it is less than z' S z, because another request hardly has the same ones. Thompson sampling
with d explores what repays (measured at a quarter of it: news .938 -> .947, mushroom .947 -> .960).

Shapes: B requests, S candidates, P effects.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rove.mixed.variances import Array

_LEAST = 1e-12


def teaching_deviation(
    covariance_BSPP: npt.NDArray[np.floating],
    z_BP: npt.NDArray[np.floating],
    others_PP: npt.NDArray[np.floating],
) -> Array:
    """Return d, (B, S)."""
    if len(z_BP) == 1:  # the same with fewer calls
        half_SP = covariance_BSPP[0] @ z_BP[0]
        taught_S = np.add.reduce((half_SP @ others_PP) * half_SP, axis=1)
        share_S = np.maximum(taught_S / np.maximum(half_SP @ z_BP[0], _LEAST), _LEAST)
        return np.asarray(np.sqrt(share_S)[None])
    half_BSP = np.matmul(covariance_BSPP, z_BP[:, None, :, None])[..., 0]
    own_BS = np.matmul(half_BSP, z_BP[:, :, None])[:, :, 0]
    taught_BS = np.einsum("bsp,bsp->bs", np.matmul(half_BSP, others_PP), half_BSP)
    return np.asarray(np.sqrt(np.maximum(taught_BS / np.maximum(own_BS, _LEAST), _LEAST)))
