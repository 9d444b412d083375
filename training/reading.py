"""Catalogue and behaviour of a configuration, with the reports of what was skipped."""

from __future__ import annotations

from collections.abc import Sequence

from rove.behaviour import Behaviour
from rove.catalogue import Item
from rove.config import Config
from rove.errors import ConfigError, DataError
from rove.ledger.load import rewarded
from rove.ledger.scan import all_interactions
from rove.readers import read_catalogue, read_interactions
from rove.rewards import RewardMap


def read_items(config: Config) -> list[Item]:
    """Read the catalogue, which must have an item."""
    if config.data is None:
        raise ConfigError("data.catalogue is missing; say which files hold the catalogue")
    items, report = read_catalogue(config.data.catalogue)
    print("\n".join(report.lines()), flush=True)
    if not items:
        raise DataError(f"{config.data.catalogue.path}: no usable item; see the report above")
    return items


def read_behaviour(config: Config, items: Sequence[Item], *, from_ledger: bool) -> Behaviour | None:
    """Read the ledger's behaviour or the files'; None if `data.interactions` is not set."""
    rows = {item.item_id: row for row, item in enumerate(items)}
    if from_ledger:
        return Behaviour.from_batches(all_interactions(config.store), rows)
    source = config.data.interactions if config.data else None
    if source is None:
        return None
    table, report = read_interactions(source)
    print("\n".join(report.lines()), flush=True)
    return Behaviour.from_batches([rewarded(table, RewardMap.from_config(config.rewards))], rows)
