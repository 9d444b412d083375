"""How strongly to explore, learnt per segment of users from what exploring earned and taught.

    regulator = Regulator(baseline=2, block_s=3600.0)
    index, strength, probability = regulator.choose("new-users", rng, time)    # decide with it
    regulator.learn("new-users", index, probability, reward, time)             # its decision's time

What exploring teaches is earned later and by everybody, so a decision's own reward does not show
it. Strengths are therefore switched in blocks of time (a switchback experiment; Bojinov,
Simchi-Levi & Zhao 2023): all of a segment's decisions of a block share one strength g(b). With y_b
the block's mean reward less the level of the blocks before it, the worth of a strength is

    worth_g = own_g + carry taught_g,   own_g = E[y_b | g(b) = g],   taught_g = E[y_b | g(b-1) = g]

Means are weighed by 1 / the probability of the strength's draw, so that they are of the same blocks
for every strength: a trend, or a level that follows the leader, adds noise but no bias. `carry`
says for how many blocks a discovery pays.

- **Difference to the baseline strength**, d_g = worth_g - worth_baseline, is what is judged; it is
  shrunk to that of all other segments together (as `prior_blocks` blocks), and that to none.
- **Leader**: the strength whose d_g is largest at its lower confidence bound, the baseline (d = 0)
  unless one is above zero: a strength has to earn its place.
- **Guard-rail**: a strength that is surely, with the same confidence, worth less than greedy
  (strength 0) by more than `budget` of the mean reward is not tried; it comes back as what is known
  of it fades. If that is the baseline, greedy or another strength leads by then.
- **Budget**: the others are tried in `trial_share` of the blocks, less where that would give up
  more than `budget` of the segment's mean reward, by d_g.
- State is additive: discounted sums per (segment, strength) of closed blocks. Shards' sums merge;
  a ledger read again in order of decisions gives the same state.

Shapes: E effects (own, taught), M moments, G strengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from rove.errors import InvalidInput

Array = npt.NDArray[np.float64]

STRENGTHS = (0.0, 0.125, 0.25, 0.5, 1.0)
_LEVEL_BLOCKS = 8.0
"""The level is a mean of about so many blocks before."""
_OPEN_BLOCKS = 3
"""A block is closed when this many have begun after it: late rewards still count."""
_EM = (2, 6)
_OWN, _TAUGHT = 0, 1
_WEIGHT, _SUM, _WEIGHT_SQUARE, _NUM, _PLAIN_SUM, _PLAIN_SQUARE = range(6)
_LEAST_PROBABILITY = 0.01
"""No block counts for more than the inverse of this."""


@dataclass(slots=True)
class _Block:
    """A block that still takes rewards."""

    index: int
    probability: float
    num: float = 0.0
    total: float = 0.0
    reward: float = 0.0

    def moments(self, y: float) -> Array:
        """Return what a block adds to the sums of its strength, (M,)."""
        weight = 1.0 / max(self.probability, _LEAST_PROBABILITY)
        return np.array([weight, weight * y, weight * weight, 1.0, y, y * y])


@dataclass(slots=True)
class Earnings:
    """One segment's closed blocks, discounted to `as_of_s`."""

    sums_EMG: Array
    """(own, taught) x sums of (w, w y, w^2, 1, y, y^2) x strengths, w = 1 / probability."""
    num_rewards: float = 0.0
    reward: float = 0.0
    as_of_s: float = 0.0
    num_closed: int = 0
    level: float | None = None
    before: _Block | None = None
    """The last block that was closed, and its number."""
    before_number: int = 0
    open: dict[int, _Block] = field(default_factory=dict)

    def discounted(self, time_s: float, half_life_s: float) -> tuple[Array, float, float]:
        """Return sums, number of rewards and their sum as they count at a time."""
        factor = 2.0 ** (-max(time_s - self.as_of_s, 0.0) / half_life_s)
        sums_EMG: Array = self.sums_EMG * factor
        return sums_EMG, self.num_rewards * factor, self.reward * factor


