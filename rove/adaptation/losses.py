"""What an adapter is trained to make small; every function is differentiable in the vectors.

Shapes: B users, C candidates, D factors, S support interactions, Q queries. Rows of the candidates
stand for items; -1 fills up.
"""

from __future__ import annotations

import torch

_NEVER = -1e9  # a logit


def gram(x_CD: torch.Tensor, counts_C: torch.Tensor) -> torch.Tensor:
    """Return G = sum_c n_c x_c x_c' (D, D): candidate c stands for n_c items."""
    return (x_CD * counts_C[:, None]).T @ x_CD


def posterior_means(
    gram_DD: torch.Tensor,
    pulls_BD: torch.Tensor,
    intercept_D: torch.Tensor,
    prior_mean_D: torch.Tensor,
    ridge: torch.Tensor,
) -> torch.Tensor:
    """Return the means of the users' tastes (B, D) given all rewards, those of zero included.

        m = (G + ridge I)^-1 (sum_r w_r x_r - sum_j b_j x_j + ridge mu_0)

    That is `rove.model.user_posterior` with S_0 = I s^2 and ridge = sigma^2 / s^2: after the first
    interaction every pair counts, so all users share one solve.
    """
    size = gram_DD.shape[0]
    eye_DD = torch.eye(size, dtype=gram_DD.dtype, device=gram_DD.device)
    factor_DD = torch.linalg.cholesky(gram_DD + ridge * eye_DD)
    right_BD = pulls_BD - intercept_D + ridge * prior_mean_D
    solved: torch.Tensor = torch.cholesky_solve(right_BD.T, factor_DD)
    return solved.T


def gathered(x_CD: torch.Tensor, rows_BS: torch.Tensor) -> torch.Tensor:
    """Return the sum over each row's items (B, D); -1 counts nothing."""
    present_BS = rows_BS >= 0
    picked_BSD = x_CD[rows_BS.clamp(min=0)]
    result: torch.Tensor = (picked_BSD * present_BS[..., None]).sum(1)
    return result


def without(logits_BC: torch.Tensor, rows_BK: torch.Tensor) -> torch.Tensor:
    """Return the logits with a user's known items out of the race."""
    known_BC = torch.zeros(
        logits_BC.shape[0], logits_BC.shape[1] + 1, dtype=torch.bool, device=logits_BC.device
    )
    rows = torch.where(rows_BK >= 0, rows_BK, logits_BC.shape[1])
    known_BC.scatter_(1, rows, True)
    return logits_BC.masked_fill(known_BC[:, :-1], _NEVER)


def softmax_loss(
    logits_BC: torch.Tensor, queries_BQ: torch.Tensor, weights_BQ: torch.Tensor
) -> torch.Tensor:
    """Return the weighted mean over all queries of -log softmax(logits)_q.

    Weights are inverse propensities; they are normalised, so the loss keeps its scale.
    """
    present_BQ = (queries_BQ >= 0).to(logits_BC.dtype) * weights_BQ
    picked_BQ = torch.log_softmax(logits_BC, 1).gather(1, queries_BQ.clamp(min=0))
    return -(picked_BQ * present_BQ).sum() / present_BQ.sum().clamp(min=1e-9)


def corrected(logits_BC: torch.Tensor, log_q_C: torch.Tensor) -> torch.Tensor:
    """Return logits - log Q: candidates that are in a batch more often get no advantage from it.

    Bengio and Senecal 2008; Yi et al. 2019, "Sampling-bias-corrected neural modeling".
    """
    return logits_BC - log_q_C


def pair_loss(
    positive_P: torch.Tensor, negative_PH: torch.Tensor, weights_P: torch.Tensor
) -> torch.Tensor:
    """Return the binary cross-entropy of P positives, each beside the mean over H negatives."""
    softplus = torch.nn.functional.softplus
    losses_P = softplus(-positive_P) + softplus(negative_PH).mean(1)
    return (losses_P * weights_P).sum() / weights_P.sum().clamp(min=1e-9)


def strayed(now_ND: torch.Tensor, before_ND: torch.Tensor) -> torch.Tensor:
    """Return the mean of 1 - cosine between unit vectors."""
    return 1.0 - (now_ND * before_ND).sum(1).mean()
