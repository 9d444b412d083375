"""The losses by hand, beside numpy and by finite differences."""

from __future__ import annotations

import math

import numpy as np
import torch

from rove.adaptation import losses
from rove.model import user_posterior


def test_the_posterior_mean_is_that_of_serving() -> None:
    """S_0 = I s^2 and ridge = sigma^2 / s^2; two users, one with two interactions."""
    rng = np.random.default_rng(0)
    x_CD, intercept_C, mean_D = rng.normal(size=(20, 4)), rng.random(20), rng.normal(size=4)
    noise, scale = 0.3, 0.7
    serving = user_posterior(
        feature_gram_DD=x_CD.T @ x_CD,
        intercept_D=intercept_C @ x_CD,
        taste_mean_D=mean_D,
        taste_covariance_DD=np.eye(4) * scale,
        noise_variance=noise,
    )
    pulls_BD = np.stack([x_CD[3] + x_CD[7], x_CD[5]])
    expected_BD = serving.means(pulls_BD, np.array([True, True]))
    x = torch.tensor(x_CD)
    found_BD = losses.posterior_means(
        losses.gram(x, torch.ones(20, dtype=torch.float64)),
        losses.gathered(x, torch.tensor([[3, 7, -1], [5, -1, -1]])),
        torch.tensor(intercept_C) @ x,
        torch.tensor(mean_D),
        torch.tensor(noise / scale),
    )
    np.testing.assert_allclose(found_BD.numpy(), expected_BD, atol=1e-10)


def test_gradients_pass_through_the_solve() -> None:
    """Finite differences of the whole loss, in the vectors, the prior mean and the ridge."""
    generator = torch.Generator().manual_seed(0)
    x_CD = torch.randn(9, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    mean_D = torch.randn(3, dtype=torch.float64, generator=generator, requires_grad=True)
    ridge = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def loss(x_CD: torch.Tensor, mean_D: torch.Tensor, ridge: torch.Tensor) -> torch.Tensor:
        means_BD = losses.posterior_means(
            losses.gram(x_CD, torch.ones(9, dtype=torch.float64)),
            losses.gathered(x_CD, torch.tensor([[0, 1], [2, -1]])),
            x_CD.mean(0),
            mean_D,
            ridge,
        )
        queries_BQ = torch.tensor([[4, 5], [6, -1]])
        return losses.softmax_loss(means_BD @ x_CD.T, queries_BQ, torch.ones(2, 2).double())

    assert torch.autograd.gradcheck(loss, (x_CD, mean_D, ridge))


def test_a_candidate_that_stands_for_three_counts_three_times() -> None:
    """x = 2 in one dimension: G = 3 * 4."""
    assert losses.gram(torch.tensor([[2.0]]), torch.tensor([3.0])).item() == 12.0


def test_the_softmax_loss_is_the_weighted_mean_of_negative_log_shares() -> None:
    """Shares 1/4, 1/4, 1/2; query 2 with weight 3, query 0 with weight 1, one absent:
    (3 log 2 + log 4) / 4."""
    logits = torch.tensor([[0.0, 0.0, math.log(2.0)]])
    loss = losses.softmax_loss(
        logits, torch.tensor([[2, 0, -1]]), torch.tensor([[3.0, 1.0, 100.0]])
    )
    assert math.isclose(loss.item(), (3 * math.log(2) + math.log(4)) / 4, rel_tol=1e-6)


def test_known_items_have_no_share() -> None:
    logits = losses.without(torch.zeros(2, 3), torch.tensor([[1, -1], [-1, -1]]))
    shares = torch.softmax(logits, 1)
    torch.testing.assert_close(shares[0], torch.tensor([0.5, 0.0, 0.5]))
    torch.testing.assert_close(shares[1], torch.full((3,), 1 / 3))


def test_log_q_takes_the_advantage_of_frequent_items() -> None:
    """An item four times as frequent with log 4 more: both have the same share."""
    corrected = losses.corrected(
        torch.tensor([[math.log(4.0), 0.0]]), torch.tensor([0.8, 0.2]).log()
    )
    torch.testing.assert_close(torch.softmax(corrected, 1), torch.tensor([[0.5, 0.5]]))


def test_the_pair_loss_is_binary_cross_entropy() -> None:
    """sigmoid(0) = 1/2: log 2 for the positive, log 2 for the mean of the negatives."""
    loss = losses.pair_loss(torch.zeros(1), torch.zeros(1, 3), torch.ones(1))
    assert math.isclose(loss.item(), 2 * math.log(2), rel_tol=1e-6)


def test_a_pair_with_more_weight_counts_more() -> None:
    """Losses log 2 + log 2 and, with a positive at 100, 0 + log 2; weights 1 and 3."""
    loss = losses.pair_loss(torch.tensor([0.0, 100.0]), torch.zeros(2, 1), torch.tensor([1.0, 3.0]))
    assert math.isclose(loss.item(), (2 * math.log(2) + 3 * math.log(2)) / 4, rel_tol=1e-6)


def test_straying_is_one_minus_the_cosine() -> None:
    now = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    before = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert losses.strayed(now, before).item() == 0.5
