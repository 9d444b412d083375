"""What adapting the language model is worth, written to benchmarks/adaptation.md.

    python -m benchmarks.adaptation --keep FOLDER [--shop CONFIG] [--amazon FOLDER]
        [--movielens FOLDER] [--runs NAME ...] [--seed N] [--factors N ...] [--peers NAME ...]
        [--output FILE] [adapt.a=b ...]

A fifth of the items, and whatever else has no history, is cold: none of their interactions is
learnt from. The first 80 % of the visits are the past, the encoder is adapted on it, the model
learnt from it; every later visit is then ranked for, without learning from the others. `overall`
ranks the whole catalogue for what was new to the user; `cold` ranks all cold items for the cold
items among it. Differences are from the first of `--runs`. Vectors are kept in a folder: what is
there is not adapted again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rove.adaptation.episodes import History
from rove.adaptation.fitting import build
from rove.adaptation.popularity import Popularity
from rove.adaptation.run import Run
from rove.baselines.base import Baseline
from rove.behaviour import Behaviour
from rove.config import Config
from rove.encoder import Encoder
from rove.evaluation.learned import LearnedRanking
from rove.evaluation.measuring import Result, measure
from rove.evaluation.peers import PEERS, fit_peers
from rove.evaluation.slices import ALL, COLD, Slice
from rove.evaluation.split import Split
from rove.learning import learn
from rove.ledger.load import rewarded
from rove.readers import read_catalogue, read_interactions
from rove.rewards import RewardMap

TEST_SHARE = 0.2
COLD_SHARE = 0.2
MAX_VISITS = 6000
LIKED = 4.0  # stars
PART_STARTS, PART_LENGTHS = np.array([0.0, 608.0, 684.0]), np.array([608.0, 76.0, 76.0])  # days
NDCG = "NDCG@10"
FROZEN = "frozen MiniLM"
Vectors = npt.NDArray[np.float32]

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
    split: Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """Vectors, and what they took."""

    vectors_JE: Vectors
    facts: dict[str, Any]


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

    It has no times, but it says that they span 760 days, cut by eight, one and one tenths into
    history, validation and test: a user's interactions are put evenly into each, in their order.
    Each is a visit of its own.
    """
    items = pq.read_table(folder / "items.parquet").to_pylist()
    fields = ("title", "description", "brand")
    texts = ["\n".join(item[name] for name in fields if item[name]) for item in items]
    table = pq.read_table(folder / "sequences.parquet").to_pandas()
    part = table["split"].map({"history": 0, "valid": 1, "test": 2}).to_numpy()
    places = table.groupby(["user_id", "split"])["pos"]
    share = (places.rank(method="first") - 0.5) / places.transform("count")
    day = PART_STARTS[part] + PART_LENGTHS[part] * share.to_numpy()
    rows = {str(item["item_id"]): row for row, item in enumerate(items)}
    return texts, _behaviour(table["user_id"], table["item_id"], day * 86_400.0, rows)


def movielens(folder: Path) -> tuple[list[str], Behaviour]:
    """Read MovieLens: four stars and more are positive, each rating is a visit of its own.

    A text is title, genres, and the tags that had been given before the cut in time.
    """
    movies = pq.read_table(folder / "movies.parquet").to_pylist()
    ratings = pq.read_table(folder / "ratings.parquet").to_pandas()
    liked = ratings[ratings["rating"] >= LIKED].sort_values(["timestamp", "user_id"], kind="stable")
    rows = {str(movie["movie_id"]): row for row, movie in enumerate(movies)}
    times = liked["timestamp"].to_numpy(np.float64)
    every = _behaviour(liked["user_id"], liked["movie_id"], times, rows, each_alone=True)
    cut_s = every.split(TEST_SHARE)[1].timestamps[0]
    tags: dict[int, dict[str, None]] = {}
    for tag in pq.read_table(folder / "tags.parquet").to_pylist():
        if tag["timestamp"] < cut_s:
            tags.setdefault(tag["movie_id"], {})[tag["tag"]] = None
    texts = []
    for movie in movies:
        genres = (movie["genres"] or "").replace("|", ", ")
        fields = (movie["title"], genres, ", ".join(tags.get(movie["movie_id"], ())))
        texts.append("\n".join(field for field in fields if field))
    return texts, every


def _behaviour(
    users: Any, items: Any, times_s: Any, rows: dict[str, int], *, each_alone: bool = False
) -> Behaviour:
    sessions = [str(row) for row in range(len(users))] if each_alone else [None] * len(users)
    columns = {
        "user_id": pa.array(users.astype(str)),
        "item_id": pa.array(items.astype(str)),
        "reward": pa.array(np.ones(len(users))),
        "timestamp": pa.array(times_s),
        "session": pa.array(sessions, pa.string()),
    }
    return Behaviour.from_batches([pa.table(columns)], rows)


