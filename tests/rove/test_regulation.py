"""The regulator: credit by blocks, a leader that has to earn its place, limits, sums that merge."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from rove.errors import InvalidInput
from rove.regulation import Regulator

OWN = {0.0: 0.5, 0.25: 0.48, 1.0: 0.4}
"""What a block's decisions earn themselves: exploring loses."""
TAUGHT = {0.0: 0.0, 0.25: 0.02, 1.0: 0.12}
"""What the next block earns more: exploring teaches."""


def regulator(**changes: Any) -> Regulator:
    settings: dict[str, Any] = {"baseline": 1, "block_s": 10.0, "half_life_s": 1e12}
    return Regulator((0.0, 0.25, 1.0), **{**settings, **changes})


def live(
    one: Regulator,
    num_blocks: int,
    *,
    segment: str = "all",
    teaches: bool = True,
    trend: float = 0.0,
    seed: int = 0,
) -> list[float]:
    """Play blocks of four decisions with known effects; return each block's strength."""
    rng = np.random.default_rng(seed)
    chosen = [0.0]
    strength = 0.0
    for block in range(num_blocks):
        for decision in range(4):
            time_s = 10.0 * block + decision
            index, strength, probability = one.choose(segment, rng, time_s)
            mean = OWN[strength] + (TAUGHT[chosen[-1]] if teaches else 0.0) + trend * block
            reward = mean + 0.05 * rng.standard_normal()
            one.learn(segment, index, probability, reward, time_s)
        chosen.append(strength)
    return chosen[1:]


def test_a_block_has_one_strength_with_the_probability_of_its_draw() -> None:
    one, rng = regulator(), np.random.default_rng(3)
    assert one.weights("all", 0.0) == pytest.approx([0.05, 0.9, 0.05])
    drawn = [[one.choose("all", rng, 10.0 * block + d) for d in range(5)] for block in range(200)]
    assert all(len(set(block)) == 1 for block in drawn)
    assert {block[0] for block in drawn} == {(0, 0.0, 0.05), (1, 0.25, 0.9), (2, 1.0, 0.05)}


def test_a_block_is_credited_to_its_strength_and_to_the_one_before() -> None:
    """Strengths 1, 2, 1 earn .5, .7, .9; the level is .5 before the second, .6 before the third.

    So y = .2 for (own 2, taught 1) and .3 for (own 1, taught 2); the first block has no level yet.
    Without a prior and with carry 3: worth_1 = .3 + 3 * .2, worth_2 = .2 + 3 * .3.
    """
    one = regulator(prior_blocks=1e-9)
    for block, (index, reward) in enumerate([(1, 0.5), (2, 0.7), (1, 0.9)]):
        one.learn("all", index, 0.5, reward, 10.0 * block)
    difference_G, _, _ = one.differences("all", 10.0)
    assert difference_G.tolist() == [0.0, 0.0, 0.0]
    one.choose("all", np.random.default_rng(0), 60.0)  # closes the three
    difference_G, _, _ = one.differences("all", 60.0)
    assert difference_G[1:] == pytest.approx([0.0, 1.1 - 0.9])


def test_a_strength_leads_once_what_it_teaches_pays() -> None:
    """Worth with carry 3: .5 for greedy, .48 + .06, .4 + .36."""
    one = regulator()
    chosen = live(one, 1_500)
    assert one.weights("all", 15_000.0).argmax() == 2
    assert np.mean(np.array(chosen[-200:]) == 1.0) > 0.8


def test_credit_for_a_decisions_own_reward_alone_would_favour_greedy() -> None:
    one = regulator(carry=0.0)
    live(one, 1_500)
    assert one.weights("all", 15_000.0).argmax() == 0


def test_where_exploring_teaches_nothing_a_strong_baseline_falls_back() -> None:
    """It surely loses a tenth of the reward: another one leads, and it is not even tried."""
    one = regulator(baseline=2)
    live(one, 1_500, teaches=False)
    weight_G = one.weights("all", 15_000.0)
    assert weight_G.argmax() in (0, 1)
    assert weight_G[2] == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_rising_rewards_are_no_merit_of_the_baseline(seed: int) -> None:
    one = regulator()
    live(one, 300, trend=0.002, seed=seed)
    difference_G, _, _ = one.differences("all", 3_000.0)
    assert difference_G[2] > 0.0


def test_the_baseline_leads_until_another_one_surely_earns_more() -> None:
    one = regulator()
    live(one, 20)
    assert one.weights("all", 200.0).argmax() == 1


def test_trials_stay_within_the_budget() -> None:
    """At most 1 % of the mean reward is given up, by the estimated differences."""
    one = regulator(trial_share=1.0, confidence=1e6)
    live(one, 400, teaches=False)
    weight_G = one.weights("all", 4_000.0)
    difference_G, _, _ = one.differences("all", 4_000.0)
    mean = float(np.average([0.5, 0.48, 0.4], weights=[1, 1, 1]))
    assert weight_G @ np.maximum(-difference_G, 0.0) <= 0.01 * mean * 1.2
    assert weight_G.argmax() == 1 and weight_G.sum() == pytest.approx(1.0)


