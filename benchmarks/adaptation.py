"""What adapting the language model is worth, written to benchmarks/adaptation.md.

    python -m benchmarks.adaptation [--shop CONFIG] [--amazon FOLDER] [--runs NAME ...]
                                    [--output benchmarks/adaptation.md] [adapt.a=b ...]

A fifth of the items, and whatever else has no history, is cold: none of their interactions is
learnt from. The first 80 % of the visits are the past, the encoder is adapted on it, the model
learnt from it; every later visit is then ranked for, without learning from the others. `overall`
ranks the whole catalogue for what was new to the user; `cold` ranks all cold items for the cold
items among it.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rove import ranking
from rove.adaptation.episodes import History
from rove.adaptation.fitting import build
from rove.adaptation.popularity import Popularity
from rove.adaptation.run import Run
from rove.behaviour import Behaviour
from rove.config import Config
from rove.encoder import Encoder
from rove.learning import learn
from rove.ledger.load import rewarded
from rove.readers import read_catalogue, read_interactions
from rove.rewards import RewardMap
from training.quality import LearnedRanking

K = 10
TEST_SHARE = 0.2
COLD_SHARE = 0.2
MAX_VISITS = 6000
Floats = npt.NDArray[np.float64]

RUNS: dict[str, dict[str, object]] = {
    "LoRA": {"method": "lora"},
    "AdaLoRA": {"method": "adalora"},
    "Houlsby": {"method": "houlsby"},
    "LoRA, contrastive": {"method": "lora", "objective": "contrastive"},
    "LoRA, bce": {"method": "lora", "objective": "bce"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A catalogue and its behaviour, cut in time, without the cold items' past."""

    name: str
    texts: list[str]
    past: Behaviour
    future: Behaviour
    cold_J: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant's figures."""

    name: str
    overall: Floats
    cold: Floats
    num_values: int = 0
    size_bytes: int = 0
    epochs: int = 0
    seconds: float = 0.0


def shop(path: str) -> tuple[list[str], Behaviour]:
    """Read catalogue and history of a configuration."""
    config = Config.load(path)
    assert config.data is not None and config.data.interactions is not None
    items, _ = read_catalogue(config.data.catalogue)
    table, _ = read_interactions(config.data.interactions)
    rows = {item.item_id: row for row, item in enumerate(items)}
    rewards = RewardMap.from_config(config.rewards)
    return [item.text for item in items], Behaviour.from_batches([rewarded(table, rewards)], rows)


def amazon(folder: Path) -> tuple[list[str], Behaviour]:
    """Read a folder with items (title, description, brand) and sequences (user, pos, item, split).

    It has no times: history is before validation, that before the test, and a user's own order is
    kept; each interaction is a visit of its own.
    """
    items = pq.read_table(folder / "items.parquet").to_pylist()
    fields = ("title", "description", "brand")
    texts = ["\n".join(item[name] for name in fields if item[name]) for item in items]
    table = pq.read_table(folder / "sequences.parquet").to_pandas()
    part = table["split"].map({"history": 0, "valid": 1, "test": 2})
    day = (part * 1000 + table["pos"]).to_numpy(np.float64)
    columns = {
        "user_id": pa.array(table["user_id"].astype(str)),
        "item_id": pa.array(table["item_id"].astype(str)),
        "reward": pa.array(np.ones(len(table))),
        "timestamp": pa.array(day * 86_400.0),
    }
    rows = {str(item["item_id"]): row for row, item in enumerate(items)}
    return texts, Behaviour.from_batches([pa.table(columns)], rows)


def cut(name: str, texts: list[str], every: Behaviour, seed: int) -> Data:
    """Cut in time and take the cold items' past away."""
    past, future = every.split(TEST_SHARE)
    cold = np.random.default_rng(seed).random(len(texts)) < COLD_SHARE
    past = past.take(np.flatnonzero(~cold[past.items]))
    cold |= np.bincount(past.items, minlength=len(texts)) == 0
    return Data(name=name, texts=texts, past=past, future=future, cold_J=cold)


def score(
    data: Data, embeddings_JE: npt.NDArray[np.float32], config: Config
) -> tuple[Floats, Floats]:
    """Return NDCG@10 of each later visit, overall and of its cold items (NaN where it has none)."""
    ranker = LearnedRanking(learn(data.past, embeddings_JE, config.training), data.past)
    known: dict[int, set[int]] = {}
    for user, item in zip(data.past.users.tolist(), data.past.items.tolist(), strict=True):
        known.setdefault(user, set()).add(item)
    overall: list[float] = []
    cold: list[float] = []
    for rows in data.future.rows_by_visit():
        user = int(data.future.users[rows[0]])
        before = known.setdefault(user, set())
        new = np.array(sorted(set(data.future.items[rows].tolist()) - before), np.int64)
        if len(new) and len(overall) < MAX_VISITS:
            scores = ranker.scores(user, float(data.future.timestamps[rows[0]]))
            scores[list(before)] = -np.inf
            overall.append(_ndcg(scores, new))
            of_cold = new[data.cold_J[new]]
            cold.append(_ndcg(np.where(data.cold_J, scores, -np.inf), of_cold))
        before.update(new.tolist())
    return np.array(overall), np.array(cold)


