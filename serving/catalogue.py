"""The gateway's catalogue routes: encode, store, then have every shard take it in.

An item can be recommended as soon as its call is answered: the shards are told to sync, and one
that does not answer takes the change in when it next syncs or starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
from msgspec import Raw

from rove.catalogue import Item, check_item
from rove.config import StoreSection
from rove.errors import InvalidInput, RoveError, shown
from rove.ledger.items import ItemStore
from rove.messages import ItemOutcome, ItemOutcomes
from serving.encoder import EncoderClient
from serving.http import Request, Response, decoder
from serving.rows import check_size, row_id
from serving.schemas import ItemFields, RawItemBatch

T = TypeVar("T")
SyncShards = Callable[[], Awaitable[None]]
logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_fields_body = decoder(ItemFields)
_batch_body = decoder(RawItemBatch)
_item = decoder(Item)


class CatalogueWriter:
    """Writes items and has the shards take them in."""

    def __init__(self, store: StoreSection, encoder: EncoderClient, sync: SyncShards) -> None:
        self._section = store
        self._encoder = encoder
        self._sync = sync
        self._thread = ThreadPoolExecutor(1, "catalogue")
        self._store: ItemStore | None = None  # used on its thread only

    async def put(self, items: Sequence[Item]) -> None:
        """Store items; when this returns they can be recommended."""
        if not items:
            return
        encoded = await self._encoder.encode([item.text for item in items])
        await self.on_store(lambda store: store.put(items, encoded.vectors, encoded.encoder))
        await self._sync()

    async def delete(self, item_id: str) -> None:
        """Take an item out of the catalogue."""
        await self.on_store(lambda store: store.delete([item_id]))
        await self._sync()

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._thread.submit(self._store.close).result()
        self._thread.shutdown()

    async def on_store(self, function: Callable[[ItemStore], T]) -> T:
        """Return `function(store)`, called on the store's thread."""

        def run() -> T:
            if self._store is None:
                self._store = ItemStore.open(self._section)
            return function(self._store)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)


class CatalogueApi:
    """The routes that change the catalogue."""

    def __init__(
        self,
        writer: CatalogueWriter,
        find: Callable[[Request], Awaitable[Response]],
        max_items: int,
    ) -> None:
        self._writer = writer
        self._find = find
        self._max_items = max_items

    async def put_item(self, request: Request) -> Response:
        """Add or replace the item in the path."""
        (item_id,) = request.params
        fields: ItemFields = _fields_body(request.body)
        if fields.item_id not in (None, item_id):
            raise InvalidInput(
                f"item_id is {shown(fields.item_id)} in the body and {shown(item_id)} in the "
                "path; leave it out of the body",
                field="item_id",
            )
        item = Item(
            item_id=item_id,
            title=fields.title,
            description=fields.description,
            category=fields.category,
            tags=fields.tags,
        )
        check_item(item)
        await self._writer.put([item])
        return Response(200, _encode(item))

    async def put_items(self, request: Request) -> Response:
        """Add or replace the items of a batch, each judged by itself."""
        batch: RawItemBatch = _batch_body(request.body)
        check_size(len(batch.items), self._max_items, "items")
        rows = [_read_item(row) for row in batch.items]
        items: dict[str, Item] = {}
        outcomes: list[ItemOutcome] = []
        for row in rows:
            if isinstance(row, ItemOutcome):
                outcomes.append(row)
            elif row.item_id in items:
                outcomes.append(_rejected(row.item_id, "this id was used before in the batch"))
            else:
                items[row.item_id] = row
                outcomes.append(ItemOutcome(item_id=row.item_id, status="stored"))
        await self._writer.put(list(items.values()))
        return Response(200, _encode(ItemOutcomes(outcomes=outcomes)))

    async def delete_item(self, request: Request) -> Response:
        """Take the item in the path out of the catalogue."""
        found = await self._find(
            Request("GET", request.path)
        )  # the release may know an item that the store does not
        if found.status != 200:
            return found
        await self._writer.delete(request.params[0])
        return Response(204)


def _read_item(row: Raw) -> Item | ItemOutcome:
    try:
        item: Item = _item(row)
        check_item(item)
        return item
    except RoveError as error:
        return _rejected(row_id(row, "item_id"), error.detail)


def _rejected(item_id: str, reason: str) -> ItemOutcome:
    return ItemOutcome(item_id=item_id, status="rejected", reason=reason)
