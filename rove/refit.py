"""Learn the model anew from everything in the ledger, while shards go on serving.

- Implicit feedback: half-lives and gains stay those of the release in service, once it had enough
  visits to read them off; factors, tastes, variances and item means are learnt from the
  interactions of all shards up to a watermark.
- What was shown (`rove.shown`): the mixed model is learnt from all decisions that have expired; the
  rest of the release stays.

The language model is not needed: the items' embeddings are in the release and in the catalogue's
store. The shards follow the pointer when they next synchronise, and count what came after the
watermark themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rove.behaviour import Behaviour
from rove.calibration import MIN_VISITS, NUM_VISITS
from rove.config import Config
from rove.errors import Conflict
from rove.item_index import ItemIndex, Rows
from rove.learning import Learned, learn
from rove.ledger.items import ItemStore
from rove.ledger.scan import all_interactions, all_shown, num_removed, watermark
from rove.model import ItemFeatures
from rove.release import (
    NUM_INTERACTIONS,
    NUM_TRIALS,
    REFIT_OF,
    SETTLED_S,
    Release,
    current,
    latest,
    prior_of,
    promote,
    prune,
    write,
)
from rove.rewards import RewardMap
from rove.shown.learning import learn_shown
from rove.unanswered import defaults_of

KEPT_REFITS = 3
_DEFAULTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("reward", pa.float64()),
        ("timestamp", pa.float64()),
    ]
)
LEAST_SHARE = 0.5
"""A ledger with less than this share of what the release was learnt from lacks its history."""


def refit(config: Config, store: ItemStore, now_s: float | None = None) -> Path:
    """Write a release learnt from the ledger, put it into service and return its folder.

    What had expired by `now_s` (the present) is settled.

    Raises `Conflict`, and leaves the service as it is, if another release was promoted meanwhile
    or the ledger lacks the history that the release in service was learnt from.
    """
    releases = config.releases.path
    base = latest(releases)
    index = ItemIndex(base)
    index.apply(store.changes_since(0)[0])
    items, rows = index.items()
    embeddings_JE = index.embeddings(rows)
    now_s = time.time() if now_s is None else now_s
    mark = watermark(config.store)
    row_of = {item.item_id: row for row, item in enumerate(items)}
    metrics = {NUM_VISITS: base.metrics.get(NUM_VISITS, 0), REFIT_OF: base.id}
    shown = None
    if config.feedback == "shown":
        learned = _kept(base, index, rows)
        shown, metrics[NUM_TRIALS] = learn_shown(
            all_shown(config.store, now_s, mark),
            RewardMap.from_config(config.rewards),
            row_of,
            embeddings_JE,
            settled_s=now_s,
            base=prior_of(config.training.prior),
            half_life_s=config.training.half_life_s,
            seed=config.training.seed,
        )
        metrics[NUM_INTERACTIONS] = base.metrics.get(NUM_INTERACTIONS, 0)
    else:
        metrics[SETTLED_S] = now_s
        happened = chain(all_interactions(config.store, mark), _unanswered(config, now_s, mark))
        behaviour = Behaviour.from_batches(happened, row_of)
        learned = _relearnt(base, behaviour, embeddings_JE, config)
        metrics[NUM_INTERACTIONS] = len(behaviour)
    folder = write(
        releases,
        learned,
        items,
        embeddings_JE,
        encoder=base.encoder,
        encoder_folder=base.encoder_folder,
        metrics=metrics | learned.calibration,
        watermark=mark,
        shown=shown,
    )
    if current(releases).name != base.id:
        raise Conflict(f"release {base.id} was replaced while {folder.name} was learnt from it")
    promote(releases, folder.name)
    prune(releases, KEPT_REFITS)
    return folder


def _relearnt(
    base: Release,
    behaviour: Behaviour,
    embeddings_JE: npt.NDArray[np.float32],
    config: Config,
) -> Learned:
    known = base.metrics.get(NUM_INTERACTIONS, 0)
    if len(behaviour) + num_removed(config.store) < LEAST_SHARE * known:
        raise Conflict(
            f"the ledger has {len(behaviour)} interactions, release {base.id} was learnt from "
            f"{known}; bring its history into the ledger with rove load CONFIG first"
        )
    num_visits = base.metrics.get(NUM_VISITS, 0)
    calibrated = base.model if num_visits >= MIN_VISITS else None
    text = None if calibrated is None else calibrated.text
    return learn(behaviour, embeddings_JE, config.training, calibrated=calibrated, text=text)


def _unanswered(
    config: Config, until_s: float, mark: Mapping[int, int]
) -> Iterator[pa.RecordBatch]:
    """Yield the default rewards above zero of what had expired, as interactions."""
    rewards = RewardMap.from_config(config.rewards)
    if rewards.default > 0.0:
        for decided in all_shown(config.store, until_s, mark):
            rows = [
                {
                    "user_id": one.interaction.user_id,
                    "item_id": one.interaction.item_id,
                    "reward": one.reward,
                    "timestamp": one.interaction.timestamp,
                }
                for one in defaults_of(decided, rewards)
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=_DEFAULTS)


def _kept(base: Release, index: ItemIndex, rows: Rows) -> Learned:
    """Return the model for implicit feedback as it is, over the present catalogue."""
    sums_J = np.zeros(len(index))
    sums_J[: len(base.sums_J)] = base.sums_J
    return Learned(
        model=base.model,
        items=ItemFeatures(
            features_JD=index.features(rows),
            promise_J=base.model.read(index.embeddings(rows)).promise_J,
            trained_J=index.trained(rows),
        ),
        sums_J=sums_J[rows],
        as_of_s=base.as_of_s,
        num_sweeps=0,
        calibration={},
    )
