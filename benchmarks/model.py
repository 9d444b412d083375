"""What the parts of the model are worth, written to benchmarks/model.md.

    python -m benchmarks.model [CONFIG [a.b=c ...]] [--output benchmarks/model.md]

Learns from the first 80 % of the visits, replays the rest in order of time, ranks ten items that
are new to the user for every visit with one, and compares variants on the same requests. Every
variant sees each visit after it has ranked for it.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rove import ranking
from rove.baselines.base import Baseline, Floats, Ints, Log
from rove.baselines.popularity import LivePopularity
from rove.baselines.replay import replay, requests_of
from rove.baselines.tuning import tune_ease
from rove.behaviour import Behaviour
from rove.config import Config, TrainingSection
from rove.encoder import Encoder
from rove.learning import Learned, learn
from rove.ledger.load import rewarded
from rove.readers import read_catalogue, read_interactions
from rove.rewards import RewardMap
from training.quality import LearnedRanking, log_of

TEST_SHARE = 0.2
K = 10
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The shop in columns, cut in time."""

    every: Behaviour
    past: Behaviour
    future: Behaviour
    embeddings_JE: npt.NDArray[np.float32]


class Refitted:
    """A learned ranking that is learnt anew, with its half-lives and gains, every few days."""

    def __init__(
        self, data: Data, learned: Learned, training: TrainingSection, days: float
    ) -> None:
        self._data = data
        self._training = training
        self._calibrated = learned.model
        self._every_s = days * _DAY_S
        self._due_s = float(data.future.timestamps[0]) + self._every_s
        self._ranking = LearnedRanking(learned, data.past)

    def fit(self, log: Log) -> None:
        """Learn nothing: the model is learned."""

    def scores(self, user: int, now: float) -> Floats:
        """Return the mean reward of every item, (N,)."""
        return self._ranking.scores(user, now)

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Take in that `user` took the distinct `items` at unix time `now`."""
        self._ranking.observe(user, items, now)
        if now >= self._due_s:
            self._due_s = now + self._every_s
            until = self._data.every.take(self._data.every.timestamps <= now)
            embeddings_JE = self._data.embeddings_JE
            kept = self._calibrated
            learned = learn(until, embeddings_JE, self._training, calibrated=kept, text=kept.text)
            self._ranking = LearnedRanking(learned, until)


def read(config: Config) -> Data:
    """Read and encode the configuration's files."""
    assert config.data is not None and config.data.interactions is not None
    items, _ = read_catalogue(config.data.catalogue)
    table, _ = read_interactions(config.data.interactions)
    rows = {item.item_id: row for row, item in enumerate(items)}
    every = Behaviour.from_batches([rewarded(table, RewardMap.from_config(config.rewards))], rows)
    past, future = every.split(TEST_SHARE)
    embeddings_JE = Encoder.load(config.encoder).encode([item.text for item in items])
    return Data(every=every, past=past, future=future, embeddings_JE=embeddings_JE)


def variants(data: Data, training: TrainingSection) -> dict[str, Baseline]:
    """Return what is compared, the whole model first."""

    def learned(**changes: object) -> Learned:
        section = training.model_copy(update=changes)
        return learn(data.past, data.embeddings_JE, section)

    whole = learned()
    only_items = replace(whole, model=replace(whole.model, taste_gain=0.0))
    only_taste = replace(whole, model=replace(whole.model, item_gain=0.0))
    history = log_of(data.past)
    live = LivePopularity(7.0)
    live.fit(history)
    return {
        "whole model, refitted every 4 days": Refitted(data, whole, training, 4.0),
        "whole model, refitted every 14 days": Refitted(data, whole, training, 14.0),
        "whole model, never refitted": LearnedRanking(whole, data.past),
        "without taste over the text": LearnedRanking(learned(text_factors=0), data.past),
        "without learned factors": LearnedRanking(learned(learned_factors=0), data.past),
        "item mean only": LearnedRanking(only_items, data.past),
        "taste only": LearnedRanking(only_taste, data.past),
        "EASE + live popularity, tuned": tune_ease(history, K)[1].baseline,
        "live popularity, half-life 7 days": live,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser("python -m benchmarks.model", description=__doc__)
    parser.add_argument("config", nargs="?", default="examples/shop/rove.yaml")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/model.md"))
    options = parser.parse_args(arguments)
    config = Config.load(options.config, options.overrides)
    data = read(config)
    history, baskets = log_of(data.past), log_of(data.future).baskets()
    requests = requests_of(history, baskets)
    lines = [
        "# The model's parts",
        "",
        f"`python -m benchmarks.model`, {datetime.date.today()}: {len(requests.users):,} visits "
        f"with something new, after {len(data.past):,} interactions. precision@{K}, 95 % intervals "
        "resampling whole users; the difference to the first row is paired by visit.",
        "",
        f"| variant | precision@{K} | 95 % | behind the first by | replay s |",
        "| --- | ---: | --- | --- | ---: |",
    ]
    first: Floats | None = None
    for name, ranker in variants(data, config.training).items():
        start = time.perf_counter()
        ranked_RK = replay(ranker, history, baskets, K)
        duration_s = time.perf_counter() - start
        values = ranking.precision(ranking.hits(ranked_RK, requests.relevant), K)
        first = values if first is None else first
        rng = np.random.default_rng(0)
        mean = ranking.interval(values, rng, groups=requests.users)
        behind = ranking.interval(first - values, rng, groups=requests.users)
        lines.append(
            f"| {name} | {mean.mean:.4f} | {mean.low:.4f}-{mean.high:.4f} | "
            f"{behind.mean:+.4f} [{behind.low:.4f}, {behind.high:.4f}] | {duration_s:.0f} |"
        )
        print(lines[-1], flush=True)
    options.output.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
