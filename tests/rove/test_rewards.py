"""What interactions are worth, by hand."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from pydantic import ValidationError

from rove.config import RewardRule, RewardSection
from rove.events import Interaction, InteractionType
from rove.rewards import PRESETS, RewardMap


def interaction(
    type: InteractionType,
    value: float | None = None,
    duration_s: float | None = None,
    watch_ratio: float | None = None,
) -> Interaction:
    return Interaction(
        interaction_id="i",
        user_id="ann",
        item_id="pear",
        type=type,
        value=value,
        duration_s=duration_s,
        watch_ratio=watch_ratio,
    )


def with_rule(type: InteractionType, rule: RewardRule) -> RewardMap:
    return RewardMap.from_config(RewardSection(rules={type: rule}))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 0.0), (2, 0.5), (3, 1.0), (5, 2.0), (9, 2.0), (-4, 0.0), (None, 0.0)],
)
def test_a_value_is_scaled_and_clipped(value: float | None, expected: float) -> None:
    """weight 2 * (value - 1) / (5 - 1), the fraction within [0, 1]."""
    rule = RewardRule(weight=2, transform="value", low=1, high=5)
    rewards = with_rule(InteractionType.RATING, rule)
    assert rewards.reward(interaction(InteractionType.RATING, value=value)) == expected


def test_a_duration_is_a_share_of_the_longest() -> None:
    rule = RewardRule(weight=0.5, transform="duration_s", high=60)
    rewards = with_rule(InteractionType.DWELL, rule)
    assert rewards.reward(interaction(InteractionType.DWELL, duration_s=30)) == 0.25
    assert rewards.reward(interaction(InteractionType.DWELL, duration_s=600)) == 0.5
    assert rewards.reward(interaction(InteractionType.DWELL)) == 0.0


def test_a_log_duration_tells_most_at_first() -> None:
    """log(1 + 3) / log(1 + 63) = 2 log 2 / (6 log 2) = 1/3."""
    rule = RewardRule(transform="log_duration", high=63)
    rewards = with_rule(InteractionType.DWELL, rule)
    reward = rewards.reward(interaction(InteractionType.DWELL, duration_s=3))
    assert math.isclose(reward, 1 / 3)
    assert rewards.reward(interaction(InteractionType.DWELL, duration_s=0)) == 0.0
    assert rewards.reward(interaction(InteractionType.DWELL, duration_s=1e9)) == 1.0


def test_a_watch_ratio_counts_to_the_end_and_no_further() -> None:
    rewards = RewardMap.from_config(RewardSection(preset="streaming"))
    assert rewards.reward(interaction(InteractionType.WATCH, watch_ratio=0.4)) == 0.4
    assert rewards.reward(interaction(InteractionType.WATCH, watch_ratio=2.0)) == 1.0


def test_the_explicit_reward_is_its_value() -> None:
    """Whatever the rules say, and not clipped."""
    rewards = with_rule(InteractionType.REWARD, RewardRule(weight=5))
    assert rewards.reward(interaction(InteractionType.REWARD, value=-2.5)) == -2.5
    assert rewards.reward(interaction(InteractionType.REWARD)) == 0.0


def test_a_type_without_a_rule_is_neutral() -> None:
    rewards = RewardMap.from_config(RewardSection(preset="finance"))
    assert rewards.reward(interaction(InteractionType.SHARE)) == 0.0


def test_rules_replace_and_extend_the_preset() -> None:
    section = RewardSection(
        preset="shop",
        rules={
            InteractionType.CLICK: RewardRule(weight=0.7),
            InteractionType.IMPRESSION: RewardRule(weight=-0.01),
        },
    )
    rewards = RewardMap.from_config(section)
    assert rewards.reward(interaction(InteractionType.CLICK)) == 0.7
    assert rewards.reward(interaction(InteractionType.IMPRESSION)) == -0.01
    assert rewards.reward(interaction(InteractionType.PURCHASE)) == 1.0


def test_settings_replace_the_presets_own() -> None:
    section = RewardSection(aggregation="last", reward_wait_time_s=5, default_reward=-0.1)
    rewards = RewardMap.from_config(section)
    assert (rewards.aggregation, rewards.wait_s, rewards.default) == ("last", 5.0, -0.1)
    assert RewardMap.from_config(RewardSection()).wait_s == 86_400


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("sum", 1.5), ("max", 1.0), ("last", -0.5), ("earliest", 1.0)]
)
def test_a_slot_aggregates(aggregation: str, expected: float) -> None:
    """Rewards 1.0, -0.5 and 1.0 at times 1, 3 and 2, given out of order."""
    rewards = RewardMap.from_config(RewardSection.model_validate({"aggregation": aggregation}))
    assert rewards.aggregate([-0.5, 1.0, 1.0], [3.0, 1.0, 2.0]) == expected


def test_of_equal_times_the_first_and_last_given_count() -> None:
    earliest = RewardMap.from_config(RewardSection(aggregation="earliest"))
    last = RewardMap.from_config(RewardSection(aggregation="last"))
    assert earliest.aggregate([0.1, 0.2, 0.3], [5.0, 5.0, 5.0]) == 0.1
    assert last.aggregate([0.1, 0.2, 0.3], [5.0, 5.0, 5.0]) == 0.3


def test_a_slot_that_earned_nothing_gets_the_default() -> None:
    rewards = RewardMap.from_config(RewardSection(default_reward=-0.2))
    assert rewards.aggregate([], []) == -0.2


@pytest.mark.parametrize("preset", PRESETS)
def test_columns_are_worth_what_their_rows_are(preset: str) -> None:
    rewards = RewardMap.from_config(RewardSection.model_validate({"preset": preset}))
    draws = np.random.default_rng(1)
    types = [type for type in InteractionType for _ in range(20)]
    columns = draws.uniform(-2, 400, size=(3, len(types)))
    columns[draws.random(columns.shape) < 0.3] = np.nan
    worth = rewards.rewards(types, *columns)
    for number, type in enumerate(types):
        fields = [None if math.isnan(x) else float(x) for x in columns[:, number]]
        assert worth[number] == rewards.reward(interaction(type, *fields))


def test_no_rows_are_worth_nothing() -> None:
    empty = np.empty(0)
    assert RewardMap.from_config(RewardSection()).rewards([], empty, empty, empty).shape == (0,)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_sensible(preset: str) -> None:
    """Nothing is worth more than the goal, clicks little, seeing nothing, refusals less."""
    rewards = PRESETS[preset]
    weights = {type: rule.weight for type, rule in rewards.rules.items()}
    assert max(weights.values()) <= 1.0
    assert 0 < weights[InteractionType.CLICK] <= 0.2
    assert InteractionType.IMPRESSION not in weights
    for refusal in (InteractionType.DISLIKE, InteractionType.HIDE, InteractionType.REPORT):
        assert -1 <= weights[refusal] < 0
    assert 60 <= rewards.wait_s <= 30 * 86_400


@pytest.mark.parametrize(
    ("preset", "events"),
    [
        ("shop", [interaction(InteractionType.PURCHASE)]),
        ("social", [interaction(InteractionType.SHARE)]),
        ("streaming", [interaction(InteractionType.WATCH, watch_ratio=1)]),
        (
            "news",
            [
                interaction(InteractionType.CLICK),
                interaction(InteractionType.DWELL, duration_s=180),
            ],
        ),
        ("education", [interaction(InteractionType.WATCH, watch_ratio=1)]),
        ("finance", [interaction(InteractionType.PURCHASE)]),
        ("health", [interaction(InteractionType.RATING, value=5)]),
    ],
)
def test_what_a_service_exists_for_is_worth_one(preset: str, events: list[Interaction]) -> None:
    rewards = PRESETS[preset]
    assert rewards.aggregate([rewards.reward(one) for one in events], [0.0] * len(events)) == 1.0


def test_every_preset_of_the_configuration_exists() -> None:
    names = RewardSection.model_json_schema()["properties"]["preset"]["enum"]
    assert set(names) == set(PRESETS)


@pytest.mark.parametrize("transform", ["duration_s", "log_duration"])
def test_a_longest_duration_of_nothing_is_refused(transform: str) -> None:
    tree = {"transform": transform, "low": -5, "high": 0}
    with pytest.raises(ValidationError, match=re.escape("high must be above 0 seconds")):
        RewardRule.model_validate(tree)
