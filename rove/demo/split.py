"""The shop's files cut in time: what was known at a date, and the invoices after it.

- An invoice (session) is never divided; it belongs to where it began.
- Rows without a session are their own, by user and time.
- Rows of items that the catalogue does not list are left out on both sides and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rove.baselines.base import Basket, Ints, Log
from rove.config import Config
from rove.errors import ConfigError, DataError
from rove.events import Interaction, InteractionType
from rove.readers import read_catalogue, read_interactions

REPLAYED_SHARE = 0.2  # of the interactions; the earlier ones are the history


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One invoice to replay."""

    visit_id: str
    user_id: str
    basket: Basket
    interactions: list[Interaction]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A shop at a date, and what happened afterwards."""

    item_ids: list[str]
    """Item code -> id."""
    history: Log
    history_table: pa.Table
    """The history's rows, with Rove's names for the columns."""
    visits: list[Visit]
    """In order of time."""
    cut: float
    """Unix time; everything earlier is history."""
    num_unlisted: int
    """Rows left out because the catalogue does not have their item."""

    @property
    def baskets(self) -> list[Basket]:
        """Return what the baselines replay."""
        return [visit.basket for visit in self.visits]


def read_shop(config: Config, num_visits: int | None = None) -> Shop:
    """Read the files of `config.data` and cut them; `num_visits` bounds the invoices to replay."""
    if config.data is None or config.data.interactions is None:
        raise ConfigError("data.interactions is missing; the demo replays a shop's history")
    items, _ = read_catalogue(config.data.catalogue)
    table, _ = read_interactions(config.data.interactions)
    item_ids = [item.item_id for item in items]
    listed = pc.is_in(table["item_id"], value_set=pa.array(item_ids, pa.string()))
    num_rows = table.num_rows
    table = table.filter(listed).sort_by("timestamp")
    log, user_ids, session_ids = _encode(table, item_ids)
    history, later = log.split(REPLAYED_SHARE)
    if not len(history.users) or not len(later.users):
        raise DataError(
            f"{config.data.interactions.path}: {len(log.users)} rows cannot be cut into a history "
            "and invoices after it"
        )
    cut = float(later.timestamps.min())
    is_later = np.isin(log.sessions, later.sessions)
    visits = _visits(table.filter(pa.array(is_later)), later, user_ids, session_ids)
    return Shop(
        item_ids=item_ids,
        history=history,
        history_table=table.filter(pa.array(~is_later)),
        visits=visits[:num_visits],
        cut=cut,
        num_unlisted=num_rows - table.num_rows,
    )


def write_history(shop: Shop, path: Path) -> None:
    """Write the history as a file that `rove load` reads without a column map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(shop.history_table, path, compression="zstd")


def _encode(table: pa.Table, item_ids: list[str]) -> tuple[Log, list[str], list[str]]:
    """Return the rows in codes, and the user ids and session ids by code."""
    user, user_ids = _codes(table["user_id"])
    session, session_ids = _codes(_sessions(table))
    items = pc.index_in(table["item_id"], value_set=pa.array(item_ids, pa.string()))
    log = Log(
        users=user,
        items=items.to_numpy().astype(np.int64),
        timestamps=table["timestamp"].to_numpy(),
        sessions=session,
        num_users=len(user_ids),
        num_items=len(item_ids),
    )
    return log, user_ids, session_ids


def _sessions(table: pa.Table) -> Any:
    seconds = pc.cast(table["timestamp"], pa.string())
    own = pc.binary_join_element_wise(table["user_id"], seconds, "@")
    return pc.coalesce(table["session"], own)


def _codes(column: Any) -> tuple[Ints, list[str]]:
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _visits(
    table: pa.Table, later: Log, user_ids: list[str], session_ids: list[str]
) -> list[Visit]:
    """Return the later invoices; `table` has the rows of `later`, in the same order."""
    interactions: dict[int, list[Interaction]] = {}
    names = ("user_id", "item_id", "type", "timestamp", "value", "interaction_id")
    columns = [table[name].to_pylist() for name in names]
    for code, row in zip(later.sessions.tolist(), zip(*columns, strict=True), strict=True):
        lines = interactions.setdefault(code, [])
        user_id, item_id, kind, timestamp, value, interaction_id = row
        lines.append(
            Interaction(
                interaction_id=interaction_id or f"{session_ids[code]}:{len(lines)}",
                user_id=user_id,
                item_id=item_id,
                type=InteractionType(kind),
                timestamp=timestamp,
                value=value,
            )
        )
    return [
        Visit(
            visit_id=session_ids[basket.session],
            user_id=user_ids[basket.user],
            basket=basket,
            interactions=interactions[basket.session],
        )
        for basket in later.baskets()
    ]
