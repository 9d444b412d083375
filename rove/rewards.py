"""What an interaction is worth: one number per interaction, one per slot of a decision.

    reward(interaction) = weight * transform(field)       by the rule of its type
    reward(slot)        = aggregation over its interactions; the default if none came

- An interaction of a type without a rule is worth 0: it is stored and neutral.
- A field that the transform needs and the interaction lacks gives 0, for the same reason.
- `reward`, the explicit reward, is its own value, whatever the preset and the rules.
- What is worth more than 0 counts as seen: the user has bought, watched or liked the item.

Presets: the event a service exists for is worth 1, the others are worth what they tell about the
user's interest beside it. They are starting points, not measurements; `rewards.rules` replaces
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from rove.config import RewardRule, RewardSection
from rove.events import Interaction, InteractionType

Aggregation = Literal["sum", "max", "last", "earliest"]
Floats = npt.NDArray[np.float64]
Rules = Mapping[InteractionType, RewardRule]

_MINUTE_S = 60.0
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardMap:
    """What every interaction type is worth, and how the interactions of a slot add up."""

    rules: Rules
    aggregation: Aggregation
    wait_s: float
    """How long a decision waits for its reward."""
    default: float = 0.0
    """The reward of a slot that earned nothing in time."""

    @classmethod
    def from_config(cls, section: RewardSection) -> Self:
        """Return the section's preset with the section's own settings in their place."""
        preset = PRESETS[section.preset]
        wait_s, default = section.reward_wait_time_s, section.default_reward
        return cls(
            rules={**preset.rules, **section.rules},
            aggregation=section.aggregation or preset.aggregation,
            wait_s=preset.wait_s if wait_s is None else wait_s,
            default=preset.default if default is None else default,
        )

    def reward(self, interaction: Interaction) -> float:
        """Return what one interaction is worth."""
        if interaction.type is InteractionType.REWARD:
            return 0.0 if interaction.value is None else interaction.value
        rule = self.rules.get(interaction.type)
        if rule is None:
            return 0.0
        if rule.transform == "constant":
            return rule.weight
        x = getattr(interaction, _FIELDS[rule.transform])
        return 0.0 if x is None else rule.weight * min(1.0, max(0.0, _scaled(rule, x)))

    def rewards(
        self, types: Sequence[str], value: Floats, duration_s: Floats, watch_ratio: Floats
    ) -> Floats:
        """Return what n interactions are worth, (n,); NaN stands for a field that is missing."""
        fields = {"value": value, "duration_s": duration_s, "watch_ratio": watch_ratio}
        names = np.asarray(types, dtype=object)  # (n,)
        worth = np.zeros(len(names))
        for name in set(types):
            rows = np.flatnonzero(names == name)
            rule = self.rules.get(InteractionType(name))
            if name == InteractionType.REWARD:
                worth[rows] = np.nan_to_num(value[rows])
            elif rule is not None and rule.transform == "constant":
                worth[rows] = rule.weight
            elif rule is not None:
                x = fields[_FIELDS[rule.transform]][rows]
                scaled = np.array([_scaled(rule, one) for one in x.tolist()])
                worth[rows] = rule.weight * np.nan_to_num(np.clip(scaled, 0.0, 1.0))
        return worth

    def aggregate(self, rewards: Sequence[float], timestamps: Sequence[float]) -> float:
        """Return the reward of a slot from its interactions' rewards, or the default from none.

        Of equal timestamps, `earliest` takes the first given and `last` the last given.
        """
        if len(rewards) == 0:
            return self.default
        order = sorted(range(len(rewards)), key=lambda n: timestamps[n])
        match self.aggregation:
            case "sum":
                return math.fsum(rewards)
            case "max":
                return max(rewards)
            case "earliest":
                return rewards[order[0]]
            case "last":
                return rewards[order[-1]]


_FIELDS = {
    "value": "value",
    "duration_s": "duration_s",
    "log_duration": "duration_s",
    "watch_ratio": "watch_ratio",
}


def _scaled(rule: RewardRule, x: float) -> float:
    """Return the transform of the field `x`, before it is clipped to [0, 1]."""
    match rule.transform:
        case "value":
            return (x - rule.low) / (rule.high - rule.low)
        case "duration_s":
            return x / rule.high
        case "log_duration":
            return math.log1p(x) / math.log1p(rule.high)
        case "watch_ratio":
            return x
        case "constant":
            return 1.0


def _constant(**weights: float) -> dict[InteractionType, RewardRule]:
    return {InteractionType(name): RewardRule(weight=weight) for name, weight in weights.items()}


def _dwell(weight: float, high_s: float) -> dict[InteractionType, RewardRule]:
    """Attention: most of it is told by the first seconds, all of it after `high_s`."""
    rule = RewardRule(weight=weight, transform="log_duration", high=high_s)
    return {InteractionType.DWELL: rule}


def _watch(weight: float) -> dict[InteractionType, RewardRule]:
    return {InteractionType.WATCH: RewardRule(weight=weight, transform="watch_ratio")}


def _stars(weight: float) -> dict[InteractionType, RewardRule]:
    """One to five stars: 0 to `weight`."""
    return {InteractionType.RATING: RewardRule(weight=weight, transform="value", low=1, high=5)}


# The funnel: only its furthest step counts (max), so three looks are not a purchase.
_SHOP: Rules = {
    **_constant(view=0.05, click=0.1, like=0.2, comment=0.2, follow=0.2, share=0.3, favorite=0.3),
    **_constant(add_to_cart=0.4, purchase=1.0, dislike=-0.3, hide=-0.5, report=-0.5),
    **_dwell(0.1, 120),
    **_watch(0.1),
    **_stars(0.8),
}
# Taking part counts, looking hardly; each further reaction to a post adds to it (sum).
_SOCIAL: Rules = {
    **_constant(view=0.02, click=0.1, like=0.4, favorite=0.5, comment=0.7, share=1.0, follow=1.0),
    **_constant(dislike=-0.5, hide=-0.7, report=-1.0),
    **_dwell(0.2, 60),
    **_watch(0.4),
}
# How much of it was watched; progress is reported again and again, so the most counts (max).
_STREAMING: Rules = {
    **_constant(click=0.05, like=0.6, favorite=0.6, share=0.5, follow=0.5, comment=0.3),
    **_constant(purchase=1.0, dislike=-0.5, hide=-0.5, report=-1.0),
    **_watch(1.0),
    **_stars(1.0),
}
# Click and reading time add up to 1 (sum): a click that is left at once is a headline's doing.
_NEWS: Rules = {
    **_constant(click=0.2, like=0.3, comment=0.4, follow=0.4, share=0.5, favorite=0.5),
    **_constant(dislike=-0.4, hide=-0.5, report=-1.0),
    **_dwell(0.8, 180),
    **_watch(0.6),
}
# Finishing a lesson is the goal, enrolling is a good sign, curiosity a weak one.
_EDUCATION: Rules = {
    **_constant(click=0.05, add_to_cart=0.2, favorite=0.3, comment=0.3, like=0.4, share=0.4),
    **_constant(follow=0.4, purchase=0.6, dislike=-0.4, hide=-0.5, report=-1.0),
    **_dwell(0.3, 1800),
    **_watch(1.0),
    **_stars(0.8),
}
# Rare acts with consequences: looking around says little, an application begun says more.
_FINANCE: Rules = {
    **_constant(click=0.05, follow=0.3, favorite=0.3, add_to_cart=0.5, purchase=1.0),
    **_constant(dislike=-0.4, hide=-0.5, report=-1.0),
    **_dwell(0.1, 300),
    **_stars(0.5),
}
# What was done to the end and what people say helped them; attraction is next to nothing.
_HEALTH: Rules = {
    **_constant(click=0.02, comment=0.2, like=0.4, favorite=0.4, purchase=0.4, follow=0.5),
    **_constant(dislike=-0.5, hide=-0.5, report=-1.0),
    **_dwell(0.2, 900),
    **_watch(1.0),
    **_stars(1.0),
}

PRESETS: Mapping[str, RewardMap] = {
    "shop": RewardMap(rules=_SHOP, aggregation="max", wait_s=_DAY_S),
    "social": RewardMap(rules=_SOCIAL, aggregation="sum", wait_s=30 * _MINUTE_S),
    "streaming": RewardMap(rules=_STREAMING, aggregation="max", wait_s=_DAY_S),
    "news": RewardMap(rules=_NEWS, aggregation="sum", wait_s=30 * _MINUTE_S),
    "education": RewardMap(rules=_EDUCATION, aggregation="max", wait_s=7 * _DAY_S),
    "finance": RewardMap(rules=_FINANCE, aggregation="max", wait_s=7 * _DAY_S),
    "health": RewardMap(rules=_HEALTH, aggregation="max", wait_s=7 * _DAY_S),
}