class Regulator:
    """Chooses strengths; a function of what it was told."""

    def __init__(
        self,
        strengths: Sequence[float] = STRENGTHS,
        *,
        baseline: int = 2,
        block_s: float = 3_600.0,
        half_life_s: float = 30 * 86_400.0,
        budget: float = 0.01,
        trial_share: float = 0.1,
        carry: float = 3.0,
        prior_blocks: float = 20.0,
        confidence: float = 2.326,
    ) -> None:
        if not strengths or any(not 0.0 <= one < np.inf for one in strengths):
            raise InvalidInput(f"strengths must be numbers of at least 0, got {list(strengths)}")
        if list(strengths) != sorted(set(strengths)) or strengths[0] != 0.0:
            raise InvalidInput(f"strengths must rise from 0 (greedy), got {list(strengths)}")
        if not 0 <= baseline < len(strengths):
            raise InvalidInput(
                f"baseline must be a place in {list(strengths)}, got {baseline}; 0 is greedy"
            )
        if min(block_s, half_life_s) <= 0.0 or not (0.0 <= budget <= 1.0 >= trial_share >= 0.0):
            raise InvalidInput(
                "block_s and half_life_s must be above 0, budget and trial_share in [0, 1], got "
                f"{block_s}, {half_life_s}, {budget}, {trial_share}"
            )
        self.strengths = tuple(strengths)
        self.baseline = baseline
        self.block_s = block_s
        self.half_life_s = half_life_s
        self.budget = budget
        self.trial_share = trial_share
        self.carry = carry
        self.prior_blocks = prior_blocks
        self.confidence = confidence
        self._earnings: dict[str, Earnings] = {}

    def choose(
        self, segment: str, rng: np.random.Generator, time_s: float
    ) -> tuple[int, float, float]:
        """Return the block's strength, its place, and the probability with which it was drawn."""
        earnings = self._of(segment)
        number = self._number(time_s)
        self._close(earnings, number)
        block = earnings.open.get(number)
        if block is None:
            weight_G = self.weights(segment, time_s)
            index = int(rng.choice(len(weight_G), p=weight_G))
            block = earnings.open[number] = _Block(index, float(weight_G[index]))
        return block.index, self.strengths[block.index], block.probability

    def learn(
        self,
        segment: str,
        index: int,
        probability: float,
        reward: float,
        time_s: float,
        expected: float = 0.0,
    ) -> None:
        """Count a decision's reward for the block in which the decision was made.

        `expected`: what a uniform choice would have earned, if known: it takes away the noise of
        who came. Call it for every decision, in their order; what comes after its block was closed,
        or is of another strength than the block's, does not count.
        """
        if not np.isfinite(reward - expected) or not 0.0 < probability <= 1.0:
            raise InvalidInput(
                f"a reward must be finite and its probability in (0, 1], got {reward} and "
                f"{probability}; correct the ledger's row"
            )
        if not 0 <= index < len(self.strengths):
            raise InvalidInput(f"index must be from 0 to {len(self.strengths) - 1}, got {index}")
        earnings, number = self._of(segment), self._number(time_s)
        self._close(earnings, number)
        if earnings.before is not None and number <= earnings.before_number:
            return
        block = earnings.open.setdefault(number, _Block(index, probability))
        if block.index == index:
            block.num += 1.0
            block.total += reward - expected
            block.reward += reward

    def weights(self, segment: str, time_s: float) -> Array:
        """Return the probability of each strength for a segment's next block, (G,)."""
        difference_G, deviation_G, above_greedy_G = self.differences(segment, time_s)
        level = self._mean_reward(segment)
        low_G = difference_G - self.confidence * deviation_G
        best = int(low_G.argmax())
        leader = best if low_G[best] > 0.0 else self.baseline
        allowed_G = above_greedy_G >= -self.budget * level
        allowed_G[[0, leader]] = True
        trial_G = allowed_G.astype(np.float64)
        trial_G[leader] = 0.0
        if trial_G.any():
            trial_G *= self.trial_share / trial_G.sum()
        lost = float(trial_G @ np.maximum(difference_G[leader] - difference_G, 0.0))
        if lost > self.budget * level:
            trial_G *= self.budget * level / lost
        trial_G[leader] = 1.0 - trial_G.sum()
        return trial_G

    def differences(self, segment: str, time_s: float) -> tuple[Array, Array, Array]:
        """Return mean and deviation of worth less the baseline's, and its upper bound over greedy.

        All (G,), per decision.
        """
        mine = self._of(segment).discounted(time_s, self.half_life_s)[0]
        everyone = np.zeros_like(mine)
        for one in self._earnings.values():
            everyone += one.discounted(time_s, self.half_life_s)[0]
        variance = _variance(everyone)
        # A trend is in the mean of all strengths alike: to shrink to zero would favour what was
        # played most while rewards rise.
        total_EM = everyone.sum(2)
        mean_E1 = total_EM[:, _PLAIN_SUM, None] / np.maximum(total_EM[:, _NUM, None], 1e-9)
        mean_EG, variance_EG = np.repeat(mean_E1, len(self.strengths), 1), np.zeros_like(mine[:, 0])
        for sums_EMG in (everyone - mine, mine):
            weight_EG = np.maximum(sums_EMG[:, _WEIGHT], 1e-9)
            # As many blocks of equal weight would know as much (Kish 1965).
            num_EG = weight_EG * weight_EG / np.maximum(sums_EMG[:, _WEIGHT_SQUARE], 1e-9)
            share_EG = num_EG / (num_EG + self.prior_blocks)
            mean_EG = share_EG * sums_EMG[:, _SUM] / weight_EG + (1.0 - share_EG) * mean_EG
            rest_EG = np.square(1.0 - share_EG) * variance_EG
            variance_EG = variance / (num_EG + self.prior_blocks) + rest_EG
        worth_G = mean_EG[_OWN] + self.carry * mean_EG[_TAUGHT]
        variance_G = variance_EG[_OWN] + self.carry**2 * variance_EG[_TAUGHT]
        difference_G = worth_G - worth_G[self.baseline]
        deviation_G = np.sqrt(variance_G + variance_G[self.baseline])
        deviation_G[self.baseline] = 0.0
        margin_G = self.confidence * np.sqrt(variance_G + variance_G[0])
        return difference_G, deviation_G, worth_G - worth_G[0] + margin_G

    def merged(self, other: Regulator) -> Regulator:
        """Return a regulator that knows the closed blocks of both, as two shards' are."""
        both = Regulator(
            self.strengths,
            baseline=self.baseline,
            block_s=self.block_s,
            half_life_s=self.half_life_s,
            budget=self.budget,
            trial_share=self.trial_share,
            carry=self.carry,
            prior_blocks=self.prior_blocks,
            confidence=self.confidence,
        )
        for regulator in (self, other):
            for segment, one in regulator._earnings.items():
                mine = both._of(segment)
                time_s = max(mine.as_of_s, one.as_of_s)
                both._discount(mine, time_s)
                sums_EMG, num, reward = one.discounted(time_s, self.half_life_s)
                mine.sums_EMG += sums_EMG
                mine.num_rewards += num
                mine.reward += reward
        return both

    def dump(self) -> str:
        """Return all that is known, as JSON."""
        segments = {
            segment: {
                "sums": one.sums_EMG.tolist(),
                "num_rewards": one.num_rewards,
                "reward": one.reward,
                "as_of_s": one.as_of_s,
                "num_closed": one.num_closed,
                "level": one.level,
                "before": one.before,
                "before_number": one.before_number,
                "open": {str(number): block for number, block in one.open.items()},
            }
            for segment, one in self._earnings.items()
        }
        return msgspec.json.encode({"strengths": self.strengths, "segments": segments}).decode()

    def restore(self, dumped: str) -> set[str]:
        """Take over what `dump` gave, and return its segments; other strengths begin anew."""
        known = msgspec.json.decode(dumped)
        if tuple(known["strengths"]) != self.strengths:
            return set()
        for segment, one in known["segments"].items():
            sums_EMG = np.array(one["sums"], np.float64)
            before = one["before"]
            self._earnings[segment] = Earnings(
                sums_EMG=sums_EMG,
                num_rewards=one["num_rewards"],
                reward=one["reward"],
                as_of_s=one["as_of_s"],
                num_closed=one["num_closed"],
                level=one["level"],
                before=None if before is None else _Block(**before),
                before_number=one["before_number"],
                open={int(number): _Block(**block) for number, block in one["open"].items()},
            )
        return set(self._earnings)

    def _of(self, segment: str) -> Earnings:
        earnings = self._earnings.get(segment)
        if earnings is None:
            sums_EMG = np.zeros((*_EM, len(self.strengths)))
            earnings = self._earnings[segment] = Earnings(sums_EMG=sums_EMG)
        return earnings

    def _number(self, time_s: float) -> int:
        return int(time_s // self.block_s)

    def _mean_reward(self, segment: str) -> float:
        """Return a segment's mean reward, that of all while it has none; in absolute value."""
        mine = self._of(segment)
        known = [mine] if mine.num_rewards else list(self._earnings.values())
        num = sum(one.num_rewards for one in known)
        return abs(sum(one.reward for one in known)) / num if num else 0.0

    def _close(self, earnings: Earnings, number: int) -> None:
        """Count the blocks that are old enough, in their order."""
        for old in sorted(one for one in earnings.open if one <= number - _OPEN_BLOCKS):
            block = earnings.open.pop(old)
            if not block.num:
                continue
            self._discount(earnings, (old + 1) * self.block_s)
            earnings.num_rewards += block.num
            earnings.reward += block.reward
            mean = block.total / block.num
            if earnings.level is not None:
                self._count(earnings, block, old, mean - earnings.level)
            level = mean if earnings.level is None else earnings.level
            earnings.level = level + (mean - level) / min(earnings.num_closed + 1.0, _LEVEL_BLOCKS)
            earnings.num_closed += 1
            earnings.before, earnings.before_number = block, old

    def _count(self, earnings: Earnings, block: _Block, number: int, y: float) -> None:
        earnings.sums_EMG[_OWN, :, block.index] += block.moments(y)
        before = earnings.before
        if before is not None and earnings.before_number == number - 1:
            earnings.sums_EMG[_TAUGHT, :, before.index] += before.moments(y)

    def _discount(self, earnings: Earnings, time_s: float) -> None:
        if time_s > earnings.as_of_s:
            found = earnings.discounted(time_s, self.half_life_s)
            earnings.sums_EMG, earnings.num_rewards, earnings.reward = found
            earnings.as_of_s = time_s


def _variance(everyone_EMG: Array) -> float:
    """Return the variance of a block's y, pooled over strengths."""
    num_G, sum_G, square_G = everyone_EMG[_OWN, _NUM:]
    rest = float(square_G.sum() - (np.square(sum_G) / np.maximum(num_G, 1e-9)).sum())
    return max(rest, 0.0) / max(float(num_G.sum()) - len(num_G), 1.0)