def adapt(data: Data, config: Config, name: str) -> Adapted:
    """Adapt on the past, as training.adapt does."""
    section, past = config.adapt, data.split.past
    torch.manual_seed(0)
    start = time.perf_counter()
    train, later = past.split(section.validation_share)
    history = History.of(train, np.ones(len(train)))
    validation = History.of(past, np.ones(len(past)), since_s=float(later.timestamps[0]))
    steps = history.num_steps(section.batch_users, 1) * section.epochs
    built = build(config, data.texts, Popularity.of(train), steps)
    run = Run(built.objective, history, validation)
    print(f"{data.name} {name}: {steps} steps at most; before: {run.before().line()}", flush=True)
    while not run.is_done:
        print(f"{data.name} {name}: {run.epoch().line()}", flush=True)
    run.use_best()
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        built.write_adapter(Path(folder))
        num_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
        encoder = Encoder.load(config.encoder.model_copy(update={"adapter": Path(folder)}))
        vectors_JE = encoder.encode(data.texts)
    trained = [p for p in built.objective.tower.parameters() if p.requires_grad]
    facts = {
        "trained": sum(p.numel() for p in trained),
        "adapter": f"{num_bytes / 1e6:.1f} MB",
        "epochs": run.epoch_number,
        "kept": run.best_epoch,
        "time": f"{seconds:.0f} s",
    }
    return Adapted(vectors_JE=vectors_JE, facts=facts)


def kept(data: Data, config: Config, name: str, folder: Path) -> Adapted:
    """Return vectors from the folder, or make and keep them."""
    stem = folder / f"{data.name} {name}"
    if not stem.with_suffix(".json").is_file():
        if name == FROZEN:
            vectors_JE = Encoder.load(config.encoder).encode(data.texts)
            made = Adapted(vectors_JE=vectors_JE, facts={})
        else:
            settings = config.adapt.model_dump() | RUNS[name]
            section = type(config.adapt).model_validate(settings)
            made = adapt(data, config.model_copy(update={"adapt": section}), name)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(stem.with_suffix(".npy"), made.vectors_JE)
        stem.with_suffix(".json").write_text(json.dumps(made.facts), "utf-8")
    facts = json.loads(stem.with_suffix(".json").read_text("utf-8"))
    return Adapted(vectors_JE=np.load(stem.with_suffix(".npy")), facts=facts)


def ranked(
    data: Data,
    runs: dict[str, Adapted],
    config: Config,
    factors: Sequence[int],
    peers: Sequence[str],
) -> Result:
    """Measure releases learnt from every run's vectors, and the peers."""
    split, rivals = data.split, dict[str, Baseline]()
    for number in factors:
        section = config.training.model_copy(update={"text_factors": number})
        for name, run in runs.items():
            learned = learn(split.past, run.vectors_JE, section)
            rivals[_label(name, number)] = LearnedRanking(learned, split.past)
    if peers:
        found = fit_peers(split, runs[FROZEN].vectors_JE, peers, seed=config.training.seed)
        rivals |= found.rivals
        for name, why in found.missing.items():
            print(f"{data.name}: no {name}: {why}", flush=True)
    return measure(split, rivals)


def _label(name: str, factors: int) -> str:
    return f"{name}, {factors} text factors"


def table(
    data: Data, runs: dict[str, Adapted], factors: Sequence[int], result: Result, best: str
) -> str:
    """Return the figures in Markdown; `best` is the ranking that the others are compared with."""
    cold, overall = result.slice(COLD), result.slice(ALL)
    split = data.split
    lines = [
        f"### {data.name}",
        "",
        f"{split.num_items:,} items, {int(split.cold_J.sum()):,} of them cold; "
        f"{len(split.past):,} interactions before, {len(overall.rows):,} visits after, "
        f"{len(cold.rows):,} with cold items.",
        "",
        f"| | cold NDCG@10 | less {best} | overall NDCG@10 | less {best} |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in result.answers:
        cells = [cell for one in (cold, overall) for cell in _cells(result, name, best, one)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    adapted = {name: run.facts for name, run in runs.items() if run.facts}
    if adapted:
        head = list(next(iter(adapted.values())))
        lines += ["", f"| | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for name, facts in adapted.items():
        cells = [f"{value:,}" if isinstance(value, int) else value for value in facts.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(result: Result, name: str, best: str, one: Slice) -> tuple[str, str]:
    found = result.intervals(name, one)[NDCG]
    gain = result.difference(name, best, one, NDCG)
    own = f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]"
    return own, f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--shop", type=str)
    parser.add_argument("--amazon", type=Path)
    parser.add_argument("--movielens", type=Path)
    parser.add_argument("--runs", nargs="*", default=["LoRA", "AdaLoRA", "Houlsby"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--factors", type=int, nargs="+", default=[128])
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    config = Config.parse({"name": "bench"}, options.overrides)
    sources = []
    if options.shop:
        sources.append(("online_retail", *shop(options.shop)))
    if options.amazon:
        sources.append(("amazon_office", *amazon(options.amazon)))
    if options.movielens:
        sources.append(("movielens_latest_small", *movielens(options.movielens)))
    sections = [f"## Seed {options.seed}, {datetime.date.today()}\n"]
    for name, texts, every in sources:
        rng = np.random.default_rng(options.seed)
        split = Split.in_time(
            every, rng, share=TEST_SHARE, cold_share=COLD_SHARE, max_requests=MAX_VISITS
        )
        data = Data(name=name, texts=texts, split=split)
        folder = options.keep / f"seed {options.seed}"
        runs = {run: kept(data, config, run, folder) for run in (FROZEN, *options.runs)}
        result = ranked(data, runs, config, options.factors, options.peers)
        best = _label([*options.runs, FROZEN][0], options.factors[0])
        sections.append(table(data, runs, options.factors, result, best))
        print(sections[-1], flush=True)
        if options.output:
            options.output.write_text("\n".join(sections), "utf-8")


if __name__ == "__main__":
    main()
