"""The regulator of one shard: it chooses strengths for requests and learns from the ledger.

A decision keeps the strength it was made with, its segment and the probability of the strength's
draw. Once it has expired, what its slots earned on average is credited (`rove.regulation`); what
was credited is written with how far it got, so nothing counts twice and a restart reads one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from rove.config import RegulationSection
from rove.events import Context, RankRequest, Regulated
from rove.ledger.ledger import Ledger
from rove.ledger.shown import Shown
from rove.regulation import Regulator
from rove.rewards import RewardMap
from rove.shown.trials import trials_of

EVERYBODY = "everybody"
OTHERS = "others"
MAX_SEGMENTS = 32
LEAST_BLOCK_S = 3600.0
_STATE = "regulation"


class Regulation:
    """Strengths for one shard's requests."""

    def __init__(self, section: RegulationSection, rewards: RewardMap, ledger: Ledger) -> None:
        self._section = section
        self._rewards = rewards
        self._ledger = ledger
        # A block closes three blocks later; by then its decisions have to have expired.
        block_s = section.block_s or max(LEAST_BLOCK_S, rewards.wait_s / 2.0)
        self._regulator = Regulator(
            section.strengths,
            baseline=section.strengths.index(section.baseline),
            block_s=max(block_s, rewards.wait_s / 2.0),
            budget=section.budget,
            trial_share=section.trial_share,
        )
        self._segments: set[str] = set()
        self._until_s: float | None = None
        state = ledger.state(_STATE)
        if state is not None:
            until, _, earnings = state.partition("\n")
            self._until_s = float(until)
            self._segments = self._regulator.restore(earnings)

    def choose(self, requests: Sequence[RankRequest], now_s: float) -> list[Regulated]:
        """Return the strength of each request's segment in the present block."""
        chosen: dict[str, Regulated] = {}
        for segment in {self._segment(request.context) for request in requests}:
            # A block's draw is the same after a restart.
            block = f"{segment}\n{int(now_s // self._regulator.block_s)}"
            seed = int.from_bytes(blake2b(block.encode(), digest_size=8).digest())
            drawn = self._regulator.choose(segment, np.random.default_rng(seed), now_s)
            index, strength, probability = drawn
            chosen[segment] = Regulated(
                segment=segment, index=index, strength=strength, probability=probability
            )
        return [chosen[self._segment(request.context)] for request in requests]

    def catch_up(self, now_s: float) -> None:
        """Credit all that has expired: blocks close by the clock, also while nobody served."""
        while self.sync(now_s):
            pass

    def sync(self, now_s: float) -> bool:
        """Credit what has expired since, a part of it at a time; say whether there was any."""
        if self._until_s is None:
            self._until_s = now_s - self._rewards.wait_s  # nothing was decided here before
        part = self._ledger.expired(self._until_s, now_s)
        if not part:
            return False
        for one in part:
            self._credit(one)
        self._until_s = part[-1].expires_at
        with self._ledger.transaction() as transaction:
            transaction.put_state(_STATE, f"{self._until_s!r}\n{self._regulator.dump()}")
        return True

    def _credit(self, shown: Shown) -> None:
        regulated = shown.regulated
        trials = trials_of([shown], self._rewards)
        if regulated is None or not trials or regulated.index >= len(self._section.strengths):
            return
        if self._section.strengths[regulated.index] != regulated.strength:
            return  # made under other settings
        reward = sum(trial.reward for trial in trials) / len(trials)
        self._regulator.learn(
            regulated.segment, regulated.index, regulated.probability, reward, shown.created_at
        )

    def _segment(self, context: Context | None) -> str:
        key = self._section.segment
        if key is None:
            return EVERYBODY
        value = context.get(key) if isinstance(context, dict) else None
        segment = EVERYBODY if value is None else str(value)[:64]
        if segment not in self._segments:
            if len(self._segments) >= MAX_SEGMENTS:
                return OTHERS
            self._segments.add(segment)
        return segment