def _ndcg(scores: Floats, relevant: npt.NDArray[np.int64]) -> float:
    if not len(relevant):
        return float("nan")
    ranked = np.argsort(-scores, kind="stable")[:K]
    hits = ranking.hits(ranked[None], [relevant])
    return float(ranking.ndcg(hits, np.array([len(relevant)]), K)[0])


def adapt(data: Data, config: Config, name: str) -> Row:
    """Adapt on the past, as training.adapt does, and score."""
    section = config.adapt
    start = time.perf_counter()
    train, later = data.past.split(section.validation_share)
    popularity = Popularity.of(train)
    history = History.of(train, np.ones(len(train)))
    validation = History.of(data.past, np.ones(len(data.past)), since_s=float(later.timestamps[0]))
    steps = history.num_steps(section.batch_users, 1) * section.epochs
    built = build(config, data.texts, popularity, steps)
    run = Run(built.objective, history, validation)
    print(f"{data.name} {name}: {steps} steps at most; before: {run.before().line()}", flush=True)
    while not run.is_done:
        print(f"{data.name} {name}: {run.epoch().line()}", flush=True)
    run.use_best()
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        built.write_adapter(Path(folder))
        size_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
        encoder = Encoder.load(config.encoder.model_copy(update={"adapter": Path(folder)}))
        embeddings_JE = encoder.encode(data.texts)
    overall, cold = score(data, embeddings_JE, config)
    num_values = sum(p.numel() for p in built.objective.tower.parameters() if p.requires_grad)
    return Row(
        name=name,
        overall=overall,
        cold=cold,
        num_values=num_values,
        size_bytes=size_bytes,
        epochs=run.epoch_number,
        seconds=seconds,
    )


def table(data: Data, rows: Sequence[Row]) -> str:
    """Return the figures in Markdown."""
    has_cold = ~np.isnan(rows[0].cold)
    lines = [
        f"## {data.name}",
        "",
        f"{len(data.texts):,} items, {int(data.cold_J.sum()):,} of them cold; "
        f"{len(data.past):,} interactions before, {len(rows[0].overall):,} visits after, "
        f"{int(has_cold.sum()):,} with cold items.",
        "",
        "| encoder | cold NDCG@10 | better than frozen by | overall NDCG@10 "
        "| better than frozen by | trained | adapter | epochs | time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = []
        for values, base in (
            (row.cold[has_cold], rows[0].cold[has_cold]),
            (row.overall, rows[0].overall),
        ):
            rng = np.random.default_rng(0)
            gain = ranking.paired_difference(values, base, rng)
            cells.append(f"{values.mean():.4f}")
            cells.append(f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
        size = f"{row.size_bytes / 1e6:.1f} MB" if row.size_bytes else ""
        trained = f"{row.num_values:,}" if row.num_values else ""
        spent = f"{row.seconds:.0f} s" if row.seconds else ""
        cells += [trained, size, str(row.epochs or ""), spent]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--shop", type=str)
    parser.add_argument("--amazon", type=Path)
    parser.add_argument("--runs", nargs="*", default=list(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    config = Config.parse({"name": "bench"}, options.overrides)
    sources = []
    if options.shop:
        sources.append(("online_retail (examples/shop)", *shop(options.shop)))
    if options.amazon:
        sources.append(("amazon_office", *amazon(options.amazon)))
    sections = []
    for name, texts, every in sources:
        data = cut(name, texts, every, options.seed)
        frozen = score(data, Encoder.load(config.encoder).encode(texts), config)
        rows = [Row(name="frozen MiniLM", overall=frozen[0], cold=frozen[1])]
        print(table(data, rows))
        for run in options.runs:
            settings = config.adapt.model_dump() | RUNS[run]
            own = config.model_copy(update={"adapt": type(config.adapt).model_validate(settings)})
            torch.manual_seed(0)
            rows.append(adapt(data, own, run))
            print(table(data, rows), flush=True)
        sections.append(table(data, rows))
    if options.output:
        head = f"# Adapting the language model\n\n{datetime.date.today()}.\n\n"
        options.output.write_text(head + "\n".join(sections), "utf-8")


if __name__ == "__main__":
    main()
