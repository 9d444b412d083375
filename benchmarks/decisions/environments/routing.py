"""LLM routing: which of four language models answers a prompt.

All prompts in random order; the context is the prompt's embedding. The reward is the judged quality
less a tenth of the call's price on a logarithmic scale,
`quality - 0.1 * clip(log10(price / 1e-5 USD) / 3, 0, 1)`, from [-0.1, 1] to [0, 1] by
`(r + 0.1) / 1.1`. At this weight each model is the best for some prompts, and no single one closes
half of the gap; a linear price would be decided by the most expensive calls of one model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.data import Sources, columns_of, read, texts_of
from benchmarks.decisions.interface import Floats
from benchmarks.decisions.runs import Table

PRICE_WEIGHT = 0.1
LOWEST_PRICE_USD = 1e-5
DECADES = 3.0
BATCH_SIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Prompts and what each model's answer is worth."""

    rewards_RA: Floats
    context_RQ: Floats
    name: str = "routing"

    def open(self, seed: int) -> Table:
        """Return a run with the prompts in the order of the seed."""
        order = np.random.default_rng(seed).permutation(len(self.rewards_RA))
        return Table(
            values_RA=self.rewards_RA[order],
            rewards_RA=self.rewards_RA[order],
            context_RQ=self.context_RQ[order],
            context_is_text=True,
            batch_size=BATCH_SIZE,
        )


def load(sources: Sources) -> Routing:
    """Read prompts, qualities and prices."""
    prompts = read(sources.folder("routing", "llm_routing") / "prompts.parquet")
    models = [name[len("reward__") :] for name in prompts.column_names if "reward__" in name]
    quality_RA = columns_of(prompts, [f"reward__{model}" for model in models])
    price_RA = columns_of(prompts, [f"cost__{model}" for model in models])
    return Routing(
        rewards_RA=reward(quality_RA, price_RA),
        context_RQ=sources.embed(texts_of(prompts, "prompt")).astype(np.float64),
    )


def reward(quality: Floats, price_usd: Floats) -> Floats:
    """Return quality less price, in [0, 1], as this file's top says."""
    decades = np.log10(np.maximum(price_usd, LOWEST_PRICE_USD) / LOWEST_PRICE_USD)
    penalty = PRICE_WEIGHT * np.clip(decades / DECADES, 0.0, 1.0)
    rewards: Floats = (quality - penalty + PRICE_WEIGHT) / (1.0 + PRICE_WEIGHT)
    return rewards