def test_a_new_segment_starts_from_the_others() -> None:
    one = regulator()
    live(one, 1_500, segment="old")
    found, fresh = one.differences("old", 15_000.0)[0], one.differences("new", 15_000.0)[0]
    assert one.weights("new", 15_000.0)[2] > 0.0
    assert fresh[2] == pytest.approx(found[2], rel=0.3)
    own = regulator()
    live(own, 30, segment="alone", teaches=False)
    assert own.differences("alone", 300.0)[0][2] < 0.0 < fresh[2]


def test_what_was_learnt_fades() -> None:
    one = regulator(half_life_s=1_000.0)
    live(one, 1_500)
    before, after = one.differences("all", 15_000.0)[0], one.differences("all", 45_000.0)[0]
    assert abs(after[2]) < 1e-3 < before[2]
    assert one.weights("all", 45_000.0) == pytest.approx([0.05, 0.9, 0.05])


def test_shards_add_up() -> None:
    """Two shards' closed blocks, at the later of their times: half-lives are kept."""
    first, second = regulator(half_life_s=5_000.0), regulator(half_life_s=5_000.0)
    live(first, 200, seed=1)
    live(second, 400, seed=2)
    both = first.merged(second)
    again = second.merged(first)
    for found, expected in zip(
        both.differences("all", 4_000.0), again.differences("all", 4_000.0), strict=True
    ):
        assert found == pytest.approx(expected)
    alone = first.merged(regulator(half_life_s=5_000.0))
    assert alone.differences("all", 4_000.0)[0] == pytest.approx(
        first.differences("all", 4_000.0)[0]
    )
    assert (both.differences("all", 4_000.0)[1] <= second.differences("all", 4_000.0)[1]).all()


def test_a_ledger_read_again_gives_the_same_weights() -> None:
    one, again, rows = regulator(), regulator(), []
    rng = np.random.default_rng(5)
    for block in range(100):
        index, _, probability = one.choose("all", rng, 10.0 * block)
        rows.append((index, probability, float(rng.random()), 10.0 * block))
        one.learn("all", *rows[-1])
    for row in rows:
        again.learn("all", *row)
    assert again.weights("all", 995.0).tolist() == one.weights("all", 995.0).tolist()


def test_what_is_known_survives_a_restart() -> None:
    """To the bit, open blocks included; sums of other strengths mean nothing."""
    one, again, other = regulator(), regulator(), Regulator((0.0, 0.5, 1.0), baseline=1)
    live(one, 57)
    assert again.restore(one.dump()) == {"all"}
    assert again.dump() == one.dump()
    live(one, 80, seed=1)
    live(again, 80, seed=1)
    assert again.weights("all", 800.0).tolist() == one.weights("all", 800.0).tolist()
    assert one.differences("all", 800.0)[0].any()
    assert other.restore(one.dump()) == set()
    assert not other.differences("all", 800.0)[0].any()


def test_rewards_of_closed_blocks_and_of_other_strengths_do_not_count() -> None:
    one, same = regulator(), regulator()
    for known in (one, same):
        for block in range(6):
            known.learn("all", block % 3, 0.5, 0.1 * block, 10.0 * block)
    one.learn("all", 0, 0.5, 9.0, 5.0)  # closed since
    one.learn("all", 0, 0.5, 9.0, 51.0)  # the block's strength is 2
    for known in (one, same):
        known.choose("all", np.random.default_rng(0), 200.0)
    assert one.differences("all", 200.0)[0] == pytest.approx(same.differences("all", 200.0)[0])


def test_what_a_uniform_choice_would_have_earned_is_taken_off() -> None:
    """Hard and easy requests in turn: without `expected` they are taken for the strengths'."""
    deviations = []
    for known in (0.0, 1.0):
        one, rng = regulator(), np.random.default_rng(6)
        for block in range(300):
            index, _, probability = one.choose("all", rng, 10.0 * block)
            ease = float(rng.random())
            one.learn("all", index, probability, ease + 0.1, 10.0 * block, expected=known * ease)
        deviations.append(one.differences("all", 3_000.0)[1][2])
    assert deviations[1] < 0.1 * deviations[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strengths": ()}, "strengths must be numbers of at least 0, got []"),
        ({"strengths": (0.0, np.nan)}, "strengths must be numbers of at least 0, got [0.0, nan]"),
        ({"strengths": (0.25, 0.5)}, "strengths must rise from 0 (greedy), got [0.25, 0.5]"),
        ({"strengths": (0.0, 0.5, 0.5)}, "strengths must rise from 0 (greedy)"),
        ({"baseline": 5}, "baseline must be a place in"),
        ({"block_s": 0.0}, "block_s and half_life_s must be above 0"),
        ({"budget": 1.5}, "budget and trial_share in [0, 1], got"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        Regulator(**settings)


def test_rewards_that_cannot_be_used_are_refused() -> None:
    one = regulator()
    with pytest.raises(InvalidInput, match=re.escape("a reward must be finite")):
        one.learn("all", 0, 0.5, float("nan"), 0.0)
    with pytest.raises(InvalidInput, match=re.escape("probability in (0, 1], got 1.0 and 0.0")):
        one.learn("all", 0, 0.0, 1.0, 0.0)
    with pytest.raises(InvalidInput, match=re.escape("index must be from 0 to 2, got 3")):
        one.learn("all", 3, 0.5, 1.0, 0.0)
