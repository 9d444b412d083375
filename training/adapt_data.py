"""What adaptation reads: the items' texts, the behaviour cut in time, and the weight of each row.

An interaction that answers a decision was shown with a known probability: it weighs the inverse of
that, at most `adapt.max_inverse_propensity`. Others weigh one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rove.adaptation.episodes import History
from rove.adaptation.popularity import Popularity
from rove.behaviour import Behaviour
from rove.catalogue import Item
from rove.config import Config
from rove.errors import ConfigError, DataError
from rove.ledger.load import rewarded
from rove.ledger.scan import all_interactions
from rove.readers import read_catalogue, read_interactions
from rove.rewards import RewardMap
from training.adapt_propensities import all_propensities

Propensities = Mapping[tuple[str, str], float]
"""(event id, item id) -> probability with which the decision showed the item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything a worker needs besides the settings."""

    texts: tuple[str, ...]
    past: Behaviour
    """What is trained on."""
    every: Behaviour
    """The past and what is validated on."""
    weights: npt.NDArray[np.float64]
    """Of `every`'s rows, as queries."""
    validation_since_s: float

    def histories(self) -> tuple[History, History]:
        """Return the episodes of training and of validation."""
        train = History.of(self.past, self.weights[: len(self.past)])
        ones = np.ones(len(self.every))
        return train, History.of(self.every, ones, since_s=self.validation_since_s)

    def popularity(self) -> Popularity:
        """Return how often items were taken in the past."""
        return Popularity.of(self.past)


def read(config: Config, *, from_ledger: bool) -> Prepared:
    """Read catalogue and interactions, from files or from the ledger."""
    if config.data is None:
        raise ConfigError("data.catalogue is missing; say which files hold the catalogue")
    items, report = read_catalogue(config.data.catalogue)
    print("\n".join(report.lines()), flush=True)
    if not items:
        raise DataError(f"{config.data.catalogue.path}: no usable item; see the report above")
    if from_ledger:
        tables = [pa.Table.from_batches([batch]) for batch in all_interactions(config.store)]
        propensities: Propensities = all_propensities(config.store)
    else:
        tables, propensities = [_file(config)], {}
    return prepare(config, items, tables, propensities)


def prepare(
    config: Config,
    items: Sequence[Item],
    tables: Sequence[pa.Table],
    propensities: Propensities,
) -> Prepared:
    """Cut the interactions (with `reward`) in time and weigh them."""
    section = config.adapt
    rows = {item.item_id: row for row, item in enumerate(items)}
    every = Behaviour.from_batches(tables, rows)
    if len(every) == 0:
        raise DataError("there is no positive interaction to adapt to; see the read report")
    if len(np.unique(every.users)) < 2:
        raise DataError("all interactions are of one user; adapting needs at least two")
    weighted = [_weighed(table, propensities, section.max_inverse_propensity) for table in tables]
    weights = Behaviour.from_batches(weighted, rows).rewards
    assert len(weights) == len(every), (len(weights), len(every))
    past, later = every.split(section.validation_share)
    if len(past) == 0 or len(later) == 0:
        raise DataError(
            f"{len(every)} interactions are too few to keep {section.validation_share:.0%} of "
            "them for validation; bring more history"
        )
    order = np.argsort(np.isin(every.visits, later.visits), kind="stable")  # the past first
    return Prepared(
        texts=tuple(item.text for item in items),
        past=past,
        every=every,
        weights=weights[order],
        validation_since_s=float(later.timestamps[0]),
    )


def _file(config: Config) -> pa.Table:
    source = config.data.interactions if config.data else None
    if source is None:
        raise ConfigError(
            "data.interactions is missing; say which files hold the history, or use --ledger"
        )
    table, report = read_interactions(source)
    print("\n".join(report.lines()), flush=True)
    return rewarded(table, RewardMap.from_config(config.rewards))


def _weighed(table: pa.Table, propensities: Propensities, most: float) -> pa.Table:
    """Return the table with each positive row's weight as its reward."""
    rewards = table["reward"].to_numpy()
    weights = np.ones(len(table))
    for row, pair in _answers(table):
        propensity = propensities.get(pair)
        if propensity is not None:
            weights[row] = min(1.0 / max(propensity, 1e-12), most)
    weights[~(rewards > 0)] = 0.0
    place = table.schema.get_field_index("reward")
    return table.set_column(place, "reward", pa.array(weights))


def _answers(table: pa.Table) -> Iterator[tuple[int, tuple[str, str]]]:
    if "event_id" not in table.schema.names:
        return
    ids = zip(table["event_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)
    for row, (event_id, item_id) in enumerate(ids):
        if event_id is not None:
            yield row, (event_id, item_id)
