"""Measure rankings on held-out visits, and write `report.md` and `figures.json`.

    rove.evaluation            split, peers, measures
    training.evaluate_report   what is written
    training.evaluate          the command

What is measured is how good a model is that learnt from the past only: a release lends its language
model, everything else is learnt anew from the past. An adapter may have seen what it is measured
on; the report says so, and the past is written as a file that an adapter can be trained on.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rove.baselines.base import Baseline
from rove.behaviour import Behaviour
from rove.catalogue import Item
from rove.config import Config, EncoderSection
from rove.encoder import Encoder
from rove.errors import ConfigError, InvalidInput, NotFound, StoreUnavailable
from rove.evaluation.learned import LearnedRanking
from rove.evaluation.measuring import measure
from rove.evaluation.peers import PEERS, fit_peers
from rove.evaluation.split import Split
from rove.learning import learn
from rove.model import Vectors
from rove.release import Release
from training.evaluate_report import Request, write_report
from training.reading import read_behaviour, read_items

PAST = "past.parquet"
FROZEN, ADAPTED = "Rove, frozen encoder", "Rove, adapted encoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """A language model that items are read with."""

    name: str
    section: EncoderSection
    learnt_until_s: float | None = None
    """Time of the latest interaction that its adapter may have seen."""


def run(config: Config, request: Request) -> Path:
    """Measure, write, and return the folder of the report."""
    started = time.perf_counter()
    if request.max_visits is not None and request.max_visits < 1:
        raise InvalidInput(f"--visits must be at least 1, got {request.max_visits}")
    if request.seed < 0:
        raise InvalidInput(f"--seed must be at least 0, got {request.seed}")
    readers = list(_readers(config, request))
    output = _folder(config, request)
    items = read_items(config)
    behaviour = read_behaviour(config, items, from_ledger=request.from_ledger)
    if behaviour is None:
        raise ConfigError(
            "data.interactions is missing; say which files hold the history, or use --ledger"
        )
    split = Split.in_time(
        behaviour,
        np.random.default_rng(request.seed),
        share=config.training.holdout_share,
        cold_share=request.cold_share,
        max_requests=request.max_visits,
    )
    _say(
        f"{len(split.past):,} interactions to learn from, {len(split.requests):,} later visits, "
        f"{int(split.cold_J.sum()):,} of {split.num_items:,} items are cold"
    )
    _write_past(output / PAST, split.past, items)
    embeddings, remarks = _embeddings(items, readers, split)
    names = PEERS if request.peers is None else request.peers
    peers = fit_peers(
        split, embeddings[FROZEN], names, seed=request.seed, live=request.live, say=_say
    )
    rove = _learned(split, embeddings, config)
    result = measure(
        split,
        {**peers.rivals, **rove},
        rates=list(rove),
        live=request.live,
        seed=request.seed,
        say=_say,
    )
    remarks += [f"{name}: left out: {why}" for name, why in peers.missing.items()]
    duration_s = time.perf_counter() - started
    written = write_report(config, request, output, result, peers, remarks, duration_s)
    _say(f"measured in {duration_s:.0f} s: {', '.join(map(str, written))}")
    return output


def _readers(config: Config, request: Request) -> Iterator[_Reader]:
    yield _Reader(name=FROZEN, section=config.encoder.model_copy(update={"adapter": None}))
    if config.encoder.adapter is not None:
        yield _Reader(name=ADAPTED, section=config.encoder)
    for named in request.releases:
        release = Release.open(_release_folder(config.releases.path, named))
        yield _Reader(
            name=f"Rove, encoder of release {release.id}",
            section=config.encoder.model_copy(
                update={"model": str(release.encoder_folder), "adapter": None}
            ),
            learnt_until_s=release.as_of_s,
        )


def _release_folder(releases: Path, named: str) -> Path:
    for folder in (Path(named), releases / named):
        if (folder / "release.yaml").is_file():
            return folder
    known = sorted(path.parent.name for path in releases.glob("*/release.yaml"))
    raise NotFound(
        f"there is no release {named!r}: neither a folder of that name nor one in {releases}, "
        f"which has {', '.join(known) or 'none'}"
    )


def _folder(config: Config, request: Request) -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = request.output or Path("outputs") / "evaluate" / f"{config.name}-{now}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"{folder}: cannot be written: {error}") from None
    return folder


def _embeddings(
    items: Sequence[Item], readers: Sequence[_Reader], split: Split
) -> tuple[dict[str, Vectors], list[str]]:
    """Read the items with every language model that differs from those before."""
    found: dict[str, Vectors] = {}
    names: dict[str, str] = {}
    remarks = []
    cut_s = float(split.future.timestamps.min())
    for reader in readers:
        start = time.perf_counter()
        encoder = Encoder.load(reader.section)
        if encoder.name in names:
            remarks.append(f"{reader.name}: the same language model as {names[encoder.name]}")
            continue
        names[encoder.name] = reader.name
        found[reader.name] = encoder.encode([item.text for item in items])
        _say(f"{reader.name}: {len(items):,} items in {time.perf_counter() - start:.1f} s")
        if reader.name == ADAPTED or (reader.learnt_until_s or -np.inf) >= cut_s:
            remarks.append(
                f"{reader.name}: what it was adapted to may hold visits and cold items that are "
                f"measured here, unless it was the {PAST} of the same cut"
            )
    if len(found) == 1 and len(readers) == 1:
        remarks.append(
            f"{ADAPTED}: left out: encoder.adapter is not set; set it to the folder that "
            "training.adapt wrote, or name a --release"
        )
    for remark in remarks:
        _say(remark)
    return found, remarks


def _learned(
    split: Split, embeddings: Mapping[str, Vectors], config: Config
) -> dict[str, Baseline]:
    rivals: dict[str, Baseline] = {}
    for name, embeddings_JE in embeddings.items():
        start = time.perf_counter()
        learned = learn(split.past, embeddings_JE, config.training)
        rivals[name] = LearnedRanking(learned, split.past)
        _say(f"{name}: learnt in {time.perf_counter() - start:.1f} s")
    return rivals


def _write_past(path: Path, past: Behaviour, items: Sequence[Item]) -> None:
    """Write what may be learnt from as a file of interactions, for `training.adapt`."""
    item_ids = np.array([item.item_id for item in items], object)
    columns = {
        "user_id": pa.array(past.users.astype(str)),
        "item_id": pa.array(item_ids[past.items], pa.string()),
        "type": pa.array(["reward"] * len(past)),
        "value": pa.array(past.rewards),
        "timestamp": pa.array(past.timestamps),
        "session": pa.array(past.visits.astype(str)),
    }
    pq.write_table(pa.table(columns), path)


def _say(line: str) -> None:
    print(line, flush=True)
